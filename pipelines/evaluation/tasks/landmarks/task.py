"""``task: landmarks``: Oxford and Paris, old and revisited, with junk images."""

from dataclasses import replace
from typing import TYPE_CHECKING

from clipmill.pipelines.evaluation.bootstrap import RESAMPLES
from clipmill.pipelines.evaluation.coverage import Asked, check_answers
from clipmill.pipelines.evaluation.inputs import bootstrap_of, run_names
from clipmill.pipelines.evaluation.tasks.base import Evaluation, Sources, Task
from clipmill.pipelines.evaluation.tasks.landmarks.inputs import read_landmark_rankings, read_landmark_truth
from clipmill.pipelines.evaluation.tasks.landmarks.score import (
    LandmarksEvaluation,
    evaluate_landmarks,
    landmarks_protocol,
)
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.schemas.config_ranking import LandmarksConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.stores.formats.ids import match_ids, require_ids

if TYPE_CHECKING:
    from clipmill.pipelines.evaluation.tasks.page import TaskReport


def evaluate(config: LandmarksConfig, sources: Sources) -> Evaluation[LandmarksEvaluation]:
    """Returns mAP with junk and mP@k of each set of rankings.

    Raises:
        UsageError: a file is something else, its query ids share nothing with the ground truth's, or a protocol that
            the ground truth does not have.
    """
    names = run_names(config.predictions)
    truth = read_landmark_truth(config.ground_truth, sources)
    missing = [name for name in config.protocols or () if name not in truth.positives]
    if missing:
        expected = f"protocols of this ground truth ({', '.join(truth.positives)})"
        raise UsageError(describe("evaluation", "protocols", expected, missing[0], "correct the name, or leave it out"))
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        rankings = read_landmark_rankings(item, truth, config, sources)
        given = {query for query, images in rankings.items() if images}
        asked = Asked(list(truth.query_images))
        answered = check_answers(asked, given, config.min_coverage, "the rankings", rankings, name)
        positives = {image for table in truth.positives.values() for images in table.values() for image in images}
        ranked = {image for images in rankings.values() for image in images}
        require_ids(match_ids(positives, ranked, "images of the ground truth", "images of the rankings"))
        found = evaluate_landmarks(name, truth, rankings, config)
        evaluations.append(replace(found, run=answered.told(found.run)))
    data = {
        "fingerprint": truth.to_fingerprint(),
        "num_queries": len(truth.query_images),
        "num_images": len(truth.images),
    }
    runs = tuple(item.run for item in evaluations)
    score = TaskScore(config.task, landmarks_protocol(config, truth), data, runs, bootstrap_of(config, RESAMPLES))
    return Evaluation(score, tuple(evaluations))


def report(evaluation: Evaluation[LandmarksEvaluation], config: LandmarksConfig, sources: Sources) -> "TaskReport":
    """Returns what the page shows."""
    from clipmill.pipelines.evaluation.tasks.landmarks.report import landmarks_report

    return landmarks_report(evaluation.score, evaluation.evaluated, seed=config.seed)


TASK = Task("landmarks", "mAP with junk and mP@k of ranked images", LandmarksConfig, evaluate, report)
