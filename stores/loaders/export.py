"""A feature written for the loader of a published repository, and opened again as that loader opens it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clipmill.schemas.arrays import Singles
from clipmill.schemas.errors import ClipmillError, UsageError, describe, near
from clipmill.schemas.rows import Rows
from clipmill.stores.export import new_local_path
from clipmill.stores.feature import Feature
from clipmill.stores.formats.annotated_videos import AnnotatedVideo, Annotations, read_annotated_videos
from clipmill.stores.formats.ids import match_ids
from clipmill.stores.loaders.base import DatasetLoader, Exported, ExportedVideo, Loader
from clipmill.stores.loaders.names import Names, names_of
from clipmill.stores.loaders.registry import LOADERS
from clipmill.stores.loaders.timing import VideoTiming, timing_of, video_timing

PREFIX = "v_"
"""What names of ActivityNet's videos begin with, and its ids do not."""


@dataclass(frozen=True, slots=True)
class LoaderExport:
    """What an export for a loader did.

    Attributes:
        loader, dataset: whom it is for.
        exported: what was written.
        shape: fewest and most rows of a video, and their length, as read back.
        names: what videos are called.
        without_rows: ids of videos that have none, which are not written.
        num_masked: rows that only fill up, which are not written.
        not_exported: ids of the annotations that have no features.
        not_annotated: names of written videos that the annotations do not have.
        id_hint: a change of the ids under which more would match, or empty.
        notes: what the loader takes for something else.
        next_steps: what to change and run in the repository.
    """

    loader: Loader
    dataset: str
    exported: Exported
    shape: tuple[int, int, int]
    names: Names
    without_rows: Sequence[str]
    num_masked: int
    not_exported: Sequence[str]
    not_annotated: Sequence[str]
    id_hint: str
    notes: Sequence[str]
    next_steps: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Returns what ``--json`` prints of it."""
        exported = self.exported
        matched = {} if exported.annotated is None else {"num_annotated": len(exported.annotated)}
        return matched | {
            "for": self.loader.name,
            "dataset": self.dataset,
            "repository": self.loader.repository,
            "num_videos": len(exported.videos),
            "num_rows": sum(video.num_rows for video in exported.videos),
            "rows_of_a_video": list(self.shape[:2]),
            "dim": self.shape[2],
            "without_rows": list(self.without_rows),
            "num_masked_rows": self.num_masked,
            "not_in_ids": list(self.names.unnamed),
            "unknown_in_ids": list(self.names.unknown),
            "annotated_without_features": list(self.not_exported),
            "not_annotated": list(self.not_annotated),
            "notes": list(self.notes),
            "next_steps": list(self.next_steps),
        }


def export_for_loader(
    feature: Feature,
    target: str,
    out: str,
    ids: str = "stem",
    annotations: str | None = None,
    dataset: str | None = None,
) -> LoaderExport:
    """Writes the rows of `feature` as the repository `target` opens them into the new folder `out`, and opens them so.

    Values are written as float32, videos in the order of their ids. Rows that only fill up are left out.

    Args:
        ids: what the loader is to call each video: ``stem`` of its id, the ``id``, or a CSV of `video_id` and `name`.
        annotations: what the loader will be given, of any format; ids are compared with it.
        dataset: of those the repository reads; None: the one the annotations are of, or its first.

    Raises:
        UsageError: there is no such loader or data set, two videos would have one name, the loader could not open a
            name, rows are in no order of time, or `out` exists.
        StorageUnavailableError: `out` cannot be written.
    """
    loader = LOADERS.get(target)
    read = None if annotations is None else read_annotated_videos(annotations)
    name = _dataset(loader, dataset, read)
    how = loader.datasets[name]
    if how.annotations is not None and read is not None and read.of_queries:
        expected = f"segments of classes, which {loader.repository} learns"
        remedy = "give such annotations, or leave them out"
        raise UsageError(describe("export", f"annotations {annotations}", expected, "language queries", remedy))
    names = names_of(feature.video_ids, ids)
    how.files.check(names.names.values())
    with new_local_path(out) as folder:
        os.mkdir(folder)
        written = _Written(feature, how, {} if read is None else read.videos)
        with how.files.writing(folder) as write:
            for video_id, values in written.rows(names.names):
                write(names.names[video_id], values)
        exported = written.exported(os.path.abspath(out), None if read is None else read.videos, how.has_prefix)
        if how.annotations is not None and read is not None:
            how.annotations(replace(exported, folder=folder))
        shape = _read_back(how, folder, exported)
    annotated = () if exported.annotated is None else [exported.prefix + video for video in exported.annotated]
    match = match_ids([video.name for video in exported.videos], annotated, "the export", "the annotations")
    given = exported.annotated is not None
    return LoaderExport(
        loader,
        name,
        exported,
        shape,
        names,
        written.without_rows,
        written.num_masked,
        [name.removeprefix(exported.prefix) for name in match.only_right],
        match.only_left if given else (),
        match.hint if given else "",
        how.notes(exported),
        how.next_steps(exported),
    )


def _dataset(loader: Loader, wanted: str | None, annotations: Annotations | None) -> str:
    if wanted is None:
        meant = None if annotations is None else loader.of_annotations.get(annotations.format)
        return meant or next(iter(loader.datasets))
    if wanted not in loader.datasets:
        expected = f"one that {loader.repository} reads features of"
        raise UsageError(describe("export", "dataset", expected, repr(wanted), near(wanted, loader.datasets)))
    return wanted


class _Written:
    """What is known of the videos of an export, collected while their rows are written."""

    def __init__(self, feature: Feature, how: DatasetLoader, annotated: Mapping[str, AnnotatedVideo]) -> None:
        self._feature = feature
        self._how = how
        self._annotated = annotated
        self._timings: list[VideoTiming] = []
        self._videos: list[ExportedVideo] = []
        self.without_rows: list[str] = []
        self.num_masked = 0

    def rows(self, names: Mapping[str, str]) -> Iterator[tuple[str, Singles]]:
        """Yields the id of each video that has rows, with what is written of it ``float32[T, D]``."""
        index = self._feature.index()
        passports = dict(zip(*(index.column(name).to_pylist() for name in ("video_id", "passport")), strict=True))
        resampled = self._feature.recipe.sampling.fps
        for video_id, name in names.items():
            rows = self._feature.stored(video_id)
            whole = int(rows.mask.sum())
            self.num_masked += len(rows) - whole
            if not whole:
                self.without_rows.append(video_id)
                continue
            rows = rows if whole == len(rows) else _masked(rows)
            _check_order(video_id, rows)
            passport = passports[video_id]
            length, num_frames = passport["duration_seconds"] or self._annotated_length(name), passport["num_frames"]
            origin = passport["first_frame_seconds"] or 0.0
            fps = num_frames / length if length and num_frames else None
            self._timings.append(video_timing(rows, origin, length, fps, resampled))
            until = length or float(rows.stop_seconds.max()) - origin
            values = self._how.rows(rows, origin, until)
            self._videos.append(ExportedVideo(name, len(values), length, resampled or fps))
            yield video_id, values

    def _annotated_length(self, name: str) -> float | None:
        found = self._annotated.get(name) or self._annotated.get(name.removeprefix(PREFIX))
        return None if found is None else found.duration_seconds

    def exported(self, folder: str, annotated: Mapping[str, AnnotatedVideo] | None, has_prefix: bool) -> Exported:
        """Returns the export, with the prefix under which more of the annotations' ids are names of videos."""
        timing = timing_of(self._timings, self._feature.recipe.sampling.fps)
        written = {video.name for video in self._videos}
        ids = annotated or {}
        prefixed = sum(PREFIX + video_id in written for video_id in ids)
        prefix = PREFIX if has_prefix and prefixed > len(written & ids.keys()) else ""
        return Exported(folder, self._feature.recipe.name, self._feature.dim, self._videos, timing, annotated, prefix)


