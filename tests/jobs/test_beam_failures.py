"""What a worker fails by on Beam, and a job service that is not there: one line, and its own exit code."""

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import python
from tests.held_builds import build_config

pytestmark = pytest.mark.beam

SQUEEZENET = {"squeezenet": {"sampling": {"fps": 5}, "weights": {"random": 0}}}


def fails(root: Path, engine: dict[str, Any]) -> tuple[int, str]:
    """Returns the exit code of a build and the line it ends with, after checking that there is one."""
    config = build_config(root, {"name": "beam"} | engine, SQUEEZENET)
    text = config.read_text().replace("url: store", f"url: {root}/store")
    config.write_text(text.replace("folder: videos", f"folder: {root}/videos"))
    done = python("-m", "clipmill", "build", "--config", str(config))
    lines = [line for line in done.stderr.splitlines() if line.startswith("clipmill: ")]
    assert len(lines) == 1, done.stderr
    if engine.get("runner") not in ("multi_processing", "dask"):  # whose processes print what they like
        assert lines == done.stderr.splitlines()[-1:]
        assert "Traceback" not in done.stderr
    return done.returncode, lines[0]


@pytest.mark.parametrize(
    "runner",
    [
        "in_process",
        pytest.param("multi_processing", marks=pytest.mark.slow),
        pytest.param("dask", marks=pytest.mark.slow),
    ],
)
def test_a_workers_own_error(runner: str, tmp_path: Path) -> None:
    code, line = fails(tmp_path, {"runner": runner, "device": "cuda:7"})
    assert line == "clipmill: engine device: expected a CUDA GPU, got none on this machine; use device: auto or cpu"
    assert code == 2


@pytest.mark.parametrize(("runner", "place"), [("portable", "127.0.0.1:{}"), ("dask", "tcp://127.0.0.1:{}")])
def test_nothing_listens_there(runner: str, place: str, tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = place.format(bound.getsockname()[1])
        code, line = fails(tmp_path, {"runner": runner, "address": address, "connect_seconds": 1})
    assert code == 4
    assert "got none within 1 s" in line
    assert "start it, or check engine.address" in line


def test_an_option_that_beam_does_not_know(tmp_path: Path) -> None:
    code, line = fails(tmp_path, {"pipeline_options": ["--experimens=a"]})
    assert code == 2
    assert "got '--experimens=a'; did you mean '--experiments'" in line
