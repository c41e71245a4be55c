"""Reading rows of a Zarr array that `shards_zarr.encode` wrote: its index is read once, its chunks without detours.

Zarr's own reader fetches the index of a sharded object at every read and passes each chunk through its event loop: of
a random read of 64 rows that is nine tenths of the time. Chunks and checksums are those of the Zarr v3 specification
(sharding_indexed, bytes, zstd, crc32c); an array of any other make is left to Zarr.
"""

from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs.zstd import Zstd

from clipmill.schemas.arrays import Ints
from clipmill.stores.objects import Objects
from clipmill.stores.zarr_loop import end_at_exit

end_at_exit()

CHUNK_BYTES = 1 << 18
"""ours: what one row costs to read and decompress; smaller ones take longer to write and compress no worse."""

_GAP_BYTES = 1 << 20
"""ours: a request to an object store takes about as long as so many bytes of it."""

_READ_BYTES = 16 << 20
"""ours: what is held of a shard at most while single rows are picked out of it."""

_CRC_BYTES = 4
_EMPTY = np.iinfo(np.uint64).max
"""Offset of a chunk that was not written: it holds the fill value, 0."""


class ChunkReader:
    """The rows of one array, whose only object is at `path`.

    Args:
        chunk_rows: rows of a chunk.
    """

    def __init__(
        self, objects: Objects, path: str, shape: tuple[int, int], dtype: npt.DTypeLike, chunk_rows: int
    ) -> None:
        self._objects, self._path = objects, path
        self._shape, self._dtype, self._chunk_rows = shape, np.dtype(dtype), chunk_rows
        self._index: npt.NDArray[np.uint64] | None = None
        self._zstd = Zstd()

    def _offsets(self) -> npt.NDArray[np.uint64]:
        # Two threads that read it at once read the same.
        if self._index is None:
            num_chunks = -(-self._shape[0] // self._chunk_rows)
            data = self._objects.read(self._path, -(16 * num_chunks + _CRC_BYTES))
            content, checksum = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
            if len(content) != 16 * num_chunks or google_crc32c.value(content).to_bytes(4, "little") != checksum:
                raise ValueError("an index whose checksum is another")
            self._index = np.frombuffer(content, "<u8").reshape(num_chunks, 2)
        return self._index

    def values(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Returns rows ``[start, stop)``, writable.

        Raises:
            FileNotFoundError: the object is gone.
            OSError, ValueError, RuntimeError: it is damaged.
        """
        start = min(max(0, start), self._shape[0])
        stop = max(start, min(stop, self._shape[0]))
        found = np.empty((stop - start, self._shape[1]), self._dtype)
        if stop > start:
            chunks = np.arange(start // self._chunk_rows, -(-stop // self._chunk_rows))
            for chunk, data in self._compressed(chunks):
                top = chunk * self._chunk_rows
                first, last = max(start, top), min(stop, top + self._chunk_rows)
                target = found[first - start : last - start]
                target[...] = 0 if data is None else self._decoded(data)[first - top : last - top]
        return found

    def take(self, rows: Ints) -> npt.NDArray[np.generic]:
        """Returns the values of the rows `rows` ``int64[n]``, ``[n, D]``, in that order; each chunk is decoded once.

        Chunks of which less than a mebibyte lies between them come with one read.

        Raises:
            IndexError: there is no row at one of them.
            FileNotFoundError, OSError, ValueError, RuntimeError: as `values`.
        """
        found = np.empty((len(rows), self._shape[1]), self._dtype)
        if not len(rows):
            return found
        order = np.argsort(rows, kind="stable")
        ordered = np.asarray(rows)[order]
        if not 0 <= ordered[0] <= ordered[-1] < self._shape[0]:
            raise IndexError(f"rows {ordered[0]} to {ordered[-1]} of {self._shape[0]}")
        chunks, starts = np.unique(ordered // self._chunk_rows, return_index=True)
        bounds = [*starts.tolist(), len(rows)]
        for number, (chunk, data) in enumerate(self._compressed(chunks, picked=True)):
            at = slice(bounds[number], bounds[number + 1])
            within = ordered[at] - chunk * self._chunk_rows
            found[order[at]] = 0 if data is None else self._decoded(data)[within]
        return found

    def _decoded(self, data: memoryview) -> npt.NDArray[np.generic]:
        return np.frombuffer(self._zstd.decode(data), self._dtype).reshape(self._chunk_rows, self._shape[1])

    def _compressed(self, chunks: Ints, picked: bool = False) -> Iterator[tuple[int, memoryview | None]]:
        """Yields each of `chunks`, ascending, with its bytes; None where it was not written.

        Args:
            picked: chunks that lie near each other are read at once, in bounded memory; otherwise what lies together.
        """
        places = self._offsets()[chunks]
        for run in _runs(places, *((_GAP_BYTES, _READ_BYTES) if picked else (0, None))):
            # Of Python: in unsigned arithmetic of 64 bits the mark of a missing chunk is a place like any other.
            offsets = [(int(offset), int(length)) for offset, length in places[run]]
            first, last = offsets[0][0], sum(offsets[-1])
            data = memoryview(b"") if first == _EMPTY else memoryview(self._objects.read(self._path, first, last))
            for chunk, (offset, length) in zip(chunks[run].tolist(), offsets, strict=True):
                yield chunk, None if offset == _EMPTY else data[offset - first : offset - first + length]


def chunk_reader(objects: Objects, path: str, array: "zarr.Array[Any]") -> ChunkReader | None:
    """Returns a reader of `array` ``[N, D]``, whose folder is `path`; None where it is not as `encode` writes it."""
    metadata = array.metadata.to_dict()
    codecs: Any = metadata.get("codecs")
    if len(array.shape) != 2 or not all(array.shape) or not isinstance(codecs, list | tuple) or len(codecs) != 1:
        return None
    names = [codec["name"] for codec in (codecs[0], *codecs[0].get("configuration", {}).get("codecs", ()))]
    settings = codecs[0].get("configuration", {})
    inner = settings.get("chunk_shape", ())
    grid: Any = metadata["chunk_grid"]
    whole = grid["configuration"]["chunk_shape"] if grid["name"] == "regular" else (0, 0)
    is_ours = (
        names == ["sharding_indexed", "bytes", "zstd"]
        and [codec["name"] for codec in settings["index_codecs"]] == ["bytes", "crc32c"]
        and settings.get("index_location", "end") == "end"
        and array.dtype.byteorder in "=|<"
        and tuple(inner)[1:] == (array.shape[1],)
        and whole[0] == -(-array.shape[0] // inner[0]) * inner[0]
        and whole[1] == array.shape[1]
        and array.fill_value == 0
    )
    if not is_ours:
        return None
    return ChunkReader(objects, f"{path}/c/0/0", (array.shape[0], array.shape[1]), array.dtype, int(inner[0]))


def _runs(places: npt.NDArray[np.uint64], most_gap: int, most_bytes: int | None) -> list[slice]:
    """Returns the runs of chunks that are read at once, given (offset, length) ``uint64[n, 2]`` of each, in order."""
    gaps = places[1:, 0].astype(np.int64) - (places[:-1, 0] + places[:-1, 1]).astype(np.int64)
    missing = places[:, 0] == _EMPTY
    apart = (gaps < 0) | (gaps > most_gap) | missing[:-1] | missing[1:]
    if most_bytes is not None:
        apart |= np.diff(places[:, 0] // most_bytes) != 0
    edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(places)]
    return [slice(left, right) for left, right in zip(edges, edges[1:], strict=False)]
