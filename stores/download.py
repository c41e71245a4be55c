"""Fetching one file over HTTP: taken up again where it was cut, and verified before it gets its name."""

import contextlib
import fcntl
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import IO, Protocol
from urllib.parse import urlsplit

from clipmill.schemas.errors import ClipmillError, NetworkError, StorageUnavailableError, UsageError, describe

CHUNK_BYTES = 256 << 10
TIMEOUT_SECONDS = 60.0
"""Without a byte for so long, a connection counts as cut (ours)."""
LONGEST_WAIT_SECONDS = 60.0
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP's answers that another try may better; every other refusal is final."""
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)$")


class DownloadObserver(Protocol):
    """What a download reports while it goes on."""

    def on_bytes(self, done: int, total: int | None) -> None:
        """`done` bytes of the file are here, those of earlier attempts included; `total` is None until it is known."""
        ...

    def on_retry(self, reason: str, wait_seconds: float) -> None:
        """The connection was cut; another is tried after `wait_seconds`."""
        ...


class Unobserved:
    """Tells nobody."""

    def on_bytes(self, done: int, total: int | None) -> None:
        """Does nothing."""

    def on_retry(self, reason: str, wait_seconds: float) -> None:
        """Does nothing."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a cut connection is tried again (ours).

    Attributes:
        attempts: in a row that bring no byte; one that brings some begins the count anew.
        first_wait_seconds: before the second attempt; it doubles up to a minute.
    """

    attempts: int = 5
    first_wait_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class _Source:
    """What a partial file is a part of. Bytes are only ever added from the same address, version and size."""

    url: str
    etag: str | None
    modified: str | None
    total: int | None

    @property
    def can_be_told(self) -> bool:
        """Whether a changed file could be distinguished from this one."""
        return self.etag is not None or self.modified is not None


class _CutError(Exception):
    """The connection was cut, refused or put off; another attempt may go on."""

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


def download(
    url: str,
    path: str,
    num_bytes: int | None = None,
    check: Callable[[str], None] | None = None,
    observer: DownloadObserver | None = None,
    retry: Retry | None = None,
) -> None:
    """Fetches `url` to `path`: into ``<path>.part`` first, which becomes `path` once all of it is there and right.

    A part left by an earlier run is completed by a ranged request where the server still has the same file (ETag or
    modification time, and size), and begun anew where it has another one, does not say, or knows no ranges.

    Args:
        num_bytes: the file's known size.
        check: raises for a complete file that is not the wanted one; the file is then deleted.

    Raises:
        UsageError: `url` is no HTTP address, names no file, or names one of another size; what was there stays.
        NetworkError: the network failed too often; the part is kept, and the next call goes on.
        StorageUnavailableError: the disk is full or refuses writes, or another process fetches the same file.
        ClipmillError: what `check` raised.
    """
    _check_url(url)
    observer, retry = observer or Unobserved(), retry or Retry()
    part = f"{path}.part"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with _opened(part) as file:
            _complete(url, file, part, num_bytes, observer, retry)
            os.fsync(file.fileno())
            if check is not None:
                _check_or_delete(check, part)
            os.replace(part, path)
            _forget(part)
    except OSError as error:
        raise _storage(path, error) from None


def _check_url(url: str) -> None:
    remedy = "give the address of the file"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(describe("url", url, "an http or https address", str(error), remedy)) from None
    if not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(describe("url", ascii(url), "letters, digits and signs", "others", "write them as %XX"))
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(describe("url", url, "an http or https address", parts.scheme or "no scheme", remedy))


