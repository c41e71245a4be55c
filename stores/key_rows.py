"""Rows of an Arrow table found by the values of some of their columns, at 16 bytes a row beside the table itself.

A `dict` or `set` of tuples of strings takes ten times the memory of the table it was made of.
"""

from collections.abc import Container, Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.schemas.arrays import Ints

_CHUNK_ROWS = 1 << 16
"""ours: rows whose columns are Python's at a time."""

Key = tuple[Hashable, ...]


class KeyRows:
    """Finds the rows of `table` by the values in `columns`: the last one, where several have the same.

    Args:
        table: may have other columns too.
    """

    def __init__(self, table: pa.Table, columns: Sequence[str]) -> None:
        self.table = table
        self._columns = table.select(list(columns))
        hashes = np.empty(table.num_rows, np.int64)
        for start in range(0, table.num_rows, _CHUNK_ROWS):
            found = _hashes(self._keys(self._columns.slice(start, _CHUNK_ROWS)))
            hashes[start : start + len(found)] = found
        self._order: Ints = np.argsort(hashes, kind="stable")
        self._hashes: Ints = hashes[self._order]

    @staticmethod
    def _keys(table: pa.Table) -> Iterator[Key]:
        return zip(*(column.to_pylist() for column in table.columns), strict=True)

    def keys(self) -> Iterator[Key]:
        """Yields the key of every row, in order."""
        for start in range(0, self.table.num_rows, _CHUNK_ROWS):
            yield from self._keys(self._columns.slice(start, _CHUNK_ROWS))

    def rows(self, keys: Sequence[Key]) -> Ints:
        """Returns ``int64[n]``, the row of each of `keys`; -1 where there is none."""
        found = np.full(len(keys), -1, np.int64)
        for start in range(0, len(keys), _CHUNK_ROWS):
            part = keys[start : start + _CHUNK_ROWS]
            found[start : start + len(part)] = self._rows(part)
        return found

    def _rows(self, keys: Sequence[Key]) -> Ints:
        wanted = _hashes(keys)
        found = np.full(len(keys), -1, np.int64)
        place = np.searchsorted(self._hashes, wanted, side="right") - 1
        open_ = np.flatnonzero(place >= 0)
        open_ = open_[self._hashes[place[open_]] == wanted[open_]]
        # A hash says where to look; whether it is there, the values say.
        while open_.size:
            rows = self._order[place[open_]]
            # (`pa.array` would import pandas.)
            there = self._columns.take(pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)]))
            same = np.array([key == keys[at] for key, at in zip(self._keys(there), open_, strict=True)], np.bool_)
            found[open_[same]] = rows[same]
            open_ = open_[~same]
            place[open_] -= 1
            open_ = open_[place[open_] >= 0]
            open_ = open_[self._hashes[place[open_]] == wanted[open_]]
        return found


class KeySet(Container[Any]):
    """The keys of a table as a set, of which many are looked up at a time: `holds`."""

    def __init__(self, table: pa.Table, columns: Sequence[str]) -> None:
        self._rows = KeyRows(table.select(list(columns)), columns)

    def holds(self, keys: Sequence[Key]) -> npt.NDArray[np.bool_]:
        """Returns ``bool[n]``, whether each of `keys` is in the set."""
        return self._rows.rows(keys) >= 0

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and bool(self.holds([key])[0])

    def keys(self) -> Iterator[Any]:
        """Yields every key, as often as the table has it."""
        return self._rows.keys()


def _hashes(keys: Iterable[Key]) -> Ints:
    return np.fromiter((hash(key) for key in keys), np.int64)
