"""The command line as a user starts it: in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    done = clipmill(*arguments, "--json", site=site)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(done: Done, *words: str) -> None:
    """Asserts wrong usage, in one line that holds all `words`, and nothing on standard output."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("clipmill: ")]
    for word in words:
        assert word in line
