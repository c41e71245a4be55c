"""Mean average precision of temporal detections, THUMOS 2014 style, and the post-processing of S-CNN.

Differs from ActivityNet style in these ways, most of them worth points:

* matching goes by ground truth, as listed: each takes the prediction of its video and class with the highest overlap
  that is still free, and is found if that overlap is **strictly** above the threshold;
* a prediction that found nothing but overlaps an ``Ambiguous`` interval of its video is neither correct nor incorrect;
* AP is not interpolated: ``AP = (sum over hits of P at the rank of the hit) / N``;
* the overlap's union is ``max stop - min start`` (the same value, another last bit), and the two times of an interval
  may stand in either order.

Ties, as the official MATLAB tool: equal scores rank by video id, then as listed; equal overlap goes to the
better-ranked prediction. A class without any prediction has AP 0; repeated ground truths each count (each CliffDiving
is Diving too).
Source: THUMOS'14 evaluation kit, temporal detection, as updated by S-CNN (Z. Shou et al., CVPR 2016).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.evaluation.metrics.detection import (
    DetectionScore,
    Matched,
    account,
    overlapping,
    score_blocks,
)
from clipmill.pipelines.evaluation.metrics.detection_matching import claim, group_pairs, rank_order, tiou_of_hull
from clipmill.pipelines.evaluation.metrics.detection_nms import nms
from clipmill.schemas.arrays import Bools, Floats, Ints
from clipmill.schemas.segments import Segments

THUMOS14_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True, slots=True)
class ThumosMap:
    """The state of THUMOS14-style mAP; immutable: `update` and `merge` return the new state.

    Attributes:
        thresholds: tIoU thresholds, ascending.
        blocked: ids of videos that are left out on both sides.
    """

    thresholds: tuple[float, ...] = THUMOS14_THRESHOLDS
    blocked: frozenset[str] = frozenset()
    blocks: tuple[tuple[Matched, ...], ...] = field(default=())

    def update(self, ground_truth: Segments, predictions: Segments, ambiguous: Segments | None = None) -> "ThumosMap":
        """Returns the state with some videos added; all segments of a video belong into one update.

        Args:
            ambiguous: intervals in which predictions are ignored; their class plays no part.
        """
        block = self._match(ground_truth, predictions, ambiguous)
        return replace(self, blocks=(*self.blocks, block))

    def merge(self, other: "ThumosMap") -> "ThumosMap":
        """Returns the state of both; the settings must be the same.

        Raises:
            ValueError: the settings differ.
        """
        if replace(self, blocks=()) != replace(other, blocks=()):
            raise ValueError("THUMOS14 mAP: expected states of one protocol to merge, got different settings")
        return replace(self, blocks=self.blocks + other.blocks)

    def result(self) -> DetectionScore:
        """Returns the score; bit-identical for any cut of the work by video.

        Raises:
            UsageError: a video was given in more than one update.
        """
        scores = [
            score_blocks(tuple(block[row] for block in self.blocks), (threshold,), interpolated=False)
            for row, threshold in enumerate(self.thresholds)
        ]
        table = np.concatenate([score.average_precision for score in scores])
        return replace(scores[0], thresholds=self.thresholds, average_precision=table)

    def _match(self, ground_truth: Segments, predictions: Segments, ambiguous: Segments | None) -> tuple[Matched, ...]:
        ground_truth, predictions, counts = account(ground_truth, predictions, self.blocked, drop_duplicates=False)
        labels = {name: position for position, name in enumerate(ground_truth.label_names)}
        videos = {name: position for position, name in enumerate(ground_truth.video_ids)}
        all_labels = np.array([labels.setdefault(name, len(labels)) for name in predictions.label_names], np.int64)
        all_videos = np.array([videos.setdefault(name, len(videos)) for name in predictions.video_ids], np.int64)
        label, video = all_labels[predictions.label], all_videos[predictions.video]
        ignored = ignored_by(predictions, ambiguous)
        found = thumos_claims(
            ground_truth,
            predictions,
            ground_truth.video * len(labels) + ground_truth.label,
            video * len(labels) + label,
            self.thresholds,
        )
        blocks = []
        for got, _ in found:
            hit = np.zeros(len(predictions), np.bool_)
            hit[got] = True
            # In the order as listed: it decides between equal scores of one video.
            rows = np.flatnonzero(hit | ~ignored)
            blocks.append(
                Matched(
                    tuple(videos),
                    tuple(labels),
                    video[rows],
                    label[rows],
                    predictions.score[rows],
                    np.zeros(len(rows)),
                    np.zeros(len(rows)),
                    hit[None, rows],
                    ground_truth.label,
                    counts,
                )
            )
        return tuple(blocks)


def thumos_claims(
    ground_truth: Segments,
    predictions: Segments,
    ground_truth_group: Ints,
    group: Ints,
    thresholds: tuple[float, ...],
) -> Iterator[tuple[Ints, Ints]]:
    """Yields, for each threshold, the predictions that are hits, ``int64[H]``, and the ground truth that took each.

    Args:
        ground_truth_group, group: ``int64[G]``, ``int64[N]``: equal for equal video and class.
    """
    rank = rank_order(predictions.score)
    ranked = predictions.take(rank)
    who, target, overlap = overlapping(ground_truth, ranked, ground_truth_group, group[rank], thumos_tiou)
    for threshold in thresholds:
        good = overlap > threshold
        takers, got = claim(who[good], target[good], len(rank))
        yield rank[got], takers


def thumos_tiou(start: Floats, stop: Floats, other_start: Floats, other_stop: Floats) -> Floats:
    """Returns the kit's overlap, elementwise with broadcasting: the smaller time of an interval is its start."""
    return tiou_of_hull(
        np.minimum(start, stop),
        np.maximum(start, stop),
        np.minimum(other_start, other_stop),
        np.maximum(other_start, other_stop),
    )


