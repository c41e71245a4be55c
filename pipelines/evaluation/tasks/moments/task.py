"""``task: moments``: R@n at IoU m, mIoU and mAP of moments found for language queries."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from clipmill.pipelines.evaluation.bootstrap import RESAMPLES
from clipmill.pipelines.evaluation.checks import inverted_notes
from clipmill.pipelines.evaluation.coverage import Asked, annotated, check_answers
from clipmill.pipelines.evaluation.inputs import bootstrap_of, run_names
from clipmill.pipelines.evaluation.tasks.base import Evaluation, Sources, Task
from clipmill.pipelines.evaluation.tasks.moments.inputs import read_moment_predictions, read_moment_truth
from clipmill.pipelines.evaluation.tasks.moments.score import (
    MomentsEvaluation,
    MomentsProtocol,
    MomentTruth,
    evaluate_moments,
    moment_baseline_scores,
)
from clipmill.pipelines.evaluation.tasks.result import TaskScore, segments_fingerprint
from clipmill.schemas.config_evaluate import PredictionsConfig
from clipmill.schemas.config_moments import MomentsConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.segments import Segments
from clipmill.stores.formats.records import SegmentTable

if TYPE_CHECKING:
    from clipmill.pipelines.evaluation.tasks.page import TaskReport


def evaluate(config: MomentsConfig, sources: Sources) -> Evaluation[MomentsEvaluation]:
    """Returns R@n, mIoU and mAP of each set of predicted windows.

    Raises:
        UsageError: a file is something else, or its query ids share nothing with the ground truth's.
    """
    names = run_names(config.predictions)
    read = read_moment_truth(config.ground_truth, config.training, sources)
    truth = read.truth
    protocol = MomentsProtocol.of(config, config.protocol or read.protocol)
    if config.baselines:
        _check_training(truth)
    baselines = moment_baseline_scores(truth, protocol) if config.baselines else None
    with_window = set(annotated(truth.windows))
    scored = [(query, video) for query, video in zip(truth.windows.video_ids, truth.video_ids, strict=True)]
    queries = [row for row in scored if row[0] in with_window]
    asked = Asked(
        [query for query, _ in queries], names=truth.windows.video_ids, videos=[video for _, video in queries]
    )
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        predictions = read_moment_predictions(item, sources)
        answered = check_answers(
            asked, annotated(predictions), config.min_coverage, listed_ids=predictions.video_ids, name=name
        )
        notes = [*inverted_notes(truth.windows, predictions, one_of="query")]
        if protocol.order == "score" and _without_scores(predictions):
            notes.append(
                "all scores are equal, so answers rank by start; write order: file_order to take them in order"
            )
        notes += _run_notes(item, truth)
        if config.baselines and baselines is None:
            notes.append("no baselines: no video has a duration (give ground_truth.durations)")
        elif baselines is not None and baselines.tuned_on_scored:
            notes.append("baselines: span is tuned on the scored annotations: an upper bound (give training)")
        found = evaluate_moments(
            name, truth, predictions, protocol, baselines, config.resamples, config.confidence, config.seed
        )
        evaluations.append(replace(found, run=answered.told(found.run, notes)))
    data: dict[str, Any] = {} if config.ground_truth.subset is None else {"subset": config.ground_truth.subset}
    data |= {
        "fingerprint": segments_fingerprint(truth.windows),
        "num_queries": len(truth.windows.video_ids),
        "num_windows": len(truth.windows),
        "num_videos": len(set(truth.video_ids)),
    }
    runs = tuple(item.run for item in evaluations)
    score = TaskScore(config.task, protocol.to_plain(), data, runs, bootstrap_of(config, RESAMPLES))
    return Evaluation(score, tuple(evaluations))


def _check_training(truth: MomentTruth) -> None:
    """Refuses training annotations without durations: no share of a video could be learnt from them."""
    seconds = truth.training_duration_seconds
    if seconds is not None and not np.isfinite(seconds).any():
        got = f"none of {len(seconds)} queries"
        remedy = "give training.durations, or leave training out"
        raise UsageError(describe("training", "durations", "those of its videos, for the span baseline", got, remedy))


def _without_scores(predictions: Segments) -> bool:
    several = len(predictions) > len(np.unique(predictions.video))
    return several and len(np.unique(predictions.score)) == 1


def report(evaluation: Evaluation[MomentsEvaluation], config: MomentsConfig, sources: Sources) -> "TaskReport":
    """Returns what the page shows."""
    from clipmill.pipelines.evaluation.tasks.moments.report import moments_report

    return moments_report(evaluation.score, evaluation.evaluated, seed=config.seed)


def predict(item: PredictionsConfig, config: MomentsConfig) -> SegmentTable:
    """Returns what a trained run answers; torch is loaded here."""
    from clipmill.pipelines.evaluation.tasks.moments import trained

    return trained.predict(item, config)


def _run_notes(item: PredictionsConfig, truth: MomentTruth) -> tuple[str, ...]:
    if item.run is None:
        return ()
    from clipmill.pipelines.evaluation.tasks.moments.trained import run_notes

    return run_notes(item, truth)


TASK = Task("moments", "R@n at IoU m, mIoU and mAP of moment retrieval", MomentsConfig, evaluate, report, predict)
