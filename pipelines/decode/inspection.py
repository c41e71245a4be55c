"""Probing and scanning in child processes that can be killed, so that no file can hang or crash what plans or works.

A few idle children are kept for the next file; starting one costs a fifth of a second.
"""

import atexit
import os
import threading
from collections.abc import Mapping
from typing import Any

from clipmill.pipelines.decode.process import ChildDiedError, ChildProcess
from clipmill.pipelines.decode.wire import DONE, REQUEST, Message, pack
from clipmill.schemas.errors import VideoError

DEADLINE_SECONDS = 30.0
"""Longest wait for a header (ours); a scan has the time to read the file besides."""
READ_BYTES_PER_SECOND = 10e6
"""Slowest storage a scan allows for (ours)."""
MEMORY_BYTES = 4 << 30
MAX_IDLE = 2
FILES_PER_CHILD = 500
RING_BYTES = 4096

_lock = threading.Lock()
_idle: list[ChildProcess] = []


def inspect(stage: str, path: str, operation: str, options: Mapping[str, Any] | None = None) -> Message:
    """Returns the child's answer to `operation` on `path`: ``probe``, ``scan``, ``thumbnails`` or ``rate``.

    Raises:
        VideoError: with `stage` as its stage.
    """
    num_bytes = _check_file(stage, path)
    child = _borrow()
    sound = False
    try:
        child.send(pack(REQUEST, {"operation": operation, "path": os.path.abspath(path), **(options or {})}))
        child.num_requests += 1
        limit = DEADLINE_SECONDS + num_bytes / READ_BYTES_PER_SECOND
        answer = child.receive(limit)
        if answer is None:
            raise VideoError(
                stage,
                "deadline",
                f"video {path}: expected its packets within {limit:.0f} s, got no answer; re-encode it",
            )
        sound = True
    except ChildDiedError:
        ending, line, starved = child.death()
        raise VideoError(
            stage,
            "out_of_memory" if starved else "decoder_crashed",
            f"video {path}: expected a readable container, got {ending} in the reader"
            f"{f' ({line})' if line else ''}; re-encode it",
        ) from None
    finally:
        _give_back(child) if sound else child.kill()
    if answer.kind != DONE:
        raise VideoError(stage, answer.data["reason"], answer.data["message"])
    return answer


def _check_file(stage: str, path: str) -> int:
    def error(reason: str, expected: str, got: str, remedy: str) -> VideoError:
        return VideoError(stage, reason, f"video {path}: expected {expected}, got {got}; {remedy}")

    try:
        with open(path, "rb"):
            num_bytes = os.stat(path).st_size
    except FileNotFoundError:
        raise error("missing_file", "a file", "none", "correct its path in the manifest") from None
    except IsADirectoryError:
        raise error("missing_file", "a file", "a folder", "correct its path in the manifest") from None
    except OSError as problem:
        raise error("unreadable", "a readable file", str(problem.strerror), "check its permissions") from None
    if num_bytes == 0:
        raise error("empty_file", "a video", "0 bytes", "fetch the file again")
    return num_bytes


def _borrow() -> ChildProcess:
    with _lock:
        while _idle:
            child = _idle.pop()
            if child.is_alive:
                return child
            child.kill()
    return ChildProcess(MEMORY_BYTES, num_threads=1, ring_bytes=RING_BYTES)


def _give_back(child: ChildProcess) -> None:
    if child.num_requests < FILES_PER_CHILD:
        with _lock:
            if len(_idle) < MAX_IDLE:
                _idle.append(child)
                return
    child.close()


@atexit.register
def _close_idle() -> None:
    with _lock:
        while _idle:
            _idle.pop().kill()


def _forget_idle() -> None:
    # After a fork: the children stay with the other process, and its lock may be held by a thread that is not here.
    global _lock
    _lock = threading.Lock()
    _idle.clear()


os.register_at_fork(after_in_child=_forget_idle)
