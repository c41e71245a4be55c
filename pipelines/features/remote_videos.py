"""Videos on servers: what is said of one without its bytes, its header from a few ranges, its bytes fetched once.

A server that has an ETag, a version or a time of an object is asked for that alone, so an unchanged video is not
fetched again. Of a new one planning fetches the ranges that hold its header; the worker fetches it whole, to decode it.
"""

import atexit
import base64
import binascii
import contextlib
import os
import re
import shutil
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import fsspec

from clipmill.pipelines.decode.inspection import InspectionLimits
from clipmill.pipelines.decode.probe import probe
from clipmill.schemas.errors import VideoError, describe
from clipmill.schemas.fingerprint import fingerprint
from clipmill.schemas.records import VideoHeader
from clipmill.schemas.secrets import masked
from clipmill.stores.storage_faults import RetriedCalls, fault_of, status_of

WHOLE_BYTES = 1 << 20
"""ours: what is no larger is fetched whole at once: ranges would be most of it."""

END_BYTES = 256 << 10
"""ours: of the beginning and of the end of a file, where containers have their headers."""

MEMORY_BYTES = 64 << 20
"""ours: a server that takes no notice of ranges sends all; of a larger file, reading ends where the range does."""

MAX_INDEX_BYTES = 64 << 20
"""ours: an MP4's ``moov`` that is larger than this is not fetched for its header alone."""

MAX_BOXES = 64
"""ours: boxes of an MP4 that are looked at on the way to its ``moov``."""

KEPT_BYTES = 4 << 30
"""ours: of the copies that planning had to fetch and that stay on this disk for the worker."""

CLOCK_STEP = timedelta(seconds=2)
"""ours: a time in whole seconds does not tell two writes of one second apart, so a fresh one is not trusted alone."""

_BOXES = frozenset(b"ftyp moov mdat free skip wide styp pnot uuid sidx".split())


@dataclass(frozen=True, slots=True)
class RemoteState:
    """What a server says of an object for as long as its bytes are the same.

    Attributes:
        token: a digest, an ETag, a version or a time.
        is_digest: `token` depends on the bytes alone, so it is the same for a copy elsewhere.
        has_ranges: False where the server says that it gives none.
    """

    num_bytes: int
    token: str
    is_digest: bool = False
    has_ranges: bool = True


def address_of(uri: str) -> str:
    """Returns `uri` without what signs or authorises it: two signed URLs of one object have one address."""
    if masked(uri) == uri:
        return uri
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def remote_state(uri: str, calls: RetriedCalls) -> RemoteState | None:
    """Returns what the server of `uri` says of it, in one request; None where it says nothing that tells bytes apart.

    Raises:
        VideoError: it cannot be reached, refuses, or nothing is there.
    """
    fs, path = _opened(uri)
    info: Mapping[str, Any] = _fetched(uri, calls, lambda: fs.info(path))
    if info.get("type") == "directory":
        raise VideoError("probe", "unreadable", describe("video", uri, "a file", "a folder", "give a video's URL"))
    num_bytes = info.get("size")
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
    state = state_of(info, "s3" in protocols) if isinstance(num_bytes, int) else None
    return replace(state, has_ranges=False) if state is not None and info.get("partial") is False else state


def state_of(info: Mapping[str, Any], is_s3: bool = False) -> RemoteState | None:
    """Returns the state of an object by what its driver says of it: s3fs, gcsfs, adlfs, HTTP, and those with a time."""
    num_bytes = int(info["size"])
    etag = str(info.get("ETag") or info.get("etag") or "").removeprefix("W/").strip('"')
    settings = info.get("content_settings") or {}
    encoded = info.get("md5Hash") or info.get("Content-MD5") or settings.get("content_md5")
    if is_s3 and re.fullmatch("[0-9a-f]{32}", etag):
        # Of an object put in one piece it is the MD5 of its bytes; encrypted by a key of KMS it is unique all the same.
        return RemoteState(num_bytes, f"md5={etag}", True)
    if encoded and (digest := _md5(encoded)) is not None:
        return RemoteState(num_bytes, f"md5={digest}", True)
    if etag:
        return RemoteState(num_bytes, f"etag={etag}")
    version = info.get("generation") or info.get("VersionId") or info.get("version_id")
    if version:
        return RemoteState(num_bytes, f"version={version}")
    names = ("Last-Modified", "LastModified", "last_modified", "mtime", "modified", "modify")
    modified = next((info[name] for name in names if info.get(name)), None)
    if modified is None or _is_fresh(modified):
        return None
    return RemoteState(num_bytes, f"modified={modified}")


