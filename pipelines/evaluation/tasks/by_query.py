"""What the pages of ranked lists show by query: how a metric spreads, and the lists of some."""

from collections.abc import Callable

import numpy as np

from clipmill.pipelines.evaluation.tasks.detection.timelines import choose
from clipmill.pipelines.evaluation.tasks.histograms import histograms
from clipmill.pipelines.evaluation.tasks.page import units_of, value_text
from clipmill.pipelines.evaluation.tasks.result import RunScore
from clipmill.pipelines.reports.blocks import Bar, Bars, Charts, RankedList, RankedLists, numbers
from clipmill.schemas.arrays import Floats

NUM_LISTS = 12
ITEMS_SHOWN = 10
BARS_SHOWN = 40


def spread_by_query(run: RunScore, label: str, values: Floats) -> tuple[Charts, Bars]:
    """Returns a histogram of a metric over the queries, and a bar for each.

    Args:
        label: the metric as a reader calls it.
        values: ``float64[Q]``, one per unit of `run`; NaN for a query that is not scored.
    """
    units = units_of(run)
    known = [n for n in range(len(values)) if values[n] == values[n]]
    ranked = sorted(known, key=lambda n: (-values[n], units.ids[n]))
    half = BARS_SHOWN // 2
    kept = ranked if len(ranked) <= BARS_SHOWN else [*ranked[:half], *ranked[-half:]]
    hidden = len(ranked) - len(kept)
    note = f"The best and the worst {half}; {hidden} in between are in the table." if hidden else ""
    columns = list(units.values) if len(units.values) <= 8 else [m for m in run.shown if m in units.values]
    rows: list[tuple[str, list[float | str]]] = [
        (units.ids[n], [value_text(column, float(units.values[column][n])) for column in columns]) for n in ranked
    ]
    bars = tuple(Bar(units.ids[n], float(values[n])) for n in kept)
    table = numbers(("query", *columns), rows, "Every query")
    return (
        Charts((histograms(f"{label} of the queries", label, {"queries": values}, "share of queries", "", (0, 1)),)),
        Bars(f"{label} by query", bars, ((0, label),), note, table),
    )


def example_lists(
    run: RunScore, values: Floats, listed: Callable[[str, str, float], RankedList], num: int, seed: int
) -> RankedLists:
    """Returns the lists of up to `num` queries: a third best, a third worst, the rest drawn at random.

    Args:
        values: ``float64[Q]``, what best and worst go by.
        listed: kind (``best``, ``worst``, ``random``), query and value to its list.
    """
    units = units_of(run)
    chosen = choose(values, np.zeros(len(values), np.int64), units.ids, num, seed)
    return RankedLists(tuple(listed(kind, units.ids[n], float(values[n])) for kind, n in chosen))
