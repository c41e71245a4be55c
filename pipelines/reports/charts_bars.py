"""Histograms, stacked columns and the image of a large matrix, as SVG text in the manner of `charts`.

What is told apart by colour is told apart by dash, hatching or a sign as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.reports.charts import BOTTOM, HEIGHT, NUM_STYLES, RIGHT, TOP, WIDTH, dash_of

LEFT = 70.0
"""Wider than a line chart's: percents and the axis' name must not touch on a narrow screen."""

Tick = tuple[float, str]


@dataclass(frozen=True, slots=True)
class Steps:
    """One histogram.

    Attributes:
        shares: per bin, of all that the series counts, in [0, 1].
        counts: per bin, for the tooltip.
    """

    name: str
    shares: Sequence[float]
    counts: Sequence[int]
    style: int


def histogram_chart(
    series: Sequence[Steps], bin_names: Sequence[str], x_ticks: Sequence[Tick], title: str, x_label: str, y_label: str
) -> str:
    """Returns histograms drawn over each other: outlines that differ in dash, with light fills.

    Args:
        bin_names: of B bins, for tooltips.
        x_ticks: (position in bins from 0 to B, text).
    """
    num_bins = len(bin_names)
    highest = max((share for line in series for share in line.shares), default=1.0)
    top, ticks = _percent_ticks(highest)
    width = (WIDTH - LEFT - RIGHT) / max(num_bins, 1)
    parts = [_open(title), _frame(ticks, top, [(LEFT + at * width, text) for at, text in x_ticks], x_label, y_label)]
    for line in series:
        heights = [_height(share, top) for share in line.shares]
        path = "".join(f"V{y:.1f}H{LEFT + (n + 1) * width:.1f}" for n, y in enumerate(heights))
        dash = dash_of(line.style)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        base = HEIGHT - BOTTOM
        tint = f"s{line.style % NUM_STYLES}"
        parts.append(f'<g class="{tint}"><path class="area" d="M{LEFT:g} {base:g}{path}V{base:g}Z"/>')
        parts.append(f'<path class="line" d="M{LEFT:g} {base:g}{path}V{base:g}"{dashed}/></g>')
    for n, name in enumerate(bin_names):
        values = "; ".join(f"{line.name}: {line.counts[n]:,} ({100 * line.shares[n]:.1f} %)" for line in series)
        parts.append(
            f'<rect class="hover" x="{LEFT + n * width:.1f}" y="{TOP:g}" width="{width:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM:g}"><title>{escape(f"{name}: {values}")}</title></rect>'
        )
    return "".join([*parts, "</svg>"])


def step_swatch(style: int) -> str:
    """Returns a legend's sample of a histogram."""
    dash = dash_of(style)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<svg class="swatch" viewBox="0 0 30 14" aria-hidden="true"><g class="s{style % NUM_STYLES}">'
        f'<path class="area" d="M2 13V3H28V13Z"/><path class="line" d="M2 13V3H28V13"{dashed}/></g></svg>'
    )


@dataclass(frozen=True, slots=True)
class Layer:
    """One kind of a stacked chart: its name, the sign that stands in it and its values per column."""

    name: str
    sign: str
    values: Sequence[int]


def stacked_chart(layers: Sequence[Layer], column_names: Sequence[str], title: str, x_label: str, y_label: str) -> str:
    """Returns columns of 100 %, each cut by the layers, the first at the bottom."""
    totals = [max(sum(layer.values[n] for layer in layers), 1) for n in range(len(column_names))]
    pitch = (WIDTH - LEFT - RIGHT) / max(len(column_names), 1)
    middles = [(LEFT + (n + 0.5) * pitch, name) for n, name in enumerate(column_names)]
    ticks = [(share / 4, f"{25 * share} %") for share in range(5)]
    parts = [_open(title), _frame(ticks, 1.0, middles, x_label, y_label)]
    for n, name in enumerate(column_names):
        below = 0.0
        for style, layer in enumerate(layers):
            share = layer.values[n] / totals[n]
            if not share:
                continue
            high, low = _height(below + share, 1.0), _height(below, 1.0)
            below += share
            x, width = LEFT + (n + 0.12) * pitch, 0.76 * pitch
            text = escape(f"{name}, {layer.name}: {layer.values[n]:,} of {totals[n]:,} ({100 * share:.1f} %)")
            parts.append(
                f'<g class="k{style}"><title>{text}</title><rect class="block" x="{x:.1f}" y="{high:.1f}" '
                f'width="{width:.1f}" height="{low - high:.1f}"/>'
            )
            if low - high >= 14:
                middle = (low + high) / 2 + 4
                parts.append(f'<text class="sign" x="{x + width / 2:.1f}" y="{middle:.1f}">{escape(layer.sign)}</text>')
            parts.append("</g>")
    return "".join([*parts, "</svg>"])


