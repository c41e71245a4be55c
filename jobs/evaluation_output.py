"""How an evaluation ends, whatever it measured: ``results.json``, a page where there is one, a table for people."""

import json
from collections.abc import Callable
from pathlib import Path

from clipmill.jobs.output import Outcome
from clipmill.pipelines.evaluation.tasks.published import published_scores
from clipmill.pipelines.evaluation.tasks.result import RunScore, TaskScore, task_results_json
from clipmill.schemas.config_evaluate import TaskConfig
from clipmill.schemas.errors import StorageUnavailableError, describe

RESULTS = "results.json"
REPORT = "report.html"
Report = Callable[[Path], int]
"""Writes the page at a path and returns its size in bytes."""


def finish(score: TaskScore, config: TaskConfig, report: Report | None = None) -> Outcome:
    """Writes what was found into the config's `out` and returns what the command prints.

    Args:
        report: writes ``report.html``; None: there is no page for this task.

    Raises:
        UsageError: there are no published rows of the dataset that the config names.
        StorageUnavailableError: the folder cannot be written.
    """
    published = published_scores(score.task, config.published)
    results = task_results_json(score)
    out = Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / RESULTS).write_bytes(results)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageUnavailableError(
            describe("evaluation", str(out), "a folder that can be written", reason, "choose another out")
        ) from None
    data = json.loads(results)
    for run in data["runs"].values():
        run.pop("units", None)
        run.pop("resampled", None)
    data["published"] = [
        {"method": row.method, "metrics": dict(row.metrics), "source": row.source, "protocol": row.protocol}
        for row in published
    ]
    data["results"] = str(out / RESULTS)
    lines = [*_table(score, config), f"results: {out / RESULTS}"]
    if report is not None:
        data["report_bytes"] = report(out / REPORT)
        data["report"] = str(out / REPORT)
        lines.append(f"report: {out / REPORT}")
    return Outcome(data, "\n".join(lines))


def _table(score: TaskScore, config: TaskConfig) -> list[str]:
    """Returns the results as lines: runs, floors and published rows in one table, then what each was computed from."""
    columns = score.runs[0].shown
    headline = score.runs[0].headline
    rows: list[tuple[str, list[str], str]] = []
    for run in score.runs:
        interval = run.intervals.get(headline)
        span = "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"
        rows.append((run.name, [_number(run.metrics.get(name)) for name in columns], span))
    rows += _floor_rows(score.runs, columns)
    for row in published_scores(score.task, config.published):
        told = f" ({row.protocol})" if row.protocol else ""
        rows.append((row.method + told, [_number(row.metrics.get(name)) for name in columns], row.source))
    first = max(len(name) for name, _, _ in [*rows, ("run", [], "")])
    widths = [max(len(name), 6) for name in columns]
    title = f"{config.confidence:.0%} of {headline}"
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


def _floor_rows(runs: tuple[RunScore, ...], columns: tuple[str, ...]) -> list[tuple[str, list[str], str]]:
    rows: list[tuple[str, list[str], str]] = []
    for run in runs:
        for name, values in run.floors.items():
            # A floor that depends on the ground truth alone is the same for all runs, and told once.
            shared = all(other.floors.get(name) == values for other in runs)
            if shared and run is not runs[0]:
                continue
            told = f"({name})" if shared else f"({name}, {run.name})"
            rows.append((told, [_number(values.get(column)) for column in columns], ""))
    return rows


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return "nan" if value != value else f"{value:.4f}"
