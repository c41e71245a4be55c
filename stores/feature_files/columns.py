"""Tables as files of arrays: a column of lists is a matrix, one of numbers a vector, and a pattern takes several."""

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.schemas.arrays import Array
from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.feature_files.base import ArrayInfo, ids_of, not_numbers, number_info


class Chunks(Protocol):
    """A table that is stored in chunks of rows (row groups, record batches)."""

    schema: Any
    num_rows: Sequence[int]

    def read(self, chunk: int, columns: Sequence[str]) -> pa.Table:
        """Returns the columns of one chunk."""
        ...

    def close(self) -> None:
        """Gives the file back."""
        ...


class TableFile:
    """The columns of a table; only the chunks that rows lie in are read."""

    def __init__(self, path: str, chunks: Chunks) -> None:
        self._path = path
        self._chunks = chunks
        self._bounds = np.concatenate([[0], np.cumsum(np.asarray(chunks.num_rows, np.int64))])
        self._lengths: dict[str, int] = {}

    def names(self) -> Sequence[str]:
        """Returns the names of all columns."""
        return list(self._chunks.schema.names)

    def info(self, name: str) -> ArrayInfo:
        """Returns ``(N, D)`` of a column of lists or of several columns, ``(N,)`` of one of numbers."""
        num_rows = int(self._bounds[-1])
        columns = self._columns(name)
        kinds = [self._chunks.schema.field(column).type for column in columns]
        shape: tuple[int, ...] = (num_rows,)
        if "*" in name:
            shape = (num_rows, len(columns))
        elif _is_list(kinds[0]):
            shape = (num_rows, self._length(name, kinds[0]))
        types = [(kind.value_type if _is_list(kind) else kind).to_pandas_dtype() for kind in kinds]
        return number_info(self._path, name, shape, np.result_type(*types))

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> Array:
        """Returns rows of a column, or of all columns that a pattern takes."""
        shape = self.info(name).shape
        start, stop, _ = slice(start, stop).indices(shape[0])
        if start >= stop:
            return np.zeros((0, *shape[1:]), np.float32)
        first = int(np.searchsorted(self._bounds, start, side="right")) - 1
        last = int(np.searchsorted(self._bounds, stop, side="left"))
        columns = self._columns(name)
        parts = [self._array(self._chunks.read(chunk, columns), columns, name) for chunk in range(first, last)]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        offset = start - int(self._bounds[first])
        return np.array(values[offset : offset + stop - start])

    def texts(self, name: str) -> list[str]:
        """Returns a column as texts."""
        self._field(name)
        cells = [cell for chunk in range(len(self._chunks.num_rows)) for cell in self._column(chunk, name).to_pylist()]
        kinds = {type(cell) for cell in cells}
        if kinds - {str, int}:
            got = f"{cells.count(None)} null of {len(cells)}" if None in cells else str(self._field(name))
            expected = "ids: texts or whole numbers"
            raise FormatError(describe("file", f"{self._path} {name}", expected, got, "correct the column"))
        return ids_of(self._path, name, np.array([str(cell) for cell in cells], object))

    def close(self) -> None:
        """Closes the file."""
        self._chunks.close()

    def _columns(self, name: str) -> list[str]:
        """Returns the columns that `name`, which may be a pattern, stands for.

        Raises:
            KeyError: there is none.
            FormatError: one is none of numbers.
        """
        if "*" not in name:
            self._field(name)
            found = [name]
        else:
            found = [column for column in self._chunks.schema.names if fnmatchcase(column, name)]
            if not found:
                raise KeyError(name)
        for column in found:
            kind = self._field(column)
            if not _is_number(kind.value_type if _is_list(kind) and "*" not in name else kind):
                raise not_numbers(self._path, column, str(kind))
        return found

    def _field(self, name: str) -> Any:
        if name not in self._chunks.schema.names:
            raise KeyError(name)
        return self._chunks.schema.field(name).type

    def _column(self, chunk: int, name: str) -> Any:
        return self._chunks.read(chunk, [name]).column(name)

    def _length(self, name: str, kind: Any) -> int:
        """Returns how long the lists of a column are: all equally, or they are refused."""
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        if name not in self._lengths:
            lengths: Counter[int | None] = Counter()
            for chunk in range(len(self._chunks.num_rows)):
                lengths.update(pc.list_value_length(self._column(chunk, name)).to_pylist())
            if len(lengths) > 1 or None in lengths:
                counts = ", ".join(f"{count} of {length}" for length, count in lengths.most_common(3))
                expected = "lists of one length"
                remedy = "correct the column: a row of it is one row of the feature"
                raise FormatError(describe("file", f"{self._path} {name}", expected, counts, remedy))
            self._lengths[name] = next(iter(lengths), 0) or 0
        return self._lengths[name]

    def _array(self, table: pa.Table, columns: Sequence[str], name: str) -> Array:
        num_nulls = sum(table.column(column).null_count for column in columns)
        if num_nulls:
            expected = "a number in each cell"
            raise FormatError(describe("file", f"{self._path} {name}", expected, f"{num_nulls} null", "fill them"))
        if "*" in name:
            return np.stack([table.column(column).to_numpy() for column in columns], axis=1)
        column = table.column(name)
        if not _is_list(column.type):
            return np.asarray(column.to_numpy())
        flat = column.combine_chunks().flatten()
        if flat.null_count:
            expected = "a number in each place of its lists"
            raise FormatError(
                describe("file", f"{self._path} {name}", expected, f"{flat.null_count} null", "fill them")
            )
        return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(table.num_rows, -1)


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
