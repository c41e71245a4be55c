"""What a shard is to its readers, whichever format holds it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Ints
from clipmill.schemas.errors import StoreError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.rows import Rows
from clipmill.schemas.tables import STANDARD_ROW_COLUMNS
from clipmill.stores.objects import Objects

CHUNK_BYTES = 1 << 20
"""ours: what one random read of a shard fetches and decompresses at most, plus one row."""

_SPAN_CHUNKS = 16
"""ours: chunks that are held at a time where single rows are picked out of them."""

ZSTD_LEVEL = 1
"""ours: on features of networks higher levels gain a few per cent of size for several times the time."""

Span = tuple[str, int, int]
"""A video's rows in a shard: id, row_start, row_stop."""


@dataclass(frozen=True, slots=True)
class RowColumns:
    """The narrow columns of a shard: all of `Rows` but the values."""

    clip: npt.NDArray[np.int32]
    start_seconds: npt.NDArray[np.float64]
    stop_seconds: npt.NDArray[np.float64]
    mask: npt.NDArray[np.bool_]
    extras: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)


class Shard(Protocol):
    """One shard, opened for reading. Safe to use from several threads."""

    num_rows: int

    def values(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Returns ``[stop - start, D]``, writable, in the stored dtype; reads only the chunks that overlap."""
        ...

    def columns(self) -> RowColumns:
        """Returns the narrow columns of every row."""
        ...

    def videos(self) -> list[Span]:
        """Returns whose rows these are, as the shard itself says."""
        ...


@runtime_checkable
class TakesRows(Protocol):
    """What a shard has besides where single rows cost no more than spans of them."""

    def take(self, rows: Ints) -> npt.NDArray[np.generic] | None:
        """Returns the values of the rows `rows` ``int64[n]``, ``[n, D]``, writable; None: read spans instead."""
        ...


@dataclass(frozen=True, slots=True)
class ShardFormat:
    """How rows become the objects of a shard, and shards are opened.

    Attributes:
        name: what ``store.format`` says, and the suffix of every shard: letters, digits and ``_``.
        encode: returns the objects of a shard given its rows and whose they are, as name to bytes, in the order they
            are to be written: names below the shard's path, or ``""`` for the path itself. The same rows must give the
            same bytes, whoever writes them.
        open: returns the shard at a path, or raises StoreError (see `damaged`).
        last_object: the name of the object written last: while it is missing the shard is not whole.

    Raises:
        ValueError: `name` cannot be a suffix.
    """

    name: str
    encode: Callable[[Rows, Sequence[Span]], Mapping[str, bytes]]
    open: Callable[[Objects, str], Shard]
    last_object: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.name):
            raise ValueError(f"shard format {self.name!r}: expected letters, digits and _ in its name")


def chunk_rows(row_bytes: int, num_rows: int, chunk_bytes: int | None = None) -> int:
    """Returns how many rows of `row_bytes` one chunk holds: of `CHUNK_BYTES`, or of `chunk_bytes`."""
    return max(1, min(num_rows, (CHUNK_BYTES if chunk_bytes is None else chunk_bytes) // max(1, row_bytes)))


def damaged(path: str, got: str) -> StoreError:
    """Returns the error for a shard that is not what its commit says."""
    return StoreError(
        describe(
            "shard",
            path,
            "the rows its commit names",
            got,
            "delete that shard's commit and build again (see clipmill verify)",
        )
    )


def checked_rows(recipe: Recipe, rows: Rows, videos: Sequence[Span]) -> Rows:
    """Returns `rows` as they are stored: the recipe's shape, little-endian columns.

    Raises:
        ValueError: they are not what the recipe says, or `videos` leaves rows out.
    """
    num_rows = len(rows)
    values = rows.values if num_rows else rows.values.reshape(0, recipe.dim).astype(recipe.dtype, copy=False)
    if values.shape != (num_rows, recipe.dim) or values.dtype.name != recipe.dtype:
        raise ValueError(
            f"rows of {recipe.key}: expected {recipe.dtype}[{num_rows}, {recipe.dim}], "
            f"got {values.dtype}{list(values.shape)}"
        )
    position = 0
    for name, start, stop in videos:
        if start != position or stop < start:
            raise ValueError(f"rows of {recipe.key}: expected video {name!r} to start at row {position}, got {start}")
        position = stop
    if position != num_rows:
        raise ValueError(f"rows of {recipe.key}: expected spans over {num_rows} rows, got {position}")
    columns = {name: getattr(rows, name) for name in STANDARD_ROW_COLUMNS if name != "values"}
    for name, column in (columns | dict(rows.extras)).items():
        if column.shape != (num_rows,) or name in rows.extras and name in (*STANDARD_ROW_COLUMNS, "video_id"):
            raise ValueError(f"rows of {recipe.key}: expected a further column {name}[{num_rows}], got {column.shape}")
    return Rows(
        values=values,
        clip=rows.clip.astype("<i4", copy=False),
        start_seconds=rows.start_seconds.astype("<f8", copy=False),
        stop_seconds=rows.stop_seconds.astype("<f8", copy=False),
        mask=rows.mask.astype(bool, copy=False),
        extras=rows.extras,
    )


def slice_rows(shard: Shard, start: int, stop: int, columns: RowColumns) -> Rows:
    """Returns rows ``[start, stop)`` of `shard`, given its `columns`."""
    span = slice(start, stop)
    # Copies: what a caller changes in place must not change what the cached columns say.
    return Rows(
        values=shard.values(start, stop),
        clip=columns.clip[span].copy(),
        start_seconds=columns.start_seconds[span].copy(),
        stop_seconds=columns.stop_seconds[span].copy(),
        mask=columns.mask[span].copy(),
        extras={name: column[span].copy() for name, column in columns.extras.items()},
    )


def take_values(shard: Shard, rows: Ints) -> npt.NDArray[np.generic]:
    """Returns the values of the rows `rows` ``int64[n]`` of `shard`, ``[n, D]`` in the stored dtype, in that order.

    Rows less than a chunk apart are read as one span, so that no chunk is decompressed twice and no request is made
    for what the one before brought along.
    """
    if isinstance(shard, TakesRows) and (taken := shard.take(rows)) is not None:
        return taken
    if not len(rows):
        return shard.values(0, 0)
    wanted, back = np.unique(rows, return_inverse=True)
    if wanted[-1] - wanted[0] + 1 == len(rows) and (back[:-1] < back[1:]).all():
        return shard.values(int(wanted[0]), int(wanted[-1]) + 1)
    probe = shard.values(int(wanted[0]), int(wanted[0]) + 1)
    most = chunk_rows(probe.nbytes, shard.num_rows)
    # Spans are cut, for many rows that lie near each other may stretch over a whole shard.
    piece = wanted // (_SPAN_CHUNKS * most)
    breaks = np.flatnonzero((np.diff(wanted) > most) | (np.diff(piece) > 0)) + 1
    edges = [0, *breaks.tolist(), len(wanted)]
    found = np.empty((len(wanted), probe.shape[1]), probe.dtype)
    for left, right in zip(edges, edges[1:], strict=False):
        first = int(wanted[left])
        found[left:right] = shard.values(first, int(wanted[right - 1]) + 1)[wanted[left:right] - first]
    return found[back]


def columns_at(columns: RowColumns, rows: Ints) -> RowColumns:
    """Returns the narrow columns of the rows `rows` ``int64[n]``."""
    extras = {name: column[rows] for name, column in columns.extras.items()}
    return RowColumns(
        columns.clip[rows], columns.start_seconds[rows], columns.stop_seconds[rows], columns.mask[rows], extras
    )
