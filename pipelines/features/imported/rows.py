"""Rows of items as a store has them: values, the clips they belong to, and the times they describe."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from clipmill.pipelines.features.clips import clips_of
from clipmill.pipelines.features.imported.files import SourceFiles
from clipmill.pipelines.features.imported.places import Located
from clipmill.schemas.arrays import Array, Floats, Ints
from clipmill.schemas.config_import import ImportedFeatureConfig, StepsConfig
from clipmill.schemas.errors import FormatError, ManifestError, UsageError, VideoError, describe
from clipmill.schemas.recipe import ClipRule
from clipmill.schemas.records import Clip
from clipmill.schemas.rows import Rows
from clipmill.stores.item_manifests import Item

BATCH_BYTES = 64 << 20
"""ours: bytes of values read at a time, and at most so many more in a shard."""


@dataclass(frozen=True, slots=True, eq=False)
class ItemRows:
    """The rows of one item, and its clips."""

    rows: Rows
    clips: tuple[Clip, ...]


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads rows of the items of one feature.

    Attributes:
        items: of the manifest, with what the store knew of them.
        dtype: in which values are kept.
    """

    name: str
    config: ImportedFeatureConfig
    rule: ClipRule
    items: Sequence[Item]
    located: Located
    files: SourceFiles
    dtype: str

    def batches(self, chosen: Sequence[int]) -> Iterator[list[int]]:
        """Yields `chosen` items, in order, in lists that are read and written in one go."""
        batch: list[int] = []
        num_bytes = 0
        for item in chosen:
            batch.append(item)
            num_rows = sum(place.num_rows for place in self.located.places[item])
            num_bytes += num_rows * self.located.dim * self.located.dtype.itemsize
            if num_bytes >= BATCH_BYTES:
                yield batch
                batch, num_bytes = [], 0
        if batch:
            yield batch

    def check(self, chosen: Sequence[int]) -> None:
        """Reads the rows of all `chosen` items once, before anything is written.

        Raises:
            FormatError, ManifestError: as `read`; one line that counts what is wrong among all of them.
        """
        problems = Problems(len(chosen))
        for batch in self.batches(chosen):
            self._read(batch, problems)
        problems.check(self.name, self.config.file)

    def read(self, batch: Sequence[int]) -> list[ItemRows]:
        """Returns the rows of each item of `batch`.

        Raises:
            FormatError: values or times are not finite, or an array cannot be read.
            ManifestError: an item lacks a fact that its times need, or its segments are no clips.
        """
        problems = Problems(len(batch))
        found = self._read(batch, problems)
        problems.check(self.name, self.config.file)
        return found

    def _read(self, batch: Sequence[int], problems: "Problems") -> list[ItemRows]:
        """Returns the rows of the items of `batch` that have nothing wrong, and adds the others to `problems`."""
        places = [self.located.places[item] for item in batch]
        values = [self._stored(part) for part in self.files.rows(places, self.config.dataset)]
        problems.add_not_finite([self.items[item].video.id for item in batch], values)
        steps = self.config.steps
        named = dict(self.config.extras)
        if steps is not None and steps.start is not None:
            named |= {"start_seconds": steps.start} | ({"stop_seconds": steps.stop} if steps.stop is not None else {})
        columns = {name: self.files.columns(places, dataset) for name, dataset in named.items()}
        found = []
        for number, item in enumerate(batch):
            of_item = {name: column[number] for name, column in columns.items()}
            made = self._item_rows(self.items[item], values[number], of_item, problems)
            if made is not None:
                found.append(made)
        return found

    def _stored(self, values: Array) -> Array:
        with np.errstate(over="ignore"):
            return values.astype(self.dtype)

    def _item_rows(
        self, item: Item, values: Array, columns: Mapping[str, Array], problems: "Problems"
    ) -> ItemRows | None:
        num_rows = len(values)
        times: tuple[Floats, Floats] | None = None
        if self.config.steps is not None:
            times = step_times(self.config.steps, item, num_rows, columns)
            if times is None:
                needed = "duration_seconds" if self.config.steps.evenly else "fps"
                problems.lacking.setdefault(needed, []).append(item.video.id)
                return None
            if not (np.isfinite(times).all() and (times[0] <= times[1]).all()):
                problems.wrong_times.append(item.video.id)
                return None
        try:
            clips = self._clips(item, times)
        except VideoError as error:
            problems.no_clips.append((item.video.id, error.reason))
            return None
        rows: Ints
        clip: Ints
        if self.rule.from_ == "annotations" and times is None:
            rows, clip = np.arange(num_rows), np.arange(num_rows)
        elif times is None or self.rule.from_ == "whole":
            rows, clip = np.arange(num_rows), np.zeros(num_rows, np.int64)
        else:
            rows, clip = rows_within(clips, *times)
        if times is None:
            spans = np.array([(clips[index].start_seconds, clips[index].stop_seconds) for index in clip.tolist()])
            times = spans[:, 0], spans[:, 1]
            start, stop = times
        else:
            start, stop = times[0][rows], times[1][rows]
        extras = {name: columns[name][rows] for name in self.config.extras}
        made = Rows(values[rows], clip.astype(np.int32), start, stop, np.ones(len(rows), np.bool_), extras)
        return ItemRows(made, clips)

    def _clips(self, item: Item, times: tuple[Floats, Floats] | None) -> tuple[Clip, ...]:
        stop = item.duration_seconds
        if stop is None and self.rule.from_ == "annotations":
            stop = np.inf
        elif stop is None:
            # What is not known: a clip from 0 to 0.
            stop = max(0.0, float(times[1].max(initial=0.0))) if times is not None else 0.0
        return clips_of(self.rule, item.video, np.zeros(1), stop)


