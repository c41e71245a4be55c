"""The parent's hold on a decode child: start it, talk to it, see it die, kill it."""

import contextlib
import errno
import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence

from clipmill.pipelines.decode import forked, memory_limit, ring
from clipmill.pipelines.decode.child_environment import child_environment
from clipmill.pipelines.decode.wire import READY, Message, Unpacker
from clipmill.schemas.errors import MachineFaultError, describe

READ_BYTES = 1 << 16
STDERR_TAIL_BYTES = 4096
GOODBYE_SECONDS = 2.0
START_SECONDS = 120.0
"""Ours: starting takes half a second; on a machine with forty times the work it has processors for, half a minute."""
MAX_STARTS = 3
"""Ours: a child that is killed while it starts is started again; one that never starts is no fault of a video."""
MAX_DECODE_THREADS = 4
"""More threads than this gain little on the small videos features are made from, and each costs memory (ours)."""

_living: "weakref.WeakSet[ChildProcess]" = weakref.WeakSet()
_ADDRESS = re.compile(r" @ 0x[0-9a-f]+")


def decoder_threads(num_children: int = 1) -> int:
    """Returns how many threads each of so many decoders is given: their share of the processors this process may use,
    within a small limit.
    """
    return max(min(len(os.sched_getaffinity(0)) // num_children, MAX_DECODE_THREADS), 1)


class ChildDiedError(Exception):
    """The child ended without finishing what it was asked."""


def start_child(memory_bytes: int, num_threads: int, ring_bytes: int, decodes: bool) -> "ChildProcess":
    """Returns a child that has started and waits for requests.

    Args:
        memory_bytes: ceiling of its address space; this process's own limit where that is less.
        decodes: load what decoding takes too, not only what reading headers and packets takes.

    Raises:
        MachineFaultError: none could be started.
    """
    got = ""
    for _ in range(MAX_STARTS):
        try:
            child = ChildProcess(memory_bytes, num_threads, ring_bytes, decodes)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOMEM):
                raise
            got = str(error.strerror)
            continue
        try:
            answer = child.receive(START_SECONDS)
        except ChildDiedError:
            ending, line, _ = child.death()
            got = f"{ending}{f' ({line})' if line else ''}"
        except BaseException:
            child.kill()
            raise
        else:
            if answer is not None and answer.kind == READY:
                return child
            got = f"no sign of it within {START_SECONDS:.0f} s"
        child.kill()
    allowed_gib = memory_limit.allowed_bytes(memory_bytes) / memory_limit.GIB
    raise MachineFaultError(
        describe(
            "decoder",
            "process",
            f"one that starts within {allowed_gib:.2f} GiB of address space",
            f"{got} at each of {MAX_STARTS} tries",
            f"{memory_limit.remedy(memory_bytes)}, or see that the machine has memory and processes to spare",
        )
    )


def last_line(text: bytes) -> str:
    """Returns the last line that says something, without memory addresses, so that the same file says the same."""
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    return _ADDRESS.sub("", lines[-1])[:200] if lines else ""


class ChildProcess:
    """One running `clipmill.pipelines.decode.child`: forked by a server where that can be (`forked`), else started.

    It has a session of its own, so that Ctrl-C in a terminal reaches only the parent. It dies with its parent: both
    ends of its pipes close then, and the kernel signals it even while it is inside a decoder.

    Attributes:
        answer: descriptor of the pipe that its messages come from.
    """

    def __init__(self, memory_bytes: int, num_threads: int, ring_bytes: int, decodes: bool) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in kill)
        fcntl.fcntl(self._stderr, fcntl.F_SETFL, fcntl.fcntl(self._stderr, fcntl.F_GETFL) | os.O_APPEND)
        ring_descriptor = ring.create(ring_bytes)
        command_read, self._command = os.pipe()
        self.answer, answer_write = os.pipe()
        life_read, self._life = os.pipe()
        theirs = (command_read, answer_write, life_read)
        numbers = (memory_bytes, num_threads, int(decodes))
        try:
            self._process = _start((*theirs, ring_descriptor), numbers, self._stderr.fileno())
        except BaseException:
            for descriptor in (self._command, self.answer, self._life, ring_descriptor):
                os.close(descriptor)
            self._stderr.close()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self.ring = ring.RingReader(ring_descriptor)
        os.set_blocking(self._command, False)
        os.set_blocking(self.answer, False)
        self._unpacker = Unpacker()
        self._outgoing = bytearray()
        self._closed = False
        self.memory_bytes = memory_bytes
        self.num_requests = 0
        self.num_frames = 0
        _living.add(self)

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return not self._closed and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, message: bytes) -> None:
        """Queues a message and sends what the pipe takes now; `receive` sends the rest."""
        self._outgoing += message
        self._flush()

    def receive(self, timeout_seconds: float) -> Message | None:
        """Returns the next message of the child, or None when none came in time.

        Raises:
            ChildDiedError: it ended; `death` says how.
        """
        until = time.monotonic() + timeout_seconds
        while (message := self._unpacker.next()) is None:
            ready = wait_for_any([self], max(until - time.monotonic(), 0.0))
            if not ready:
                return None
            if self._command in ready:
                self._flush()
            if self.answer in ready:
                data = os.read(self.answer, READ_BYTES)
                if not data:
                    raise ChildDiedError
                self._unpacker.feed(data)
        return message

    def register(self, poll: select.poll) -> None:
        """Has `poll` wake up when the child says something, or takes what it is to be sent."""
        poll.register(self.answer, select.POLLIN)
        if self._outgoing:
            poll.register(self._command, select.POLLOUT)

    def death(self) -> tuple[str, str, bool]:
        """Returns how the child ended, the last line it printed, and whether it ran out of memory."""
        try:
            code = self._process.wait(GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its pipes", self.stderr_line(), False
        line = self.stderr_line()
        starved = any(word in line for word in ("bad_alloc", "Cannot allocate memory", "MemoryError", "out of memory"))
        if code < 0:
            # A SIGKILL that is not ours comes from the kernel, which was out of memory.
            return signal.Signals(-code).name, line, starved or -code == signal.SIGKILL
        return f"exit code {code}", line, starved

    def stderr_line(self) -> str:
        """Returns the last line the child, or a library inside it, printed."""
        size = os.fstat(self._stderr.fileno()).st_size
        start = max(size - STDERR_TAIL_BYTES, 0)
        return last_line(os.pread(self._stderr.fileno(), STDERR_TAIL_BYTES, start))

    def kill(self) -> None:
        """Ends the child at once and leaves nothing behind; may be called twice."""
        if self._closed:
            return
        self._closed = True
        self._process.kill()
        self._process.wait()
        self._release()

    def close(self) -> None:
        """Lets an idle child end by itself; kills it when it does not."""
        if self._closed:
            return
        os.close(self._command)
        self._command = -1
        try:
            self._process.wait(GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._closed = True
        self._release()

    def abandon(self) -> None:
        """Lets go of what a fork inherited: the child belongs to the other process, and must see that one die."""
        if not self._closed:
            self._closed = True
            self._process.returncode = 0
            self._release()

    def _release(self) -> None:
        for descriptor in (self._command, self.answer, self._life):
            if descriptor >= 0:
                os.close(descriptor)
        self.ring.close()
        self._stderr.close()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            # A broken pipe shows as the end of the answers, where it is handled.
            while self._outgoing:
                count = os.write(self._command, memoryview(self._outgoing)[: 1 << 20])
                del self._outgoing[:count]


def _start(
    descriptors: Sequence[int], numbers: Sequence[int], output: int
) -> "forked.ForkedProcess | subprocess.Popen[bytes]":
    """Returns a child of this process that runs `child.run`, with `output` for what it prints."""
    process = forked.fork_child(numbers, (*descriptors, output))
    if process is not None:
        return process
    return subprocess.Popen(
        [*(sys.executable, "-P", "-m", "clipmill.pipelines.decode.child"), *map(str, (*descriptors, *numbers))],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=descriptors,
        start_new_session=True,
        env=child_environment(),
    )


def wait_for_any(children: Sequence[ChildProcess], timeout_seconds: float) -> set[int]:
    """Waits until one of the children can be heard or sent to; returns the descriptors that are ready, if any."""
    poll = select.poll()
    for child in children:
        child.register(poll)
    return {descriptor for descriptor, _ in poll.poll(timeout_seconds * 1000)}


def _abandon_all() -> None:
    for child in list(_living):
        child.abandon()


os.register_at_fork(after_in_child=_abandon_all)
