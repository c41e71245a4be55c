"""Which prediction found which ground truth at one tIoU threshold, under a given protocol: what diagnosis starts from.

The matching is that of the protocol itself (`detection`, `detection_thumos14`), so every count made of it agrees with
the AP that was printed. Precision and recall after each rank of a class::

    precision(r) = hits among the first r / r          recall(r) = hits among the first r / ground truths of the class

drawn interpolated, as precision at a recall or any higher one; `average_precision` follows the protocol.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection import account, claims
from clipmill.pipelines.evaluation.metrics.detection_matching import group_average_precision, rank_order, tiou
from clipmill.pipelines.evaluation.metrics.detection_thumos14 import ignored_by, thumos_claims, thumos_tiou
from clipmill.schemas.arrays import Bools, Floats, Ints
from clipmill.schemas.segments import Segments

RECALL_LEVELS = np.arange(101) / 100.0

NOTHING = -1


@dataclass(frozen=True, slots=True)
class Hits:
    """The outcome of matching at one threshold; both tables have the same videos and classes, ascending.

    Attributes:
        ground_truth: G ground truths, without blocked videos.
        predictions: N predictions, without blocked videos.
        threshold: tIoU.
        strict: a hit needs more than `threshold` (THUMOS14), not at least (ActivityNet).
        interpolated: whether AP takes the best precision at a recall or beyond (ActivityNet).
        of_hull: whether the overlap's union is ``max stop - min start`` (THUMOS14).
        target: ``int64[N]``, the ground truth that each prediction found, or -1.
        found_by: ``int64[G]``, the prediction that found each ground truth, or -1.
        ignored: ``bool[N]``: neither correct nor incorrect (THUMOS14's ambiguous intervals).
        order: ``int64[N]``, all predictions, best first, ties as the protocol breaks them.
    """

    ground_truth: Segments
    predictions: Segments
    threshold: float
    strict: bool
    interpolated: bool
    of_hull: bool
    target: Ints
    found_by: Ints
    ignored: Bools
    order: Ints

    @property
    def is_hit(self) -> Bools:
        """``bool[N]``."""
        return np.asarray(self.target != NOTHING, np.bool_)

    @property
    def num_ground_truths(self) -> Ints:
        """``int64[C]``, per class."""
        return np.bincount(self.ground_truth.label, minlength=len(self.ground_truth.label_names))

    def reaches(self, overlap: Floats) -> Bools:
        """Returns whether an overlap is enough for a hit under this protocol."""
        return np.greater(overlap, self.threshold) if self.strict else np.greater_equal(overlap, self.threshold)

    def overlaps(self, rows: Ints, targets: Ints) -> Floats:
        """Returns the tIoU of pairs of predictions and ground truths in the protocol's arithmetic."""
        return (thumos_tiou if self.of_hull else tiou)(
            self.predictions.start_seconds[rows],
            self.predictions.stop_seconds[rows],
            self.ground_truth.start_seconds[targets],
            self.ground_truth.stop_seconds[targets],
        )

    def rankings(self, keep: Bools | None = None) -> tuple[Ints, Ints, Ints]:
        """Returns the predictions that count by class, then best first: positions, classes and ranks from 0.

        Args:
            keep: ``bool[N]``, predictions to rank; None: all. Excused ones are left out in any case.
        """
        kept = ~self.ignored if keep is None else keep & ~self.ignored
        rows = self.order[kept[self.order]]
        rows = rows[np.argsort(self.predictions.label[rows], kind="stable")]
        label = self.predictions.label[rows]
        size = np.bincount(label, minlength=len(self.predictions.label_names))
        return rows, label, np.arange(len(rows)) - (np.cumsum(size) - size)[label]

    def best(self, times_ground_truths: int) -> tuple[Ints, Ints, Ints]:
        """Returns the k G best predictions of each class (top-kG) as `rankings` does, G being its ground truths."""
        rows, label, place = self.rankings()
        read = place < times_ground_truths * self.num_ground_truths[label]
        return rows[read], label[read], place[read]


def hits_at(
    ground_truth: Segments,
    predictions: Segments,
    threshold: float,
    matching: Literal["activitynet", "thumos14"] = "activitynet",
    strict: bool | None = None,
    interpolated: bool | None = None,
    ambiguous: Segments | None = None,
    drop_duplicates: bool = False,
) -> Hits:
    """Returns which prediction found which ground truth; both sides without blocked videos.

    Args:
        threshold: tIoU.
        matching: whose way of matching and of breaking ties (`detection`, `detection_thumos14`).
        strict, interpolated: None: as `matching` has it.
        ambiguous: intervals in which predictions are ignored (THUMOS14).
        drop_duplicates: score repeated ground truths once.
    """
    thumos = matching == "thumos14"
    strict = thumos if strict is None else strict
    ground_truth, predictions, _ = account(ground_truth, predictions, (), drop_duplicates)
    ground_truth, predictions = on_common_names(ground_truth, predictions)
    num_labels = len(ground_truth.label_names)
    groups = (ground_truth.video * num_labels + ground_truth.label, predictions.video * num_labels + predictions.label)
    # `overlap > t` is `overlap >= the next number after t`, and the other way round.
    limit = threshold if strict == thumos else float(np.nextafter(threshold, 2 if strict else -1))
    rows, targets = next((thumos_claims if thumos else claims)(ground_truth, predictions, *groups, (limit,)))
    target = np.full(len(predictions), NOTHING, np.int64)
    found_by = np.full(len(ground_truth), NOTHING, np.int64)
    target[rows], found_by[targets] = targets, rows
    ignored = ignored_by(predictions, ambiguous) & (target == NOTHING)
    ties = (predictions.video,) if thumos else (predictions.video, predictions.start_seconds, predictions.stop_seconds)
    return Hits(
        ground_truth,
        predictions,
        threshold,
        strict,
        not thumos if interpolated is None else interpolated,
        thumos,
        target,
        found_by,
        ignored,
        rank_order(predictions.score, *ties),
    )


def on_common_names(*tables: Segments) -> tuple[Segments, ...]:
    """Returns the tables with one list of videos and one of classes, both ascending, so that their codes agree."""
    videos = tuple(sorted({name for table in tables for name in table.video_ids}))
    labels = tuple(sorted({name for table in tables for name in table.label_names}))
    video_of = {name: code for code, name in enumerate(videos)}
    label_of = {name: code for code, name in enumerate(labels)}
    return tuple(
        replace(
            table,
            video_ids=videos,
            label_names=labels,
            video=np.array([video_of[name] for name in table.video_ids], np.int64)[table.video],
            label=np.array([label_of[name] for name in table.label_names], np.int64)[table.label],
        )
        for table in tables
    )


def average_precision(hits: Hits, keep: Bools | None = None, positive: Bools | None = None) -> Floats:
    """Returns the AP of each class, ``float64[C]``; NaN for a class without ground truth.

    Args:
        keep: ``bool[N]``, predictions to rank; None: all that are not ignored.
        positive: ``bool[G]``, ground truths that can be found; None: all. Hits of others must not be kept.
    """
    rows, label, place = hits.rankings(keep)
    hit = hits.is_hit[rows]
    truth = hits.ground_truth.label if positive is None else hits.ground_truth.label[positive]
    num_positive = np.bincount(truth, minlength=len(hits.ground_truth.label_names))
    return group_average_precision(place[hit], label[hit], num_positive, hits.interpolated)


def precision_at_recall(hits: Hits) -> Floats:
    """Returns each class's interpolated precision at 101 recalls, ``float64[C, 101]``; NaN without ground truth."""
    num_positive = hits.num_ground_truths
    curves = np.full((len(num_positive), len(RECALL_LEVELS)), np.nan)
    rows, label, _ = hits.rankings()
    edges = np.searchsorted(label, np.arange(len(num_positive) + 1))
    for code in np.flatnonzero(num_positive).tolist():
        hit = hits.is_hit[rows[edges[code] : edges[code + 1]]]
        at = np.flatnonzero(hit)
        nth = np.arange(1, len(at) + 1)
        best = np.maximum.accumulate((nth / (at + 1))[::-1])[::-1]
        # The least number of hits that gives a recall; whole numbers, so that 0.29 x 100 needs 29 hits and not 30.
        needed = np.ceil(np.round(RECALL_LEVELS * num_positive[code], 9)).astype(np.int64)
        curves[code] = np.r_[best, 0.0][np.minimum(np.maximum(needed, 1) - 1, len(at))]
    return curves
