"""A metric against a number, for every set of predictions and every baseline, in one chart."""

from collections.abc import Mapping, Sequence

from clipmill.pipelines.evaluation.tasks.page import baseline_rows
from clipmill.pipelines.evaluation.tasks.result import RunScore
from clipmill.pipelines.reports.blocks import Chart, legend, numbers
from clipmill.pipelines.reports.charts import Axes, Series, line_chart

MOST_TICKS = 6


def metric_chart(
    title: str,
    x_label: str,
    y_label: str,
    runs: Sequence[RunScore],
    metrics: Mapping[float, str],
    x_start: float | None = None,
) -> Chart:
    """Returns a line per run and per baseline that has the metrics.

    Args:
        metrics: place on the x axis, ascending, to the metric's name.
        x_start: where the axis begins; None: at the first place.
    """
    at = list(metrics)
    found = [(n, run.name, run.metrics) for n, run in enumerate(runs)]
    for n, (baseline, values) in enumerate(baseline_rows(runs)):
        if all(name in values for name in metrics.values()):
            found.append((-n - 1, f"baseline: {baseline.replace('_', ' ')}", values))
    series = [
        Series(name, [(x, values[m]) for x, m in metrics.items() if values[m] == values[m]], at, style)
        for style, name, values in found
    ]
    step = -(-len(at) // MOST_TICKS)
    ticks = at[::step] if len(at) > MOST_TICKS else at
    start, stop = (at[0] if x_start is None else x_start), at[-1]
    if len(at) == 1 and x_start is None:
        start = 0.0
    table = numbers(
        (x_label, *(name for _, name, _ in found)),
        [(f"{x:g}", [values[metric] for _, _, values in found]) for x, metric in metrics.items()],
        title,
    )
    drawn = line_chart(series, Axes(title, x_label, y_label, ticks, start, stop))
    return Chart(title, drawn, legend([(style, name) for style, name, _ in found]), "", table)