def _md5(encoded: Any) -> str | None:
    try:
        data = bytes(encoded) if isinstance(encoded, bytes | bytearray) else base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data.hex() if len(data) == 16 else None


def _is_fresh(modified: Any) -> bool:
    try:
        if isinstance(modified, int | float):
            when = datetime.fromtimestamp(modified, UTC)
        else:
            when = modified if isinstance(modified, datetime) else parsedate_to_datetime(str(modified))
    except (ValueError, TypeError, OverflowError, OSError):
        return False
    return datetime.now(UTC) - (when if when.tzinfo else when.replace(tzinfo=UTC)) < CLOCK_STEP


def remote_fingerprint(uri: str, state: RemoteState, stream: str | None) -> str:
    """Returns what identifies a remote video whose bytes were not read: its state, with its address where needed."""
    said: dict[str, Any] = {"state": state.token, "num_bytes": state.num_bytes}
    content = fingerprint(said if state.is_digest else said | {"address": address_of(uri)})
    return content if stream is None else fingerprint({"content": content, "stream": stream})


@contextlib.contextmanager
def fetched_copy(uri: str, calls: RetriedCalls, keep: bool = False) -> Iterator[str]:
    """Yields a temporary file with the bytes of `uri`, deleted on leaving.

    Args:
        keep: leave it there for the next one who asks, in this process, instead.

    Raises:
        VideoError: it cannot be fetched.
    """
    kept = _kept.take(uri)
    folder = kept or tempfile.mkdtemp(prefix="clipmill-")
    is_kept = False
    try:
        path = os.path.join(folder, _name(uri))
        if kept is None:
            fs, remote = _opened(uri)
            _fetched(uri, calls, lambda: fs.get_file(remote, path))
        yield path
        is_kept = keep and _kept.put(uri, folder, os.stat(path).st_size)
    finally:
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def header_by_ranges(
    uri: str, state: RemoteState, stream: str | None, limits: InspectionLimits, calls: RetriedCalls
) -> VideoHeader | None:
    """Returns the header of a remote video from its first and last bytes, and an MP4's index wherever it lies.

    None where that does not do: the file is small, its header lies elsewhere, or the server gives no ranges.

    Raises:
        VideoError: it cannot be fetched.
        MachineFaultError: no child could be started to read it in.
    """
    if state.num_bytes <= WHOLE_BYTES or not state.has_ranges:
        return None
    fs, remote = _opened(uri)
    is_careful = state.num_bytes > MEMORY_BYTES and "http" in fs.protocol

    def read(start: int, stop: int) -> bytes:
        if not is_careful:
            return bytes(_fetched(uri, calls, lambda: fs.cat_file(remote, start=start, end=stop)))

        def part() -> bytes:
            with fs.open(remote, "rb", block_size=stop - start, cache_type="none", size=state.num_bytes) as file:
                file.seek(start)
                return bytes(file.read(stop - start))

        return bytes(_fetched(uri, calls, part))

    folder = tempfile.mkdtemp(prefix="clipmill-")
    is_kept = False
    try:
        path = os.path.join(folder, _name(uri))
        head = read(0, END_BYTES)
        if len(head) == state.num_bytes:
            # The server takes no notice of ranges: this is the whole file already.
            with open(path, "wb") as file:
                file.write(head)
            is_kept = _kept.put(uri, folder, len(head))
            return None
        parts = [(0, head), *_rest(head, state.num_bytes, read)]
        if any(not data for _, data in parts):
            return None
        with open(path, "wb") as file:
            file.truncate(state.num_bytes)
            for start, data in parts:
                file.seek(start)
                file.write(data)
        return probe(path, stream, limits)
    except VideoError as error:
        if error.reason in ("missing_file", "access_denied", "storage_unavailable"):
            raise
        return None
    finally:
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def _rest(head: bytes, num_bytes: int, read: Callable[[int, int], bytes]) -> Iterator[tuple[int, bytes]]:
    """Yields (start, bytes) of an MP4's ``moov`` that lies behind `head`, and of the end of the file."""
    tail = num_bytes - END_BYTES
    position = 0
    for _ in range(MAX_BOXES if head[4:8] in _BOXES else 0):
        known = position + 16 <= len(head)
        header = head[position : position + 16] if known else read(position, min(position + 16, num_bytes))
        if len(header) < 16:
            break
        size, name = struct.unpack(">I4s", header[:8])
        size = {0: num_bytes - position, 1: struct.unpack(">Q", header[8:])[0]}.get(size, size)
        if name == b"moov":
            stop = min(position + size, num_bytes)
            if stop > len(head) and position < tail and stop - position <= MAX_INDEX_BYTES:
                yield position, read(position, stop)
            break
        if size < 8 or name not in _BOXES:
            break
        position += size
    yield tail, read(tail, num_bytes)


