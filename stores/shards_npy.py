"""Uncompressed shards: one ``.npy`` file per column, memory-mapped where the store is a local folder.

A read is then a copy of the rows and nothing else. Nothing checks the bytes on the way, as the checksums of the other
formats do: ``clipmill verify`` does.
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.schemas.rows import Rows
from clipmill.schemas.tables import FORMAT_VERSION, STANDARD_ROW_COLUMNS
from clipmill.stores.objects import Objects
from clipmill.stores.shards import RowColumns, ShardFormat, Span, damaged

ABOUT = "shard.json"
VIDEOS = b', "videos": ['
"""What `encode` writes before the videos, and within no name: there a quote has a backslash before it."""


def encode(rows: Rows, videos: Sequence[Span]) -> Mapping[str, bytes]:
    """Returns the objects of a shard, name to bytes, the one that describes it last. Same rows, same bytes."""
    columns = {name: getattr(rows, name) for name in STANDARD_ROW_COLUMNS} | dict(rows.extras)
    objects, described = {}, {}
    for name, column in sorted(columns.items()):
        file = io.BytesIO()
        np.lib.format.write_array(file, np.ascontiguousarray(column), version=(1, 0), allow_pickle=False)
        objects[f"{name}.npy"] = file.getvalue()
        offset = len(objects[f"{name}.npy"]) - column.nbytes
        described[name] = {"dtype": column.dtype.str, "shape": list(column.shape), "offset": offset}
    spans = [[name, int(start), int(stop)] for name, start, stop in videos]
    about = {"clipmill": FORMAT_VERSION, "columns": described, "videos": spans}
    objects[ABOUT] = json.dumps(about, ensure_ascii=False, sort_keys=True).encode()
    return objects


class NpyShard:
    """A shard written by `encode`.

    Raises:
        StoreError: it is gone or damaged.
    """

    def __init__(self, objects: Objects, path: str) -> None:
        self._objects, self._path = objects, path
        try:
            # Keys are sorted: whose rows these are comes last, and is read when it is asked for.
            columns, _, self._videos = objects.read(f"{path}/{ABOUT}").partition(VIDEOS)
            if not self._videos.endswith(b"]}"):
                raise damaged(path, f"a {ABOUT} that cannot be read")
            self._columns: dict[str, dict[str, Any]] = json.loads(columns + b"}")["columns"]
            self.num_rows, self._dim = map(int, self._columns["values"]["shape"])
        except FileNotFoundError:
            raise damaged(path, f"no {ABOUT}") from None
        except (ValueError, KeyError, TypeError):
            raise damaged(path, f"a {ABOUT} that cannot be read") from None
        self._dtype = np.dtype(self._columns["values"]["dtype"])
        self._mapped = self._map() if objects.is_local and self.num_rows and self._dim else None

    def _map(self) -> npt.NDArray[np.generic]:
        path = self._objects.full(f"{self._path}/values.npy")
        try:
            mapped = np.memmap(path, self._dtype, "r", self._columns["values"]["offset"], (self.num_rows, self._dim))
        except (OSError, ValueError) as error:
            got = "no values.npy" if not os.path.isfile(path) else f"a values.npy cut short ({type(error).__name__})"
            raise damaged(self._path, got) from None
        # A plain array over the same pages: slices of a memmap are made by a slow class.
        return np.asarray(mapped)

    def values(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Returns ``[stop - start, D]`` in the stored dtype."""
        if self._mapped is not None:
            return self._mapped[max(0, start) : stop].copy()
        start, stop = max(0, start), min(stop, self.num_rows)
        return self._read("values", start, max(start, stop))

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.generic] | None:
        """Returns the values of the rows `rows` ``int64[n]``, ``[n, D]``; None where the shard is not mapped."""
        return None if self._mapped is None else self._mapped[rows]

    def _read(self, name: str, start: int, stop: int) -> npt.NDArray[np.generic]:
        about = self._columns[name]
        dtype, rest = np.dtype(about["dtype"]), about["shape"][1:]
        row_bytes = dtype.itemsize * int(np.prod(rest))
        data = b""
        if stop > start and row_bytes:
            first = about["offset"] + start * row_bytes
            try:
                data = self._objects.read(f"{self._path}/{name}.npy", first, first + (stop - start) * row_bytes)
            except FileNotFoundError:
                raise damaged(self._path, f"no {name}.npy") from None
        if len(data) != (stop - start) * row_bytes:
            raise damaged(self._path, f"a {name}.npy cut short")
        # A copy: bytes are read-only.
        return np.frombuffer(data, dtype).reshape(stop - start, *rest).copy()

    def columns(self) -> RowColumns:
        """Returns the narrow columns of every row."""
        data = {name: self._read(name, 0, self.num_rows) for name in self._columns if name != "values"}
        try:
            standard: Any = {name: data.pop(name) for name in STANDARD_ROW_COLUMNS if name != "values"}
        except KeyError as error:
            raise damaged(self._path, f"no column {error}") from None
        return RowColumns(**standard, extras=data)

    def videos(self) -> list[Span]:
        """Returns whose rows these are, as the shard itself says."""
        try:
            spans = json.loads(b"[" + self._videos[:-1])
            return [(str(name), int(start), int(stop)) for name, start, stop in spans]
        except (ValueError, TypeError):
            raise damaged(self._path, f"a {ABOUT} that cannot be read") from None


FORMAT = ShardFormat("npy", encode, NpyShard, ABOUT)
