"""Ray as every verb has it: a running cluster, or one that is started here and that no other machine reaches.

Ray's own waits are in C++: they have no bound or another one, no signal interrupts them, and a head that is gone for a
minute ends the process it was lost by. So what may wait runs in a thread, another one asks the cluster every few
seconds whether it is there, and whoever waits for results asks `Connection.check` meanwhile.
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_RAY_ENVIRONMENT = {
    # No telemetry leaves the machine, no runtime environment is rebuilt per worker.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Seconds after which Ray's C++ ends this process when the head is gone: never before `connect_seconds`.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "86400",
}
for _name, _value in _RAY_ENVIRONMENT.items():  # Ray reads them when it is imported.
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray._private import ray_constants, ray_logging, worker  # noqa: E402
from ray._raylet import (  # type: ignore[attr-defined]  # noqa: E402  # compiled, and untyped
    AuthenticationTokenLoader,
    Config,
)

from clipmill.pipelines.listening import wait_until_listening  # noqa: E402
from clipmill.pipelines.process_guard import guarded  # noqa: E402
from clipmill.schemas.errors import ClipmillError, EngineError, UsageError, describe  # noqa: E402

LOOPBACK = "127.0.0.1"
CONNECT_SECONDS = 120.0
"""ours: twice what starting Ray takes on a machine with ten times the work it has processors for."""
_POLL_SECONDS = 2.0
_END_SECONDS = 15.0
"""ours: how long Ray may take to end what was started here; the guard ends the rest."""

_LOOPBACK_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # The interface on which gloo's workers wait for each other; else that of the machine's name.
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
}
_AUTH_MODE, _AUTH_TOKENS = "RAY_AUTH_MODE", ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Who wants Ray, for messages (``engine ray``); `key` of its section is ``address``."""

    kind: str
    key: str
    connect_seconds: float

    def error(self, expected: str, got: str, remedy: str) -> EngineError:
        return EngineError(describe(self.kind, self.key, expected, got, remedy))


class Connection:
    """A cluster this process is connected to.

    Attributes:
        is_started_here: whether it was started for this, and listens on 127.0.0.1 alone.
    """

    def __init__(self, wanted: _Wanted, name: str, is_started_here: bool) -> None:
        self.is_started_here = is_started_here
        self._wanted, self._name = wanted, name
        self._answered_at = time.monotonic()
        self._gone = ""
        self._stopped = threading.Event()

    def check(self) -> None:
        """Returns where the cluster is there.

        Raises:
            EngineError: it has not answered for ``connect_seconds``, or its processes on this machine have ended.
        """
        gone, limit = self._gone, self._wanted.connect_seconds
        if not gone and time.monotonic() - self._answered_at > limit:
            gone = f"no answer for {limit:.0f} s"
        if gone:
            seen = "" if self.is_started_here else f"see that {self._name} runs, and "
            remedy = f"what is done stands; {seen}run the same command again"
            raise self._wanted.error(f"{self._name} to go on", gone, remedy)

    def wait_until_answered(self) -> None:
        """Returns once the cluster has answered after this call.

        Raises:
            EngineError: the cluster is lost, see `check`.
        """
        asked_at = time.monotonic()
        while self._answered_at < asked_at:
            self.check()
            time.sleep(_POLL_SECONDS / 10)

    def wait(self, references: list[Any]) -> Any:
        """Returns the first of Ray's `references` that is ready.

        Raises:
            EngineError: the cluster is lost, see `check`.
        """
        while True:
            ready, _ = ray.wait(references, num_returns=1, timeout=_POLL_SECONDS)
            if ready:
                return ready[0]
            self.check()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        threading.Thread(target=self._watch, daemon=True, name="ray-watch").start()
        try:
            yield
        finally:
            self._stopped.set()

    def _watch(self) -> None:
        # By a socket: Ray's own questions to a head that is gone hold Python's lock, and with it this whole process.
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        while not self._stopped.wait(_POLL_SECONDS):
            self._gone = self._gone or self._ended_here()
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=_POLL_SECONDS).close()
            except OSError:
                continue
            self._answered_at = time.monotonic()

    def _ended_here(self) -> str:
        started: Any = worker._global_node if self.is_started_here else None
        if started is None or self._stopped.is_set():
            return ""
        ended = [kind for kind, _ in started.dead_processes() if kind in ("raylet", "gcs_server")]
        return f"the end of its process {ended[0]}" if ended else ""


@contextlib.contextmanager
def cluster(
    kind: str,
    key: str,
    address: str | None = None,
    num_cpus: int | None = None,
    connect_seconds: float = CONNECT_SECONDS,
    runtime_env: Mapping[str, Any] | None = None,
) -> Iterator[Connection]:
    """Gives a connection to Ray. One that stands is used, and left; a cluster started here is ended.

    Args:
        kind, key: what a message says that wants Ray (``engine ray``); `key` of its section is ``address``.
        address: of a running cluster; None: that of the environment (``RAY_ADDRESS``), and where there is none Ray is
            started here, whatever else runs on this machine.
        num_cpus: places for workers of Ray that is started here; None: one for each core.
        connect_seconds: how long Ray may take to answer or to start, and how long it may be gone later on.
        runtime_env: what Ray brings to its workers, see Ray's documentation.

    Raises:
        UsageError: `address` is none of a cluster's head, or the environment asks for a token and has none.
        EngineError: no cluster there, or Ray does not start.
    """
    wanted = _Wanted(kind, key, connect_seconds)
    if ray.is_initialized():
        with (connection := Connection(wanted, "the cluster", False))._watched():
            yield connection
        return
    options: dict[str, Any] = {"runtime_env": dict(runtime_env)} if runtime_env else {}
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None and address != "local":
        name = f"a cluster at {address}"
        _check_reachable(wanted, address)
        with _session(wanted, name, options | {"address": address}):
            with (connection := Connection(wanted, name, False))._watched():
                yield connection
        return
    options |= {"_node_ip_address": LOOPBACK, "include_dashboard": False, "num_cpus": num_cpus, "address": "local"}
    with guarded(), _environment(_LOOPBACK_ALONE), _loopback_alone(), _own_token():
        with _session(wanted, "Ray on this machine", options):
            with (connection := Connection(wanted, "Ray on this machine", True))._watched():
                yield connection


