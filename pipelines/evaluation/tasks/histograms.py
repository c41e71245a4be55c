"""Histograms of scores and lengths over bins that suit both: where correct and incorrect predictions part."""

from collections.abc import Mapping

import numpy as np

from clipmill.pipelines.reports.blocks import Cell, Chart, Row, Table
from clipmill.pipelines.reports.charts_bars import Steps, Tick, histogram_chart, step_swatch
from clipmill.schemas.arrays import Floats

NUM_BINS = 20
WIDE = 50.0
"""ours: values whose 5th percentile is so many times below their largest are binned on a logarithmic scale."""
MOST_TICKS = 6
LARGEST = 1e300
"""Scores beyond are drawn here: twice the largest number is none."""


def bin_edges(values: Floats, num_bins: int = NUM_BINS) -> tuple[Floats, bool]:
    """Returns edges over all finite values, ``float64[B + 1]``, and whether they are logarithmic.

    A logarithmic scale begins at the 0.1 percentile; what is below it is in the first bin.
    """
    known = np.clip(values[np.isfinite(values)], -LARGEST, LARGEST)
    if not len(known):
        return np.linspace(0.0, 1.0, num_bins + 1), False
    low, high = float(known.min()), float(known.max())
    positive = known[known > 0]
    if low >= 0 and len(positive) > len(known) / 2 and high > WIDE * float(np.quantile(positive, 0.05)):
        start = max(float(np.quantile(positive, 0.001)), high / 1e6)
        return np.geomspace(start, high, num_bins + 1), True
    if high == low:
        return np.linspace(low - 0.5, high + 0.5, num_bins + 1), False
    return np.linspace(low, high, num_bins + 1), False


def histograms(
    title: str,
    x_label: str,
    groups: Mapping[str, Floats],
    y_label: str,
    note: str = "",
    limits: tuple[float, float] | None = None,
) -> Chart:
    """Returns one chart with a histogram of each group, each as shares of its own size.

    Args:
        groups: name to ``float64[N]``; not finite values are left out.
        limits: where the axis begins and ends; None: as the values do.
    """
    edges, logarithmic = bin_edges(np.concatenate(list(groups.values())))
    if limits is not None:
        edges, logarithmic = np.linspace(*limits, NUM_BINS + 1), False
    inside = [values[np.isfinite(values)] for values in groups.values()]
    counts = [np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] for values in inside]
    steps = [
        Steps(name, (count / max(int(count.sum()), 1)).tolist(), count.tolist(), style)
        for style, (name, count) in enumerate(zip(groups, counts, strict=True))
    ]
    names = [f"{low:.3g} to {high:.3g}" for low, high in zip(edges, edges[1:], strict=False)]
    ticks = _log_ticks(edges) if logarithmic else _ticks(edges)
    label = f"{x_label}, logarithmic scale" if logarithmic else x_label
    rows = tuple(Row(name, tuple(Cell(f"{step.counts[n]:,}") for step in steps)) for n, name in enumerate(names))
    return Chart(
        title,
        histogram_chart(steps, names, ticks, title, label, y_label),
        tuple((step_swatch(step.style), f"{step.name} ({sum(step.counts):,})") for step in steps),
        note,
        Table(title, (x_label, *groups), (("", rows),)),
    )


def _ticks(edges: Floats) -> list[Tick]:
    low, high = float(edges[0]), float(edges[-1])
    step = nice_step(high - low, MOST_TICKS - 1)
    first = int(np.ceil(low / step - 1e-9))
    values = [n * step for n in range(first, int(np.floor(high / step + 1e-9)) + 1)]
    return [((value - low) / (high - low) * (len(edges) - 1), f"{value:.6g}") for value in values]


def _log_ticks(edges: Floats) -> list[Tick]:
    low, high = float(np.log10(edges[0])), float(np.log10(edges[-1]))
    decades = [10.0**n for n in range(int(np.ceil(low - 1e-9)), int(np.floor(high + 1e-9)) + 1)]
    if len(decades) < 3:
        first = int(np.floor(low))
        every = [d * 10.0**n for n in range(first, int(np.ceil(high)) + 1) for d in (1, 2, 5)]
        decades = [value for value in every if low - 1e-9 <= np.log10(value) <= high + 1e-9]
    decades = decades[:: -(-len(decades) // MOST_TICKS)]
    return [((np.log10(value) - low) / (high - low) * (len(edges) - 1), f"{value:g}") for value in decades]


def nice_step(span: float, most: int) -> float:
    """Returns the smallest of 1, 2, 5 times a power of ten that cuts `span` into at most `most` parts."""
    exponent = np.floor(np.log10(span / most))
    for factor in (1, 2, 5, 10):
        step = float(factor * 10.0**exponent)
        if span / step <= most + 1e-9:
            return step
    return span
