"""Decode children that a process forks which has imported all they need: see `fork_server`."""

import atexit
import contextlib
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from clipmill.pipelines.decode.child_environment import child_environment

START_SECONDS = 120.0
"""ours: to import what a server imports takes a third of a second on a machine that has processors for it."""
MIN_POLL_SECONDS, MAX_POLL_SECONDS = 0.0005, 0.05
PASSING = (errno.EAGAIN, errno.ENOMEM)

MOST_FRUITLESS = 2
"""ours: once so many servers ended before they forked at all, no further one is tried."""

_lock = threading.Lock()
_server: "_Server | None" = None
_fruitless: list[object] = []
"""The circumstances of those."""
_is_over = False


class ForkedProcess:
    """A child of this process that a server has forked: as much of `subprocess.Popen` as there is use for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._waiting = threading.Lock()

    def poll(self) -> int | None:
        """Returns how it ended, None while it runs."""
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        """Returns how it ended: its exit code, or the negative number of the signal.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        started, pause = time.monotonic(), MIN_POLL_SECONDS
        while (code := self._reap(0 if timeout is None else os.WNOHANG)) is None:
            if timeout is not None and time.monotonic() - started >= timeout:
                raise subprocess.TimeoutExpired(["clipmill.pipelines.decode.child"], timeout)
            time.sleep(pause)
            pause = min(2 * pause, MAX_POLL_SECONDS)
        return code

    def kill(self) -> None:
        """Sends it SIGKILL, unless it is known to have ended."""
        with self._waiting:
            if self.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def _reap(self, options: int) -> int | None:
        with self._waiting:
            if self.returncode is None:
                try:
                    pid, status = os.waitpid(self.pid, options)
                except ChildProcessError:
                    # Whoever runs this process takes the ends of all its children: `subprocess` says 0, too.
                    self.returncode = 0
                else:
                    if pid:
                        self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode


class _ServerEndedError(Exception):
    """The server ended, or did not answer."""


class _Server:
    """One running ``python -m clipmill.pipelines.decode.fork_server``."""

    def __init__(self, environment: dict[str, str], circumstances: object) -> None:
        self.circumstances = circumstances
        self.num_forked = 0
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.settimeout(START_SECONDS)
        life_read, self._life = os.pipe()
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "clipmill.pipelines.decode.fork_server"),
                    *map(str, (theirs.fileno(), life_read)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), life_read),
                start_new_session=True,
                env=environment,
            )
        except BaseException:
            self._connection.close()
            os.close(self._life)
            raise
        finally:
            theirs.close()
            os.close(life_read)

    def fork(self, numbers: Sequence[int], descriptors: Sequence[int]) -> int:
        """Returns a process id, or a negative errno.

        Raises:
            _ServerEndedError: there is no answer.
        """
        try:
            socket.send_fds(self._connection, [json.dumps([int(number) for number in numbers]).encode()], descriptors)
            answer = self._connection.recv(64)
        except OSError as error:
            raise _ServerEndedError from error
        if not answer:
            raise _ServerEndedError
        self.num_forked += 1
        return int(answer)

    def kill(self) -> None:
        """Has it end."""
        self._process.kill()

    def end(self) -> None:
        """Ends it at once; its children go on, but for one that nobody was told of."""
        self.kill()
        self._process.wait()
        self._connection.setblocking(False)
        with contextlib.suppress(OSError):
            while answer := self._connection.recv(64):
                if (pid := int(answer)) > 0:
                    untold = ForkedProcess(pid)
                    untold.kill()
                    untold.wait()
        self.abandon()

    def abandon(self) -> None:
        """Lets go of it without ending it: after a fork it is the other process's."""
        self._process.returncode = self._process.returncode or 0
        self._connection.close()
        os.close(self._life)


def warm() -> None:
    """Has a server start, for whoever will need children soon."""
    with _lock, contextlib.suppress(OSError):
        _current()


def fork_child(numbers: Sequence[int], descriptors: Sequence[int]) -> ForkedProcess | None:
    """Returns a child that runs `child.run` with `descriptors` but the last, to which it prints, and `numbers`.

    None where it has to be started in another way.

    Raises:
        OSError: ``EAGAIN`` or ``ENOMEM``: the machine has no room for a process now.
    """
    with _lock:
        while (server := _current()) is not None:
            try:
                pid = server.fork(numbers, descriptors)
            except _ServerEndedError:
                _drop(was_fruitless=not server.num_forked)
                continue
            except BaseException:
                _drop()
                raise
            if pid > 0:
                return ForkedProcess(pid)
            if -pid in PASSING:
                raise OSError(-pid, os.strerror(-pid))
            _fruitless.append(server.circumstances)
            _drop(was_fruitless=True)
    return None


def _current() -> _Server | None:
    """Returns the server whose children have this environment and this process's limits, started if need be."""
    global _server
    if sys.platform != "linux" or _is_over:
        return None
    environment = child_environment()
    circumstances = (environment, resource.getrlimit(resource.RLIMIT_AS))
    if _fruitless.count(circumstances) >= MOST_FRUITLESS:
        return None
    if _server is not None and _server.circumstances != circumstances:
        _drop()
    if _server is None:
        _server = _Server(environment, circumstances)
    return _server


def _drop(was_fruitless: bool = False) -> None:
    """Ends the server."""
    global _server
    server, _server = _server, None
    if server is not None:
        if was_fruitless:
            _fruitless.append(server.circumstances)
        server.end()


@atexit.register
def _end() -> None:
    global _is_over
    _is_over = True
    if (server := _server) is not None:
        # First, so that no thread that waits for its answer keeps the lock.
        server.kill()
    with _lock:
        _drop()


def _forget() -> None:
    # After a fork: the server stays with the other process, and its lock may be held by a thread that is not here.
    global _lock, _server
    _lock = threading.Lock()
    server, _server = _server, None
    if server is not None:
        server.abandon()


os.register_at_fork(after_in_child=_forget)
