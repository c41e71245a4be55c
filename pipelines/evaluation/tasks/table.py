"""The results of an evaluation as lines of text."""

from collections.abc import Mapping, Sequence

from clipmill.pipelines.evaluation.tasks.published import PublishedScore
from clipmill.pipelines.evaluation.tasks.result import RunScore, TaskScore

MOST_COLUMNS = 10
"""ours: metrics side by side; of more the table is printed in parts, one below the other."""


def table_lines(score: TaskScore, published: Sequence[PublishedScore], confidence: float = 0.95) -> list[str]:
    """Returns the results as lines: runs, baselines and published rows in one table, then what each is made of.

    Args:
        published: rows below ours.
        confidence: of the intervals.
    """
    columns = score.runs[0].shown
    headline = score.runs[0].headline
    rows: list[tuple[str, Mapping[str, float], str]] = []
    for run in score.runs:
        interval = run.intervals.get(headline)
        rows.append((run.name, run.metrics, "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"))
    rows += [(name, values, "") for name, values in _baseline_rows(score.runs)]
    for row in published:
        under = f" ({row.protocol})" if row.protocol else ""
        rows.append((row.method + under, row.metrics, row.source))
    protocol = score.protocol.get("protocol")
    lines = [f"{score.task}{f' ({protocol})' if protocol else ''}"]
    for start in range(0, len(columns), MOST_COLUMNS):
        last = f"{confidence:.0%} of {headline}" if start == 0 else ""
        lines += _part(rows, columns[start : start + MOST_COLUMNS], last)
    for run in score.runs:
        lines.append(f"{run.name}: {run.line}")
        lines += [f"  {note}" for note in run.notes]
    return lines


def _part(rows: Sequence[tuple[str, Mapping[str, float], str]], columns: Sequence[str], last: str) -> list[str]:
    """Returns a table of some of the metrics; with a title `last` what stands behind them is its last column."""
    cells = [[_number(name, values.get(name)) for name in columns] for _, values, _ in rows]
    first = max(len(name) for name in ["run", *(name for name, _, _ in rows)])
    widths = [max(len(name), 6, *(len(row[n]) for row in cells)) for n, name in enumerate(columns)]
    head = "  ".join([f"{'run':<{first}}", *(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))])
    lines = [f"  {head}  {last}".rstrip()]
    for (name, _, behind), values in zip(rows, cells, strict=True):
        row = "  ".join(f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
        lines.append(f"  {name:<{first}}  {row}  {behind if last else ''}".rstrip())
    return lines


def _baseline_rows(runs: tuple[RunScore, ...]) -> list[tuple[str, Mapping[str, float]]]:
    rows: list[tuple[str, Mapping[str, float]]] = []
    for run in runs:
        for name, values in run.baselines.items():
            # A baseline that depends on the ground truth alone is the same for all runs, and stands once.
            shared = all(other.baselines.get(name) == values for other in runs)
            if shared and run is not runs[0]:
                continue
            title = f"({name})" if shared else f"({name}, {run.name})"
            rows.append((title, values))
    return rows


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if value != value:
        return "nan"
    return f"{value:.0f}" if name.rpartition(":")[2].startswith("num_") else f"{value:.4f}"
