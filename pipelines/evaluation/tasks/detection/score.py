"""``task: detection``: from annotations and predictions to mAP with baselines, intervals and counts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.evaluation.metrics.detection import (
    ACTIVITYNET_THRESHOLDS,
    DetectionCounts,
    DetectionMap,
    DetectionScore,
    Matched,
    account,
    score_blocks,
)
from clipmill.pipelines.evaluation.metrics.detection_baselines import blind_detections, chance_detections
from clipmill.pipelines.evaluation.metrics.detection_matching import group_average_precision, rank_order
from clipmill.pipelines.evaluation.metrics.detection_nms import nms, soft_nms
from clipmill.pipelines.evaluation.metrics.detection_thumos14 import THUMOS14_THRESHOLDS, ThumosMap
from clipmill.pipelines.evaluation.tasks.result import (
    SCORE_RESAMPLES,
    RunScore,
    half_samples,
    resampled_intervals,
    threshold_name,
)
from clipmill.pipelines.evaluation.tasks.segment_truth import SegmentTruth, in_order
from clipmill.schemas.arrays import Floats, Ints
from clipmill.schemas.config_detection import DetectionConfig, NmsConfig
from clipmill.schemas.config_evaluate import Overlap, Ties
from clipmill.schemas.segments import Segments

_THRESHOLDS = {
    "activitynet": ACTIVITYNET_THRESHOLDS,
    "thumos14": THUMOS14_THRESHOLDS,
    # Source: happyharrycn/actionformer_release, libs/utils/metrics.py and configs/thumos_i3d.yaml.
    "thumos14_0.3_to_0.7": (0.3, 0.4, 0.5, 0.6, 0.7),
}


@dataclass(frozen=True, slots=True)
class DetectionProtocol:
    """Everything that decides a detection score, resolved: see `clipmill.schemas.config_detection.DetectionConfig`.

    Attributes:
        are_asked: the config itself names the thresholds: all are printed.
    """

    protocol: str
    tiou_thresholds: tuple[float, ...]
    interpolated: bool
    overlap: Overlap
    ties: Ties
    ambiguous: bool
    drop_duplicates: bool
    blocked: frozenset[str]
    max_per_video: int | None
    nms: NmsConfig | None
    time_decimals: int | None
    score_digits: int | None
    are_asked: bool = False

    @staticmethod
    def of(config: DetectionConfig, blocked: Iterable[str] = ()) -> "DetectionProtocol":
        """Returns the settings of `config`, with the protocol's for what it leaves out."""
        official = config.protocol != "thumos14"
        return DetectionProtocol(
            protocol=config.protocol,
            tiou_thresholds=config.tiou_thresholds or _THRESHOLDS[config.protocol],
            interpolated=official if config.interpolated is None else config.interpolated,
            overlap=config.overlap or (">=" if official else ">"),
            ties=config.ties or ("time" if official else "file_order"),
            ambiguous=config.ambiguous and not official,
            drop_duplicates=config.drop_duplicates,
            blocked=frozenset(blocked),
            max_per_video=config.max_per_video,
            nms=config.nms,
            time_decimals=config.time_decimals,
            score_digits=config.score_digits,
            are_asked=config.tiou_thresholds is not None,
        )

    def to_plain(self) -> dict[str, Any]:
        """Returns the settings for ``results.json``."""
        return {
            "protocol": self.protocol,
            "tiou_thresholds": [round(value, 6) for value in self.tiou_thresholds],
            "interpolated": self.interpolated,
            "overlap": self.overlap,
            "ties": self.ties,
            "ambiguous": self.ambiguous,
            "drop_duplicates": self.drop_duplicates,
            "blocked": sorted(self.blocked),
            "max_per_video": self.max_per_video,
            "nms": None if self.nms is None else self.nms.model_dump(mode="json", exclude_none=True),
            "time_decimals": self.time_decimals,
            "score_digits": self.score_digits,
        }


