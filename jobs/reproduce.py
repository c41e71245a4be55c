"""``clipmill reproduce NAME``: a published table, protocol or experiment, ours printed beside theirs."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from clipmill.jobs.configs import keep_config, read_text_of, tell_config
from clipmill.jobs.output import Outcome
from clipmill.pipelines.features.engines.cores import num_cores
from clipmill.pipelines.features.run_progress import duration
from clipmill.schemas.config import parse_config
from clipmill.schemas.config_table import MapIvrTableConfig
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_QUARANTINED, StorageUnavailableError, UsageError, describe, near

RESULTS = "results.json"


@dataclass(frozen=True, slots=True)
class Reproduction:
    """One thing that can be reproduced: what it is, and what runs it with ``--set`` overrides."""

    summary: str
    run: Callable[[str, str | None, Sequence[str]], Outcome]


def run_reproduce(name: str, path: str | None, overrides: Sequence[str]) -> Outcome:
    """Reproduces `name` and writes results.json into its out folder.

    Args:
        path: of its config; None: `overrides` alone.

    Raises:
        UsageError: there is no such reproduction (near names are listed), or the config or an override does not fit it.
    """
    found = REPRODUCTIONS.get(name)
    if found is None:
        expected = "a published result there is code for"
        raise UsageError(describe("reproduce", name, expected, "an unknown name", near(name, REPRODUCTIONS)))
    return found.run(name, path, overrides)


def _cpnet_toy(name: str, path: str | None, overrides: Sequence[str]) -> Outcome:
    from clipmill.pipelines.reproductions.cpnet_toy.experiment import CPNetToyConfig, reproduce

    text, source = (read_text_of(path), path) if path is not None else ("", f"reproduce {name}")
    config = parse_config(CPNetToyConfig, text, overrides, source)
    tell_config(config)
    out = _folder(config.out)
    started = time.monotonic()
    result = reproduce(config, config.workers or num_cores(), RunProgress(sys.stderr))
    _write(out, result)
    keep_config(config, out, "reproduce")
    result |= {"out": str(out), "seconds": round(time.monotonic() - started, 1)}
    return Outcome(result, cpnet_toy_text(result))


def _map_ivr_table(name: str, path: str | None, overrides: Sequence[str]) -> Outcome:
    from clipmill.jobs.sweep import PAGE, TrialProgress, tune_runner
    from clipmill.pipelines.reports.page import write_page
    from clipmill.pipelines.reproductions.map_ivr_table.experiment import reproduce, to_plain
    from clipmill.pipelines.reproductions.map_ivr_table.page import render_table, table_lines
    from clipmill.pipelines.sweeps.trials import run_here

    if path is None:
        remedy = "name its file; see examples/retrieval/table"
        raise UsageError(describe("reproduce", name, "a config that names the clips", "none", remedy))
    config = parse_config(MapIvrTableConfig, read_text_of(path), overrides, path)
    shown = tell_config(config)
    out = _folder(config.out)
    started = time.monotonic()
    run = tune_runner(config.concurrent, config.connect_seconds) if config.concurrent > 1 else run_here
    result = reproduce(config, run, TrialProgress(sys.stderr))
    plain = to_plain(result)
    _write(out, plain)
    keep_config(config, out, "reproduce")
    write_page(str(out / PAGE), render_table(result, shown))
    lines = [*table_lines(result), f"results: {out / RESULTS}", f"report: {out / PAGE}"]
    plain |= {"out": str(out), "report": str(out / PAGE), "seconds": round(time.monotonic() - started, 1)}
    return Outcome(plain, "\n".join(lines), EXIT_QUARANTINED if result.num_failed else EXIT_COMPLETE)


REPRODUCTIONS = {
    "cpnet-toy": Reproduction("which networks can tell where a small block moves (CPNet, CVPR 2019)", _cpnet_toy),
    "map-ivr-table": Reproduction("image-to-video retrieval by every system of MAP-IVR's table", _map_ivr_table),
}


class RunProgress:
    """Tells of finished runs: one rewritten line with ETA on a terminal, one JSON line per run elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()

    def __call__(self, num_done: int, num_all: int, run: Any) -> None:
        """`run` is done, as the `num_done`-th of `num_all`."""
        eta = (time.monotonic() - self._started) / num_done * (num_all - num_done)
        if self._stream.isatty():
            line = f"{num_done}/{num_all} runs  {run.variant} {run.net}: {run.test_accuracy:.1%}  ETA {duration(eta)}"
            self._stream.write("\r" + line.ljust(78) + ("\n" if num_done == num_all else ""))
            self._stream.flush()
            return
        event = {
            "event": "run",
            "done": num_done,
            "of": num_all,
            "variant": run.variant,
            "net": run.net,
            "seed": run.seed,
            "train_accuracy": run.train_accuracy,
            "test_accuracy": run.test_accuracy,
            "seconds": round(run.seconds, 1),
            "eta_seconds": round(eta, 1),
        }
        print(json.dumps(event), file=self._stream, flush=True)


def cpnet_toy_text(result: dict[str, Any]) -> str:
    """Returns the result of ``cpnet-toy`` as a person reads it: ours beside the claim."""
    config = result["config"]
    lines = [
        f"{result['name']}: {result['claim']}",
        f"  source: {result['source']}",
        f"  chance {result['chance']:.1%}; standard error of one run at chance {result['standard_error']:.1%} "
        f"({config['num_test']} test clips); seeds {', '.join(map(str, config['seeds']))}",
    ]
    for variant, found in result["variants"].items():
        leak = {key: sum(values) / len(values) for key, values in found["border_leak"].items()}
        lines += [
            f"{variant}: {found['summary']}",
            f"  {'network':<8} {'ours':>7}  {'by seed':<24} {'training':>8}  {'found':<8} claimed",
        ]
        for net, values in found["nets"].items():
            seeds = " ".join(f"{value:.1%}" for value in values["test_accuracy"])
            training = sum(values["train_accuracy"]) / len(values["train_accuracy"])
            lines.append(
                f"  {net:<8} {values['mean']:>7.1%}  {seeds:<24} {training:>8.1%}  {values['found']:<8} "
                f"{values['claimed']}{'' if values['holds'] else '  (differs)'}"
            )
        lines.append(
            f"  what borders give away (linear classifier on border touches): {leak['in_order']:.1%} with the order of "
            f"frames, {leak['without_order']:.1%} without"
        )
    answer = {True: "yes", False: "no", None: "not run in full"}[result["reproduced"]]
    lines.append(f"claim reproduced where borders give nothing away: {answer}; {result['out']}/{RESULTS}")
    lines.append(f"{duration(result['seconds'])} in all")
    return "\n".join(lines)


def _folder(path: str) -> Path:
    out = Path(path).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got = error.strerror or str(error)
        raise UsageError(describe("reproduce out", path, "a folder that can be made", got, "give another")) from None
    return out


def _write(out: Path, result: dict[str, Any]) -> None:
    """Replaces results.json in one step. What is in it depends on the config alone, not on the machine's speed."""
    temporary = out / f".{RESULTS}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
        os.replace(temporary, out / RESULTS)
    except OSError as error:
        got, remedy = error.strerror or str(error), "free it and run the same command again"
        raise StorageUnavailableError(describe("results", str(out), "a folder to write to", got, remedy)) from None
