"""The page of a sweep: its points as a table, curves over each setting, and parallel coordinates."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from clipmill.pipelines.reports.blocks import (
    Block,
    Cell,
    Chart,
    Charts,
    Code,
    Facts,
    Page,
    Row,
    Section,
    Table,
    Tile,
    legend,
    render_blocks,
)
from clipmill.pipelines.reports.charts import Axes, Series, line_chart
from clipmill.pipelines.reports.charts_parallel import ParallelAxis, parallel_chart
from clipmill.pipelines.reports.page import duration_text, score_text
from clipmill.pipelines.sweeps.points import short_names, value_text
from clipmill.pipelines.sweeps.summary import PointSummary, Spread
from clipmill.pipelines.sweeps.sweep import SweepResult

MOST_LINES = 6
"""ours: lines of a chart; with more, one line is the mean over the other settings."""
MOST_AXES = 7
"""ours: settings in the chart of parallel coordinates."""


def render_sweep(result: SweepResult, config: str) -> str:
    """Returns the page of a sweep; `config` is the resolved one as text."""
    found = [point for point in result.points if result.metric in point.metrics]
    seconds = sum(point.seconds for point in result.points)
    tiles = []
    if result.best is not None:
        best = result.points[result.best]
        tiles.append(Tile(result.metric, best.metrics[result.metric].text, f"best: {best.point.name}", "main"))
    tiles += [
        Tile("points", f"{len(result.points):,}", f"{len(result.config.seeds)} seeds each"),
        Tile("failed", f"{result.num_failed:,}", f"of {len(result.results):,} trials"),
        Tile("time", duration_text(seconds), "of all trials together"),
        *(
            Tile(name, score_text(item.mean), result.metric.rpartition("/")[2], "floor")
            for name, item in _floors(result)
        ),
    ]
    charts = curves(result) if found else ()
    sections = [Section("results", "Results", (points_table(result),))]
    if charts:
        note = "A vertical line is the mean less and plus the standard deviation over seeds."
        sections.append(Section("curves", "Curves", (Charts(charts),), note))
    if len(found) > 1 and result.keys and not result.config.points:
        sections.append(Section("parallel", "All settings", (Charts((_parallel(result, found),)),)))
    if result.num_failed:
        sections.append(Section("failed", "Failed", (_failed(result),)))
    sections.append(Section("run", "Run", (_facts(result), Code("Resolved config", config))))
    title = result.config.title or f"Sweep of {result.train_keys.get('model', {}).get('name', 'a model')}"
    return render_blocks(Page(title, result.config.out, tuple(tiles), tuple(sections)))


def _floors(result: SweepResult) -> list[tuple[str, Spread]]:
    metric = result.metric.rpartition("/")[2]
    return [(name.partition("/")[0], item) for name, item in result.baselines.items() if name.endswith(f"/{metric}")]


def points_table(result: SweepResult) -> Table:
    """Returns all points, the best first where they are settings, in the order of the config where they have names."""
    spaces = result.spaces
    published = [name for name in spaces if any(name in point.point.published for point in result.points)]
    columns = ("point", *spaces, *(f"published {name}" for name in published), "seeds")
    order: Sequence[PointSummary] = result.points
    if not result.config.points:
        sign = -1 if result.goal == "max" else 1
        order = sorted(
            result.points,
            key=lambda p: sign * p.metrics[result.metric].mean if result.metric in p.metrics else math.inf,
        )
    main = None if result.best is None else result.points[result.best]
    rows = tuple(
        Row(
            point.point.name,
            (
                *(_cell(point.metrics.get(name)) for name in spaces),
                *(Cell(score_text(point.point.published.get(name))) for name in published),
                Cell(str(len(point.seeds)) + (f" ({len(point.errors)} failed)" if point.errors else "")),
            ),
            is_main=point is main,
        )
        for point in order
    )
    floors = tuple(
        Row(name, (_cell(item), *(Cell("") for _ in range(len(columns) - 2))), -1) for name, item in _floors(result)
    )
    note = "Mean over seeds ± sample standard deviation."
    if published:
        note += f" Published: {result.config.source or 'no source given'}."
    return Table("Points", columns, (("", rows), ("floors", floors)) if floors else (("", rows),), note)


def _cell(spread: Spread | None) -> Cell:
    return Cell("–") if spread is None else Cell(spread.text, min(max(spread.mean, 0.0), 1.0))


def curves(result: SweepResult) -> tuple[Chart, ...]:
    """Returns a chart for each setting of which there are several values."""
    if result.config.points:
        return ()
    found = [point for point in result.points if result.metric in point.metrics]
    names = short_names(result.keys)
    charts = []
    for key in result.keys:
        values = _values(found, key)
        if len(values) < 2:
            continue
        for metric in (result.metric, *result.config.also):
            there = [point for point in found if metric in point.metrics]
            if result.config.random:
                lines = [(metric, [(point.point.settings[key], point.metrics[metric]) for point in there])]
            else:
                lines = _lines(there, key, values, metric, result)
            charts.append(_chart(names[key], values, lines, metric, result))
    return tuple(charts)


def _values(points: Sequence[PointSummary], key: str) -> list[Any]:
    """Returns the values of a setting, each once, numbers ascending."""
    values: list[Any] = []
    for point in points:
        if point.point.settings[key] not in values:
            values.append(point.point.settings[key])
    return sorted(values) if all(_is_number(value) for value in values) else values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


Curve = tuple[str, list[tuple[Any, Spread]]]
"""Name of a line, and of each of its points the setting's value and what was reached."""


