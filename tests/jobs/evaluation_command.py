"""``clipmill evaluate`` as a user types it, in this process: exit code, output, results."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.command_line import invoke


@dataclass(frozen=True)
class Done:
    """How the command ended, and the ``results.json`` it left (empty where it left none)."""

    exit_code: int
    out: str
    err: str
    results: dict[str, Any]
    results_bytes: bytes

    @property
    def error(self) -> str:
        """The one line of a refusal."""
        lines = [line for line in self.err.splitlines() if line.startswith("clipmill: ")]
        assert len(lines) == 1, self.err
        return lines[0]

    def run(self, name: str | None = None) -> dict[str, Any]:
        """The named run of the results, or the only one."""
        runs = self.results["runs"]
        return runs[name] if name is not None else next(iter(runs.values()))


def evaluate(folder: Path, config: Mapping[str, Any], *arguments: str, out: str = "out") -> Done:
    """Runs the command on `config`, without a page; a traceback would be a bug of ours."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "evaluate.yaml"
    path.write_text(yaml.safe_dump({"out": str(folder / out), "report": False, **config}, allow_unicode=True))
    done = invoke("evaluate", "--config", str(path), *arguments)
    results = folder / out / "results.json"
    content = results.read_bytes() if results.is_file() else b""
    return Done(done.returncode, done.stdout, done.stderr, json.loads(content) if content else {}, content)


def refused(done: Done, *words: str) -> None:
    """Asserts wrong usage, in one line that holds all `words`."""
    assert done.exit_code == 2, (done.exit_code, done.err)
    for word in words:
        assert word in done.error