def step_times(
    steps: StepsConfig, item: Item, num_rows: int, columns: Mapping[str, Array]
) -> tuple[Floats, Floats] | None:
    """Returns start and stop seconds ``float64[T]`` of an item's rows; None where the item lacks what they follow from.

    Args:
        columns: ``start_seconds`` and ``stop_seconds`` of the rows, where the files have them.
    """
    number = np.arange(num_rows, dtype=np.float64)
    if steps.start is not None:
        start = columns["start_seconds"].astype(np.float64)
        if steps.window_seconds is not None:
            return start, start + steps.window_seconds
        return start, columns["stop_seconds"].astype(np.float64)
    if steps.evenly:
        if item.duration_seconds is None:
            return None
        edges = item.duration_seconds * np.arange(num_rows + 1) / num_rows
        return edges[:-1], edges[1:]
    if steps.step_seconds is not None:
        start = steps.offset_seconds + number * steps.step_seconds
        return start, start + (steps.window_seconds or steps.step_seconds)
    fps = steps.fps or item.fps
    if fps is None or steps.frames is None:
        return None
    first = number * (steps.step or steps.frames)
    return steps.offset_seconds + first / fps, steps.offset_seconds + (first + steps.frames) / fps


def rows_within(clips: Sequence[Clip], start: Floats, stop: Floats) -> tuple[Ints, Ints]:
    """Returns which rows lie in which clip: positions of rows and indices of clips, ``int64[n]`` each, by clip.

    A row lies in a clip when its middle does: half-open, as all times are. One in several clips is there several times.
    """
    middle = (start + stop) / 2
    rows, clip = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for index, one in enumerate(clips):
        inside = np.flatnonzero((middle >= one.start_seconds) & (middle < one.stop_seconds))
        rows.append(inside)
        clip.append(np.full(len(inside), index))
    return np.concatenate(rows), np.concatenate(clip)


@dataclass(slots=True)
class Problems:
    """What keeps items from having rows, gathered so that one line can say how many there are."""

    num_items: int
    not_finite: list[tuple[str, int]] = field(default_factory=list)
    lacking: dict[str, list[str]] = field(default_factory=dict)
    wrong_times: list[str] = field(default_factory=list)
    no_clips: list[tuple[str, str]] = field(default_factory=list)

    def add_not_finite(self, ids: Sequence[str], values: Sequence[Array]) -> None:
        """Adds the items that have numbers which are not finite."""
        counts = [int((~np.isfinite(part).all(axis=1)).sum()) for part in values]
        self.not_finite += [(item, count) for item, count in zip(ids, counts, strict=True) if count]

    def check(self, name: str, file: str) -> None:
        """Raises what was gathered of the feature `name`.

        Raises:
            ManifestError: a column is empty, or segments are no clips.
            FormatError: numbers or times are not finite.
        """
        thing = f"features.{name}"
        if self.not_finite:
            rows, num = sum(count for _, count in self.not_finite), len(self.not_finite)
            got = f"NaN, infinity or more than the dtype holds in {rows} rows of {num} items, such as "
            remedy = "correct the files, or leave those items out of the manifest"
            raise FormatError(describe(thing, file, "finite numbers", f"{got}{self.not_finite[0][0]!r}", remedy))
        for column, ids in self.lacking.items():
            got = f"none for {len(ids)} of {self.num_items} items, such as {ids[0]!r}"
            remedy = f"fill in the column {column}" + (", or give steps.fps" if column == "fps" else "")
            raise ManifestError(describe(thing, "steps", f"{column} of every item in the manifest", got, remedy))
        if self.wrong_times:
            got = f"others for {len(self.wrong_times)} of {self.num_items} items, such as {self.wrong_times[0]!r}"
            raise FormatError(describe(thing, "steps", "times that are numbers, start <= stop", got, "correct them"))
        if self.no_clips:
            (first, reason), num = self.no_clips[0], len(self.no_clips)
            got = f"{num} of {self.num_items} items without one, such as {first!r} ({reason.replace('_', ' ')})"
            remedy = "give start_seconds and stop_seconds within the item, or say clips: {from: whole}"
            raise ManifestError(describe("clips", "from", "segments of every item for annotations", got, remedy))


def check_dtype(name: str, wanted: str | None, found: "np.dtype[np.generic]") -> str:
    """Returns the dtype values are kept in: the wanted one, by default the file's where a store has it, else float32.

    Raises:
        UsageError: bytes are wanted of numbers that are none.
    """
    if wanted == "uint8" and found != np.uint8:
        remedy = "leave dtype out"
        raise UsageError(describe(f"features.{name}", "dtype", "float32 or float16", f"uint8 of {found}", remedy))
    return wanted or (found.name if found.name in ("float16", "uint8") else "float32")
