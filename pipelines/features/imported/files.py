"""Arrays of opened files, each item's rows of them in the shape of rows."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clipmill.pipelines.features.imported.names import filled
from clipmill.schemas.arrays import Array
from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.feature_files.base import FeatureFile, no_array
from clipmill.stores.feature_files.registry import open_feature_file

_OPENED_FILES = 8
"""ours: files held open at a time."""
_DENSE = 4
"""ours: rows of a batch are read in one go where at most so many times as many lie between the first and the last."""


@dataclass(frozen=True, slots=True)
class Place:
    """Rows of one item in one array.

    Attributes:
        file: path.
        cells: of the line of the manifest, from which the names of arrays follow.
        rows: their positions; None: all.
        length: rows that the whole array has.
        is_own: whether the array belongs to this item alone.
    """

    file: str
    cells: Mapping[str, str]
    rows: tuple[int, ...] | None
    length: int
    is_own: bool

    @property
    def num_rows(self) -> int:
        """How many rows."""
        return self.length if self.rows is None else len(self.rows)


Key = tuple[str, str]
"""A file's path, and the name of an array in it."""


def row_shape(shape: tuple[int, ...], is_own: bool, is_transposed: bool) -> tuple[int, int] | None:
    """Returns ``(T, D)``, rows and their length, of an array of that shape; None where it is no matrix of rows.

    A vector is one row of the item whose own it is, else a column of rows of one number. Of more than two axes those
    of length 1 are dropped: ``[T, 1, 1, D]``, and where the array is an item's own ``[1, T, D]``.
    """
    if is_transposed:
        shape = shape[::-1]
    if len(shape) == 1:
        return (1, shape[0]) if is_own else (shape[0], 1)
    while is_own and len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    rest = [side for side in shape[1:] if side != 1]
    if len(shape) < 2 or len(rest) > 1:
        return None
    return shape[0], rest[0] if rest else 1


class SourceFiles:
    """The files of one feature, opened as they are asked for. Use it as a context manager.

    Args:
        format: of the files; None: by their suffixes.
        is_transposed: arrays of rows are ``[D, T]``.
    """

    def __init__(self, format: str | None, is_transposed: bool) -> None:
        self._format = format
        self._is_transposed = is_transposed
        self._opened: OrderedDict[str, FeatureFile] = OrderedDict()
        self._last: tuple[Key, Array] = (("", ""), np.zeros(0))

    def __enter__(self) -> "SourceFiles":
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._opened.values():
            file.close()
        self._opened.clear()

    def file(self, path: str) -> FeatureFile:
        """Returns the file at `path`.

        Raises:
            FormatError: there is none, or it is of another format.
        """
        if path not in self._opened:
            self._opened[path] = open_feature_file(path, self._format)
            while len(self._opened) > _OPENED_FILES:
                self._opened.popitem(last=False)[1].close()
        self._opened.move_to_end(path)
        return self._opened[path]

    def rows(self, places: Sequence[Sequence[Place]], dataset: str | None) -> list[Array]:
        """Returns ``[T, D]`` of each item's places, one place after the other, in the dtype of the file.

        Args:
            dataset: template of the array's name; None: the only one of the file.

        Raises:
            FormatError: an array has gone, or cannot be read.
        """
        blocks: dict[Key, tuple[int, Array]] = {}
        for key, positions in self._shared(places, dataset).items():
            first, last = min(positions), max(positions) + 1
            if last - first <= _DENSE * len(positions):
                blocks[key] = first, self._read(key, first, last)
        found = []
        for of_item in places:
            parts = []
            for place in of_item:
                key = (place.file, self.name(place, dataset))
                if place.is_own:
                    whole = self._read_own(key)
                    parts.append(whole if place.rows is None else whole[np.array(place.rows)])
                elif key in blocks:
                    first, block = blocks[key]
                    parts.append(block[np.array(place.rows) - first])
                else:
                    parts += [self._read(key, row, row + 1) for row in place.rows or ()]
            found.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
        self._last = (("", ""), np.zeros(0))
        return found

    def columns(self, places: Sequence[Sequence[Place]], dataset: str) -> list[Array]:
        """Returns ``[T]`` of each item's places: one number for each of its rows.

        Raises:
            FormatError: there is no such array, or it has another length.
        """
        kept: tuple[Key, Array] = (("", ""), np.zeros(0))
        found = []
        for of_item in places:
            parts = []
            for place in of_item:
                key = (place.file, self.name(place, dataset))
                if kept[0] != key:
                    kept = key, self._column(key, place.length)
                parts.append(kept[1] if place.rows is None else kept[1][np.array(place.rows)])
            found.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
        return found

    def _column(self, key: Key, length: int) -> Array:
        file = self.file(key[0])
        try:
            values = file.read(key[1])
        except KeyError:
            raise no_array(*key, file.names()) from None
        if values.size != length:
            expected = f"a number for each of {length} rows"
            raise FormatError(
                describe("file", " ".join(key).strip(), expected, str(list(values.shape)), "name another dataset")
            )
        return values.reshape(-1)

    def name(self, place: Place, dataset: str | None) -> str:
        """Returns the name of the array in the place's file."""
        return (filled(dataset, place.cells) or "") if dataset is not None else self.only_name(place.file, ())

    def only_name(self, path: str, others: Sequence[str]) -> str:
        """Returns the name of the only array of a file, `others` aside.

        Raises:
            FormatError: there are several, or none.
        """
        names = [name for name in self.file(path).names() if name not in others]
        if len(names) != 1:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            remedy = "say which, such as dataset: NAME or dataset: '{id}'"
            raise FormatError(describe("file", path, "one array", f"{len(names)} ({shown})", remedy))
        return names[0]

    def _shared(self, places: Sequence[Sequence[Place]], dataset: str | None) -> dict[Key, list[int]]:
        found: dict[Key, list[int]] = {}
        for of_item in places:
            for place in of_item:
                if not place.is_own:
                    found.setdefault((place.file, self.name(place, dataset)), []).extend(place.rows or ())
        return found

    def _read_own(self, key: Key) -> Array:
        # The lines of one item follow one another: its array is read once for all of them.
        if self._last[0] != key:
            self._last = key, self._read(key, None, None, is_own=True)
        return self._last[1]

    def _read(self, key: Key, start: int | None, stop: int | None, is_own: bool = False) -> Array:
        """Returns rows of an array as ``[T, D]``."""
        file = self.file(key[0])
        try:
            values = file.read(key[1]).T[start:stop] if self._is_transposed else file.read(key[1], start, stop)
        except KeyError:
            raise no_array(*key, file.names()) from None
        shape = row_shape(values.shape, is_own, False)
        if shape is None:
            got = str(list(values.shape))
            raise FormatError(describe("file", " ".join(key).strip(), "a matrix of rows", got, "correct it"))
        return values.reshape(shape)