def _lines(
    points: Sequence[PointSummary], key: str, values: list[Any], metric: str, result: SweepResult
) -> list[Curve]:
    others = [other for other in result.keys if other != key]
    if not others:
        name = metric.rpartition("/")[2]
        spaces = [space for space in result.spaces if space.endswith(f"/{name}")]
        return [
            (
                space.removesuffix(f"/{name}"),
                [(p.point.settings[key], p.metrics[space]) for p in points if space in p.metrics],
            )
            for space in spaces
        ]
    groups: dict[str, list[tuple[Any, Spread]]] = {}
    names = short_names(result.keys)
    for point in points:
        name = ", ".join(f"{names[other]} {value_text(point.point.settings[other])}" for other in others)
        groups.setdefault(name, []).append((point.point.settings[key], point.metrics[metric]))
    if len(groups) <= MOST_LINES:
        return list(groups.items())
    return [("mean over the other settings", [(value, _mean(points, key, value, metric)) for value in values])]


def _mean(points: Sequence[PointSummary], key: str, value: Any, metric: str) -> Spread:
    means = [point.metrics[metric].mean for point in points if point.point.settings[key] == value]
    return Spread(math.fsum(means) / len(means), math.nan, tuple(means))


def _chart(name: str, values: list[Any], lines: Sequence[Curve], metric: str, result: SweepResult) -> Chart:
    places = _places(values, is_drawn=result.config.random is not None)
    stop = max(1.0, *(place for place, _ in places.values()))
    series, shown = [], []
    for style, (line, points) in enumerate(lines):
        xs = [(places[_text(value)][0], spread) for value, spread in points]
        xs.sort(key=lambda pair: pair[0])
        spans = {x: (max(0.0, s.mean - s.std), s.mean + s.std) for x, s in xs if not math.isnan(s.std)}
        points_drawn = [(x, spread.mean) for x, spread in xs]
        scatter = result.config.random is not None
        series.append(Series(line, points_drawn, [x for x, _ in points_drawn], style, spans, scatter))
        shown.append((style, line))
    given = _floors(result) if metric == result.metric else []
    for floor, spread in given:
        series.append(Series(floor, [(0.0, spread.mean), (stop, spread.mean)], (), -1))
    floors = ", ".join(f"{floor} {spread.mean:.3f}" for floor, spread in given)
    ticks = [(place, text) for place, text in places.values() if text]
    axes = Axes(
        f"{metric} by {name}",
        name,
        metric.rpartition("/")[2] if metric == result.metric else metric,
        [place for place, _ in ticks],
        0.0,
        stop,
        x_texts=[text for _, text in ticks],
    )
    note = f"Thin lines: {floors}." if floors else ""
    title = name if metric == result.metric else f"{metric} by {name}"
    return Chart(title, line_chart(series, axes), legend(shown), note)


