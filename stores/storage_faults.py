"""What a file system's error means, whichever driver raised it: nothing there, refused for good, or worth another try.

Drivers of object stores let errors of their own through fsspec (botocore's, aiohttp's, azure's, google's), most of
which are no OSError. They are told apart here by the names of their classes and by their HTTP status, so that no driver
has to be imported.
"""

import errno
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Fault = Literal["absent", "refused", "credentials", "passing"]
"""Nothing at that name; an answer that stays the same; no usable credentials; a state of network or server."""

_PASSING_ERRNOS = frozenset(
    getattr(errno, name)
    for name in "EAGAIN EBUSY ECONNABORTED ECONNREFUSED ECONNRESET EHOSTDOWN EHOSTUNREACH EINTR EIO ENETDOWN ENETRESET "
    "ENETUNREACH ENOTCONN EPIPE ESTALE ETIMEDOUT EREMOTEIO".split()
)
_ABSENT_STATUSES = frozenset({404, 410})
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_DRIVERS = frozenset(
    "adlfs aiobotocore aiohttp asyncio azure boto3 botocore fsspec gcsfs google httpx paramiko pyarrow requests s3fs "
    "smbprotocol socket ssl urllib3".split()
)
_CREDENTIALS = ("Credential", "ClientAuthentication", "DefaultCredentials", "RefreshError", "TokenRetrieval", "Profile")
_PASSING = ("Connect", "Timeout", "Incomplete", "ServerDisconnected", "ServiceRequest", "ServiceResponse", "Payload",
            "HTTPClientError", "ChecksumMismatch", "Protocol", "ChunkedEncoding", "ResponseStreaming")  # fmt: skip


def fault_of(error: BaseException) -> Fault | None:
    """Returns what `error` of a storage call means, or None where no storage driver raised it (a bug, an interrupt)."""
    if (answer := _answer_behind(error)) is not None:
        return fault_of(answer) or "absent"
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return "absent"
    if not isinstance(error, Exception):
        return None
    classes = [item for item in type(error).__mro__ if item not in (Exception, BaseException, object)]
    names = [item.__name__ for item in classes]
    if any(part in name for name in names for part in _CREDENTIALS):
        return "credentials"
    status = status_of(error)
    if status is not None:
        return "absent" if status in _ABSENT_STATUSES else "passing" if status in _PASSING_STATUSES else "refused"
    if isinstance(error, TimeoutError | ConnectionError):
        return "passing"
    if isinstance(error, OSError) and error.errno is not None:
        return "passing" if error.errno in _PASSING_ERRNOS else "refused"
    if any(part in name for name in names for part in _PASSING):
        return "passing"
    is_drivers = any(item.__module__.partition(".")[0] in _DRIVERS for item in classes)
    return "refused" if is_drivers or isinstance(error, OSError) else None


def _answer_behind(error: BaseException) -> Exception | None:
    """Returns what a driver was told where it then said that nothing is there.

    fsspec's HTTP driver says so of every failure to learn about a URL, refused access and a dead server included.
    """
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    return cause if isinstance(cause, Exception) else None


def status_of(error: BaseException) -> int | None:
    """Returns the HTTP status an error carries: aiohttp's, gcsfs's, azure's, requests's or botocore's."""
    error = _answer_behind(error) or error
    response: Any = getattr(error, "response", None)
    found: Any
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        # One after the other: to ask aiohttp's errors for their `code` is deprecated.
        given = (getattr(error, name, None) for name in ("status_code", "status", "code"))
        found = next((item for item in given if item is not None), getattr(response, "status_code", None))
    try:
        number = int(found)
    except (TypeError, ValueError):
        return None
    return number if 100 <= number < 600 else None


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a storage call is tried while its fault may pass, and how long it waits in between.

    The pause before try k is drawn evenly from 0 to ``first_pause_seconds * 2**(k - 1)``, at most
    `longest_pause_seconds`, so that workers that failed together do not come back together (full jitter, as in
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """

    attempts: int = 5
    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 15.0
    """ours: with drivers' own tries inside, about a minute in all, which outlives a server's restart."""

    def pause_seconds(self, attempt: int) -> float:
        """Returns how long to wait after the failed try number `attempt` (from 1)."""
        longest = min(self.longest_pause_seconds, self.first_pause_seconds * 2.0 ** (attempt - 1))
        return random.uniform(0.0, longest)


class RetriedCalls:
    """Runs storage calls under `retries` and counts the tries made again. Safe across threads; a copy counts anew."""

    def __init__(self, retries: Retries) -> None:
        self.retries = retries
        self.num_retries = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["RetriedCalls"], tuple[Retries]]:
        return type(self), (self.retries,)

    def __call__(self, call: Callable[[], T]) -> T:
        """Returns what `call` returns; raises its last error as it is."""
        for attempt in range(1, self.retries.attempts + 1):
            try:
                return call()
            except Exception as error:
                if fault_of(error) != "passing" or attempt == self.retries.attempts:
                    raise
                with self._lock:
                    self.num_retries += 1
                time.sleep(self.retries.pause_seconds(attempt))
        raise AssertionError("unreachable: attempts is at least 1")
