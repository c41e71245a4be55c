"""The rows of one feature of a store: `Feature`. What counts is decided by commits and the manifest, nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.schemas.arrays import Ints
from clipmill.schemas.errors import StoreError, UnknownNameError, nearest
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows, V, concatenate
from clipmill.stores.clip_means import add_means
from clipmill.stores.dask_rows import dask_rows
from clipmill.stores.objects import Objects
from clipmill.stores.row_frames import RowBatch, batches_of, frame_of
from clipmill.stores.shard_clips import ShardClips
from clipmill.stores.shard_formats import ShardCache
from clipmill.stores.shards import RowColumns, columns_at, slice_rows, take_values
from clipmill.stores.store import Store
from clipmill.stores.tables import numbers_of, repeated, take

if TYPE_CHECKING:
    import dask.array
    import pandas

T = TypeVar("T")

_SLAB_BYTES = 64 << 20
"""ours: most bytes of values that are read at a time to be reduced."""


@dataclass(frozen=True, slots=True)
class ClipRows:
    """One clip whose rows are stored. `clip` is its index within its video."""

    video_id: str
    clip: int
    start_seconds: float
    stop_seconds: float
    label: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Video id and index: what tells it from all other clips of the store."""
        return self.video_id, self.clip


class _Place(NamedTuple):
    shard: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class _Spans:
    """Where the rows of each video lie, in the order of `Feature.index`.

    Attributes:
        paths: of the shards.
        shards: ``int64[V]``, whose number each video's has among `paths`.
        starts, stops: ``int64[V]``, of its rows there.
    """

    paths: list[str]
    shards: Ints
    starts: Ints
    stops: Ints

    def place(self, number: int) -> _Place:
        return _Place(self.paths[self.shards.item(number)], self.starts.item(number), self.stops.item(number))


