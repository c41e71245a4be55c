"""The report's line charts as SVG text: no scripts, no fonts, colours from the page's CSS variables.

Each series differs by dash and marker as well as by colour, so that it can be told apart in print and by everyone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440.0, 310.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 14.0, 12.0, 48.0
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "1 4")
NUM_STYLES = len(DASHES)


@dataclass(frozen=True, slots=True)
class Series:
    """One line.

    Attributes:
        name: for the legend and the screen reader.
        points: (x, y) in data units, x ascending.
        marks: the x values that carry a marker and a tooltip; a subset of the points' x.
        style: index of colour, dash and marker; -1: the thin line of the chance floor.
    """

    name: str
    points: Sequence[tuple[float, float]]
    marks: Sequence[float]
    style: int


@dataclass(frozen=True, slots=True)
class Axes:
    """What the axes say; both begin at 0 or `x_start`, y ends at the next tenth above the highest point."""

    title: str
    x_label: str
    y_label: str
    x_ticks: Sequence[float]
    x_start: float
    x_stop: float


def line_chart(series: Sequence[Series], axes: Axes) -> str:
    """Returns the chart as an ``<svg>`` element, 440 x 310 units, that scales with its container."""
    highest = max((y for line in series for _, y in line.points), default=1.0)
    tenths = min(10, max(1, -(-int(highest * 1000 + 0.999) // 100)))
    y_stop = tenths / 10
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(axes.title)}">',
        _grid(axes, y_stop, 1 if tenths <= 5 else 2),
    ]
    for line in series:
        parts.append(_line(line, axes, y_stop))
    parts.append("</svg>")
    return "".join(parts)


def swatch(style: int) -> str:
    """Returns a legend's sample of a line: an inline ``<svg>``."""
    mark = "" if style < 0 else _marker(style, 15, 7)
    name, dash = _look(style)
    return (
        f'<svg class="swatch" viewBox="0 0 30 14" aria-hidden="true"><g class="{name}">'
        f'<path class="line" d="M1 7H29" {dash}/>{mark}</g></svg>'
    )


def _look(style: int) -> tuple[str, str]:
    if style < 0:
        return "chance", 'stroke-dasharray="3 4"'
    dash = DASHES[style % NUM_STYLES]
    return f"s{style % NUM_STYLES}", f'stroke-dasharray="{dash}"' if dash else ""


def _x(value: float, axes: Axes) -> float:
    span = axes.x_stop - axes.x_start or 1.0
    return LEFT + (value - axes.x_start) / span * (WIDTH - LEFT - RIGHT)


def _y(value: float, y_stop: float) -> float:
    return HEIGHT - BOTTOM - value / y_stop * (HEIGHT - TOP - BOTTOM)


def _grid(axes: Axes, y_stop: float, step_tenths: int) -> str:
    parts = []
    for tenth in range(0, round(y_stop * 10) + 1, step_tenths):
        y = _y(tenth / 10, y_stop)
        parts.append(f'<path class="grid" d="M{LEFT:g} {y:.1f}H{WIDTH - RIGHT:g}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7:g}" y="{y + 4:.1f}" text-anchor="end">{tenth / 10:.1f}</text>')
    for tick in axes.x_ticks:
        x = _x(tick, axes)
        parts.append(f'<path class="notch" d="M{x:.1f} {HEIGHT - BOTTOM:g}v4"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18:g}" text-anchor="middle">{tick:g}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="axis" x="{middle:g}" y="{HEIGHT - 6:g}" text-anchor="middle">{escape(axes.x_label)}</text>'
    )
    parts.append(
        f'<text class="axis" transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2:g}) rotate(-90)" '
        f'text-anchor="middle">{escape(axes.y_label)}</text>'
    )
    return "".join(parts)


def _line(line: Series, axes: Axes, y_stop: float) -> str:
    name, dash = _look(line.style)
    steps = [f"{_x(x, axes):.1f} {_y(y, y_stop):.1f}" for x, y in line.points]
    path = f'<path class="line" d="M{"L".join(steps)}" {dash}/>' if steps else ""
    marks = []
    for x, y in line.points:
        if x in line.marks:
            shape = "" if line.style < 0 else _marker(line.style, _x(x, axes), _y(y, y_stop))
            hover = f'<circle class="hover" cx="{_x(x, axes):.1f}" cy="{_y(y, y_stop):.1f}" r="9"/>'
            tip = f"{line.name}: {y:.3f} at {axes.x_label} {x:g}"
            marks.append(f"<g><title>{escape(tip)}</title>{hover}{shape}</g>")
    return f'<g class="{name}">{path}{"".join(marks)}</g>'


def _marker(style: int, x: float, y: float) -> str:
    kind = style % NUM_STYLES
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
