"""What each kind of input reads of a stored feature's clips."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import Bag, Input, InputRows, Tokens, Vector
from clipmill.schemas.inputs import Sequence as SequenceInput
from clipmill.schemas.rows import Rows
from clipmill.stores import ClipRows, Feature

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


def read_rows(feature: Feature, kind: Input) -> ItemRows:
    """Returns what an input of the given kind reads of every clip that has a row whose mask is set.

    Raises:
        UsageError: the feature lacks a column that the input chooses by.
    """
    clips = {clip.key: clip for clip in feature.clips()}
    if kind == Vector("mean"):
        return _means(feature, clips)
    if isinstance(kind, Tokens):
        raise ValueError("tokens are read from texts, not from a feature")
    parts: list[Rows] = []
    kept: dict[ClipKey, ClipRows] = {}
    for key, rows in _clip_rows(feature):
        chosen = rows.slice(0, 1) if isinstance(kind, Vector) else _chosen(rows, kind, feature)
        # A copy, so that the rest of a long video is not kept in memory with it.
        parts.append(
            Rows(
                np.array(chosen.values, np.float32),
                chosen.clip,
                np.array(chosen.start_seconds),
                np.array(chosen.stop_seconds),
                chosen.mask,
            )
        )
        kept[key] = clips[key]
    values = np.concatenate([part.values for part in parts]) if parts else np.zeros((0, feature.dim), np.float32)
    offsets = np.cumsum([0, *(len(part) for part in parts)]).astype(np.int64)
    return ItemRows(
        kept,
        InputRows(
            values,
            None if isinstance(kind, Vector) else offsets,
            np.concatenate([np.zeros(0), *(part.start_seconds for part in parts)]),
            np.concatenate([np.zeros(0), *(part.stop_seconds for part in parts)]),
        ),
    )


def _means(feature: Feature, clips: Mapping[ClipKey, ClipRows]) -> ItemRows:
    means = feature.clip_means(list(clips.values())) if clips else np.zeros((0, feature.dim), np.float32)
    whole: npt.NDArray[np.bool_] = np.logical_not(np.isnan(means).any(axis=1))
    kept = {key: clip for (key, clip), has_rows in zip(clips.items(), whole.tolist(), strict=True) if has_rows}
    return ItemRows(kept, InputRows(means[whole]))


def _clip_rows(feature: Feature) -> Iterator[tuple[ClipKey, Rows]]:
    """Yields each clip's rows whose mask is set, video by video; clips without any are left out."""
    for video_id in feature.video_ids:
        found = feature[video_id]
        kept = np.flatnonzero(found.mask)
        # Rows of a clip stand together in almost every store, but nothing promises it.
        order = kept[np.argsort(found.clip[kept], kind="stable")]
        numbers, first = np.unique(found.clip[order], return_index=True)
        for number, rows in zip(numbers.tolist(), np.split(order, first[1:]), strict=True):
            yield (video_id, number), _rows_at(found, rows)


def _rows_at(rows: Rows, chosen: npt.NDArray[np.int64]) -> Rows:
    return Rows(
        rows.values[chosen],
        rows.clip[chosen],
        rows.start_seconds[chosen],
        rows.stop_seconds[chosen],
        rows.mask[chosen],
        {name: column[chosen] for name, column in rows.extras.items()},
    )


def _chosen(rows: Rows, kind: Bag | SequenceInput, feature: Feature) -> Rows:
    if isinstance(kind, SequenceInput):
        return shortened(rows, kind)
    if kind.choose == "first":
        return rows.slice(0, kind.max_rows)
    if "score" not in rows.extras:
        got = ", ".join(sorted(rows.extras)) or "none"
        remedy = "take a feature of proposals (rc3d), or an option that takes the first rows"
        raise UsageError(describe("feature", feature.recipe.name, "a column score to choose rows by", got, remedy))
    # Of equal scores the earlier row.
    best = np.argsort(-rows.extras["score"].astype(np.float64), kind="stable")[: kind.max_rows]
    return _rows_at(rows, best)


def shortened(rows: Rows, kind: SequenceInput) -> Rows:
    """Returns at most `max_steps` steps of `rows`, which are sorted by start.

    Of T rows, step i of S stands for the rows ``[floor(i T / S), floor((i + 1) T / S))``: by their mean, over their
    whole time, or by the one in their middle.
    """
    order = np.argsort(rows.start_seconds, kind="stable")
    rows = _rows_at(rows, order)
    num_rows, num_steps = len(rows), kind.max_steps
    if num_rows <= num_steps:
        return rows
    edges = np.arange(num_steps + 1) * num_rows // num_steps
    if kind.reduce == "pick":
        return _rows_at(rows, (edges[:-1] + edges[1:]) // 2)
    sums = np.add.reduceat(rows.values.astype(np.float64), edges[:-1], axis=0)
    return Rows(
        (sums / np.diff(edges)[:, None]).astype(np.float32),
        rows.clip[edges[:-1]],
        rows.start_seconds[edges[:-1]],
        np.maximum.reduceat(rows.stop_seconds, edges[:-1]),
        rows.mask[edges[:-1]],
    )