class _KeptCopies:
    """Files of this process that were fetched before they were needed, each in a folder of its own."""

    def __init__(self) -> None:
        self._folders: dict[str, tuple[str, int]] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()
        atexit.register(self.clear)

    def put(self, uri: str, folder: str, num_bytes: int) -> bool:
        """Returns whether there is room for it."""
        with self._lock:
            if uri in self._folders or sum(size for _, size in self._folders.values()) + num_bytes > KEPT_BYTES:
                return False
            self._folders[uri] = folder, num_bytes
            return True

    def take(self, uri: str) -> str | None:
        with self._lock:
            return self._folders.pop(uri, (None, 0))[0]

    def clear(self) -> None:
        # What a process was forked from still needs them.
        if os.getpid() != self._process:
            return
        with self._lock:
            for folder, _ in self._folders.values():
                shutil.rmtree(folder, ignore_errors=True)
            self._folders.clear()


_kept = _KeptCopies()


def _name(uri: str) -> str:
    return "video" + os.path.splitext(urlsplit(uri).path)[1]


def _opened(uri: str) -> tuple[Any, str]:
    try:
        return fsspec.core.url_to_fs(uri, use_listings_cache=False)  # type: ignore[no-any-return]
    except Exception as error:  # an unknown protocol, a driver that is not installed, or one that wants credentials
        raise _fetch_error(uri, error) from None


def _fetched(uri: str, calls: RetriedCalls, call: Callable[[], Any]) -> Any:
    try:
        return calls(call)
    except Exception as error:
        raise _fetch_error(uri, error) from None


def _fetch_error(uri: str, error: Exception) -> VideoError:
    """Returns why a remote video could not be fetched.

    Every driver has errors of its own, and one for an unknown protocol or a package that is not installed.
    """
    fault = fault_of(error)
    status = status_of(error)
    got = f"HTTP {status}" if status is not None else (str(error).strip() or type(error).__name__).splitlines()[0]
    if fault == "absent":
        return VideoError(
            "probe", "missing_file", describe("video", uri, "an object", "nothing at that URL", "correct the URL")
        )
    if fault == "passing":
        remedy = "run the same command again when its server answers"
        return VideoError("probe", "storage_unavailable", describe("video", uri, "a server that answers", got, remedy))
    if fault == "credentials" or (fault == "refused" and _is_denied(error)):
        return VideoError(
            "probe",
            "access_denied",
            describe("video", uri, "access to its bytes", got, "set the credentials of its server"),
        )
    return VideoError(
        "probe", "unreadable", describe("video", uri, "readable bytes", got, "check access and run again")
    )


def _is_denied(error: Exception) -> bool:
    return isinstance(error, PermissionError) or status_of(error) in (401, 403)
