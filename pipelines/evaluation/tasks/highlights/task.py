"""``task: highlights``: mAP and Hit@1 of clip scores."""

from dataclasses import replace
from typing import TYPE_CHECKING

from clipmill.pipelines.evaluation.bootstrap import RESAMPLES
from clipmill.pipelines.evaluation.coverage import Asked, check_answers
from clipmill.pipelines.evaluation.inputs import bootstrap_of, run_names
from clipmill.pipelines.evaluation.tasks.base import Evaluation, Sources, Task
from clipmill.pipelines.evaluation.tasks.highlights.inputs import read_clip_scores, read_saliency
from clipmill.pipelines.evaluation.tasks.highlights.score import (
    HighlightsEvaluation,
    evaluate_highlights,
    highlight_baseline_scores,
)
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.schemas.config_moments import HighlightsConfig
from clipmill.schemas.fingerprint import fingerprint

if TYPE_CHECKING:
    from clipmill.pipelines.evaluation.tasks.page import TaskReport


def evaluate(config: HighlightsConfig, sources: Sources) -> Evaluation[HighlightsEvaluation]:
    """Returns mAP and Hit@1 of each set of clip scores.

    Raises:
        UsageError: a file is something else, or its query ids share nothing with the ground truth's.
    """
    names = run_names(config.predictions)
    saliency = read_saliency(config.ground_truth, sources).scores
    baselines = highlight_baseline_scores(saliency, config.levels, config.seed) if config.baselines else {}
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        predicted = read_clip_scores(item, sources)
        given = {query for query, scores in predicted.items() if len(scores)}
        answered = check_answers(Asked(list(saliency)), given, config.min_coverage, listed_ids=predicted, name=name)
        found = evaluate_highlights(name, saliency, predicted, config, baselines)
        evaluations.append(replace(found, run=answered.told(found.run)))
    plain = [[name, saliency[name].tolist()] for name in sorted(saliency)]
    data = {"fingerprint": fingerprint(plain), "num_queries": len(saliency)}
    runs = tuple(item.run for item in evaluations)
    protocol = {"levels": list(config.levels)}
    score = TaskScore(config.task, protocol, data, runs, bootstrap_of(config, RESAMPLES))
    return Evaluation(score, tuple(evaluations))


def report(evaluation: Evaluation[HighlightsEvaluation], config: HighlightsConfig, sources: Sources) -> "TaskReport":
    """Returns what the page shows."""
    from clipmill.pipelines.evaluation.tasks.highlights.report import highlights_report

    asked = read_saliency(config.ground_truth, sources).sentences
    return highlights_report(evaluation.score, evaluation.evaluated, seed=config.seed, sentences=asked)


TASK = Task("highlights", "mAP and Hit@1 of clip scores", HighlightsConfig, evaluate, report)
