"""Reading rows of a Zarr array that `shards_zarr.encode` wrote: its index is read once, its chunks without detours.

Zarr's own reader fetches the index of a sharded object at every read and passes each chunk through its event loop: of
a random read of 64 rows that is nine tenths of the time. Chunks and checksums are those of the Zarr v3 specification
(sharding_indexed, bytes, zstd, crc32c); an array of any other make is left to Zarr.
"""

from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs.zstd import Zstd

from clipmill.schemas.arrays import Ints
from clipmill.stores.objects import Objects

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
            for run in _runs(self._offsets()[chunks]):
                self._read(chunks[run], found, start, stop)
        return found

    def _read(self, chunks: Ints, found: npt.NDArray[np.generic], start: int, stop: int) -> None:
        """Decodes chunks that lie one after the other in the object."""
        places = self._offsets()[chunks].astype(object)
        first, last = places[0, 0], places[-1, 0] + places[-1, 1]
        data = memoryview(b"") if first == _EMPTY else memoryview(self._objects.read(self._path, first, last))
        for chunk, (offset, length) in zip(chunks.tolist(), places, strict=True):
            top = chunk * self._chunk_rows
            rows = slice(max(start, top) - top, min(stop, top + self._chunk_rows) - top)
            target = found[top + rows.start - start : top + rows.stop - start]
            if offset == _EMPTY:
                target[...] = 0
                continue
            decoded = Zstd().decode(data[offset - first : offset - first + length])
            target[...] = np.frombuffer(decoded, self._dtype).reshape(self._chunk_rows, self._shape[1])[rows]


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


def _runs(places: npt.NDArray[np.uint64]) -> list[slice]:
    """Returns the runs of chunks that lie one after the other, given (offset, length) ``uint64[n, 2]``."""
    breaks = np.flatnonzero(places[:-1, 0] + places[:-1, 1] != places[1:, 0]) + 1
    edges = [0, *breaks.tolist(), len(places)]
    return [slice(left, right) for left, right in zip(edges, edges[1:], strict=False)]
