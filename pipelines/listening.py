"""Whether something listens where a cluster, a scheduler or a job service should be. Libraries wait each in its way."""

import logging
import socket
import time

from clipmill.schemas.errors import EngineError, UsageError, describe

logger = logging.getLogger("clipmill.engine")

_PAUSE_SECONDS = 0.5


def wait_until_listening(thing: str, key: str, address: str, expected: str, seconds: float, remedy: str) -> None:
    """Returns once something listens at `address` (``host:port``); tells once on standard error that it waits.

    Args:
        thing, key, expected, remedy: for the message (``engine ray``).
        seconds: how long to wait at most: what is being started may take a while.

    Raises:
        UsageError: `address` is no host and port.
        EngineError: nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(describe(thing, key, "an address host:port", repr(address), "correct it"))
    until = time.monotonic() + seconds
    is_told = False
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(until - time.monotonic(), 0.1)).close()
        except (OSError, UnicodeError) as error:
            if time.monotonic() + _PAUSE_SECONDS >= until:
                got = f"none within {seconds:.0f} s ({error})"
                raise EngineError(describe(thing, key, f"{expected} at {address}", got, remedy)) from None
            if not is_told:
                is_told = True
                logger.warning("%s %s: nothing listens at %s yet; waiting up to %.0f s", thing, key, address, seconds)
            time.sleep(_PAUSE_SECONDS)
        else:
            return