@dataclass(frozen=True, slots=True)
class DetectionEvaluation:
    """One set of detections, scored; all that a report of it needs.

    Attributes:
        truth: as scored: in order, without blocked videos.
        predictions: as scored (after NMS and rounding); where NMS follows the threshold, those of the first one.
        listed: as read, before NMS and rounding: `prepared` makes of them what is scored at a threshold.
        score: mAP and AP per class and threshold.
        baselines: the scores of ``chance`` and ``blind`` under the same protocol.
        run: the numbers for tables, ``results.json`` and gates.
    """

    name: str
    protocol: DetectionProtocol
    truth: SegmentTruth
    predictions: Segments
    listed: Segments
    score: DetectionScore
    baselines: Mapping[str, DetectionScore]
    run: RunScore


@dataclass(frozen=True, slots=True)
class _Scored:
    score: DetectionScore
    blocks: tuple[tuple[Matched, int], ...]  # for each threshold: where its hits are
    predictions: Segments


def ordered_truth(truth: SegmentTruth, protocol: DetectionProtocol) -> SegmentTruth:
    """Returns `truth` without blocked videos and in an order that no file decides, as far as the tie rule allows."""
    rows = protocol.ties == "time"

    def ordered(table: Segments) -> Segments:
        return in_order(table.of_videos(set(table.video_ids) - protocol.blocked), rows)

    ambiguous = ordered(truth.ambiguous) if truth.ambiguous is not None and protocol.ambiguous else None
    met = protocol.blocked.intersection(truth.segments.video_ids)
    return replace(truth, segments=ordered(truth.segments), ambiguous=ambiguous, blocked=met)


def detection_baseline_scores(
    truth: SegmentTruth, protocol: DetectionProtocol, per_video: int, seed: int
) -> dict[str, DetectionScore]:
    """Returns what one scores without looking: ``chance`` and ``blind`` (see `detection_baselines`), without NMS.

    Args:
        truth: as `ordered_truth` returns it.
        per_video: random detections per video.
    """
    bare = replace(protocol, nms=None, max_per_video=None, time_decimals=None, score_digits=None)
    durations, _ = truth.baseline_durations
    training, training_durations = truth.segments, durations
    if truth.training is not None:
        training, training_durations = truth.training, truth.training_durations or {}
    answers = {
        "chance": chance_detections(truth.segments, durations, per_video, seed),
        "blind": blind_detections(in_order(training), training_durations, truth.segments.video_ids, durations),
    }
    return {name: _scored(truth, answer, bare).score for name, answer in answers.items()}


