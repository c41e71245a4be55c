"""``clipmill status --watch``: how far the newest run of a store is, until it ends."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from clipmill.pipelines.features.heartbeat import HEARTBEAT, HEARTBEAT_SECONDS
from clipmill.pipelines.features.run_progress import progress_line
from clipmill.pipelines.features.run_records import END, run_file
from clipmill.stores.store import Store

SILENT_BEATS = 4
"""ours: a run that misses so many heartbeats is taken for killed."""


def watch(
    url: str,
    every_seconds: float,
    stream: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Prints a line for each heartbeat of the newest run of the store at `url`; returns when that run has ended.

    Whether a run lives is told by its heartbeat's number, not by comparing clocks of two machines.

    Args:
        stream: of the lines; None: standard error.
        sleep: waits for so many seconds.
        clock: seconds; it never goes back.
    """
    out = stream or sys.stderr
    store = Store.open(url)
    runs = store.runs()
    if not runs:
        return
    run_id = runs[-1]
    number, heard, shown = 0, clock(), ""
    while not (end := run_file(store, run_id, END)):
        beat = run_file(store, run_id, HEARTBEAT)
        if beat.get("number", 0) != number:
            number, heard = beat["number"], clock()
        line = progress_line(beat) if beat else "no heartbeat yet"
        if line != shown:
            print(f"run {run_id}: {line}", file=out, flush=True)
            shown = line
        silent = clock() - heard
        if silent > SILENT_BEATS * float(beat.get("every_seconds", HEARTBEAT_SECONDS)):
            print(f"run {run_id}: no heartbeat for {silent:.0f} s: killed, or without one", file=out, flush=True)
            return
        sleep(every_seconds)
    cause = f" ({end['ended_by']})" if end.get("ended_by") else ""
    print(f"run {run_id}: ended with exit code {end.get('exit_code')}{cause}", file=out, flush=True)
