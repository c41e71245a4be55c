"""Probing and scanning in child processes that can be killed, so that no file can hang or crash what plans or works.

A few idle children are kept for the next file; starting one costs a fifth of a second.
"""

import atexit
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from clipmill.pipelines.decode import memory_limit
from clipmill.pipelines.decode.process import ChildDiedError, ChildProcess, start_child
from clipmill.pipelines.decode.wire import DONE, FAILED, REQUEST, Message, pack
from clipmill.schemas.errors import VideoError, describe

READ_BYTES_PER_SECOND = 10e6
"""Slowest storage a scan allows for (ours)."""
MAX_IDLE = 2
FILES_PER_CHILD = 5000
"""ours: a child takes 55 MiB after a hundred small files, and 59 after 6,000."""
RING_BYTES = 4096

_lock = threading.Lock()
_idle: list[ChildProcess] = []
_max_idle = MAX_IDLE


@dataclass(frozen=True, slots=True)
class InspectionLimits:
    """How long a child may take for one file, how much memory it may have, and how often a file is tried.

    Attributes:
        deadline_seconds: longest wait for an answer, beyond the time it takes to read the file.
        memory_bytes: ceiling of the child's address space; this process's own limit where that is less.
        max_attempts: tries for one file; from the second on in a fresh child.
    """

    deadline_seconds: float = 60.0
    memory_bytes: int = 4 << 30
    max_attempts: int = 2


DEFAULT_LIMITS = InspectionLimits()


class _NoAnswerError(Exception):
    """The child did not say what is in the file; another one may."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def inspect(
    stage: str,
    path: str,
    operation: str,
    options: Mapping[str, Any] | None = None,
    limits: InspectionLimits = DEFAULT_LIMITS,
    decodes: bool = False,
) -> Message:
    """Returns the child's answer to `operation` on `path`: ``probe``, ``scan``, ``thumbnails`` or ``rate``.

    Args:
        decodes: ask a new child that has what decoding takes.

    A child that dies, runs out of memory or does not answer in time is replaced by a fresh one, which tries again.

    Raises:
        VideoError: with `stage` as its stage.
        MachineFaultError: no child could be started.
    """
    num_bytes = _check_file(stage, path)
    request = pack(REQUEST, {"operation": operation, "path": os.path.abspath(path), **(options or {})})
    seconds = limits.deadline_seconds + num_bytes / READ_BYTES_PER_SECOND
    attempt = 1
    while True:
        try:
            answer = _ask(path, request, seconds, limits.memory_bytes, decodes or attempt > 1, decodes)
            break
        except _NoAnswerError as problem:
            if attempt >= limits.max_attempts:
                raise VideoError(stage, problem.reason, problem.message) from None
            attempt += 1
    if answer.kind != DONE:
        raise VideoError(stage, answer.data["reason"], answer.data["message"])
    return answer


def _ask(path: str, request: bytes, seconds: float, memory_bytes: int, fresh: bool, decodes: bool) -> Message:
    child = _start(memory_bytes, decodes) if fresh else _borrow(memory_bytes)
    sound = False
    try:
        child.send(request)
        child.num_requests += 1
        answer = child.receive(seconds)
        if answer is None:
            got = f"no answer within {seconds:.0f} s"
            remedy = "raise decode.deadline_seconds, or re-encode it"
            raise _NoAnswerError("deadline", describe("video", path, "its packets", got, remedy))
        if answer.kind == FAILED and answer.data["reason"] == "out_of_memory":
            raise _NoAnswerError("out_of_memory", answer.data["message"])
        sound = True
        return answer
    except ChildDiedError:
        ending, line, starved = child.death()
        got = f"{ending} in the reader{f' ({line})' if line else ''}"
        more_memory = memory_limit.remedy(memory_bytes, killed=ending == "SIGKILL")
        remedy = f"{more_memory}, or re-encode it" if starved else "re-encode it"
        message = describe("video", path, "a readable container", got, remedy)
        raise _NoAnswerError("out_of_memory" if starved else "decoder_crashed", message) from None
    finally:
        _give_back(child) if sound else child.kill()


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


def _start(memory_bytes: int, decodes: bool = False) -> ChildProcess:
    return start_child(memory_bytes, num_threads=1, ring_bytes=RING_BYTES, decodes=decodes)


def _borrow(memory_bytes: int) -> ChildProcess:
    with _lock:
        while _idle:
            child = _idle.pop()
            if child.is_alive and child.memory_bytes == memory_bytes:
                return child
            child.kill()
    return _start(memory_bytes)


def _give_back(child: ChildProcess) -> None:
    if child.num_requests < FILES_PER_CHILD:
        with _lock:
            if len(_idle) < _max_idle:
                _idle.append(child)
                return
    child.close()


@contextmanager
def idle_children(most: int) -> Iterator[None]:
    """Keeps up to `most` children for the next file while it lasts, where so many threads ask; then `MAX_IDLE`."""
    global _max_idle
    before, _max_idle = _max_idle, max(most, MAX_IDLE)
    try:
        yield
    finally:
        _max_idle = before
        with _lock:
            surplus, _idle[:] = _idle[before:], _idle[:before]
        for child in surplus:
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