def _check_reachable(wanted: _Wanted, address: str) -> None:
    if "://" in address:
        remedy = "run the command on a machine of the cluster, there with address: auto, or through 'ray job submit'"
        raise UsageError(describe(wanted.kind, wanted.key, "host:port of a cluster's head, or auto", address, remedy))
    if ":" in address:  # else ``auto`` and the like, which Ray looks up
        remedy = f"check {wanted.kind}.address, or leave it out to start one here"
        wait_until_listening(wanted.kind, wanted.key, address, "a cluster", wanted.connect_seconds, remedy)


@contextlib.contextmanager
def _session(wanted: _Wanted, name: str, options: dict[str, Any]) -> Iterator[None]:
    """Connects in a thread, and ends there: its processes are bound to the thread that starts them."""
    is_local = options["address"] == "local"
    until = time.monotonic() + wanted.connect_seconds
    while True:
        session = _Session(options)
        session.start()
        try:
            is_begun = session.begun.wait(max(until - time.monotonic(), 0.1))
        except BaseException:
            session.leave.set()
            raise
        if is_begun and session.error is None:
            break
        session.leave.set()
        # A node that did not start within Ray's own half minute may do so when the machine is less busy.
        if not (is_begun and is_local and time.monotonic() < until) or not _may_pass(session.error):
            raise _refusal(wanted, name, session.error if is_begun else None, is_local)
        session.ended.wait(_END_SECONDS)
    _take_signals_back()
    try:
        yield
    finally:
        session.leave.set()
        session.ended.wait(_END_SECONDS)


def _take_signals_back() -> None:
    """Undoes what Ray's C++ does to signals: it would print its stack at SIGTERM, and abort."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)


class _Session(threading.Thread):
    """Ray's init and shutdown. In a thread of its own: neither has a bound, and init would take over SIGTERM."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(daemon=True, name="ray-session")
        self._options = options
        self.error: BaseException | None = None
        self.begun, self.leave, self.ended = threading.Event(), threading.Event(), threading.Event()

    def run(self) -> None:
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **self._options)
            # Whole logs of a raylet that died, where one line says so.
            ray_logging.global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")
        except BaseException as error:  # Ray's own, of no narrower type; SystemExit too
            self.error = error
        self.begun.set()
        if self.error is None:
            self.leave.wait()
        with contextlib.suppress(BaseException):
            ray.shutdown()
        self.ended.set()


def _may_pass(error: BaseException | None) -> bool:
    return not isinstance(error, OSError | ValueError | TypeError | ray.exceptions.AuthenticationError)


def _refusal(wanted: _Wanted, name: str, error: BaseException | None, is_local: bool) -> ClipmillError:
    limit = f"within {wanted.connect_seconds:.0f} s"
    if isinstance(error, ray.exceptions.AuthenticationError):
        expected, got = "a token, as RAY_AUTH_MODE=token asks for one", "none"
        remedy = "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it"
        return UsageError(describe(wanted.kind, wanted.key, expected, got, remedy))
    if is_local:
        got = f"no start {limit}" if error is None else _first_line(error)
        remedy = f"run the same command again, with a larger {wanted.kind}.connect_seconds where the machine is busy"
        return wanted.error(f"{name} to start", got, remedy)
    if _is_unauthenticated(error):
        got, remedy = "a refusal of our token", "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's"
        return wanted.error(name, got, remedy)
    got = f"no answer {limit}" if error is None else _first_line(error)
    remedy = (
        f"check {wanted.kind}.address and that its Ray is {ray.__version__}; where it asks for a token, set "
        "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    )
    return wanted.error(name, got, remedy)


def _is_unauthenticated(error: BaseException | None) -> bool:
    while error is not None:
        if "nauthenticated" in str(error) or "InvalidAuthToken" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


@contextlib.contextmanager
def _own_token() -> Iterator[None]:
    """Gives Ray that is started here a token of its own, known to this process and its children alone.

    Ray would make one in the home directory, which may be read-only, and turn the environment's mode on for good.
    """
    is_asked = os.environ.get(_AUTH_MODE, "token").lower() == "token"
    if not is_asked or any(name in os.environ for name in _AUTH_TOKENS):
        yield
        return
    with _environment({_AUTH_MODE: "token", _AUTH_TOKENS[0]: secrets.token_hex(32)}):
        _read_again()
        try:
            yield
        finally:
            os.environ.pop(_AUTH_TOKENS[0], None)
            _read_again()


def _read_again() -> None:
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _loopback_alone() -> Iterator[None]:
    """Keeps Ray from turning 127.0.0.1 into the address under which other machines reach this one.

    It does so wherever it takes a cluster of several machines for possible, which it decides when it is imported, and
    its workers when they start. One that joins a cluster must do so, hence for no longer than needed.
    """
    possible = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = possible
