"""Parallel coordinates as SVG text: an upright axis for each setting and one for the result, a line for each point."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 900.0, 360.0
LEFT, RIGHT, TOP, BOTTOM = 70.0, 90.0, 40.0, 28.0
FAINTEST = 0.12
"""ours: opacity of the line that is furthest from the best."""


@dataclass(frozen=True, slots=True)
class ParallelAxis:
    """An upright axis.

    Attributes:
        name: above it.
        places: of each point from 0 (bottom) to 1 (top).
        ticks: (place, text).
    """

    name: str
    places: Sequence[float]
    ticks: Sequence[tuple[float, str]]


def parallel_chart(title: str, axes: Sequence[ParallelAxis], tips: Sequence[str], best: int) -> str:
    """Returns the chart as an ``<svg>`` element, 900 x 360 units, that scales with its container.

    The nearer a point lies to `best` on the last axis, the darker its line.

    Args:
        axes: at least two, the last being what was reached.
        tips: what each point is, in words: shown on hover.
        best: the point that is drawn thick, and last.
    """
    step = (WIDTH - LEFT - RIGHT) / (len(axes) - 1)
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(title)}">']
    reached = axes[-1].places
    order = sorted(range(len(tips)), key=lambda n: (n == best, -abs(reached[n] - reached[best])))
    for number in order:
        points = [f"{LEFT + step * n:.1f} {_y(axis.places[number]):.1f}" for n, axis in enumerate(axes)]
        strength = max(FAINTEST, 1 - abs(reached[number] - reached[best]))
        style, width = ("s0", 3.5) if number == best else ("s1", 1.5)
        opacity = 1.0 if number == best else strength * 0.8
        parts.append(
            f'<g class="{style}"><title>{escape(tips[number])}</title><path class="line" d="M{"L".join(points)}" '
            f'style="stroke-opacity:{opacity:.2f};stroke-width:{width}"/></g>'
        )
    for n, axis in enumerate(axes):
        x = LEFT + step * n
        parts.append(f'<path class="notch" d="M{x:.1f} {TOP:g}V{HEIGHT - BOTTOM:g}"/>')
        parts.append(f'<text class="axis" x="{x:.1f}" y="{TOP - 16:g}" text-anchor="middle">{escape(axis.name)}</text>')
        side, anchor = (8, "start") if n == len(axes) - 1 else (-8, "end")
        for place, text in axis.ticks:
            parts.append(
                f'<text class="tick" x="{x + side:.1f}" y="{_y(place) + 4:.1f}" text-anchor="{anchor}">'
                f"{escape(text)}</text>"
            )
    parts.append("</svg>")
    return "".join(parts)


def _y(place: float) -> float:
    return HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM)
