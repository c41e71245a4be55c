"""What every room's tests share."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# One compute thread per test process unless a test says otherwise: several of them share the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray would otherwise report usage over the network.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A run started in the background ignores Ctrl-C, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# How long an example takes, to be drawn or to run, says how busy the machine is.
settings.register_profile("any_speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any_speed")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real material beside the checkout; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real material of ../shared/data is not here")
    return folder
