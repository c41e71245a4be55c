"""What a run leaves of itself beside its results: who began it where, and how it ended."""

import contextlib
import getpass
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clipmill import __version__
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_FAILURE, EXIT_RETRYABLE, ClipmillError, StorageUnavailableError
from clipmill.schemas.secrets import masked
from clipmill.stores.store import Store

START = "run.json"
END = "end.json"
"""A run that was killed leaves none."""


@dataclass(slots=True)
class Ending:
    """How a run ends, as far as is known yet.

    Attributes:
        ended_by: the budget that was spent; ``interrupted``; ``error``; None: all was done.
    """

    exit_code: int = EXIT_COMPLETE
    ended_by: str | None = None
    message: str | None = None


def write_start(
    store: Store, run_id: str, engine: str, num_workers: int = 1, limits: Mapping[str, Any] | None = None
) -> None:
    """Writes ``runs/<run-id>/run.json``: who runs something, where, on what, and within which limits.

    A run with a shard was given a share of a dataset's videos: of what its manifest does not name nothing follows.
    """
    data = {
        "user": _user(),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "engine": engine,
        "workers": num_workers,
        "version": __version__,
        **(limits or {}),
    }
    store.write_run_file(run_id, START, json.dumps(data, ensure_ascii=False, indent=1, sort_keys=True))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no entry in its passwd file
        return f"uid {os.getuid()}"


@contextlib.contextmanager
def recorded_end(store: Store, run_id: str) -> Iterator[Ending]:
    """Writes ``runs/<run-id>/end.json`` when the run ends, by an error too; what the block sets is what it says."""
    started = time.monotonic()
    ending = Ending()
    try:
        yield ending
    except BaseException as error:
        ending.exit_code, ending.ended_by, ending.message = _ending_of(error)
        # Where storage is what failed, it would only be waited for once more.
        if not isinstance(error, StorageUnavailableError):
            with contextlib.suppress(ClipmillError):
                _write(store, run_id, ending, time.monotonic() - started)
        raise
    _write(store, run_id, ending, time.monotonic() - started)


def _ending_of(error: BaseException) -> tuple[int, str, str | None]:
    if isinstance(error, KeyboardInterrupt):
        return EXIT_RETRYABLE, "interrupted", None
    code = error.exit_code if isinstance(error, ClipmillError) else EXIT_FAILURE
    lines = str(error).splitlines() or [type(error).__name__]
    return code, "error", masked(lines[0])


def _write(store: Store, run_id: str, ending: Ending, seconds: float) -> None:
    data = {
        "exit_code": ending.exit_code,
        "ended_by": ending.ended_by,
        "message": ending.message,
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }
    store.write_run_file(run_id, END, json.dumps(data, ensure_ascii=False, indent=1, sort_keys=True))


def run_file(store: Store, run_id: str, name: str) -> Mapping[str, Any]:
    """Returns a JSON file of a run; an empty mapping where it has none, or a damaged one."""
    try:
        data = json.loads(store.read_run_file(run_id, name))
    except (FileNotFoundError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