class Feature:
    """The rows of one recipe. Build it with ``FeatureStore(url)[name]``.

    A commit's rows count for a video when they were made from the bytes and the clips its newest manifest entry names.
    `index` and `dask` share one order (by shard, as stored); `video_ids` and `clips` are sorted by video id, so that
    they do not depend on how the work was cut.

    Attributes:
        recipe: everything that decided the values.
        dim: length of one row's values.
    """

    def __init__(self, store: Store, recipe: Recipe, manifest: Mapping[str, Video]) -> None:
        self._store = store
        self._manifest = manifest
        self._shards = ShardCache(store.objects)
        self._clip_runs: dict[str, ShardClips] = {}
        self.recipe = recipe
        self.dim = recipe.dim

    @cached_property
    def _committed(self) -> pa.Table:
        """Where the rows of each video lie: passports and clips are most of a commit, and are read when asked for."""
        return self._store.commits_in_force(self.recipe.fingerprint, self._manifest, ("row_stop",))

    @cached_property
    def _described(self) -> pa.Table:
        """The rows of `_committed`, whatever was committed since, with all columns.

        Raises:
            StoreError: their commits are gone.
        """
        table = self._store.commits(self.recipe.fingerprint)
        if not len(self):
            return table.slice(0, 0)
        rows = (
            numbers_of(pc.index_in(_keys(self._committed), value_set=_keys(table)))
            if table.num_rows
            else np.full(len(self), -1)
        )
        if (rows < 0).any():
            name = self._committed.column("video_id")[int(np.flatnonzero(rows < 0)[0])]
            raise StoreError(
                f"feature {self.recipe.name}: expected the commit of video {name} in store {self.url}, got none; "
                "it was there when the store was opened: open it again"
            )
        return table if np.array_equal(rows, np.arange(table.num_rows)) else take(table, rows)

    @cached_property
    def _index(self) -> pa.Table:
        table = self._described
        num_rows = pc.subtract(table.column("row_stop"), table.column("row_start"))
        first_row = pc.subtract(pc.cumulative_sum(num_rows), num_rows)
        labels = [self._manifest[video_id].label for video_id in table.column("video_id").to_pylist()]
        table = table.append_column("label", pa.array(labels, pa.string()))
        return table.append_column("num_rows", num_rows).append_column("first_row", first_row)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Where each video stands in the order of `index`."""
        return dict(zip(self._committed.column("video_id").to_pylist(), range(self._committed.num_rows), strict=True))

    @cached_property
    def _spans(self) -> _Spans:
        shards = self._committed.column("shard").combine_chunks().dictionary_encode()
        starts, stops = (numbers_of(self._committed.column(name)) for name in ("row_start", "row_stop"))
        return _Spans(shards.dictionary.to_pylist(), numbers_of(shards.indices), starts, stops)

    @cached_property
    def _sorted_ids(self) -> list[str]:
        return sorted(self._numbers)

    @property
    def video_ids(self) -> list[str]:
        """The ids of the videos that have rows (be they none, for a video too short), sorted."""
        return list(self._sorted_ids)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self._sorted_ids)

    def keys(self) -> list[str]:
        """Returns `video_ids`, so that ``dict(feature)`` is what it is of any mapping."""
        return self.video_ids

    def items(self) -> Iterator[tuple[str, Rows[np.float32]]]:
        """Yields the id and the rows of each video, in the order of ids; those of one video are read at a time."""
        for video_id in self._sorted_ids:
            yield video_id, self[video_id]

    def values(self) -> Iterator[Rows[np.float32]]:
        """Yields the rows of each video, in the order of ids."""
        for video_id in self._sorted_ids:
            yield self[video_id]

    @overload
    def get(self, video_id: str) -> Rows[np.float32] | None: ...
    @overload
    def get(self, video_id: str, default: T) -> Rows[np.float32] | T: ...
    def get(self, video_id: str, default: T | None = None) -> Rows[np.float32] | T | None:
        """Returns the video's rows, or `default` where it has none."""
        return self[video_id] if video_id in self._numbers else default

    def batches(self, num_rows: int) -> Iterator[RowBatch]:
        """Yields all rows, `num_rows` at a time, in the order of `index` and `dask`; the last batch may be shorter.

        Rows of one video may stand in two batches. Only the rows of one batch are held.

        Raises:
            ValueError: `num_rows` is not positive.
        """
        return batches_of(self, num_rows)

    def to_pandas(self, video_ids: Sequence[str] | None = None) -> "pandas.DataFrame":
        """Returns a row for each row, in the order of ids; see `clipmill.stores.row_frames.frame_of` for its columns.

        Args:
            video_ids: of these videos alone, in their order; all values are in memory at once.

        Raises:
            UsageError: pandas is not installed (extra ``[pandas]``).
            UnknownNameError: a video has no rows.
        """
        return frame_of(self, self.video_ids if video_ids is None else video_ids)

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._store.url

    def index(self) -> pa.Table:
        """Returns one row per video: the COMMITS columns with its passport, its `label`, `num_rows`, `first_row`.

        Rows stand in the order of `dask`; a video's rows there are ``[first_row, first_row + num_rows)``.
        """
        return self._index

    def __getitem__(self, video_id: str) -> Rows[np.float32]:
        """Returns the video's rows, ``values`` as ``float32[T, D]``.

        Raises:
            UnknownNameError: the video has no rows; a KeyError that names five near ids.
            StoreError: its shard is damaged.
        """
        return _as_float32(self.stored(video_id))

    def stored(self, video_id: str) -> Rows:
        """Returns the video's rows with ``values`` in the dtype they are stored in."""
        place = self._place(video_id)
        shard, columns = self._shards.opened(place.shard)
        return slice_rows(shard, place.start, place.stop, columns)

    def _place(self, video_id: str) -> _Place:
        number = self._numbers.get(video_id)
        if number is not None:
            return self._spans.place(number)
        if video_id in self._manifest:
            raise UnknownNameError(
                f"video {video_id}: expected rows of {self.recipe.key}, got none yet; "
                f"see clipmill status {self._store.url} (missing or quarantined), or run clipmill build"
            )
        raise UnknownNameError(
            f"video {video_id}: expected an id of store {self._store.url}, got none of its {len(self):,}; "
            f"{nearest(str(video_id), self.video_ids)}"
        )

    def clips(self) -> list[ClipRows]:
        """Returns the clips of all videos, by video id and index, without reading a shard.

        A clip's label is its own annotation's, else its video's, both from the newest manifest.
        """
        columns = zip(*(self._described.column(name).to_pylist() for name in ("video_id", "clips")), strict=True)
        found = []
        for video_id, clips in sorted(columns, key=lambda item: item[0]):
            video = self._manifest[video_id]
            labels = self._labels(video, clips)
            for index, (clip, label) in enumerate(zip(clips, labels, strict=True)):
                start, stop = clip["start_seconds"], clip["stop_seconds"]
                found.append(ClipRows(video_id, index, start, stop, label if label is not None else video.label))
        return found

    def _labels(self, video: Video, clips: Sequence[Mapping[str, Any]]) -> list[str | None]:
        # Labels are not part of the fingerprint: a corrected one must show without a rebuild. Of clips that are no
        # annotations the commit has the label that the video had then.
        if self.recipe.clips.from_ != "annotations":
            return [video.label for _ in clips]
        if len(clips) == len(video.segments):
            return [segment.label for segment in video.segments]
        return [clip["label"] for clip in clips]

    def clip_rows(self, video_id: str, clip: int) -> Rows[np.float32]:
        """Returns the rows of one clip, ``values`` as ``float32[T, D]``; only the chunks they lie in are read.

        Raises:
            StoreError: the video has no rows, or no clip of that index.
        """
        place = self._place(video_id)
        rows = self._clips_of(place.shard).rows(place.start, place.stop, clip)
        if isinstance(rows, slice):
            if rows.start == rows.stop:
                self._check_clip(video_id, clip)
            shard, columns = self._shards.opened(place.shard)
            return _as_float32(slice_rows(shard, rows.start, rows.stop, columns))
        return self._at(place.shard, rows)

    def _check_clip(self, video_id: str, clip: int) -> None:
        num_clips = len(self._described.column("clips")[self._numbers[video_id]])
        if not 0 <= clip < num_clips:
            raise StoreError(
                f"clip {clip} of video {video_id}: expected 0 to {num_clips - 1}, got {clip}; see Feature.clips()"
            )

    def take(self, rows: Ints) -> Rows[np.float32]:
        """Returns the rows at the positions `rows` ``int64[n]``, in that order, ``values`` as ``float32[n, D]``.

        Positions are those of `index` and `dask`. Rows that lie near each other are read together, others not at all.

        Raises:
            IndexError: there is no row at one of them.
        """
        parts = self._placed(rows)
        if len(parts) == 1:
            return self._at(*parts[0][:2])
        read = [self._at(shard, within) for shard, within, _ in parts]
        if not read:
            return self._none()
        return _take(concatenate(read), np.argsort(np.concatenate([at for _, _, at in parts])))

    def mask(self, rows: Ints) -> npt.NDArray[np.bool_]:
        """Returns ``bool[n]``, whether the rows at the positions `rows` count; no values are read."""
        found = np.zeros(len(rows), np.bool_)
        for shard, within, at in self._placed(rows):
            found[at] = self._shards.columns(shard).mask[within]
        return found

    def _placed(self, rows: Ints) -> list[tuple[str, Ints, Ints]]:
        """Returns, by shard, its path, rows there ``int64[m]``, and which of `rows` these are."""
        rows = np.asarray(rows, np.int64)
        first_row, spans = self._first_rows, self._spans
        if len(rows) and not (0 <= rows.min() and rows.max() < first_row[-1]):
            got = f"{rows.min()} to {rows.max()}"
            raise IndexError(f"rows of {self.recipe.key}: expected 0 to {first_row[-1] - 1}, got {got}")
        video = np.searchsorted(first_row, rows, side="right") - 1
        within, owners = rows - first_row[video] + spans.starts[video], spans.shards[video]
        numbers = np.unique(owners).tolist()
        if len(numbers) == 1:
            return [(spans.paths[numbers[0]], within, np.arange(len(rows)))]
        found = [(number, np.flatnonzero(owners == number)) for number in numbers]
        return [(spans.paths[number], within[at], at) for number, at in found]

    @cached_property
    def _first_rows(self) -> Ints:
        """First row of each video in the order of `index`, and the number of rows."""
        spans = self._spans
        return np.concatenate([[0], np.cumsum(spans.stops - spans.starts)]).astype(np.int64)

    def _none(self) -> Rows[np.float32]:
        empty = np.zeros(0)
        values = np.zeros((0, self.dim), np.float32)
        return Rows(values, empty.astype(np.int32), empty, empty.copy(), empty.astype(np.bool_))

    def _at(self, shard: str, rows: Ints) -> Rows[np.float32]:
        columns = columns_at(self._shards.columns(shard), rows)
        values = self.shard_values(shard, rows)
        return Rows(values, columns.clip, columns.start_seconds, columns.stop_seconds, columns.mask, columns.extras)

    def shard_values(self, shard: str, rows: Ints) -> npt.NDArray[np.float32]:
        """Returns ``float32[n, D]``, the values of the rows `rows` ``int64[n]`` of the shard at the path `shard`."""
        return take_values(self._shards.shard(shard), rows).astype(np.float32, copy=False)

    def _clips_of(self, shard: str) -> ShardClips:
        if shard not in self._clip_runs:
            starts = self._video_starts.get(shard, np.zeros(0, np.int64))
            self._clip_runs[shard] = ShardClips.of(self._shards.columns(shard).clip, starts)
        return self._clip_runs[shard]

    @cached_property
    def _video_starts(self) -> dict[str, Ints]:
        spans = self._spans
        return {path: np.unique(spans.starts[spans.shards == number]) for number, path in enumerate(spans.paths)}

    def clip_positions(self, clips: Sequence[ClipRows]) -> list[Ints]:
        """Returns the positions (of `index` and `take`) of all rows of each clip, whatever their mask, ascending.

        Raises:
            StoreError: a clip's video has no rows, or no clip of that index.
        """
        first_row = dict(
            zip(*(self._index.column(name).to_pylist() for name in ("video_id", "first_row")), strict=True)
        )
        found = []
        for clip in clips:
            place = self._place(clip.video_id)
            rows = self._clips_of(place.shard).rows(place.start, place.stop, clip.clip)
            if isinstance(rows, slice):
                if rows.start == rows.stop:
                    self._check_clip(clip.video_id, clip.clip)
                rows = np.arange(rows.start, rows.stop)
            found.append(rows + (first_row[clip.video_id] - place.start))
        return found

    def reopened(self) -> "Feature":
        """Returns the same feature over storage opened anew: for a process that was forked from one that read it."""
        again = copy(self)
        again._store = Store(Objects(self._store.url), self._store.format, self._store.dataset)
        again._shards = ShardCache(again._store.objects)
        return again

    def shard_rows(self, clips: Sequence[ClipRows]) -> Iterator[tuple[str, RowColumns, list[tuple[int, Ints]]]]:
        """Yields, shard by shard, which rows each of `clips` has there, without reading values.

        Yields:
            The shard's path, its narrow columns, and (position in `clips`, rows of the shard ``int64[n]`` whose mask
            is set, ascending) of each clip that has any, by its first row.

        Raises:
            StoreError: a clip's video has no rows, or no clip of that index.
        """
        by_shard: dict[str, list[int]] = {}
        for number, clip in enumerate(clips):
            by_shard.setdefault(self._place(clip.video_id).shard, []).append(number)
        for shard, numbers in sorted(by_shard.items()):
            columns, runs = self._shards.columns(shard), self._clips_of(shard)
            found = []
            for number in numbers:
                clip = clips[number]
                place = self._place(clip.video_id)
                rows = runs.rows(place.start, place.stop, clip.clip)
                if isinstance(rows, slice):
                    rows = np.arange(rows.start, rows.stop)
                rows = rows[columns.mask[rows]]
                if rows.size:
                    found.append((number, rows))
                else:
                    self._check_clip(clip.video_id, clip.clip)
            yield shard, columns, sorted(found, key=lambda item: int(item[1][0]))

    def clip_means(self, clips: Sequence[ClipRows]) -> npt.NDArray[np.float32]:
        """Returns ``float32[n, D]``: the mean over each clip's rows whose mask is set; NaN where it has none.

        Sums run in float64 in row order, shard by shard in bounded memory, whatever the order of `clips`.
        """
        means = np.full((len(clips), self.dim), np.nan, dtype=np.float32)
        for shard, _, wanted in self.shard_rows(clips):
            add_means(self._shards.shard(shard), wanted, self.slab_rows, means)
        return means

    @property
    def slab_rows(self) -> int:
        """How many rows are read at a time, at most, where rows are reduced."""
        return max(1, _SLAB_BYTES // max(1, self.dim * np.dtype(self.recipe.dtype).itemsize))

    def dask(self) -> "dask.array.Array":
        """Returns ``float32[N, D]``, lazy, in blocks of a shard's rows or at most 32 MiB, in the order of `index`."""
        spans: dict[str, list[tuple[int, int]]] = {}
        for place in map(self._spans.place, range(len(self))):
            if place.stop > place.start:
                spans.setdefault(place.shard, []).append((place.start, place.stop))
        return dask_rows(self._store.objects.absolute_url, spans, self.dim)


def _keys(commits: pa.Table) -> pa.ChunkedArray:
    """Returns what tells the rows of commits apart: a shard's path, and a video's id."""
    return pc.binary_join_element_wise(commits.column("shard"), commits.column("video_id"), repeated("\n", 1)[0])


def _as_float32(rows: Rows) -> Rows[np.float32]:
    values = rows.values.astype(np.float32, copy=False)
    return Rows(values, rows.clip, rows.start_seconds, rows.stop_seconds, rows.mask, rows.extras)


def _take(rows: Rows[V], chosen: npt.NDArray[np.int64]) -> Rows[V]:
    return Rows(
        rows.values[chosen],
        rows.clip[chosen],
        rows.start_seconds[chosen],
        rows.stop_seconds[chosen],
        rows.mask[chosen],
        {name: column[chosen] for name, column in rows.extras.items()},
    )
