"""``clipmill sweep``: a train config's keys over a grid or at random, with seeds, and the best point as a config."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import yaml

from clipmill.jobs.configs import keep_config, read_text_of, tell_config
from clipmill.jobs.output import Outcome
from clipmill.pipelines.features.run_progress import duration
from clipmill.schemas.config import parse_config, parse_mapping
from clipmill.schemas.config_sweep import SweepConfig
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_QUARANTINED, UsageError, describe

if TYPE_CHECKING:
    from clipmill.pipelines.sweeps.sweep import SweepResult
    from clipmill.pipelines.sweeps.trials import Runner, TrialResult

RESULTS, PAGE, TABLE, BEST = "results.json", "report.html", "trials.csv", "best.yaml"


def run_sweep(path: str, overrides: Sequence[str]) -> Outcome:
    """Runs the sweep that the config at `path` describes; exit code 3 where trials failed.

    Raises:
        UsageError: the config, a point or the data cannot be used, or Ray is not installed.
    """
    from clipmill.pipelines.reports.page import write_page
    from clipmill.pipelines.sweeps.page import render_sweep
    from clipmill.pipelines.sweeps.summary import trials_csv
    from clipmill.pipelines.sweeps.sweep import best_train_keys, sweep, to_plain
    from clipmill.pipelines.sweeps.trials import write_json, write_text

    config = parse_config(SweepConfig, read_text_of(path), overrides, path)
    shown = tell_config(config)
    started = time.monotonic()
    result = sweep(
        config, train_keys_of(config), tune_runner(config.concurrent, config.connect_seconds), TrialProgress(sys.stderr)
    )
    out = Path(config.out)
    plain = to_plain(result)
    write_json(out / RESULTS, plain)
    keep_config(config, out, "sweep")
    write_text(out / TABLE, trials_csv([point.point for point in result.points], result.results))
    best = best_train_keys(result)
    if best is not None:
        write_text(out / BEST, yaml.safe_dump(best, sort_keys=False, allow_unicode=True))
    write_page(str(out / PAGE), render_sweep(result, shown))
    data = plain | {
        "out": config.out,
        "results": str(out / RESULTS),
        "report": str(out / PAGE),
        "seconds": round(time.monotonic() - started, 1),
    }
    text = "\n".join([*_lines(result), f"results: {out / RESULTS}", f"report: {out / PAGE}"])
    return Outcome(data, text, EXIT_QUARANTINED if result.num_failed else EXIT_COMPLETE)


def train_keys_of(config: SweepConfig) -> Mapping[str, Any]:
    """Returns the keys of the train config that a sweep changes.

    Raises:
        ConfigError: its file cannot be read.
    """
    if isinstance(config.train, str):
        return parse_mapping(read_text_of(config.train), (), config.train)
    return config.train


def tune_runner(concurrent: int, connect_seconds: float) -> "Runner":
    """Returns what runs trials on Ray Tune.

    Raises:
        UsageError: Ray is not installed.
    """
    try:
        from clipmill.pipelines.sweeps.tune_trials import runner
    except ImportError as error:
        missing = error.name or str(error)
        if missing.split(".")[0] == "clipmill":
            raise
        raise UsageError(
            describe("sweep", "ray", "Ray with its Tune", f"no module {missing}", "pip install 'clipmill[ray]'")
        ) from None
    return runner(concurrent, connect_seconds)


class TrialProgress:
    """Tells of finished trials: one rewritten line with ETA on a terminal, one JSON line per trial elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()
        self._num_before: int | None = None

    def __call__(self, num_done: int, num_all: int, result: "TrialResult") -> None:
        """`result` is the `num_done`-th of `num_all`."""
        if self._num_before is None:
            self._num_before = num_done - 1
        eta = (time.monotonic() - self._started) / (num_done - self._num_before) * (num_all - num_done)
        value = result.metrics.get(result.headline)
        if self._stream.isatty():
            reached = "failed" if value is None else f"{value:.3f}"
            line = f"{num_done}/{num_all} trials  {result.point}, seed {result.seed}: {reached}  ETA {duration(eta)}"
            self._stream.write("\r" + line[:110].ljust(110) + ("\n" if num_done == num_all else ""))
            self._stream.flush()
            return
        event = {
            "event": "trial",
            "done": num_done,
            "of": num_all,
            "point": result.point,
            "seed": result.seed,
            "metric": result.headline or None,
            "value": None if value is None else round(value, 6),
            "error": result.error,
            "train_seconds": result.train_seconds,
            "evaluate_seconds": result.evaluate_seconds,
            "eta_seconds": round(eta, 1),
        }
        print(json.dumps(event, ensure_ascii=False), file=self._stream, flush=True)


def _lines(result: "SweepResult") -> list[str]:
    num_seeds = len(result.config.seeds)
    lines = [
        f"{result.config.out}: {len(result.points)} points with {num_seeds} seed{'s' * (num_seeds != 1)} each, "
        f"{len(result.results)} trials, {result.num_failed} failed"
    ]
    spaces = result.spaces
    first = max(len(name) for name in ["point", *(point.point.name for point in result.points), *result.baselines])
    widths = [max(len(name), 13) for name in spaces]
    lines.append("  ".join([f"  {'point':<{first}}", *(f"{s:>{w}}" for s, w in zip(spaces, widths, strict=True))]))
    for number, point in enumerate(result.points):
        cells = [point.metrics[name].text if name in point.metrics else "-" for name in spaces]
        row = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        published = [f"{point.point.published[name]:.3f}" for name in spaces if name in point.point.published]
        more = f"  published {' '.join(published)}" if published else ""
        lines.append(f"  {point.point.name:<{first}}  {row}{'  best' if number == result.best else ''}{more}")
    metric = result.metric.rpartition("/")[2]
    for name, spread in result.baselines.items():
        if name.endswith(f"/{metric}"):
            lines.append(f"  {'(' + name.partition('/')[0] + ')':<{first}}  {spread.text:>{widths[0]}}")
    if any(point.point.published for point in result.points):
        lines.append(
            f"  published, in the order of the columns that have it: {result.config.source or 'no source given'}"
        )
    for point in result.points:
        lines += [f"  failed: {point.point.name}, seed {seed}: {error}" for seed, error in point.errors.items()]
    if result.best is not None:
        lines.append(f"  best: {result.points[result.best].point.name}; clipmill train {result.config.out}/{BEST}")
    return lines