def layer_swatch(style: int, sign: str) -> str:
    """Returns a legend's sample of a layer with its sign."""
    return (
        f'<svg class="swatch" viewBox="0 0 30 14" aria-hidden="true"><g class="k{style}">'
        f'<rect class="block" x="4" y="0" width="22" height="14"/>'
        f'<text class="sign" x="15" y="11">{escape(sign)}</text></g></svg>'
    )


NUM_SHADES = 6


def matrix_picture(shares: npt.NDArray[np.float64], title: str) -> str:
    """Returns a square picture of a matrix of any size: the darker a cell, the larger its share of the row.

    Cells of one shade are one path, so that 400 x 400 cells stay small. Shades go by the square root, else rare
    confusions would be invisible.

    Args:
        shares: ``float64[C, C]`` in [0, 1].
    """
    size = len(shares)
    shade = np.ceil(np.sqrt(np.clip(shares, 0, 1)) * NUM_SHADES).astype(np.int64)
    parts = [
        f'<svg class="picture" viewBox="-0.5 -0.5 {size + 1} {size + 1}" role="img" aria-label="{escape(title)}" '
        f'shape-rendering="crispEdges"><rect class="paper" width="{size}" height="{size}"/>'
    ]
    for level in range(1, NUM_SHADES + 1):
        rows, columns = np.nonzero(shade == level)
        cells = "".join(f"M{x} {y}h1v1h-1z" for y, x in zip(rows.tolist(), columns.tolist(), strict=True))
        if cells:
            parts.append(f'<path class="shade" fill-opacity="{level / NUM_SHADES:.2f}" d="{cells}"/>')
    return "".join([*parts, "</svg>"])


def strip_picture(values: Sequence[float], title: str) -> str:
    """Returns values in [0, 1] as a row of cells, the darker the larger."""
    cells = "".join(
        f'<rect class="shade" x="{n}" width="1.02" height="1" fill-opacity="{min(max(value, 0.0), 1.0):.2f}"/>'
        for n, value in enumerate(values)
        if value > 0
    )
    return (
        f'<svg class="strip" viewBox="0 0 {max(len(values), 1)} 1" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}">{cells}</svg>'
    )


def _open(title: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(title)}">'


def _height(share: float, top: float) -> float:
    return HEIGHT - BOTTOM - share / top * (HEIGHT - TOP - BOTTOM)


def _percent_ticks(highest: float) -> tuple[float, list[Tick]]:
    """Returns where the axis ends, and about five ticks up to there."""
    for step in (0.01, 0.02, 0.05, 0.1, 0.2):
        num = int(np.ceil(highest / step - 1e-9))
        if num <= 5:
            break
    num = max(num, 1)
    return step * num, [(step * n, f"{100 * step * n:.0f} %") for n in range(num + 1)]


def _frame(y_ticks: Sequence[Tick], top: float, x_ticks: Sequence[Tick], x_label: str, y_label: str) -> str:
    parts = []
    for value, text in y_ticks:
        y = _height(value, top)
        parts.append(f'<path class="grid" d="M{LEFT:g} {y:.1f}H{WIDTH - RIGHT:g}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 5:g}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for x, text in x_ticks:
        parts.append(f'<path class="notch" d="M{x:.1f} {HEIGHT - BOTTOM:g}v4"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18:g}" text-anchor="middle">{escape(text)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle:g}" y="{HEIGHT - 6:g}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text class="axis" transform="translate(11 {(TOP + HEIGHT - BOTTOM) / 2:g}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    return "".join(parts)
