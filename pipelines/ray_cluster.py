"""Ray as every verb has it: a running cluster, or one that is started here and that no other machine reaches."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Ray reads these when it is imported: no telemetry leaves the machine, no runtime environment is rebuilt per worker.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import ray  # noqa: E402
from ray._private import ray_constants  # noqa: E402

from clipmill.schemas.errors import EngineError, describe  # noqa: E402

LOOPBACK = "127.0.0.1"

_LOOPBACK_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # The interface on which gloo's workers wait for each other; else that of the machine's name.
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
}


@contextmanager
def cluster(kind: str, key: str, address: str | None = None, num_cpus: int | None = None) -> Iterator[bool]:
    """Gives a connection to Ray; of Ray that is started here, whether it is (then it listens on 127.0.0.1 alone).

    A connection that stands is used, and left. A cluster started here is ended.

    Args:
        kind, key: what a message says that wants Ray (``engine ray``); `key` of its section is ``address``.
        address: of a running cluster; None: that of the environment (``RAY_ADDRESS``), and where there is none Ray is
            started here, whatever else runs on this machine.
        num_cpus: places for workers of Ray that is started here; None: one for each core.

    Raises:
        EngineError: no cluster there, or Ray does not start.
    """
    if ray.is_initialized():
        yield False
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None and address != "local":
        remedy = f"check {kind}.address, or leave it out to start one here"
        _connect(kind, key, f"a cluster at {address}", remedy, address=address)
        try:
            yield False
        finally:
            ray.shutdown()
        return
    with _loopback_alone():
        remedy = "run the same command again"
        options = {"_node_ip_address": LOOPBACK, "include_dashboard": False, "num_cpus": num_cpus}
        _connect(kind, key, "Ray on this machine", remedy, address="local", **options)
        try:
            yield True
        finally:
            ray.shutdown()


def _connect(kind: str, key: str, expected: str, remedy: str, **options: Any) -> None:
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray's own, of no narrower type: a node that did not start in time is one
        first = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise EngineError(describe(kind, key, expected, first, remedy)) from None


@contextmanager
def _loopback_alone() -> Iterator[None]:
    """Keeps Ray from turning 127.0.0.1 into the address under which other machines reach this one.

    It does so wherever it takes a cluster of several machines for possible, which it decides when it is imported, and
    its workers when they start. One that joins a cluster must do so, hence for no longer than needed.
    """
    before = {name: os.environ.get(name) for name in _LOOPBACK_ALONE}
    possible = ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update(_LOOPBACK_ALONE)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = possible
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
