"""Moment retrieval: R@n at IoU m, mean IoU, and average precision per query (QVHighlights).

For a query with ground-truth windows g and predicted windows p_1, p_2, ... (best first)::

    R@n, IoU=m  = share of queries with  max over i <= n, g of IoU(p_i, g) >= m        (strict: > m, as 2D-TAN)
    mIoU        = mean over queries of   max over g of IoU(p_1, g)
    AP(m)       = interpolated average precision of the first `max_windows` predictions, one hit per ground truth,
                  mAP(m) = mean over queries, and its average over m = .50, .55, ..., .95

A query without predictions scores 0 everywhere and is counted. IoU of R@n and mIoU has ``max stop - min start`` as its
union (as VSLNet, LGI and Moment-DETR), that of AP the sum of lengths; the same value but for the last bit.
Ties: equal scores keep the order as listed; for equal IoU the later-listed ground truth is taken first.
Several ground truths: the best one counts (QVHighlights); Charades-STA and ActivityNet Captions have one per query.
Sources: J. Gao et al., TALL, ICCV 2017 (R@n, IoU=m); J. Lei et al., QVHighlights / Moment-DETR, NeurIPS 2021.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection import overlapping
from clipmill.pipelines.evaluation.metrics.detection_matching import (
    claim,
    group_average_precision,
    rank_order,
    tiou_of_hull,
)
from clipmill.schemas.arrays import Floats, Ints
from clipmill.schemas.errors import UsageError
from clipmill.schemas.segments import Segments

MOMENT_THRESHOLDS = (0.3, 0.5, 0.7)
# Decimals, unlike ActivityNet's: Moment-DETR rounds them.
QVHIGHLIGHTS_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
# (more than, at most) seconds of the ground-truth window. Source: Moment-DETR's evaluation.
QVHIGHLIGHTS_LENGTHS = {"short": (0.0, 10.0), "middle": (10.0, 30.0), "long": (30.0, 150.0), "full": (0.0, np.inf)}


@dataclass(frozen=True, slots=True)
class MomentScore:
    """The scores of a set of predicted moments.

    Attributes:
        at: n of R@n.
        thresholds: T IoU thresholds.
        recall: ``float64[len(at), T]``.
        mean_iou: of the best-ranked prediction.
        average_precision: ``float64[P]``, mAP at each of `map_thresholds`.
        num_queries: queries scored.
        num_missing: of those, how many have no prediction.
        num_unknown: predicted queries without ground truth; left out.
        map_thresholds: P IoU thresholds of average precision; they may be others than those of R@n.
    """

    at: tuple[int, ...]
    thresholds: tuple[float, ...]
    strict: bool
    recall: Floats
    mean_iou: float
    average_precision: Floats
    num_queries: int
    num_missing: int
    num_unknown: int
    map_thresholds: tuple[float, ...]

    @property
    def average(self) -> float:
        """mAP averaged over its thresholds."""
        return float(self.average_precision.mean())

    def recall_at(self, n: int, threshold: float) -> float:
        """Returns R@n at IoU `threshold`."""
        return float(self.recall[self.at.index(n), self.thresholds.index(threshold)])

    @property
    def line(self) -> str:
        """The score line."""
        sign = ">" if self.strict else ">="
        each = [
            f"R@{n} IoU{sign}{threshold:g} {100 * value:.2f}"
            for n, row in zip(self.at, self.recall, strict=True)
            for threshold, value in zip(self.thresholds, row, strict=True)
        ]
        counts = f"{self.num_queries} queries ({self.num_missing} without predictions)"
        unknown = f"{self.num_unknown} predicted queries not in the ground truth"
        means = f"mIoU {100 * self.mean_iou:.2f}; mAP {100 * self.average:.2f}"
        return f"{', '.join(each)}; {means}; {counts}; {unknown}"


@dataclass(frozen=True, slots=True)
class ScoredQueries:
    """One block of queries after scoring, per query: nothing is added up before the end."""

    query_ids: tuple[str, ...]
    best_iou: Floats  # float64[Q, 1 + len(at)]; the first column is that of the best-ranked prediction alone
    average_precision: Floats
    missing: Ints
    num_unknown: int


@dataclass(frozen=True, slots=True)
class Moments:
    """The state of the moment metrics; immutable: `update` and `merge` return the new state.

    Attributes:
        at: n of R@n.
        thresholds: IoU thresholds of R@n, and of average precision where `map_thresholds` is None.
        as_listed: the first n are those listed first, whatever their scores, as Moment-DETR's tool takes them; average
            precision then ranks the first `max_windows` listed by score.
        strict: count ``IoU > m`` instead of ``IoU >= m`` (R@n alone; 2D-TAN).
        max_windows: predictions of a query that average precision reads; None: all.
        length_seconds: keep the ground-truth windows that are longer than the first and at most as long as the second;
            queries left without any are not scored (QVHighlights' short, middle and long).
        map_thresholds: IoU thresholds of average precision alone; None: those of R@n.
    """

    at: tuple[int, ...] = (1, 5)
    thresholds: tuple[float, ...] = MOMENT_THRESHOLDS
    strict: bool = False
    as_listed: bool = False
    max_windows: int | None = 10
    length_seconds: tuple[float, float] | None = None
    map_thresholds: tuple[float, ...] | None = None
    blocks: tuple[ScoredQueries, ...] = field(default=())

    @property
    def precision_thresholds(self) -> tuple[float, ...]:
        """IoU thresholds of average precision."""
        return self.thresholds if self.map_thresholds is None else self.map_thresholds

    def update(self, ground_truth: Segments, predictions: Segments) -> "Moments":
        """Returns the state with some queries added.

        Args:
            ground_truth: windows of the queries: `video_ids` holds query ids. Queries without a window are not scored.
            predictions: windows with scores; classes play no part.
        """
        queries, truth = self._scored(ground_truth)
        position = {name: code for code, name in enumerate(queries)}
        of = np.array([position.get(name, -1) for name in predictions.video_ids], np.int64)
        known = predictions.take(of[predictions.video] >= 0)
        query = of[known.video]
        order = np.arange(len(known)) if self.as_listed else rank_order(known.score)
        # By query, best first: positions are ranks, and the rank within the query is the distance to its first row.
        order = order[np.argsort(query[order], kind="stable")]
        known, query = known.take(order), query[order]
        counts = np.bincount(query, minlength=len(queries))
        rank = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        unknown = {predictions.video_ids[code] for code in np.unique(predictions.video)} - set(position)
        block = ScoredQueries(
            queries,
            self._best_iou(truth, known, query, rank, len(queries)),
            self._average_precision(truth, known, query, rank, len(queries)),
            (counts == 0).astype(np.int64),
            len(unknown - set(ground_truth.video_ids)),
        )
        return replace(self, blocks=(*self.blocks, block))

    def merge(self, other: "Moments") -> "Moments":
        """Returns the state of both; the settings must be the same.

        Raises:
            ValueError: the settings differ.
        """
        if replace(self, blocks=()) != replace(other, blocks=()):
            raise ValueError("moment metrics: expected states of one protocol to merge, got different settings")
        return replace(self, blocks=self.blocks + other.blocks)

    def per_query(self) -> tuple[tuple[str, ...], Floats, Floats]:
        """Returns query ids ascending, their best IoU of the first and within each n ``[Q, 1 + len(at)]`` and their
        AP ``[Q, P]``.

        Raises:
            UsageError: a query was given in more than one update.
        """
        names = [name for block in self.blocks for name in block.query_ids]
        order = sorted(range(len(names)), key=names.__getitem__)
        for first, second in zip(order, order[1:], strict=False):
            if names[first] == names[second]:
                raise UsageError(f"query {names[first]}: expected it in one update, got two; cut the work by query")
        best = np.concatenate([np.zeros((0, 1 + len(self.at))), *(block.best_iou for block in self.blocks)])
        each = np.concatenate(
            [np.zeros((0, len(self.precision_thresholds))), *(b.average_precision for b in self.blocks)]
        )
        return tuple(names[row] for row in order), best[order], each[order]

    def result(self) -> MomentScore:
        """Returns the score; bit-identical for any cut of the work by query.

        Raises:
            UsageError: a query was given in more than one update.
        """
        names, best, each = self.per_query()
        limits = np.array(self.thresholds)
        within = best[:, 1:, None]
        found = within > limits if self.strict else within >= limits
        num_queries = np.float64(len(names))
        with np.errstate(invalid="ignore"):
            return MomentScore(
                self.at,
                self.thresholds,
                self.strict,
                found.sum(axis=0) / num_queries,
                float(best[:, 0].sum() / num_queries),
                each.sum(axis=0) / num_queries,
                len(names),
                sum(int(block.missing.sum()) for block in self.blocks),
                sum(block.num_unknown for block in self.blocks),
                self.precision_thresholds,
            )

    def _scored(self, ground_truth: Segments) -> tuple[tuple[str, ...], Segments]:
        if self.length_seconds is not None:
            length = ground_truth.stop_seconds - ground_truth.start_seconds
            ground_truth = ground_truth.take((length > self.length_seconds[0]) & (length <= self.length_seconds[1]))
        with_window = ground_truth.of_videos([ground_truth.video_ids[code] for code in np.unique(ground_truth.video)])
        return with_window.video_ids, with_window

    def _best_iou(self, truth: Segments, known: Segments, query: Ints, rank: Ints, num_queries: int) -> Floats:
        near = rank < max(self.at, default=1)
        who, _, overlap = overlapping(known.take(near), truth, query[near], truth.video, tiou_of_hull)
        best = np.zeros((num_queries, 1 + len(self.at)))
        for column, n in enumerate((1, *self.at)):
            within = rank[near][who] < n
            np.maximum.at(best[:, column], query[near][who[within]], overlap[within])
        return best

    def _average_precision(self, truth: Segments, known: Segments, query: Ints, rank: Ints, num_queries: int) -> Floats:
        read = rank < (self.max_windows if self.max_windows is not None else len(rank))
        known, query = known.take(read), query[read]
        ranked = rank_order(known.score)
        ranked = ranked[np.argsort(query[ranked], kind="stable")]
        known, query = known.take(ranked), query[ranked]
        counts = np.bincount(query, minlength=num_queries)
        place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        last_first = truth.take(np.arange(len(truth))[::-1])
        who, target, overlap = overlapping(known, last_first, query, last_first.video)
        num_positive = np.bincount(truth.video, minlength=num_queries)
        values = []
        for threshold in self.precision_thresholds:
            good = overlap >= threshold
            hit, _ = claim(who[good], target[good], len(truth))
            values.append(group_average_precision(place[hit], query[hit], num_positive))
        return np.array(values).reshape(len(self.precision_thresholds), num_queries).T
