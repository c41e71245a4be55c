"""``task: ranking`` and ``task: landmarks`` of ``clipmill evaluate``."""

from dataclasses import replace

from clipmill.jobs.evaluate_segments import bootstrap_of
from clipmill.jobs.evaluation_inputs import (
    check_ids,
    read_landmark_rankings,
    read_landmark_truth,
    read_qrels,
    read_run,
    run_names,
)
from clipmill.pipelines.evaluation.bootstrap import RESAMPLES
from clipmill.pipelines.evaluation.tasks.landmarks.score import (
    LandmarksEvaluation,
    evaluate_landmarks,
    landmarks_protocol,
)
from clipmill.pipelines.evaluation.tasks.ranking.score import (
    RankingEvaluation,
    evaluate_ranking,
    qrels_fingerprint,
    ranking_protocol,
)
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.schemas.config_evaluate import LandmarksConfig, RankingConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.stores.formats.ids import match_ids, require_ids


def score_ranking(config: RankingConfig) -> tuple[TaskScore, tuple[RankingEvaluation, ...]]:
    """Returns trec_eval's measures of each run.

    Raises:
        UsageError: a file is something else, its query ids share nothing with the judgements', or an unknown measure.
    """
    names = run_names(config.predictions)
    qrels = read_qrels(config.ground_truth)
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        documents = read_run(item)
        notes = check_ids(match_ids(qrels, documents, "the qrels", "the run"))
        judged = {document for query in qrels.values() for document in query}
        found = {document for query in documents.values() for document in query}
        require_ids(match_ids(judged, found, "documents of the qrels", "documents of the run"))
        evaluation = evaluate_ranking(name, qrels, documents, config)
        evaluations.append(replace(evaluation, run=replace(evaluation.run, notes=notes)))
    data = {
        "fingerprint": qrels_fingerprint(qrels),
        "num_queries": len(qrels),
        "num_judgements": sum(len(items) for items in qrels.values()),
    }
    runs = tuple(item.run for item in evaluations)
    score = TaskScore(config.task, ranking_protocol(config), data, runs, bootstrap_of(config, RESAMPLES))
    return score, tuple(evaluations)


def score_landmarks(config: LandmarksConfig) -> tuple[TaskScore, tuple[LandmarksEvaluation, ...]]:
    """Returns mAP with junk and mP@k of each set of rankings.

    Raises:
        UsageError: a file is something else, its query ids share nothing with the ground truth's, or a protocol that
            the ground truth does not have.
    """
    names = run_names(config.predictions)
    truth = read_landmark_truth(config.ground_truth)
    missing = [name for name in config.protocols or () if name not in truth.positives]
    if missing:
        expected = f"protocols of this ground truth ({', '.join(truth.positives)})"
        raise UsageError(describe("evaluation", "protocols", expected, missing[0], "correct the name, or leave it out"))
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        rankings = read_landmark_rankings(item, truth, config.ties)
        notes = check_ids(match_ids(truth.query_images, rankings, "the ground truth", "the rankings"))
        right = {image for table in truth.positives.values() for images in table.values() for image in images}
        ranked = {image for images in rankings.values() for image in images}
        require_ids(match_ids(right, ranked, "images of the ground truth", "images of the rankings"))
        found = evaluate_landmarks(name, truth, rankings, config)
        evaluations.append(replace(found, run=replace(found.run, notes=notes)))
    data = {
        "fingerprint": truth.to_fingerprint(),
        "num_queries": len(truth.query_images),
        "num_images": len(truth.images),
    }
    runs = tuple(item.run for item in evaluations)
    score = TaskScore(config.task, landmarks_protocol(config, truth), data, runs, bootstrap_of(config, RESAMPLES))
    return score, tuple(evaluations)
