"""No process is left behind: what a run started on this machine ends with it, however it ends.

Ray's agents, Beam's worker processes and those of a Dask cluster that a run starts outlive a driver that is killed. All
of them inherit its environment. So a run puts a name of its own there, and a guard, a process in a session of its own
that a signal to the driver's group does not reach, waits for the driver and kills whatever still bears that name.
"""

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

MARK = "CLIPMILL_RUN_PROCESS"
"""Variable of the environment that names the run a process belongs to."""

END_SECONDS = 10.0
"""ours: how long the guard looks for processes, which may be starting others."""

# Apart from Python itself it needs nothing, so it starts in some 20 ms and takes 10 MiB. It waits for an event, not for
# time: its standard input ends when the driver closes it, and the driver's own descriptor is ready when it is gone (a
# child made by a fork without an exec would keep the pipe open).
_GUARD = r"""
import os, select, signal, sys, time
mark, driver, end_seconds = sys.argv[1].encode(), int(sys.argv[2]), float(sys.argv[3])
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
waited = [sys.stdin]
try:
    waited.append(os.pidfd_open(driver))
except OSError:
    pass
select.select(waited, [], [])

def marked():
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (os.getpid(), driver):
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    is_ours = mark in file.read().split(b"\0")
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    # Python's own keeper of semaphores, which the driver goes on using; it ends with it.
                    if is_ours and b"resource_tracker" not in file.read():
                        yield int(name)
            except OSError:
                pass

until = time.monotonic() + end_seconds
while time.monotonic() < until:
    found = list(marked())
    if not found:
        break
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    time.sleep(0.05)
"""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Ends what is started within its ``with`` block at the end of it, or when this process ends, killed or not.

    Processes that have ended by themselves by then are no concern of it; give those that do their time before. Within
    another such block it does nothing. It needs Linux's /proc, and is without effect elsewhere.
    """
    if MARK in os.environ or not os.path.isdir("/proc/self"):
        yield
        return
    name = uuid.uuid4().hex
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, f"{MARK}={name}", str(os.getpid()), str(END_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.environ[MARK] = name
    try:
        yield
    finally:
        os.environ.pop(MARK, None)
        if guard.stdin is not None:
            guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(2 * END_SECONDS)