def ignored_by(predictions: Segments, ambiguous: Segments | None) -> Bools:
    """Returns which predictions overlap an ambiguous interval of their video, ``bool[N]``."""
    ignored = np.zeros(len(predictions), np.bool_)
    if ambiguous is None or not len(ambiguous):
        return ignored
    position = {name: code for code, name in enumerate(ambiguous.video_ids)}
    video = np.array([position.get(name, -1) for name in predictions.video_ids], np.int64)[predictions.video]
    who, other = group_pairs(video, ambiguous.video)
    overlap = thumos_tiou(
        predictions.start_seconds[who],
        predictions.stop_seconds[who],
        ambiguous.start_seconds[other],
        ambiguous.stop_seconds[other],
    )
    ignored[who[overlap > 0]] = True
    return ignored


def window_length_weights(
    ground_truth: Segments, lengths_seconds: npt.ArrayLike = (0.6, 1.24, 2.52, 5.08, 10.20, 22.44)
) -> npt.NDArray[np.float64]:
    """Returns S-CNN's prior of window length per class, ``float64[L, C]``: which lengths a class has in training.

    An instance counts for each window length that it is at least half and at most twice as long as; each class's counts
    are divided by their sum.

    Args:
        ground_truth: training annotations.
        lengths_seconds: L window lengths; the default is S-CNN's 16 to 512 frames as its release has them.
    """
    lengths = np.asarray(lengths_seconds, np.float64)
    duration = (ground_truth.stop_seconds - ground_truth.start_seconds)[None]
    fits = (duration >= lengths[:, None] / 2) & (duration <= lengths[:, None] * 2)
    counts = np.zeros((len(lengths), len(ground_truth.label_names)))
    for row in range(len(lengths)):
        counts[row] = np.bincount(ground_truth.label[fits[row]], minlength=counts.shape[1])
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / counts.sum(axis=0), np.float64)


def scnn_detections(
    predictions: Segments, window_length: Ints, weights: npt.NDArray[np.float64], tiou_threshold: float
) -> Segments:
    """Returns S-CNN's final detections, for scoring at one threshold: its protocol lets NMS follow the threshold.

    Scores are multiplied by the class's weight of the window's length; NMS per video and class at ``tiou_threshold -
    0.1`` (of equal scores the last listed first); best first; times printed with one decimal, scores with five
    significant digits. The printing matters: weighted scores tie after it, which is worth 0.4 points of mAP at tIoU
    0.3.

    Args:
        predictions: windows with class and score.
        window_length: ``int64[N]``, row of `weights` for each window.
        weights: ``float64[L, C]``, as `window_length_weights`.
    """
    weighted = replace(predictions, score=predictions.score * weights[window_length, predictions.label])
    # Thresholds are decimals; 0.3 - 0.1 in binary would not be 0.2.
    kept = weighted.take(nms(weighted, round(tiou_threshold - 0.1, 6), ties="last"))
    kept = kept.take(np.argsort(-kept.score, kind="stable"))
    return replace(
        kept,
        start_seconds=_printed(kept.start_seconds, ".1f"),
        stop_seconds=_printed(kept.stop_seconds, ".1f"),
        score=_printed(kept.score, ".5g"),
    )


def _printed(values: npt.NDArray[np.float64], style: str) -> npt.NDArray[np.float64]:
    # Through text, as the protocol does: printing rounds the exact binary value, multiplying by ten first does not.
    return np.array([float(format(value, style)) for value in values.tolist()], np.float64)
