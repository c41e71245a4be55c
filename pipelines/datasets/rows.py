"""What each kind of input reads of a stored feature's clips."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from clipmill.schemas.arrays import Array, Bools, Floats, Ints, Singles
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import Bag, Input, InputRows, Tokens, Vector
from clipmill.schemas.inputs import Sequence as SequenceInput
from clipmill.stores import ClipRows, Feature
from clipmill.stores.shards import RowColumns

ClipKey = tuple[str, int]
"""Video id and index of a clip."""


@dataclass(frozen=True, slots=True, eq=False)
class ItemRows:
    """The rows of the clips that have any: `rows` has them in the order of `clips`."""

    clips: Mapping[ClipKey, ClipRows]
    rows: InputRows

    def of(self, keys: Sequence[ClipKey]) -> InputRows:
        """Returns the rows of the clips `keys`, in that order."""
        positions = {key: position for position, key in enumerate(self.clips)}
        return self.rows.take(np.array([positions[key] for key in keys], np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class _Chosen:
    """What is read of one clip.

    Attributes:
        place: where its first row goes.
        rows: ``int64[n]`` of the shard, in the order they are read.
        edges: ``int64[S + 1]``: step i of S is the mean of ``rows[edges[i] : edges[i + 1]]``; None: each row is one.
    """

    place: int
    rows: Ints
    edges: Ints | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.edges is None else len(self.edges) - 1

    def pieces(self, most: int) -> Iterator["_Chosen"]:
        """Yields parts that read at most `most` rows each, or one step where that has more."""
        if len(self.rows) <= most:
            yield self
            return
        edges = np.arange(len(self.rows) + 1) if self.edges is None else self.edges
        first = 0
        while first < len(edges) - 1:
            last = max(first + 1, int(np.searchsorted(edges, edges[first] + most, side="right")) - 1)
            rows = self.rows[edges[first] : edges[last]]
            inner = None if self.edges is None else edges[first : last + 1] - edges[first]
            yield _Chosen(self.place + first, rows, inner)
            first = last


def read_rows(feature: Feature, kind: Input, video_ids: Collection[str] | None = None) -> ItemRows:
    """Returns what an input of the given kind reads of every clip that has a row whose mask is set.

    Which rows those are is decided by the narrow columns; of the values only what is used is read, shard by shard, in
    slabs of bounded size, rows that lie near each other together.

    Args:
        video_ids: videos whose clips are read; None: all.

    Raises:
        UsageError: the feature lacks a column that the input chooses by, or a row that was read is not finite.
    """
    if isinstance(kind, Tokens):
        raise ValueError("tokens are read from texts, not from a feature")
    clips = [clip for clip in feature.clips() if video_ids is None or clip.video_id in video_ids]
    if kind == Vector("mean"):
        return _means(feature, clips)
    shards = list(_chosen_by_shard(feature, clips, kind))
    lengths = np.zeros(len(clips), np.int64)
    for _, _, chosen in shards:
        for number, rows in chosen:
            lengths[number] = len(rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = np.empty((offsets[-1], feature.dim), np.float32)
    start_seconds, stop_seconds = np.empty(offsets[-1]), np.empty(offsets[-1])
    for shard, columns, chosen in shards:
        placed = [replace(rows, place=int(offsets[number])) for number, rows in chosen]
        for rows in placed:
            span = slice(rows.place, rows.place + len(rows))
            start_seconds[span], stop_seconds[span] = _times(columns, rows)
        _read_values(feature, shard, placed, values)
    kept = np.flatnonzero(lengths)
    whole = _finite_rows(values, feature.slab_rows)
    if not whole.all():
        wrong = np.searchsorted(offsets, np.flatnonzero(~whole), side="right") - 1
        _refuse(feature, [clips[number] for number in np.unique(wrong).tolist()])
    return ItemRows(
        {clips[number].key: clips[number] for number in kept.tolist()},
        InputRows(
            values,
            None if isinstance(kind, Vector) else np.append(offsets[:-1][kept], offsets[-1]),
            start_seconds,
            stop_seconds,
        ),
    )


def _means(feature: Feature, clips: Sequence[ClipRows]) -> ItemRows:
    means = feature.clip_means(clips) if clips else np.zeros((0, feature.dim), np.float32)
    whole = np.isfinite(means).all(axis=1)
    if not whole.all():
        # A clip without rows has a mean of NaN, too.
        others = [clips[number] for number in np.flatnonzero(~whole).tolist()]
        wrong = [others[number] for _, _, found in feature.shard_rows(others) for number, _ in found]
        if wrong:
            _refuse(feature, wrong)
    kept = np.flatnonzero(whole).tolist()
    return ItemRows({clips[number].key: clips[number] for number in kept}, InputRows(means[whole]))


def _refuse(feature: Feature, clips: Sequence[ClipRows]) -> None:
    """Raises the error for clips that have rows which are not finite."""
    videos = sorted({clip.video_id for clip in clips})
    shown = ", ".join(map(repr, videos[:3])) + (", ..." if len(videos) > 3 else "")
    raise UsageError(
        describe(
            "feature",
            feature.recipe.name,
            "numbers in every row",
            f"NaN or infinity in {len(clips)} clips of {len(videos)} of {len(feature)} videos ({shown})",
            f"build or import those videos anew, or leave them out; clipmill verify {feature.url} tells damage",
        )
    )


def _chosen_by_shard(
    feature: Feature, clips: Sequence[ClipRows], kind: Vector | Bag | SequenceInput
) -> Iterator[tuple[str, RowColumns, list[tuple[int, _Chosen]]]]:
    """Yields each shard's path, its narrow columns, and what is read there of which clip."""
    for shard, columns, found in feature.shard_rows(clips):
        if isinstance(kind, Bag) and kind.choose == "score" and "score" not in columns.extras:
            got = ", ".join(sorted(columns.extras)) or "none"
            remedy = "take a feature of proposals (rc3d), or an option that takes the first rows"
            raise UsageError(describe("feature", feature.recipe.name, "a column score to choose rows by", got, remedy))
        yield shard, columns, [(number, _choose(columns, rows, kind)) for number, rows in found]


