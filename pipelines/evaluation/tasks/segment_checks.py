"""What detection and proposals check of their annotations and predictions, and tell beside the score."""

from collections.abc import Sequence
from typing import Any

from clipmill.pipelines.evaluation.checks import check_ids
from clipmill.pipelines.evaluation.inputs import bootstrap_of
from clipmill.pipelines.evaluation.tasks.result import SCORE_RESAMPLES, RunScore, TaskScore, segments_fingerprint
from clipmill.pipelines.evaluation.tasks.segment_truth import SegmentTruth
from clipmill.schemas.config_detection import SegmentTaskConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.segments import Segments
from clipmill.stores.formats.ids import match_ids


def segments_score(
    config: SegmentTaskConfig, protocol: dict[str, Any], truth: SegmentTruth, runs: Sequence[RunScore]
) -> TaskScore:
    """Returns the scores of all runs over `truth`."""
    return TaskScore(config.task, protocol, _data(truth), tuple(runs), bootstrap_of(config, SCORE_RESAMPLES))


def check_not_empty(truth: SegmentTruth) -> None:
    """Refuses a ground truth of which nothing is left."""
    if not len(truth.segments):
        got = f"none after {len(truth.blocked)} blocked videos"
        raise UsageError(describe("evaluation", "ground_truth", "annotations", got, "check blocked and subset"))


def check_training(truth: SegmentTruth) -> None:
    """Refuses training annotations without durations: no share of a video could be learnt, and blind would be zero."""
    if truth.training is not None and _num_without_duration(truth) == len(truth.training.video_ids):
        got = f"none of {len(truth.training.video_ids)} videos"
        remedy = "give training.durations, or leave training out"
        raise UsageError(describe("training", "durations", "those of its videos, for the blind baseline", got, remedy))


def _num_without_duration(truth: SegmentTruth) -> int:
    names = () if truth.training is None else truth.training.video_ids
    return sum(name not in (truth.training_durations or {}) for name in names)


def check_videos(truth: SegmentTruth, predictions: Segments, blocked: frozenset[str]) -> tuple[str, ...]:
    """Returns a note that lists the videos that differ; raises FormatError where none is on both sides."""
    predicted = [name for name in predictions.video_ids if name not in blocked]
    return check_ids(match_ids(truth.segments.video_ids, predicted, "the ground truth", "the predictions"))


def baseline_notes(truth: SegmentTruth, config: SegmentTaskConfig) -> tuple[str, ...]:
    """Returns what a reader has to know about the baselines: what they were tuned on, and what is not known."""
    if not config.baselines:
        return ()
    notes = []
    _, num_unknown = truth.baseline_durations
    if num_unknown:
        notes.append(
            f"baselines: no duration of {num_unknown} videos; the last annotated second stands in, which can only "
            "raise a baseline (give ground_truth.durations)"
        )
    if truth.training is None:
        notes.append("baselines: blind is tuned on the scored annotations: an upper bound (give training)")
    elif num_unknown := _num_without_duration(truth):
        notes.append(
            f"baselines: blind is tuned without {num_unknown} of {len(truth.training.video_ids)} training videos, "
            "whose durations are not known (give training.durations)"
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
