"""``task: moments`` and ``task: highlights`` of ``clipmill evaluate``."""

from dataclasses import replace

import numpy as np

from clipmill.jobs.evaluate_segments import backwards_notes, bootstrap_of
from clipmill.jobs.evaluation_inputs import (
    check_ids,
    read_clip_scores,
    read_moment_predictions,
    read_moment_truth,
    read_saliency,
    run_names,
)
from clipmill.pipelines.evaluation.bootstrap import RESAMPLES
from clipmill.pipelines.evaluation.tasks.moments.score import (
    HighlightsEvaluation,
    MomentsEvaluation,
    MomentsProtocol,
    MomentTruth,
    evaluate_highlights,
    evaluate_moments,
    highlight_floor_scores,
    moment_floor_scores,
)
from clipmill.pipelines.evaluation.tasks.result import TaskScore, segments_fingerprint
from clipmill.schemas.config_evaluate import HighlightsConfig, MomentsConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.fingerprint import fingerprint
from clipmill.schemas.segments import Segments
from clipmill.stores.formats.ids import match_ids


def score_moments(config: MomentsConfig) -> tuple[TaskScore, tuple[MomentsEvaluation, ...]]:
    """Returns R@n, mIoU and mAP of each set of predicted windows.

    Raises:
        UsageError: a file is something else, or its query ids share nothing with the ground truth's.
    """
    names = run_names(config.predictions)
    read = read_moment_truth(config.ground_truth, config.training)
    truth = read.truth
    protocol = MomentsProtocol.of(config, config.protocol or read.protocol)
    if config.floors:
        _check_training(truth)
    floors = moment_floor_scores(truth, protocol) if config.floors else None
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        predictions = read_moment_predictions(item)
        match = match_ids(truth.windows.video_ids, predictions.video_ids, "the ground truth", "the predictions")
        notes = [*check_ids(match), *backwards_notes(truth.windows, predictions, one_of="query")]
        if protocol.order == "score" and _without_scores(predictions):
            notes.append("all scores are equal, so answers rank by start; write order: listed to take them as listed")
        if config.floors and floors is None:
            notes.append("no floors: no video has a duration (give ground_truth.durations)")
        elif floors is not None and floors.tuned_on_scored:
            notes.append("floors: span is tuned on the scored annotations: an upper bound (give training)")
        found = evaluate_moments(
            name, truth, predictions, protocol, floors, config.resamples, config.confidence, config.seed
        )
        evaluations.append(replace(found, run=replace(found.run, notes=tuple(notes))))
    data = {
        "fingerprint": segments_fingerprint(truth.windows),
        "num_queries": len(truth.windows.video_ids),
        "num_windows": len(truth.windows),
        "num_videos": len(set(truth.video_ids)),
    }
    runs = tuple(item.run for item in evaluations)
    score = TaskScore(config.task, protocol.to_plain(), data, runs, bootstrap_of(config, RESAMPLES))
    return score, tuple(evaluations)


def _check_training(truth: MomentTruth) -> None:
    """Refuses training annotations without durations: no share of a video could be learnt from them."""
    seconds = truth.training_duration_seconds
    if seconds is not None and not np.isfinite(seconds).any():
        got = f"none of {len(seconds)} queries"
        remedy = "give training.durations, or leave training out"
        raise UsageError(describe("training", "durations", "those of its videos, for the span floor", got, remedy))


def _without_scores(predictions: Segments) -> bool:
    several = len(predictions) > len(np.unique(predictions.video))
    return several and len(np.unique(predictions.score)) == 1


def score_highlights(config: HighlightsConfig) -> tuple[TaskScore, tuple[HighlightsEvaluation, ...]]:
    """Returns mAP and Hit@1 of each set of clip scores.

    Raises:
        UsageError: a file is something else, or its query ids share nothing with the ground truth's.
    """
    names = run_names(config.predictions)
    saliency = read_saliency(config.ground_truth)
    floors = highlight_floor_scores(saliency, config.levels, config.seed) if config.floors else {}
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        predicted = read_clip_scores(item)
        notes = check_ids(match_ids(saliency, predicted, "the ground truth", "the predictions"))
        found = evaluate_highlights(name, saliency, predicted, config, floors)
        evaluations.append(replace(found, run=replace(found.run, notes=notes)))
    plain = [[name, saliency[name].tolist()] for name in sorted(saliency)]
    data = {"fingerprint": fingerprint(plain), "num_queries": len(saliency)}
    runs = tuple(item.run for item in evaluations)
    protocol = {"levels": list(config.levels)}
    return TaskScore(config.task, protocol, data, runs, bootstrap_of(config, RESAMPLES)), tuple(evaluations)
