"""``task: ranking``: trec_eval's measures of ranked documents."""

from dataclasses import replace
from typing import TYPE_CHECKING

from clipmill.pipelines.evaluation.bootstrap import RESAMPLES
from clipmill.pipelines.evaluation.coverage import Asked, check_answers
from clipmill.pipelines.evaluation.inputs import bootstrap_of, run_names
from clipmill.pipelines.evaluation.tasks.base import Evaluation, Sources, Task
from clipmill.pipelines.evaluation.tasks.ranking.inputs import read_qrels, read_run
from clipmill.pipelines.evaluation.tasks.ranking.score import (
    RankingEvaluation,
    evaluate_ranking,
    qrels_fingerprint,
    ranking_protocol,
)
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.schemas.config_ranking import RankingConfig
from clipmill.stores.formats.ids import match_ids, require_ids

if TYPE_CHECKING:
    from clipmill.pipelines.evaluation.tasks.page import TaskReport


def evaluate(config: RankingConfig, sources: Sources) -> Evaluation[RankingEvaluation]:
    """Returns trec_eval's measures of each run.

    Raises:
        UsageError: a file is something else, its query ids share nothing with the judgements', or an unknown measure.
    """
    names = run_names(config.predictions)
    qrels = read_qrels(config.ground_truth, sources)
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        documents = read_run(item, sources)
        found = {query for query, items in documents.items() if items}
        asked = Asked(list(qrels), "judged queries", "the qrels")
        answered = check_answers(asked, found, config.min_coverage, "the run", documents, name)
        judged = {document for query in qrels.values() for document in query}
        listed = {document for query in documents.values() for document in query}
        require_ids(match_ids(judged, listed, "documents of the qrels", "documents of the run"))
        evaluation = evaluate_ranking(name, qrels, documents, config)
        evaluations.append(replace(evaluation, run=answered.told(evaluation.run)))
    data = {
        "fingerprint": qrels_fingerprint(qrels),
        "num_queries": len(qrels),
        "num_judgements": sum(len(items) for items in qrels.values()),
    }
    runs = tuple(item.run for item in evaluations)
    score = TaskScore(config.task, ranking_protocol(config), data, runs, bootstrap_of(config, RESAMPLES))
    return Evaluation(score, tuple(evaluations))


def report(evaluation: Evaluation[RankingEvaluation], config: RankingConfig, sources: Sources) -> "TaskReport":
    """Returns what the page shows."""
    from clipmill.pipelines.evaluation.tasks.ranking.report import ranking_report

    return ranking_report(evaluation.score, evaluation.evaluated, seed=config.seed)


TASK = Task("ranking", "trec_eval's measures of ranked documents", RankingConfig, evaluate, report)
