"""Every verb imports what it needs by itself: it is run in a fresh process, where nothing has been imported before."""

import re

import typer

from clipmill.jobs.cli import app
from tests.command_line import ROOT, clipmill, refused


def verbs() -> set[str]:
    group = typer.main.get_command(app)
    inner = group.commands["weights"]  # type: ignore[attr-defined]
    return {name for name in group.commands if name != "weights"} | {  # type: ignore[attr-defined]
        f"weights {name}" for name in inner.commands
    }


def test_some_test_runs_each_verb_in_a_fresh_process() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for verb in sorted(verbs()):
        words = r",\s*".join(f'"{word}"' for word in verb.split())
        # The helpers of tests/command_line.py start a process; others write the command out.
        started = rf'(\b(result|clipmill)\(|"-m", "clipmill",)\s*{words}'
        assert re.search(started, text), f"no test runs clipmill {verb} so"


def test_files_of_weights_are_listed_and_what_is_none_is_refused() -> None:
    assert "resnet50" in clipmill("weights", "list").stdout
    refused(clipmill("weights", "fetch", "nosuch"), "nosuch")
    refused(clipmill("weights", "join", "nowhere.pt", "elsewhere.pt", "--out", "both.pt"), "nowhere.pt")
