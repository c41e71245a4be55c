"""Zarr v3 shards: a group with one array per column, each array one sharded object."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.abc.store import Store as ZarrStore
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import MemoryStore

from clipmill.schemas.arrays import Ints
from clipmill.schemas.rows import Rows
from clipmill.schemas.tables import FORMAT_VERSION, STANDARD_ROW_COLUMNS
from clipmill.stores.objects import Objects
from clipmill.stores.shards import ZSTD_LEVEL, RowColumns, ShardFormat, Span, chunk_rows, damaged
from clipmill.stores.zarr_chunks import CHUNK_BYTES, chunk_reader

GROUP_OBJECT = "zarr.json"


def encode(rows: Rows, videos: Sequence[Span]) -> dict[str, bytes]:
    """Returns the objects of a shard, name to bytes, the group's own object last. The same rows give the same bytes."""
    written: dict[str, Buffer] = {}
    attributes = {"clipmill": FORMAT_VERSION, "videos": [[name, int(start), int(stop)] for name, start, stop in videos]}
    group = zarr.create_group(MemoryStore(written), attributes=attributes)
    for name in STANDARD_ROW_COLUMNS:
        _add(group, name, getattr(rows, name))
    for name, column in sorted(rows.extras.items()):
        _add(group, name, column)
    objects = {name: written[name].to_bytes() for name in sorted(written)}
    objects[GROUP_OBJECT] = objects.pop(GROUP_OBJECT)
    return objects


def _add(group: zarr.Group, name: str, column: npt.NDArray[np.generic]) -> None:
    num_rows, rest = column.shape[0], column.shape[1:]
    inner = chunk_rows(column.itemsize * int(np.prod(rest)), num_rows, CHUNK_BYTES)
    array = group.create_array(
        name,
        shape=column.shape,
        dtype=column.dtype,
        chunks=(inner, *rest),
        # One object holds the array however long it is. A shard of chunks must be a whole number of them.
        shards=(-(-num_rows // inner) * inner, *rest) if num_rows else None,
        compressors=[ZstdCodec(level=ZSTD_LEVEL, checksum=True)],
        fill_value=column.dtype.type(0),
        # Rows of zeros are stored as well: a missing object is then always damage, never data.
        config={"write_empty_chunks": True},
    )
    if num_rows:
        array[...] = column


class ZarrShard:
    """A shard written by `encode`.

    Raises:
        StoreError: it is gone or damaged.
    """

    def __init__(self, objects: Objects, path: str) -> None:
        self._path = path
        try:
            self._group = zarr.open_group(ObjectsStore(objects, path), mode="r", zarr_format=3)
            self._values = self._array("values")
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise damaged(path, f"no readable Zarr group ({type(error).__name__})") from None
        self.num_rows = int(self._values.shape[0])
        self._chunks = chunk_reader(objects, f"{path}/values", self._values)

    def _array(self, name: str) -> "zarr.Array[Any]":
        array = self._group[name]
        if not isinstance(array, zarr.Array):
            raise KeyError(name)
        return array

    def _read(self, name: str, array: "zarr.Array[Any]", start: int, stop: int) -> npt.NDArray[np.generic]:
        try:
            return np.asarray(array[start:stop])
        except (OSError, ValueError, RuntimeError) as error:
            raise damaged(self._path, f"{name} that cannot be read ({type(error).__name__}: {error})") from None

    def values(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Returns ``[stop - start, D]`` in the stored dtype."""
        if self._chunks is None:
            return self._read("values", self._values, start, stop)
        try:
            return self._chunks.values(start, stop)
        except (OSError, ValueError, RuntimeError) as error:
            raise damaged(self._path, f"values that cannot be read ({type(error).__name__}: {error})") from None

    def take(self, rows: Ints) -> npt.NDArray[np.generic] | None:
        """Returns the values of the rows `rows` ``int64[n]``, ``[n, D]``; None: read spans by Zarr."""
        if self._chunks is None:
            return None
        try:
            return self._chunks.take(rows)
        except (OSError, ValueError, RuntimeError) as error:
            raise damaged(self._path, f"values that cannot be read ({type(error).__name__}: {error})") from None

    def columns(self) -> RowColumns:
        """Returns the narrow columns of every row."""
        try:
            found = {name: self._array(name) for name in sorted(self._group.array_keys())}
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise damaged(self._path, f"columns that cannot be opened ({type(error).__name__})") from None
        data = {name: self._read(name, array, 0, self.num_rows) for name, array in found.items() if name != "values"}
        standard: Any = {name: data.pop(name) for name in STANDARD_ROW_COLUMNS if name != "values"}
        return RowColumns(**standard, extras=data)

    def videos(self) -> list[Span]:
        """Returns whose rows these are, as the shard itself says."""
        spans: Any = self._group.attrs["videos"]
        return [(str(name), int(start), int(stop)) for name, start, stop in spans]


class ObjectsStore(ZarrStore):
    """Read-only Zarr access to the objects below `path`: so every file system is read, and fails, alike."""

    def __init__(self, objects: Objects, path: str) -> None:
        super().__init__(read_only=True)
        self._objects = objects
        self._path = path

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ObjectsStore):
            return False
        return (self._objects.url, self._path) == (other._objects.url, other._path)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Returns the bytes of `key`; None only where metadata is missing: a missing chunk is damage."""
        start, stop = _bounds(byte_range)
        try:
            data = await asyncio.to_thread(self._objects.read, f"{self._path}/{key}", start, stop)
        except FileNotFoundError:
            if key.endswith(GROUP_OBJECT):
                return None
            raise
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Returns several ranges, in order."""
        return list(await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Returns whether there is an object `key`."""
        return await asyncio.to_thread(self._objects.exists, f"{self._path}/{key}")

    @property
    def supports_writes(self) -> bool:
        """False: shards are written whole, by `encode`."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """False."""
        return False

    @property
    def supports_listing(self) -> bool:
        """True."""
        return True

    async def set(self, key: str, value: Buffer) -> None:
        """Refuses."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refuses."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """Yields the name of every object."""
        async for name in self.list_prefix(""):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yields the name of every object that begins with `prefix`."""
        for item in await asyncio.to_thread(self._objects.find, self._path):
            name = item.path.removeprefix(f"{self._path}/")
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yields the names directly below `prefix`."""
        for name in await asyncio.to_thread(self._objects.names, f"{self._path}/{prefix}".rstrip("/")):
            yield name


FORMAT = ShardFormat("zarr", encode, ZarrShard, GROUP_OBJECT)


def _bounds(wanted: ByteRequest | None) -> tuple[int | None, int | None]:
    if isinstance(wanted, RangeByteRequest):
        return wanted.start, wanted.end
    if isinstance(wanted, OffsetByteRequest):
        return wanted.offset, None
    if isinstance(wanted, SuffixByteRequest):
        return -wanted.suffix, None
    return None, None
