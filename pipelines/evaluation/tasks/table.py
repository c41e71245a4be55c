"""The results of an evaluation as lines of text."""

from collections.abc import Sequence

from clipmill.pipelines.evaluation.tasks.published import PublishedScore
from clipmill.pipelines.evaluation.tasks.result import RunScore, TaskScore


def table_lines(score: TaskScore, published: Sequence[PublishedScore], confidence: float = 0.95) -> list[str]:
    """Returns the results as lines: runs, baselines and published rows in one table, then what each is made of.

    Args:
        published: rows below ours.
        confidence: of the intervals.
    """
    columns = score.runs[0].shown
    headline = score.runs[0].headline
    rows: list[tuple[str, list[str], str]] = []
    for run in score.runs:
        interval = run.intervals.get(headline)
        span = "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"
        rows.append((run.name, [_number(run.metrics.get(name)) for name in columns], span))
    rows += _baseline_rows(score.runs, columns)
    for row in published:
        under = f" ({row.protocol})" if row.protocol else ""
        rows.append((row.method + under, [_number(row.metrics.get(name)) for name in columns], row.source))
    first = max(len(name) for name, _, _ in [*rows, ("run", [], "")])
    widths = [max(len(name), 6) for name in columns]
    title = f"{confidence:.0%} of {headline}"
    head = "  ".join([f"{'run':<{first}}", *(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))])
    protocol = score.protocol.get("protocol")
    lines = [f"{score.task}{f' ({protocol})' if protocol else ''}", f"  {head}  {title}"]
    for name, values, last in rows:
        cells = "  ".join(f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
        lines.append(f"  {name:<{first}}  {cells}  {last}".rstrip())
    for run in score.runs:
        lines.append(f"{run.name}: {run.line}")
        lines += [f"  {note}" for note in run.notes]
    return lines


def _baseline_rows(runs: tuple[RunScore, ...], columns: tuple[str, ...]) -> list[tuple[str, list[str], str]]:
    rows: list[tuple[str, list[str], str]] = []
    for run in runs:
        for name, values in run.baselines.items():
            # A baseline that depends on the ground truth alone is the same for all runs, and stands once.
            shared = all(other.baselines.get(name) == values for other in runs)
            if shared and run is not runs[0]:
                continue
            title = f"({name})" if shared else f"({name}, {run.name})"
            rows.append((title, [_number(values.get(column)) for column in columns], ""))
    return rows


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return "nan" if value != value else f"{value:.4f}"
