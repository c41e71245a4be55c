"""A build that is killed, told to end, or whose terminal closes, leaves no process behind: on any engine."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.held_builds import LIMIT_SECONDS, held_build

BEAM = {"name": "beam", "runner": "multi_processing", "workers": 2}
DASK = {"name": "beam", "runner": "dask"}
RAY = {"name": "ray", "connect_seconds": 280}
CASES = [
    pytest.param({"name": "local"}, signal.SIGKILL, id="local-kill"),
    pytest.param({"name": "local"}, signal.SIGTERM, id="local-term", marks=pytest.mark.slow),
    pytest.param({"name": "local"}, signal.SIGHUP, id="local-hup"),
    pytest.param(BEAM, signal.SIGKILL, id="beam-kill", marks=pytest.mark.beam),
    pytest.param(BEAM, signal.SIGHUP, id="beam-hup", marks=[pytest.mark.beam, pytest.mark.slow]),
    pytest.param(DASK, signal.SIGKILL, id="dask-kill", marks=[pytest.mark.beam, pytest.mark.slow]),
    pytest.param(RAY, signal.SIGKILL, id="ray-kill", marks=pytest.mark.ray),
    pytest.param(RAY, signal.SIGTERM, id="ray-term", marks=[pytest.mark.ray, pytest.mark.slow]),
]


@pytest.mark.parametrize(("engine", "number"), CASES)
def test_nothing_is_left(engine: dict[str, Any], number: signal.Signals, tmp_path: Path) -> None:
    with held_build(tmp_path, engine) as held:
        assert held.others(), "the build works with other processes"
        held.process.send_signal(number)
        code = held.wait()
        until = time.monotonic() + LIMIT_SECONDS
        while held.others():
            assert time.monotonic() < until, f"still there: {held.others()}"
            time.sleep(0.05)
        if number == signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:
            assert code == 4, held.output()
            assert "interrupted; what is committed stands; run the same command again" in held.output()


def test_under_nohup_a_closed_terminal_ends_nothing(tmp_path: Path) -> None:
    with held_build(tmp_path, {"name": "local"}, ignoring_hup=True) as held:
        held.process.send_signal(signal.SIGHUP)
        (tmp_path / "go_on").touch()
        assert held.wait() == 0, held.output()