def _choose(columns: RowColumns, rows: Ints, kind: Vector | Bag | SequenceInput) -> _Chosen:
    if isinstance(kind, Vector):
        return _Chosen(0, rows[:1])
    if isinstance(kind, SequenceInput):
        rows = rows[np.argsort(columns.start_seconds[rows], kind="stable")]
        edges = _step_edges(len(rows), kind.max_steps)
        if edges is None or kind.reduce == "mean":
            return _Chosen(0, rows, edges)
        return _Chosen(0, rows[_middles(edges) if kind.reduce == "pick" else _sampled(len(rows), kind.max_steps)])
    if kind.choose == "first":
        return _Chosen(0, rows[: kind.max_rows])
    # Of equal scores the earlier row.
    best = np.argsort(-columns.extras["score"][rows].astype(np.float64), kind="stable")[: kind.max_rows]
    return _Chosen(0, rows[best])


def _times(columns: RowColumns, chosen: _Chosen) -> tuple[Floats, Floats]:
    starts, stops = columns.start_seconds[chosen.rows], columns.stop_seconds[chosen.rows]
    if chosen.edges is None:
        return starts, stops
    return starts[chosen.edges[:-1]], np.maximum.reduceat(stops, chosen.edges[:-1])


def _read_values(feature: Feature, shard: str, chosen: Sequence[_Chosen], values: Singles) -> None:
    """Reads what was chosen of one shard into its place, at most a slab of rows at a time."""
    most, waiting, num_waiting = feature.slab_rows, list[_Chosen](), 0
    for piece in chain.from_iterable(rows.pieces(most) for rows in chosen):
        if waiting and num_waiting + len(piece.rows) > most:
            _flush(feature, shard, waiting, values)
            waiting, num_waiting = [], 0
        waiting.append(piece)
        num_waiting += len(piece.rows)
    if waiting:
        _flush(feature, shard, waiting, values)


def _flush(feature: Feature, shard: str, pieces: Sequence[_Chosen], values: Singles) -> None:
    read = feature.shard_values(shard, np.concatenate([piece.rows for piece in pieces]))
    start = 0
    for piece in pieces:
        rows = read[start : start + len(piece.rows)]
        values[piece.place : piece.place + len(piece)] = rows if piece.edges is None else _step_means(rows, piece.edges)
        start += len(piece.rows)


def _step_edges(num_rows: int, max_steps: int) -> Ints | None:
    """Returns ``int64[S + 1]``, the rows of S steps; None where each row is a step.

    Of T rows, step i of S stands for the rows ``[floor(i T / S), floor((i + 1) T / S))``: by their mean, over their
    whole time, or by the one in their middle.
    """
    return None if num_rows <= max_steps else np.arange(max_steps + 1) * num_rows // max_steps


def _middles(edges: Ints) -> Ints:
    return (edges[:-1] + edges[1:]) // 2


def _sampled(num_rows: int, num_steps: int) -> Ints:
    """Returns ``int64[S]``, the rows nearest to i T / S; of two equally near ones the even one."""
    return np.minimum(np.round(np.arange(num_steps) * (num_rows / num_steps)).astype(np.int64), num_rows - 1)


def _finite_rows(values: Array, slab_rows: int) -> Bools:
    """Returns ``bool[N]``, where all numbers of a row are finite; looks at a slab of rows at a time."""
    parts = [np.isfinite(values[start : start + slab_rows]).all(axis=1) for start in range(0, len(values), slab_rows)]
    return np.concatenate(parts) if parts else np.zeros(0, np.bool_)


def _step_means(values: Array, edges: Ints) -> Singles:
    sums = np.add.reduceat(values.astype(np.float64), edges[:-1], axis=0)
    return np.asarray(sums / np.diff(edges)[:, None], np.float32)