@contextlib.contextmanager
def _opened(part: str) -> Iterator[IO[bytes]]:
    """Yields the part, opened at its end and locked: two processes would mix their bytes in it."""
    while True:
        file = open(part, "ab", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            got, remedy = "another process that fetches it", "wait for it, and run again"
            raise StorageUnavailableError(describe("file", part, "to be written by nobody else", got, remedy)) from None
        # Between opening and locking, the process that had it may have finished and renamed it.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == os.stat(part).st_ino:
                break
        file.close()
    try:
        yield file
    finally:
        if os.path.exists(part) and os.path.getsize(part) == 0:
            os.remove(part)
            _forget(part)
        file.close()


def _complete(
    url: str, file: IO[bytes], part: str, num_bytes: int | None, observer: DownloadObserver, retry: Retry
) -> None:
    failures, most = 0, file.tell()
    while True:
        try:
            if _attempt(url, file, part, num_bytes, observer):
                return
        except _CutError as error:
            failures = 1 if file.tell() > most else failures + 1
            most = max(most, file.tell())
            if failures >= retry.attempts:
                got = f"{error} ({failures} times in a row without a byte)" if failures > 1 else str(error)
                resume_hint = f"run again to go on after {file.tell():,} bytes" if file.tell() else "run again"
                remedy = f"{resume_hint}, or give another --url"
                raise NetworkError(describe("url", url, "the whole file", got, remedy)) from None
            wait = max(error.wait_seconds, retry.first_wait_seconds * 2 ** (failures - 1))
            observer.on_retry(str(error), min(wait, LONGEST_WAIT_SECONDS))
            time.sleep(min(wait, LONGEST_WAIT_SECONDS))


def _attempt(url: str, file: IO[bytes], part: str, num_bytes: int | None, observer: DownloadObserver) -> bool:
    """Adds what one connection brings; returns whether the file is complete (False: what was there is of no use)."""
    source = _remembered(part)
    if file.tell() and (source is None or source.url != url or not source.can_be_told):
        _begin_anew(file, part)
        source = None
    done = file.tell()
    if source is not None and source.total is not None and done >= source.total:
        if done == source.total:
            return True
        _begin_anew(file, part)
        done = 0
    response = _request(url, done)
    if response is None:
        _begin_anew(file, part)
        return False
    with response:
        found = _source(url, response, done)
        goes_on = response.status == http.client.PARTIAL_CONTENT
        if found is None or (goes_on and found != source):
            _begin_anew(file, part)
            return False
        total = _plausible(url, response, found.total, num_bytes)
        if not goes_on:
            _begin_anew(file, part)
        _remember(part, found)
        _room_for(file, part, total)
        _receive(response, file, total, observer)
    return True


def _request(url: str, done: int) -> http.client.HTTPResponse | None:
    """Returns the server's answer to a request for the file from byte `done`; None: it has no such byte."""
    headers = {"User-Agent": "clipmill", "Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS
        )
        return response
    except urllib.error.HTTPError as error:
        with error:
            if done and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                return None
            answer = f"HTTP {error.code} {error.reason}".strip()
            if error.code in TRANSIENT:
                after = error.headers.get("Retry-After") or ""
                raise _CutError(answer, float(after) if after.isdecimal() else 0.0) from None
        raise UsageError(describe("url", url, "a file", answer, "give --url of a mirror")) from None
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(_reason(error)) from None


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", None)
    cause = inner if isinstance(inner, Exception) else error
    message = getattr(cause, "strerror", None) or str(inner or error)
    return message.splitlines()[0] if message else type(cause).__name__


def _source(url: str, response: http.client.HTTPResponse, done: int) -> _Source | None:
    """Returns what the answer is a part of; None where it is another part than the one asked for."""
    headers = response.headers
    length = headers.get("Content-Length") or ""
    total = int(length) if length.isdecimal() else None
    if response.status == http.client.PARTIAL_CONTENT:
        match = CONTENT_RANGE.match(headers.get("Content-Range") or "")
        if match is None or int(match[1]) != done:
            return None
        total = None if match[2] == "*" else int(match[2])
    return _Source(url, headers.get("ETag"), headers.get("Last-Modified"), total)


def _plausible(url: str, response: http.client.HTTPResponse, total: int | None, num_bytes: int | None) -> int | None:
    """Returns the file's size where it is known, after making sure that this can be the file."""
    kind = response.headers.get_content_type()
    remedy = "fetch it by hand, or give --url of a mirror"
    if kind == "text/html":
        raise UsageError(describe("url", url, "the file itself", f"a web page ({kind})", remedy))
    if num_bytes is not None and total is not None and num_bytes != total:
        raise UsageError(describe("url", url, f"a file of {num_bytes:,} bytes", f"one of {total:,}", remedy))
    return num_bytes if total is None else total


def _room_for(file: IO[bytes], part: str, total: int | None) -> None:
    needed = (total or 0) - file.tell()
    free = shutil.disk_usage(os.path.dirname(part) or ".").free
    if needed > free:
        expected, got = f"{needed:,} bytes free", f"{free:,}"
        raise StorageUnavailableError(describe("folder", os.path.dirname(part) or ".", expected, got, "free some"))


def _receive(
    response: http.client.HTTPResponse, file: IO[bytes], total: int | None, observer: DownloadObserver
) -> None:
    observer.on_bytes(file.tell(), total)
    while True:
        try:
            chunk = response.read1(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(_reason(error)) from None
        if not chunk:
            break
        rest = memoryview(chunk)
        while rest:
            rest = rest[file.write(rest) :]
        observer.on_bytes(file.tell(), total)
    if total is not None and file.tell() < total:
        raise _CutError(f"the connection closed after {file.tell():,} of {total:,} bytes")


def _check_or_delete(check: Callable[[str], None], part: str) -> None:
    try:
        check(part)
    except ClipmillError:
        os.remove(part)
        _forget(part)
        raise


def _begin_anew(file: IO[bytes], part: str) -> None:
    _forget(part)
    file.truncate(0)
    file.seek(0)


def _remembered(part: str) -> _Source | None:
    try:
        with open(f"{part}.json", encoding="utf-8") as file:
            return _Source(**json.load(file))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _remember(part: str, source: _Source) -> None:
    with open(f"{part}.json", "w", encoding="utf-8") as file:
        json.dump(asdict(source), file)


def _forget(part: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(f"{part}.json")


def _storage(path: str, error: OSError) -> StorageUnavailableError:
    got, remedy = (
        error.strerror or str(error),
        "make room or choose another place, and run again: what is there is kept",
    )
    return StorageUnavailableError(describe("file", path, "to be written", got, remedy))
