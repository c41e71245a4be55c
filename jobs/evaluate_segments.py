"""``task: detection`` and ``task: proposals`` of ``clipmill evaluate``."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clipmill.jobs.evaluation_inputs import (
    check_classes,
    check_ids,
    read_blocked,
    read_segment_predictions,
    read_segment_truth,
    run_names,
)
from clipmill.pipelines.evaluation.tasks.detection.score import (
    DetectionEvaluation,
    DetectionProtocol,
    detection_floor_scores,
    evaluate_detection,
    ordered_truth,
)
from clipmill.pipelines.evaluation.tasks.proposals.score import (
    ProposalsEvaluation,
    ProposalsProtocol,
    evaluate_proposals,
    proposal_floor_scores,
    proposals_truth,
)
from clipmill.pipelines.evaluation.tasks.result import SCORE_RESAMPLES, RunScore, TaskScore, segments_fingerprint
from clipmill.pipelines.evaluation.tasks.segment_truth import SegmentTruth
from clipmill.schemas.config_evaluate import DetectionConfig, ProposalsConfig, TaskConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.segments import Segments
from clipmill.stores.formats.ids import match_ids


def bootstrap_of(config: TaskConfig, resamples: int) -> dict[str, Any]:
    """Returns the settings of the bootstrap for ``results.json``."""
    return {"seed": config.seed, "resamples": config.resamples or resamples, "confidence": config.confidence}


def score_detection(config: DetectionConfig) -> tuple[TaskScore, tuple[DetectionEvaluation, ...]]:
    """Returns mAP over tIoU of each set of predictions.

    Raises:
        UsageError: a file is something else, or its ids or classes share nothing with the ground truth's.
    """
    names = run_names(config.predictions)
    protocol = DetectionProtocol.of(config, read_blocked(config.blocked))
    truth = ordered_truth(read_segment_truth(config.ground_truth, config.training), protocol)
    _check_not_empty(truth)
    if config.floors:
        _check_training(truth)
    floors = detection_floor_scores(truth, protocol, config.chance_per_video, config.seed) if config.floors else {}
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        predictions = read_segment_predictions(item, config.ground_truth, with_classes=True)
        notes = (
            *_check_videos(truth, predictions, protocol.blocked),
            *check_classes(truth.segments, predictions),
            *backwards_notes(truth.segments, predictions, swapped=protocol.protocol == "thumos14"),
            *_floor_notes(truth, config),
        )
        found = evaluate_detection(
            name, truth, predictions, protocol, floors, config.resamples, config.confidence, config.seed
        )
        evaluations.append(replace(found, run=replace(found.run, notes=notes)))
    return _score(config, protocol.to_plain(), truth, [item.run for item in evaluations]), tuple(evaluations)


def score_proposals(config: ProposalsConfig) -> tuple[TaskScore, tuple[ProposalsEvaluation, ...]]:
    """Returns AR@AN and its area of each set of predictions.

    Raises:
        UsageError: a file is something else, or its ids share nothing with the ground truth's.
    """
    names = run_names(config.predictions)
    protocol = ProposalsProtocol.of(config, read_blocked(config.blocked))
    truth = proposals_truth(read_segment_truth(config.ground_truth, config.training), protocol)
    _check_not_empty(truth)
    if config.floors:
        _check_training(truth)
    floors = proposal_floor_scores(truth, protocol, config.chance_per_video, config.seed) if config.floors else {}
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        predictions = read_segment_predictions(item, config.ground_truth, with_classes=False)
        notes = (
            *_check_videos(truth, predictions, protocol.blocked),
            *backwards_notes(truth.segments, predictions),
            *_floor_notes(truth, config),
        )
        found = evaluate_proposals(
            name, truth, predictions, protocol, floors, config.resamples, config.confidence, config.seed
        )
        evaluations.append(replace(found, run=replace(found.run, notes=notes)))
    return _score(config, protocol.to_plain(), truth, [item.run for item in evaluations]), tuple(evaluations)


def _score(config: TaskConfig, protocol: dict[str, Any], truth: SegmentTruth, runs: Sequence[RunScore]) -> TaskScore:
    return TaskScore(config.task, protocol, _data(truth), tuple(runs), bootstrap_of(config, SCORE_RESAMPLES))


def _check_not_empty(truth: SegmentTruth) -> None:
    if not len(truth.segments):
        got = f"none after {len(truth.blocked)} blocked videos"
        raise UsageError(describe("evaluation", "ground_truth", "annotations", got, "check blocked and subset"))


def _check_training(truth: SegmentTruth) -> None:
    """Refuses training annotations without durations: no share of a video could be learnt, and blind would be zero."""
    if truth.training is not None and _num_without_duration(truth) == len(truth.training.video_ids):
        got = f"none of {len(truth.training.video_ids)} videos"
        remedy = "give training.durations, or leave training out"
        raise UsageError(describe("training", "durations", "those of its videos, for the blind floor", got, remedy))


def _num_without_duration(truth: SegmentTruth) -> int:
    names = () if truth.training is None else truth.training.video_ids
    return sum(name not in (truth.training_durations or {}) for name in names)


def _check_videos(truth: SegmentTruth, predictions: Segments, blocked: frozenset[str]) -> tuple[str, ...]:
    predicted = [name for name in predictions.video_ids if name not in blocked]
    return check_ids(match_ids(truth.segments.video_ids, predicted, "the ground truth", "the predictions"))


def backwards_notes(
    truth: Segments, predictions: Segments, swapped: bool = False, one_of: str = "video"
) -> tuple[str, ...]:
    """Returns a note for each side that has segments which end before they start.

    Args:
        swapped: their times have been swapped for the score; else they overlap nothing.
        one_of: what `video_ids` are ids of.
    """
    done = "their times are swapped, as by the official kit" if swapped else "they overlap nothing"
    notes = []
    for thing, table in (("ground truths", truth), ("predictions", predictions)):
        rows = np.flatnonzero(table.start_seconds > table.stop_seconds)
        if len(rows):
            first = table.video_ids[int(table.video[rows[0]])]
            notes.append(f"{thing}: {len(rows)} end before they start, such as one of {one_of} {first}; {done}")
    return tuple(notes)


def _floor_notes(truth: SegmentTruth, config: DetectionConfig | ProposalsConfig) -> tuple[str, ...]:
    if not config.floors:
        return ()
    notes = []
    _, num_unknown = truth.floor_durations
    if num_unknown:
        notes.append(
            f"floors: no duration of {num_unknown} videos; the last annotated second stands in, which can only raise a "
            "floor (give ground_truth.durations)"
        )
    if truth.training is None:
        notes.append("floors: blind is tuned on the scored annotations: an upper bound (give training)")
    elif num_unknown := _num_without_duration(truth):
        notes.append(
            f"floors: blind is tuned without {num_unknown} of {len(truth.training.video_ids)} training videos, whose "
            "durations are not known (give training.durations)"
        )
    return tuple(notes)


def _data(truth: SegmentTruth) -> dict[str, Any]:
    tables = [truth.segments] if truth.ambiguous is None else [truth.segments, truth.ambiguous]
    return {
        "fingerprint": segments_fingerprint(*tables),
        "num_videos": len(truth.segments.video_ids),
        "num_ground_truths": len(truth.segments),
        "num_classes": len(truth.segments.label_names),
        "num_blocked_videos": len(truth.blocked),
    }
