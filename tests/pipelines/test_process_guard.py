"""What is started within the guard ends with it, in sessions of its own too; Python's keeper of semaphores stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command_line import ROOT

LIMIT_SECONDS = 300.0

DRIVER = """
import multiprocessing, os, subprocess, sys, time
from clipmill.pipelines.process_guard import MARK, guarded

with guarded():
    lock = multiprocessing.get_context("spawn").Lock()
    with guarded():
        started = subprocess.Popen(["sleep", "1000"], start_new_session=True, stdout=subprocess.DEVNULL)
    assert MARK in os.environ
    print(started.pid, flush=True)
    if sys.argv[1] == "wait":
        sys.stdin.read()
assert MARK not in os.environ
assert started.wait() == -9
later = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(later.pid, flush=True)
del lock
"""


def is_there(pid: int) -> bool:
    """Returns whether a process runs; one that has ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start(word: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, word],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_driver_that_is_killed(number: signal.Signals) -> None:
    with start("wait") as driver:
        assert driver.stdout is not None
        pid = int(driver.stdout.readline())
        assert is_there(pid)
        driver.send_signal(number)
        driver.wait()
        until = time.monotonic() + LIMIT_SECONDS
        while is_there(pid):
            assert time.monotonic() < until
            time.sleep(0.02)


def test_a_driver_that_goes_on() -> None:
    with start("go on") as driver:
        output, errors = driver.communicate(timeout=LIMIT_SECONDS)
        assert (driver.returncode, errors) == (0, "")
        within, after = map(int, output.split())
        assert not is_there(within)
        assert is_there(after), "what is started after it is no concern of the guard"
        os.kill(after, signal.SIGKILL)
