"""Faults of the machine against those of a video: which reasons may pass, when to try again, when to stop.

A reason *of the video* (``undecodable``, ``no_video_stream``, ...) holds until its bytes change or `clipmill requeue`.
A *passing* one (a folder that is not mounted, a server that refuses, a decoder that was killed) is tried again by a
later run, after a pause that grows with the number of failures in a row. Where too many videos of a run fail for
passing reasons, the machine is at fault: the run ends, and nothing more is booked on videos.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import pyarrow as pa

from clipmill.pipelines.features.sources import is_local, local_path
from clipmill.schemas.errors import MachineFaultError, VideoError, describe
from clipmill.stores.run_ids import run_time
from clipmill.stores.tables import in_force

WORKER_DIED, FORWARD_DEADLINE = "worker_died", "forward_deadline"
"""Reasons of a video that ended the process that worked on it, or whose forward pass found no end."""

_STORAGE_PAUSES = tuple(timedelta(minutes=minutes) for minutes in (0, 10, 60, 360, 1440))
_DECODER_PAUSES = (timedelta(hours=1), timedelta(days=1), timedelta(days=7))
"""ours: storage comes back within minutes, and asking it costs little. A decoder that died or found no end has been
tried several times already, and each try may cost its whole deadline."""

_PAUSES: Mapping[str, Sequence[timedelta]] = {
    **dict.fromkeys(("missing_file", "unreadable", "access_denied", "storage_unavailable"), _STORAGE_PAUSES),
    **dict.fromkeys(("deadline", "out_of_memory", "decoder_crashed", WORKER_DIED, FORWARD_DEADLINE), _DECODER_PAUSES),
}
"""By passing reason, the pause after the first, second, ... failure in a row; the last one counts for all after it."""

LEAST_FAULTS = 5
"""ours: fewer videos than this never stop a run, whatever their share."""

_REFUSALS = frozenset({"access_denied", "storage_unavailable"})
_STORAGE_REASONS = frozenset({"missing_file", "unreadable", "access_denied", "storage_unavailable", "out_of_memory"})


def is_passing(reason: str) -> bool:
    """Returns whether a video that failed for `reason` may work another time, its bytes being the same."""
    return reason in _PAUSES


def next_try(reason: str, failed_at: datetime, num_failures: int) -> datetime | None:
    """Returns when a video may be tried again that failed `num_failures` times in a row, last at `failed_at`.

    None: never by itself, since the reason is one of the video.
    """
    if not is_passing(reason):
        return None
    pauses = _PAUSES[reason]
    return failed_at + pauses[min(num_failures, len(pauses)) - 1]


def failures_in_a_row(history: pa.Table) -> Counter[tuple[str, str, str]]:
    """Returns, by (video id, video fingerprint, recipe fingerprint), the runs that failed since the last release.

    Args:
        history: every quarantine row ever written (QUARANTINE schema).
    """
    columns = ("run_id", "released", "video_id", "video_fingerprint", "recipes")
    rows = sorted(zip(*(history.column(name).to_pylist() for name in columns), strict=True), key=lambda row: row[:2])
    runs: dict[tuple[str, str, str], set[str]] = {}
    for run_id, released, video_id, fingerprint, recipes in rows:
        for recipe in recipes:
            if released:
                runs.pop((video_id, fingerprint, recipe), None)
            else:
                runs.setdefault((video_id, fingerprint, recipe), set()).add(run_id)
    return Counter({key: len(found) for key, found in runs.items()})


def held_back(history: pa.Table, now: datetime) -> dict[str, set[tuple[str, str]]]:
    """Returns, by recipe fingerprint, the (video id, video fingerprint) that a build starting at `now` leaves out."""
    failures = failures_in_a_row(history)
    held: dict[str, set[tuple[str, str]]] = {}
    for row in in_force(history).to_pylist():
        key = row["video_id"], row["video_fingerprint"]
        for recipe in row["recipes"]:
            failed_at = run_time(row["run_id"])
            due = next_try(row["reason"], failed_at, failures[*key, recipe])
            # A clock that was ahead must not hold a video back until its time has come.
            if due is None or failed_at <= now < due:
                held.setdefault(recipe, set()).add(key)
    return held


def is_machine_fault(uri: str, error: VideoError, is_known: bool) -> bool:
    """Returns whether `error` speaks against the machine rather than against the manifest or the file.

    Args:
        is_known: the file has been seen: in a listing of this run, by planning, or by an earlier run.

    A manifest may name files that never were there, so a missing file counts only where it has been seen, or where its
    folder is missing as well.
    """
    if error.reason == "missing_file":
        return is_known or (is_local(uri) and not os.path.isdir(os.path.dirname(local_path(uri)) or "."))
    return error.reason in _STORAGE_REASONS


def check_share(errors: Iterable[VideoError], num_tried: int, max_share: float, are_all: bool = False) -> None:
    """Ends a run of which too large a share of videos failed by faults of the machine.

    Args:
        errors: the faults.
        num_tried: videos tried, those that worked included.
        are_all: `num_tried` are all videos of the run: that storage refuses each of them ends it, however few they are.

    Raises:
        MachineFaultError: at least `LEAST_FAULTS` of them, and a larger share than `max_share`.
    """
    found = list(errors)
    all_refused = are_all and len(found) == num_tried and all(error.reason in _REFUSALS for error in found)
    if (len(found) < LEAST_FAULTS and not all_refused) or len(found) <= max_share * num_tried:
        return
    counts = ", ".join(f"{reason} {count}" for reason, count in Counter(error.reason for error in found).most_common())
    raise MachineFaultError(
        describe(
            "videos",
            f"{len(found)} of {num_tried}",
            "storage and memory that hold",
            f"{counts}; the first: {found[0].message}",
            "see that they can be read and run the same command again, or set engine.max_fault_share: 1 to go on",
        )
    )
