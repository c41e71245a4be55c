"""The report's line charts as SVG text: no scripts, no fonts, colours from the page's CSS variables.

Each series differs by dash and marker as well as by colour, so that it can be told apart in print and by everyone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 440.0, 310.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 14.0, 12.0, 48.0
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "1 4")
NUM_STYLES = 48
"""Colours that differ: six chosen ones, then hues as far from each other as may be (`style.html`)."""
BASELINE_DASHES = ("3 4", "8 4", "1 3", "10 3 1 3")
"""Of lines for baselines, whose styles are -1, -2, ...: each has a colour of its own too."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line.

    Attributes:
        name: for the legend and the screen reader.
        points: (x, y) in data units, x ascending.
        marks: the x values that carry a marker and a tooltip; a subset of the points' x.
        style: index of colour, dash and marker; -1, -2, ...: the thin lines of baselines, chance first.
        spans: x to (low, high): a vertical line there, such as mean less and plus a spread.
        is_scatter: points alone, no line between them.
    """

    name: str
    points: Sequence[tuple[float, float]]
    marks: Sequence[float]
    style: int
    spans: Mapping[float, tuple[float, float]] = field(default_factory=dict)
    is_scatter: bool = False


@dataclass(frozen=True, slots=True)
class Axes:
    """What the axes say; both begin at 0 or `x_start`, y ends at the next tenth above the highest point.

    Attributes:
        y_ticks: what y shows instead, from the first to the last of them (`round_ticks`): for what is no share.
        x_texts: what stands at `x_ticks` in place of their numbers.
    """

    title: str
    x_label: str
    y_label: str
    x_ticks: Sequence[float]
    x_start: float
    x_stop: float
    y_ticks: Sequence[float] = ()
    x_texts: Sequence[str] = ()


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns at most `most` + 1 round numbers (1, 2 or 5 times a power of ten apart) from `low` or below to `high`."""
    if not high > low:
        low, high = min(low, 0.0), max(high, 0.0, low + 1.0)
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * power for step in (1, 2, 5, 10, 20) if (high - low) / (step * power) <= most - 1)
    return [round(step * n, 10) for n in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def line_chart(series: Sequence[Series], axes: Axes) -> str:
    """Returns the chart as an ``<svg>`` element, 440 x 310 units, that scales with its container."""
    highest = [max(y, line.spans.get(x, (y, y))[1]) for line in series for x, y in line.points]
    ticks = list(axes.y_ticks) or _tenths(max(highest, default=1.0))
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(axes.title)}">',
        _grid(axes, ticks),
    ]
    for line in series:
        parts.append(_line(line, axes, ticks))
    parts.append("</svg>")
    return "".join(parts)


def swatch(style: int) -> str:
    """Returns a legend's sample of a line: an inline ``<svg>``."""
    mark = "" if style < 0 else _marker(style, 15, 7)
    name, dash = look_of(style)
    return (
        f'<svg class="swatch" viewBox="0 0 30 14" aria-hidden="true"><g class="{name}">'
        f'<path class="line" d="M1 7H29" {dash}/>{mark}</g></svg>'
    )


def look_of(style: int) -> tuple[str, str]:
    """Returns the classes that give a style its colour, and the attribute with its dashes."""
    if style < 0:
        place = (-style - 1) % len(BASELINE_DASHES)
        return f"chance b{place}" if place else "chance", f'stroke-dasharray="{BASELINE_DASHES[place]}"'
    dash = dash_of(style)
    return f"s{style % NUM_STYLES}", f'stroke-dasharray="{dash}"' if dash else ""


def dash_of(style: int) -> str:
    """Returns the dashes of a line, as ``stroke-dasharray`` has them; empty for a solid one."""
    return DASHES[style % len(DASHES)]


def _x(value: float, axes: Axes) -> float:
    span = axes.x_stop - axes.x_start or 1.0
    return LEFT + (value - axes.x_start) / span * (WIDTH - LEFT - RIGHT)


def _tenths(highest: float) -> list[float]:
    """Returns 0, 0.1 ... up to the next tenth above `highest`, at most 1; fifths where these would be many."""
    tenths = min(10, max(1, -(-int(highest * 1000 + 0.999) // 100)))
    step = 1 if tenths <= 5 else 2
    return [tenth / 10 for tenth in range(0, tenths + step, step)]


def _y(value: float, ticks: Sequence[float]) -> float:
    return HEIGHT - BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (HEIGHT - TOP - BOTTOM)


def _grid(axes: Axes, ticks: Sequence[float]) -> str:
    parts = []
    for tick in ticks:
        y = _y(tick, ticks)
        text = f"{tick:g}" if axes.y_ticks else f"{tick:.1f}"
        parts.append(f'<path class="grid" d="M{LEFT:g} {y:.1f}H{WIDTH - RIGHT:g}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7:g}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for number, tick in enumerate(axes.x_ticks):
        x = _x(tick, axes)
        text = escape(axes.x_texts[number]) if axes.x_texts else f"{tick:g}"
        parts.append(f'<path class="notch" d="M{x:.1f} {HEIGHT - BOTTOM:g}v4"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18:g}" text-anchor="middle">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="axis" x="{middle:g}" y="{HEIGHT - 6:g}" text-anchor="middle">{escape(axes.x_label)}</text>'
    )
    parts.append(
        f'<text class="axis" transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2:g}) rotate(-90)" '
        f'text-anchor="middle">{escape(axes.y_label)}</text>'
    )
    return "".join(parts)


def _line(line: Series, axes: Axes, ticks: Sequence[float]) -> str:
    name, dash = look_of(line.style)
    steps = [f"{_x(x, axes):.1f} {_y(y, ticks):.1f}" for x, y in line.points]
    path = f'<path class="line" d="M{"L".join(steps)}" {dash}/>' if steps and not line.is_scatter else ""
    for x, (low, high) in line.spans.items():
        path += f'<path class="line" d="M{_x(x, axes):.1f} {_y(low, ticks):.1f}V{_y(high, ticks):.1f}"/>'
    marks = []
    for x, y in line.points:
        if x in line.marks:
            shape = "" if line.style < 0 else _marker(line.style, _x(x, axes), _y(y, ticks))
            hover = f'<circle class="hover" cx="{_x(x, axes):.1f}" cy="{_y(y, ticks):.1f}" r="9"/>'
            value = f"{y:.4g}" if axes.y_ticks else f"{y:.3f}"
            place = axes.x_texts[axes.x_ticks.index(x)] if axes.x_texts and x in axes.x_ticks else f"{x:g}"
            if x in line.spans:
                value += " ({:.3f} to {:.3f})".format(*line.spans[x])
            tip = f"{line.name}: {value} at {axes.x_label} {place}"
            marks.append(f"<g><title>{escape(tip)}</title>{hover}{shape}</g>")
    return f'<g class="{name}">{path}{"".join(marks)}</g>'


def _marker(style: int, x: float, y: float) -> str:
    # Not in step with the dashes, so that both together differ for longer.
    kind = (style + style // len(DASHES)) % len(DASHES)
    if kind == 0:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    if kind == 1:
        return f'<path class="mark" d="M{x:.1f} {y - 5:.1f}l4.6 8.2h-9.2z"/>'
    if kind == 2:
        return f'<rect class="mark" x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"/>'
    if kind == 3:
        return f'<path class="mark" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"/>'
    if kind == 4:
        return f'<path class="mark" d="M{x:.1f} {y + 5:.1f}l4.6 -8.2h-9.2z"/>'
    return f'<circle class="mark hollow" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>'