def _places(values: list[Any], is_drawn: bool) -> dict[str, tuple[float, str]]:
    """Returns where each value stands on an axis, and its tick: a grid's at equal distances, drawn ones to scale.

    Drawn values that span more than a factor of 20 stand by their logarithm (ours).
    """
    if not is_drawn or not all(_is_number(value) for value in values):
        return {_text(value): (float(n), _text(value)) for n, value in enumerate(values)}
    low, high = min(values), max(values)
    is_log = low > 0 and high / low > 20
    scale = math.log if is_log else float
    span = (scale(high) - scale(low)) or 1.0
    wanted = {_text(low), _text(high), _text(values[len(values) // 2])}
    return {
        _text(value): (10 * (scale(value) - scale(low)) / span, _text(value) if _text(value) in wanted else "")
        for value in values
    }


def _text(value: Any) -> str:
    return value_text(value)


def _parallel(result: SweepResult, found: Sequence[PointSummary]) -> Chart:
    names = short_names(result.keys)
    axes = [
        _axis(names[key], [point.point.settings[key] for point in found], result) for key in result.keys[:MOST_AXES]
    ]
    reached = [point.metrics[result.metric].mean for point in found]
    low, high = min(reached), max(reached)
    span = (high - low) or 1.0
    places = [(value - low) / span for value in reached]
    axes.append(ParallelAxis(result.metric, places, ((0.0, f"{low:.3f}"), (1.0, f"{high:.3f}"))))
    best = 0 if result.best is None else found.index(result.points[result.best])
    tips = [f"{point.point.name}: {result.metric} {point.metrics[result.metric].text}" for point in found]
    note = "A line is a point; the thick one is the best, and the fainter a line, the further it is from it."
    if len(result.keys) > MOST_AXES:
        note += f" {len(result.keys) - MOST_AXES} settings more stand in the table."
    return Chart("Points over all settings", parallel_chart(f"Points by {result.metric}", axes, tips, best), (), note)


def _axis(name: str, given: Sequence[Any], result: SweepResult) -> ParallelAxis:
    values: list[Any] = []
    for value in given:
        if value not in values:
            values.append(value)
    if all(_is_number(value) for value in values):
        values.sort()
    places = _places(values, is_drawn=result.config.random is not None)
    stop = max((place for place, _ in places.values()), default=0.0) or 1.0
    ticks = [(place / stop, text) for place, text in places.values() if text]
    return ParallelAxis(name, [places[_text(value)][0] / stop for value in given], ticks)


def _failed(result: SweepResult) -> Block:
    rows = tuple(
        Row(f"{point.point.name}, seed {seed}", (Cell(error),))
        for point in result.points
        for seed, error in point.errors.items()
    )
    return Table("Trials that failed; the same command tries them again", ("trial", "why"), (("", rows),))


def _facts(result: SweepResult) -> Facts:
    facts: Mapping[str, str] = {
        "metric": f"{result.metric}, the {'greatest' if result.goal == 'max' else 'least'} is best",
        "seeds": f"{', '.join(map(str, result.config.seeds))} as {', '.join(result.config.seed_keys)}",
        "trials": f"{result.config.concurrent} at a time",
        "folder": result.config.out,
    }
    return Facts("Run", tuple(facts.items()))
