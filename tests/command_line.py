"""The command line as a user starts it, in a fresh process, and the same command in this one, which costs less.

A process imports PyTorch for seconds. What a process is needed for (imports, signals, standard output, what stands in
its environment, how it is killed) starts one: `clipmill`, `result`. All else is said in this one: `invoke`,
`invoked_result`.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from clipmill.jobs.cli import app
from tests.outside_packages import found_in

ROOT = Path(__file__).resolve().parents[1]

Done = subprocess.CompletedProcess[str]


def python(*arguments: str, site: Path | None = None) -> Done:
    """Runs Python where it finds the packages installed in `site`, if given, beside the project."""
    search = [str(path) for path in (site, ROOT) if path is not None]
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(search), "OMP_NUM_THREADS": "1"},
        timeout=280,
        check=False,
    )


def clipmill(*arguments: str, site: Path | None = None) -> Done:
    """Runs the command line; every failure of ours must be one line, so no traceback may appear."""
    done = python("-m", "clipmill", *arguments, site=site)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def result(*arguments: str, site: Path | None = None, code: int = 0) -> dict[str, Any]:
    """Runs a verb with ``--json`` and returns the one object it prints, after checking how it ended."""
    return _only_object(clipmill(*arguments, "--json", site=site), code)


@contextmanager
def _of_one_command() -> Iterator[None]:
    """Takes back what a verb sets for its whole process, and keeps this one alive where a verb would end it at once."""
    root, ours, this, end = logging.getLogger(), logging.getLogger("clipmill"), os.getpid(), os._exit
    handlers, levels = root.handlers[:], (root.level, ours.level)
    handled = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def leave(code: int) -> None:
        if os.getpid() != this:
            end(code)
        raise SystemExit(code)

    root.handlers[:] = []
    os._exit = leave  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = end
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
        for number, handler in handled.items():
            signal.signal(number, handler)


def invoke(*arguments: str, site: Path | None = None) -> Done:
    """Runs the command line in this process; all else is as with `clipmill`."""
    with _of_one_command(), found_in(site) if site is not None else nullcontext():
        done = CliRunner().invoke(app, arguments, prog_name="clipmill")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.stderr, done.stderr
    return Done(arguments, done.exit_code, done.stdout, done.stderr)


def invoked_result(*arguments: str, site: Path | None = None, code: int = 0) -> dict[str, Any]:
    """`result` in this process."""
    return _only_object(invoke(*arguments, "--json", site=site), code)


def _only_object(done: Done, code: int) -> dict[str, Any]:
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(done: Done, *words: str) -> None:
    """Asserts wrong usage, in one line that holds all `words`, and nothing on standard output."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("clipmill: ")]
    for word in words:
        assert word in line