def evaluate_detection(
    name: str,
    truth: SegmentTruth,
    predictions: Segments,
    protocol: DetectionProtocol,
    baselines: Mapping[str, DetectionScore] | None = None,
    resamples: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> DetectionEvaluation:
    """Returns the score of one set of detections.

    Args:
        name: of the predictions.
        truth: as `ordered_truth` returns it.
        baselines: of `detection_baseline_scores`.
        resamples: random halves of the videos behind the intervals.
    """
    num_blocked = len(truth.blocked | protocol.blocked.intersection(predictions.video_ids))
    kept = in_order(predictions.of_videos(set(predictions.video_ids) - protocol.blocked), protocol.ties == "time")
    scored = _scored(truth, kept, protocol)
    counts = replace(scored.score.counts, num_blocked_videos=num_blocked)
    score = replace(scored.score, counts=counts)
    metrics = detection_metrics(score)
    chosen = half_samples(len(truth.segments.video_ids), resamples or SCORE_RESAMPLES, seed)
    table = resampled_map(scored.blocks, _truth_table(truth, protocol), protocol.interpolated, chosen)
    resampled = {threshold_name("map", t): table[:, row] for row, t in enumerate(protocol.tiou_thresholds)}
    resampled["average"] = table.mean(axis=1)
    plain_baselines = {key: detection_metrics(value) for key, value in (baselines or {}).items()}
    run = RunScore(
        name=name,
        headline="average",
        shown=_shown(protocol),
        metrics=metrics,
        baselines=plain_baselines,
        intervals=resampled_intervals(metrics, resampled, confidence),
        counts=plain_counts(counts),
        line=score.line,
        per_class=_per_class(score),
        resampled=resampled,
    )
    return DetectionEvaluation(name, protocol, truth, scored.predictions, kept, score, baselines or {}, run)


def detection_metrics(score: DetectionScore) -> dict[str, float]:
    """Returns ``map@<tIoU>`` for each threshold, and ``average``."""
    each = zip(score.thresholds, score.mean_average_precision.tolist(), strict=True)
    return {threshold_name("map", t): value for t, value in each} | {"average": score.average}


def _shown(protocol: DetectionProtocol) -> tuple[str, ...]:
    few = (
        [t for t in protocol.tiou_thresholds if round(t, 6) in (0.5, 0.75, 0.95)]
        if len(protocol.tiou_thresholds) > 6 and not protocol.are_asked
        else protocol.tiou_thresholds
    )
    return (*(threshold_name("map", t) for t in few), "average")


def plain_counts(counts: DetectionCounts) -> dict[str, int]:
    """Returns the counts by name."""
    return {name: int(getattr(counts, name)) for name in DetectionCounts.__slots__}


def _per_class(score: DetectionScore) -> dict[str, dict[str, float]]:
    table = {}
    for column, label in enumerate(score.label_names):
        values = score.average_precision[:, column]
        each = {threshold_name("ap", t): float(v) for t, v in zip(score.thresholds, values, strict=True)}
        table[label] = each | {
            "average": float(values.mean()),
            "num_ground_truths": int(score.num_ground_truths[column]),
        }
    return table


def _scored(truth: SegmentTruth, predictions: Segments, protocol: DetectionProtocol) -> _Scored:
    if protocol.nms is None or protocol.nms.below is None:
        kept = prepared(predictions, protocol, protocol.tiou_thresholds[0])
        return _at(truth, kept, protocol, protocol.tiou_thresholds)
    # NMS follows the threshold: each has predictions of its own.
    parts = []
    for threshold in protocol.tiou_thresholds:
        parts.append(_at(truth, prepared(predictions, protocol, threshold), protocol, (threshold,)))
    table = np.concatenate([part.score.average_precision for part in parts])
    score = replace(parts[0].score, thresholds=protocol.tiou_thresholds, average_precision=table)
    return _Scored(score, tuple(part.blocks[0] for part in parts), parts[0].predictions)


def prepared(predictions: Segments, protocol: DetectionProtocol, threshold: float) -> Segments:
    """Returns the predictions that are scored at `threshold`: the best of each video, after NMS, rounded."""
    kept = predictions
    if protocol.max_per_video is not None:
        rank = rank_order(kept.score, kept.start_seconds, kept.stop_seconds)
        rank = rank[np.argsort(kept.video[rank], kind="stable")]
        counts = np.bincount(kept.video, minlength=len(kept.video_ids))
        place = np.arange(len(rank)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = kept.take(np.sort(rank[place < protocol.max_per_video]))
    if protocol.nms is not None:
        kept = _suppressed(kept, protocol.nms, threshold)
    if protocol.time_decimals is not None:
        style = f".{protocol.time_decimals}f"
        kept = replace(
            kept, start_seconds=_printed(kept.start_seconds, style), stop_seconds=_printed(kept.stop_seconds, style)
        )
    if protocol.score_digits is not None:
        kept = replace(kept, score=_printed(kept.score, f".{protocol.score_digits}g"))
    return kept


def _suppressed(segments: Segments, config: NmsConfig, threshold: float) -> Segments:
    if config.kind == "hard":
        # Thresholds are decimals: 0.3 - 0.1 in binary would not be 0.2.
        limit = config.tiou if config.below is None else max(round(threshold - config.below, 6), 0.0)
        kept = segments.take(nms(segments, limit or 0.0, config.ties))
        return kept.take(np.argsort(-kept.score, kind="stable"))
    rows, score = soft_nms(segments, config.sigma, config.tiou or 0.0, config.max_per_class)
    return replace(segments.take(rows), score=score)


def _printed(values: Floats, style: str) -> Floats:
    # Through text, as a file would hold them: printing rounds the exact binary value.
    return np.array([float(format(value, style)) for value in values.tolist()], np.float64)


def _at(truth: SegmentTruth, kept: Segments, protocol: DetectionProtocol, tious: tuple[float, ...]) -> _Scored:
    if protocol.protocol != "thumos14":
        # `>=` is what the metric computes; `overlap > t` is the same as `overlap >= the next number after t`.
        limits = tious if protocol.overlap == ">=" else tuple(float(np.nextafter(t, 2)) for t in tious)
        state = DetectionMap(limits, drop_duplicates=protocol.drop_duplicates).update(truth.segments, kept)
        score = score_blocks(state.blocks, limits, protocol.interpolated)
        blocks = tuple((state.blocks[0], row) for row in range(len(tious)))
    else:
        limits = tious if protocol.overlap == ">" else tuple(float(np.nextafter(t, -1)) for t in tious)
        each = ThumosMap(limits).update(truth.segments, kept, truth.ambiguous).blocks[0]
        scores = [score_blocks((block,), (t,), protocol.interpolated) for block, t in zip(each, limits, strict=True)]
        table = np.concatenate([item.average_precision for item in scores])
        score = replace(scores[0], average_precision=table)
        blocks = tuple((block, 0) for block in each)
    return _Scored(replace(score, thresholds=tious), blocks, kept)


def _truth_table(truth: SegmentTruth, protocol: DetectionProtocol) -> Segments:
    nothing = truth.segments.take(np.zeros(0, np.int64))
    return account(truth.segments, nothing, (), protocol.drop_duplicates)[0]


def resampled_map(
    blocks: tuple[tuple[Matched, int], ...],
    ground_truth: Segments,
    interpolated: bool,
    chosen: npt.NDArray[np.bool_],
) -> Floats:
    """Returns mAP on R choices of the ground truth's videos, ``float64[R, T]``.

    Predictions in videos that are not annotated stand in every choice. Classes that a choice left without ground truth
    are left out of its mean.

    Args:
        blocks: for each threshold the matched predictions and the line of their hits.
        ground_truth: what they were matched with.
        chosen: ``bool[R, V]``, the videos of `ground_truth` in each choice.
    """
    table = np.full((len(chosen), len(blocks)), np.nan)
    column = {name: position for position, name in enumerate(ground_truth.video_ids)}
    num_labels = len(ground_truth.label_names)
    same: dict[int, list[int]] = {}
    for position, (block, _) in enumerate(blocks):
        same.setdefault(id(block), []).append(position)
    for positions in same.values():
        block = blocks[positions[0]][0]
        order, label, video = _ranked(block, column)
        hits = [np.flatnonzero(block.hit[blocks[position][1]][order]) for position in positions]
        size = max(len(block.label_names), num_labels)
        for row, videos in enumerate(chosen):
            # Rows of unknown videos (-1) read the last column: always in.
            kept = np.append(videos, True)[video]
            place = np.cumsum(kept) - 1
            # Rows are by class: where each class begins among those kept.
            of_class = np.bincount(label[kept], minlength=size)
            begin = np.cumsum(of_class) - of_class
            positive = np.bincount(ground_truth.label[videos[ground_truth.video]], minlength=size)
            for position, rows in zip(positions, hits, strict=True):
                chosen_rows = rows[kept[rows]]
                group = label[chosen_rows]
                values = group_average_precision(place[chosen_rows] - begin[group], group, positive, interpolated)
                known = values[positive > 0]
                table[row, position] = known.mean() if len(known) else np.nan
    return table


def _ranked(block: Matched, column: Mapping[str, int]) -> tuple[Ints, Ints, Ints]:
    """Returns the rows by class, then by rank, with their class and their video's position, each ``int64[N]``."""
    name_order = np.empty(len(block.video_ids), np.int64)
    name_order[sorted(range(len(block.video_ids)), key=block.video_ids.__getitem__)] = np.arange(len(block.video_ids))
    order = rank_order(block.score, name_order[block.video], block.start_seconds, block.stop_seconds)
    order = order[np.argsort(block.label[order], kind="stable")]
    known = np.array([column.get(name, -1) for name in block.video_ids], np.int64)
    return order, block.label[order], known[block.video[order]]