def _masked(rows: Rows) -> Rows:
    keep = rows.mask
    return Rows(rows.values[keep], rows.clip[keep], rows.start_seconds[keep], rows.stop_seconds[keep], keep[keep])


def _check_order(video_id: str, rows: Rows) -> None:
    early = np.flatnonzero(np.diff(rows.start_seconds) <= 0)
    if len(early):
        row = int(early[0])
        expected = "one row after the other, from the start of the video to its end"
        got = f"row {row + 1} at {rows.start_seconds[row + 1]:g} s after row {row} at {rows.start_seconds[row]:g} s"
        remedy = "build the feature with clips: {from: whole} and a grid of windows"
        raise UsageError(describe("export", f"video {video_id}", expected, got, remedy))


def _read_back(how: DatasetLoader, folder: str, exported: Exported) -> tuple[int, int, int]:
    """Opens every video as the loader does; returns fewest and most rows of one, and their length.

    Raises:
        ClipmillError: one is not what was written.
    """
    with how.files.reading(folder) as read:
        for video in exported.videos:
            try:
                shape: Any = read(video.name).shape
            except KeyError:
                shape = None
            if shape != (video.num_rows, exported.dim):
                expected = f"[{video.num_rows}, {exported.dim}] as {how.source} reads it"
                remedy = "this is a bug in clipmill; please report it"
                raise ClipmillError(describe("export", f"name {video.name!r}", expected, str(shape), remedy))
    numbers = [video.num_rows for video in exported.videos]
    return min(numbers, default=0), max(numbers, default=0), exported.dim
