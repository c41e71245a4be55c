"""Baselines of moment retrieval and detection: what one scores without looking, to read every score against.

* chance: start and stop drawn uniformly from the video (two uniform numbers, sorted). Expected value, by midpoint
  quadrature over a grid of spans: no random numbers.
* fixed span: the same share of the video for every query, for example [0.00, 0.32]: the span that is best on training
  annotations for the asked threshold. On Charades-STA it reaches R@1 IoU=0.5 of 30.5 %.

A model that ignores its inputs looks like the fixed span. Moments are clipped to the video first: a seventh of
Charades-STA's end after it. Source: own; the spans agree with those of the reference measurements in docs/metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.evaluation.metrics.detection_matching import tiou
from clipmill.pipelines.evaluation.metrics.moments import MOMENT_THRESHOLDS
from clipmill.schemas.arrays import Floats
from clipmill.schemas.segments import Segments


@dataclass(frozen=True, slots=True)
class MomentBaselines:
    """Input-blind scores of one set of queries, R@1 at each threshold and mIoU.

    Attributes:
        thresholds: T IoU thresholds.
        chance: ``float64[T]``, expected R@1 of a random span.
        chance_mean_iou: expected IoU of a random span.
        spans: for each threshold, the (start, stop) share of the video that is best on the training annotations.
        fixed: ``float64[T]``, R@1 of that threshold's span on the scored annotations.
        fixed_mean_iou: mIoU of the span that is best for mIoU on the training annotations.
        tuned_on_scored: there were no training annotations, so that `fixed` is an upper bound.
    """

    thresholds: tuple[float, ...]
    chance: Floats
    chance_mean_iou: float
    spans: tuple[tuple[float, float], ...]
    fixed: Floats
    fixed_mean_iou: float
    tuned_on_scored: bool

    @property
    def line(self) -> str:
        """The baselines as one line beside a score line."""
        rows = zip(self.thresholds, self.chance, self.fixed, self.spans, strict=True)
        each = [f"IoU {m:g}: chance {100 * c:.2f}, span {s[0]:.2f}-{s[1]:.2f} {100 * f:.2f}" for m, c, f, s in rows]
        how = " (spans tuned on the scored annotations)" if self.tuned_on_scored else ""
        return f"R@1 without looking{how}: {'; '.join(each)}; mIoU {100 * self.fixed_mean_iou:.2f}"


def normalised(windows: Segments, duration_seconds: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Returns the start and stop of each window as a share of its video, clipped to [0, 1], each ``float64[N]``.

    Args:
        windows: N windows of Q queries (or videos).
        duration_seconds: ``float[Q]``. Windows of a video without a duration (NaN) are left out.
    """
    duration = np.asarray(duration_seconds, np.float64)[windows.video]
    known = _with_duration(windows, duration_seconds)
    start, stop = (column[known] / duration[known] for column in (windows.start_seconds, windows.stop_seconds))
    return np.clip(start, 0.0, 1.0), np.clip(stop, 0.0, 1.0)


def _with_duration(windows: Segments, duration_seconds: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    duration = np.asarray(duration_seconds, np.float64)[windows.video]
    return np.asarray(np.isfinite(duration) & (duration > 0), np.bool_)


def _queries(windows: Segments, duration_seconds: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Returns the query of each window that `normalised` keeps, ``int64[N]``."""
    return windows.video[_with_duration(windows, duration_seconds)]


def moment_baselines(
    windows: Segments,
    duration_seconds: npt.ArrayLike,
    training: Segments | None = None,
    training_duration_seconds: npt.ArrayLike | None = None,
    thresholds: Sequence[float] = MOMENT_THRESHOLDS,
    num_steps: int = 50,
) -> MomentBaselines:
    """Returns the baselines for `windows`; of a query's several windows the best one counts, as in R@1.

    Args:
        windows: the annotations that are scored.
        duration_seconds: ``float[Q]``, of the video of each query of `windows`.
        training: annotations to tune the fixed span on; None: on `windows` themselves.
        training_duration_seconds: durations for `training`.
        num_steps: ours: spans start and stop at multiples of 1 / num_steps of the video.
    """
    scored = (*normalised(windows, duration_seconds), _queries(windows, duration_seconds))
    tuning = scored
    if training is not None and training_duration_seconds is not None:
        tuning = (*normalised(training, training_duration_seconds), _queries(training, training_duration_seconds))
    grid = span_grid(num_steps)
    limits = np.array(thresholds)
    share, mean_iou = span_scores(grid, tuning[0], tuning[1], limits, tuning[2])
    best = share.argmax(axis=0)
    fixed, _ = span_scores(grid[best], scored[0], scored[1], limits, scored[2])
    _, fixed_mean = span_scores(grid[[int(mean_iou.argmax())]], scored[0], scored[1], limits, scored[2])
    edges = (np.arange(num_steps) + 0.5) / num_steps
    # Two sorted uniform numbers: each unordered pair of cells has twice the weight of a cell with itself.
    first, second = np.triu_indices(num_steps)
    weight = np.where(first == second, 1.0, 2.0) / num_steps**2
    drawn = np.stack([edges[first], edges[second]], axis=1)
    chance, chance_mean = span_scores(drawn, scored[0], scored[1], limits, scored[2])
    return MomentBaselines(
        tuple(thresholds),
        np.asarray(weight @ chance, np.float64),
        float(weight @ chance_mean),
        tuple((float(grid[row, 0]), float(grid[row, 1])) for row in best),
        np.diagonal(fixed).copy(),
        float(fixed_mean[0]),
        training is None,
    )


def span_grid(num_steps: int) -> Floats:
    """Returns all spans between multiples of ``1 / num_steps``, ``float64[S, 2]``, by start, then stop."""
    first, second = np.triu_indices(num_steps + 1, 1)
    return np.stack([first, second], axis=1) / num_steps


def span_scores(
    spans: Floats,
    start: Floats,
    stop: Floats,
    thresholds: Floats,
    query: npt.NDArray[np.int64] | None = None,
) -> tuple[Floats, Floats]:
    """Returns, for always answering each of S spans, R@1 ``float64[S, T]`` and mIoU ``float64[S]``.

    Args:
        spans: ``float64[S, 2]``, shares of the video.
        start, stop: ``float64[N]``, the annotations as shares of their video.
        query: ``int64[N]``: of the annotations of one query the best counts; None: each is a query.
    """
    share, mean = np.zeros((len(spans), len(thresholds))), np.zeros(len(spans))
    first_of = np.zeros(0, np.int64)
    if query is not None:
        order = np.argsort(query, kind="stable")
        start, stop = start[order], stop[order]
        first_of = np.flatnonzero(np.diff(query[order], prepend=-1))
    for row, (first, last) in enumerate(spans):
        overlap = tiou(first, last, start, stop)
        if len(first_of):
            overlap = np.maximum.reduceat(overlap, first_of)
        share[row] = (overlap[:, None] >= thresholds).mean(axis=0) if len(overlap) else np.nan
        mean[row] = overlap.mean() if len(overlap) else np.nan
    return share, mean
