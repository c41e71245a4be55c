"""Charts of sweeps: where spreads, scattered points, named ticks and lines over all settings are drawn."""

import re
from xml.etree import ElementTree

from clipmill.pipelines.reports.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axes, Series, line_chart
from clipmill.pipelines.reports.charts_parallel import ParallelAxis, parallel_chart

AXES = Axes("score by rate", "rate", "map@10", [0.0, 1.0], 0.0, 1.0, x_texts=["1e-05", "<0.1"])


def y_of(value: float, highest: float) -> float:
    return HEIGHT - BOTTOM - value / highest * (HEIGHT - TOP - BOTTOM)


def test_a_spread_is_a_vertical_line_from_low_to_high_within_the_axis() -> None:
    series = Series("ours", [(0.0, 0.2), (1.0, 0.38)], [0.0, 1.0], 0, {1.0: (0.3, 0.46)})
    svg = line_chart([series], AXES)
    # The axis ends at the next tenth above the spread, not above the mean.
    x = WIDTH - RIGHT
    assert f'd="M{x:.1f} {y_of(0.3, 0.5):.1f}V{y_of(0.46, 0.5):.1f}"' in svg
    assert "0.380 (0.300 to 0.460) at rate &lt;0.1" in svg
    ElementTree.fromstring(svg)


def test_named_ticks_stand_in_place_of_numbers() -> None:
    svg = line_chart([Series("ours", [(0.0, 0.2), (1.0, 0.3)], [0.0], 0)], AXES)
    ticks = re.findall(r'text-anchor="middle">([^<]*)</text>', svg)
    assert ticks[:2] == ["1e-05", "&lt;0.1"]


def test_scattered_points_have_no_line_between_them() -> None:
    points = [(0.0, 0.2), (1.0, 0.3)]
    line, scatter = (line_chart([Series("a", points, [0.0, 1.0], 0, is_scatter=s)], AXES) for s in (False, True))
    through = f'd="M{LEFT:.1f} {y_of(0.2, 0.3):.1f}L'
    assert through in line
    assert through not in scatter
    assert scatter.count('class="mark"') == line.count('class="mark"') == 2


def test_parallel_coordinates_draw_a_line_for_each_point_and_the_best_last() -> None:
    axes = [
        ParallelAxis("rate", [0.0, 1.0, 0.5], [(0.0, "low"), (1.0, "high")]),
        ParallelAxis("map@10", [0.0, 1.0, 0.9], [(0.0, "0.1"), (1.0, "0.4")]),
    ]
    svg = parallel_chart("points", axes, ["worst", "best <b>", "good"], 1)
    titles = [element.text for element in ElementTree.fromstring(svg).iter("title")]
    assert titles == ["worst", "good", "best <b>"]
    widths = re.findall(r"stroke-opacity:([\d.]+);stroke-width:([\d.]+)", svg)
    assert [float(width) for _, width in widths] == [1.5, 1.5, 3.5]
    assert float(widths[0][0]) < float(widths[1][0]) < float(widths[2][0]) == 1.0
