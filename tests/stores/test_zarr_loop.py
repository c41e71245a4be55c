"""A process that used zarr ends without a word, however slow the thread of zarr's event loop is."""

import subprocess
import sys

SLOW = """
import time
import zarr
from zarr.core import sync

from clipmill.stores import zarr_chunks

zarr.create_array({}, shape=(1,), dtype="int32")[:] = 1
sync.loop[0].call_soon_threadsafe(time.sleep, 1)
"""


def test_a_loop_that_is_still_at_work_when_the_process_ends_is_waited_for() -> None:
    done = subprocess.run([sys.executable, "-c", SLOW], capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
