"""What detection and proposals check of their annotations and predictions, and tell beside the score."""

from collections.abc import Sequence
from typing import Any

from clipmill.pipelines.evaluation.coverage import Answered, Asked, annotated, check_answers
from clipmill.pipelines.evaluation.inputs import bootstrap_of
from clipmill.pipelines.evaluation.tasks.result import SCORE_RESAMPLES, RunScore, TaskScore, segments_fingerprint
from clipmill.pipelines.evaluation.tasks.segment_truth import SegmentTruth
from clipmill.schemas.config_detection import SegmentTaskConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.segments import Segments


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


def check_videos(
    config: SegmentTaskConfig, truth: SegmentTruth, predictions: Segments, blocked: frozenset[str], name: str
) -> Answered:
    """Returns how many of the annotated videos have predictions; raises FormatError where too few have."""
    asked = Asked(
        annotated(truth.segments), "annotated videos", names=truth.segments.video_ids, elsewhere=truth.elsewhere
    )
    kept = predictions.of_videos(set(predictions.video_ids) - blocked)
    return check_answers(asked, annotated(kept), config.min_coverage, listed_ids=kept.video_ids, name=name)


def truth_notes(truth: SegmentTruth, config: SegmentTaskConfig) -> tuple[str, ...]:
    """Returns what a reader has to know of the annotations, and of the baselines: what they were tuned on."""
    if not config.baselines:
        return truth.notes
    notes = [*truth.notes]
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
        **({} if truth.subset is None else {"subset": truth.subset}),
        "fingerprint": segments_fingerprint(*tables),
        "num_videos": len(truth.segments.video_ids),
        "num_ground_truths": len(truth.segments),
        "num_classes": len(truth.segments.label_names),
        "num_blocked_videos": len(truth.blocked),
    }
