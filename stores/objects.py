"""Objects under one root of any fsspec file system: whole-object atomic writes, range reads, listing."""

import contextlib
import errno
import io
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, TypeVar, cast

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from clipmill.schemas.errors import ClipmillError, StorageUnavailableError, StoreError, describe
from clipmill.schemas.extras import driver_of
from clipmill.stores.storage_faults import RetriedCalls, Retries, fault_of

TEMPORARY_SUFFIX = ".tmp"
_NUM_REMOTE_THREADS = 16
_NUM_LOCAL_THREADS = 4
"""ours: many hide the latency of an object store; on a local disk more than a few only wait for one another."""

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object: its path relative to the root, its size, when it was last written (Unix seconds, if known)."""

    path: str
    num_bytes: int
    modified_seconds: float | None


@dataclass(slots=True)
class Calls:
    """Storage calls made so far. Listings and deletions count as writes, as object stores bill them."""

    num_reads: int = 0
    num_writes: int = 0
    num_bytes_written: int = 0

    def since(self, before: "Calls") -> "Calls":
        """Returns those made after `before`."""
        return Calls(
            self.num_reads - before.num_reads,
            self.num_writes - before.num_writes,
            self.num_bytes_written - before.num_bytes_written,
        )


class Objects:
    """The objects under `url`. Paths are relative to it, with ``/``.

    A write is one atomic object: on a local disk a temporary file beside it, synced and moved into place; elsewhere one
    put, which object stores make visible whole or not at all.

    A call that fails for a reason that may pass (a connection refused or reset, a server that is busy or down) is made
    again as `retries` says. What then still fails is a StorageUnavailableError; missing credentials are a StoreError.

    Args:
        url: a path or any fsspec URL.
        retries: of the calls; those that had to be made again are counted in ``num_retries``.

    Attributes:
        calls: how many there were, by kind, and how much they wrote.

    Raises:
        StoreError: the URL's protocol is unknown, or its driver is not installed.
    """

    def __init__(self, url: str, retries: Retries = Retries()) -> None:  # noqa: B008 (a frozen record)
        self.url = url
        self._retried = RetriedCalls(retries)
        self.calls = Calls()
        try:
            # Listings are never cached: other workers write to the same store.
            self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise StoreError(
                describe(
                    "store",
                    url,
                    "a path or a URL fsspec can open",
                    _first_line(error),
                    f"{driver_of(url)} or correct the URL",
                )
            ) from None
        self._root = self._root.rstrip("/") or "/"
        self.is_local = isinstance(self._fs, LocalFileSystem)

    @property
    def absolute_url(self) -> str:
        """`url` from any working directory, as workers of a cluster have one of their own."""
        return self._root if self.is_local else self.url

    @property
    def num_retries(self) -> int:
        """Calls that were made again so far."""
        return self._retried.num_retries

    def _call(self, what: str, call: Callable[[], T]) -> T:
        """Returns what `call` returns, tried again while its fault may pass.

        Raises:
            FileNotFoundError: nothing is there.
            StorageUnavailableError: storage refuses or does not answer.
            StoreError: there are no credentials for it.
        """
        try:
            return self._retried(call)
        except Exception as error:
            fault = fault_of(error)
            if fault is None:
                raise
            if fault == "absent":
                raise FileNotFoundError(errno.ENOENT, "no such object", what) from None
            raise storage_error(self.url, what, error) from None

    def full(self, path: str) -> str:
        """Returns `path` as the file system knows it."""
        return f"{self._root.rstrip('/')}/{path}" if path else self._root

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Writes one whole object; whoever reads meanwhile sees the old one, the new one or none, never a part.

        Raises:
            StorageUnavailableError: storage is read-only, full, unreachable or refuses access.
        """
        target = self.full(path)
        self.calls.num_writes += 1
        self.calls.num_bytes_written += memoryview(data).nbytes
        if self.is_local:
            try:
                self._retried(lambda: _write_local(target, data))
            except OSError as error:
                # A parent that is a file or has gone away is no missing object.
                raise storage_error(self.url, f"cannot write {path}", error) from None
            return
        whole = bytes(data)
        try:
            self._call(f"cannot write {path}", lambda: self._fs.pipe_file(target, whole))
        except FileNotFoundError:
            raise storage_error(self.url, f"cannot write {path}", OSError(errno.ENOENT, "no such bucket")) from None

    def read(self, path: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Returns the bytes ``[start, stop)`` of an object; a negative `start` counts from its end.

        Raises:
            FileNotFoundError: there is no such object.
            StorageUnavailableError: storage cannot be read.
        """
        target = self.full(path)
        self.calls.num_reads += 1
        return self._call(f"cannot read {path}", lambda: cast(bytes, self._fs.cat_file(target, start=start, end=stop)))

    def each(self, function: Callable[[T], U], items: Iterable[T]) -> list[U]:
        """Returns `function` of every item, in order, from a pool of threads: for functions that read objects."""
        items = list(items)
        if len(items) <= 1:
            return [function(item) for item in items]
        most = _NUM_LOCAL_THREADS if self.is_local else _NUM_REMOTE_THREADS
        with ThreadPoolExecutor(min(most, len(items))) as pool:
            return list(pool.map(function, items))

    def open(self, path: str) -> BinaryIO:
        """Returns a seekable reader that fetches only what is asked of it."""
        target = self.full(path)
        if self.is_local:
            return self._call(f"cannot read {path}", lambda: open(target, "rb"))
        num_bytes = self._call(f"cannot read {path}", lambda: int(self._fs.info(target)["size"]))
        return cast(BinaryIO, _RangeReader(self, path, num_bytes))

    def open_for_arrow(self, path: str) -> "pa.NativeFile | BinaryIO":
        """Returns a seekable reader for Arrow, which reads ahead in threads of its own.

        A local file is opened by Arrow itself: bytes of Python's that one of those threads lets go of while the
        interpreter ends abort the process.

        Raises:
            FileNotFoundError: there is no such object.
            StorageUnavailableError: storage cannot be read.
        """
        if not self.is_local:
            return self.open(path)
        target = self.full(path)
        try:
            return pa.OSFile(target, "rb")
        except OSError as error:
            if not os.path.isfile(target):
                raise FileNotFoundError(errno.ENOENT, "no such object", path) from None
            raise storage_error(self.url, f"cannot read {path}", error) from None

    def exists(self, path: str) -> bool:
        """Returns whether there is an object (not a folder) at `path`."""
        return self.kind(path) == "file"

    def kind(self, path: str = "") -> str | None:
        """Returns ``file``, ``directory`` or None for what lies at `path`."""
        target = self.full(path)
        self.calls.num_reads += 1
        try:
            return self._call(f"cannot read {path or self.url}", lambda: cast(str, self._fs.info(target)["type"]))
        except FileNotFoundError:
            return None

    def names(self, folder: str = "") -> list[str]:
        """Returns the sorted names directly in `folder`, hidden ones (temporary files) left out."""
        found: list[str] = self._listed(folder, lambda: self._fs.ls(self.full(folder), detail=False))
        names = {str(path).rstrip("/").rpartition("/")[2] for path in found}
        return sorted(name for name in names if not name.startswith("."))

    def entries(self, folder: str = "", with_hidden: bool = False) -> list[StoredObject]:
        """Returns the objects directly in `folder`, sorted by path, hidden ones (temporary files) left out or not."""
        found: list[dict[str, Any]] = self._listed(folder, lambda: self._fs.ls(self.full(folder), detail=True))
        objects = [self._object(info["name"], info) for info in found if info["type"] == "file"]
        shown = objects if with_hidden else [item for item in objects if not _is_hidden(item.path)]
        return sorted(shown, key=lambda item: item.path)

    def find(self, folder: str = "") -> list[StoredObject]:
        """Returns every object below `folder`, sorted by path, temporary files included."""
        found: Mapping[str, Mapping[str, Any]] = dict(
            self._listed(folder, lambda: list(self._fs.find(self.full(folder), detail=True).items()))
        )
        return sorted((self._object(path, info) for path, info in found.items()), key=lambda item: item.path)

    def _listed(self, folder: str, call: Callable[[], list[T]]) -> list[T]:
        self.calls.num_writes += 1
        try:
            return self._call(f"cannot list {folder or self.url}", call)
        except FileNotFoundError:
            return []

    def _object(self, path: str, info: Mapping[str, Any]) -> StoredObject:
        skip = len(self._root.rstrip("/")) + 1
        return StoredObject(path[skip:], int(info.get("size") or 0), _modified(info))

    def delete(self, path: str) -> None:
        """Deletes one object; deleting what is not there is no error. Local folders it leaves empty go too."""
        target = self.full(path)
        self.calls.num_writes += 1
        try:
            self._call(f"cannot delete {path}", lambda: self._fs.rm_file(target))
        except FileNotFoundError:
            return
        if self.is_local:
            with contextlib.suppress(OSError):
                folder = os.path.dirname(target)
                while folder != self._root:
                    os.rmdir(folder)
                    folder = os.path.dirname(folder)

    def check_writable(self) -> None:
        """Raises StorageUnavailableError where a local root can be known, without writing, to refuse writes."""
        if self.is_local and not os.access(self._root, os.W_OK | os.X_OK):
            error = OSError(errno.EACCES, "no write access")
            raise storage_error(self.url, "cannot write", error)


class _RangeReader(io.RawIOBase):
    """A seekable file over an object elsewhere: each read is one request for its range."""

    def __init__(self, objects: Objects, path: str, num_bytes: int) -> None:
        self._objects = objects
        self._path = path
        self._num_bytes = num_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._num_bytes}[whence]
        self._position = max(0, begin + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = self._num_bytes - self._position
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted <= 0:
            return b""
        data = self._objects.read(self._path, self._position, self._position + wanted)
        self._position += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _is_hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")


def is_temporary(name: str) -> bool:
    """Returns whether `name` is that of a write that has not (or never) finished."""
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def storage_error(url: str, what: str, error: BaseException, thing: str = "store") -> ClipmillError:
    """Returns the one-line error for an error of the storage under `url`, which is a `thing`.

    That is a StoreError (exit 2) where credentials are missing, else a StorageUnavailableError (exit 4).
    """
    number = error.errno if isinstance(error, OSError) else None
    reason = (error.strerror if isinstance(error, OSError) and error.strerror else _first_line(error)).lower()
    got = f"{what}: {reason}"
    if fault_of(error) == "credentials":
        remedy = "set the credentials its driver reads (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        return StoreError(describe(thing, url, "credentials for the storage", got, remedy))
    remedies = {
        errno.ENOSPC: "free some space and run the same command again; what is committed stands",
        errno.EDQUOT: "free some space and run the same command again; what is committed stands",
        errno.EROFS: "make it writable or choose another store url",
        errno.EACCES: "make it writable or choose another store url",
        errno.EPERM: "make it writable or choose another store url",
    }
    remedy = remedies.get(number or 0, "run the same command again when storage answers; what is committed stands")
    return StorageUnavailableError(describe(thing, url, "storage that answers", got, remedy))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _write_local(target: str, data: bytes | memoryview) -> None:
    folder, name = os.path.split(target)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            # A commit must not outlive, over a power cut, the shard it speaks of.
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _modified(info: Mapping[str, Any]) -> float | None:
    for key in ("mtime", "LastModified", "last_modified", "updated", "modified", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
