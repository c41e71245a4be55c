"""What the loader of a published repository is: the files it opens, and what it must be told of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipmill.schemas.arrays import Floats, Singles
from clipmill.schemas.rows import Rows
from clipmill.stores.formats.annotated_videos import AnnotatedVideo
from clipmill.stores.loaders.files import FeatureFiles
from clipmill.stores.loaders.timing import Timing


@dataclass(frozen=True, slots=True)
class ExportedVideo:
    """One video as it was written.

    Attributes:
        name: what the loader calls it.
        num_rows: as written.
        duration_seconds: from its first frame to the end of its last, or as annotated; None: not known.
        fps: frames a second its rows are counted in: those it was resampled to, or its own; None: not known.
    """

    name: str
    num_rows: int
    duration_seconds: float | None
    fps: float | None


@dataclass(frozen=True, slots=True)
class Exported:
    """An export as its repository is told of it.

    Attributes:
        folder: absolute path of what was written.
        feature: its name in the store.
        dim: length of a row.
        videos: as written.
        timing: when rows are.
        annotated: the videos of the annotations by their id there; None: none were given.
        prefix: what the loader has to put before the annotations' ids.
    """

    folder: str
    feature: str
    dim: int
    videos: Sequence[ExportedVideo]
    timing: Timing
    annotated: Mapping[str, AnnotatedVideo] | None = None
    prefix: str = ""

    @property
    def classes(self) -> list[str]:
        """Names of the annotated classes, sorted."""
        videos = (self.annotated or {}).values()
        return sorted({segment.label for video in videos for segment in video.segments if segment.label})

    @property
    def most_rows(self) -> int:
        """Rows of the longest video."""
        return max((video.num_rows for video in self.videos), default=0)


def all_rows(rows: Rows, origin: float, duration_seconds: float) -> Singles:
    """Returns ``float32[T, D]``: the rows as they are."""
    return rows.values.astype(np.float32, copy=False)


def no_notes(exported: Exported) -> list[str]:
    """Returns nothing: this loader takes rows of any times."""
    return []


@dataclass(frozen=True, slots=True)
class DatasetLoader:
    """How a repository reads the features of one data set.

    Attributes:
        source: the file that does it, in the repository.
        files: their layout.
        next_steps: of an export, what to change in the repository and what to run.
        rows: of a video's `Rows`, the time of its first frame and its length in seconds, what is written.
        notes: of an export, what the loader will take for something else.
        has_prefix: whether the loader can put a prefix before the annotations' ids.
        annotations: writes what the loader wants to know beside the features into the export's folder; None: nothing
            that the data set does not come with.
    """

    source: str
    files: FeatureFiles
    next_steps: Callable[[Exported], list[str]]
    rows: Callable[[Rows, float, float], Singles] = all_rows
    notes: Callable[[Exported], list[str]] = no_notes
    has_prefix: bool = False
    annotations: Callable[[Exported], None] | None = None


@dataclass(frozen=True, slots=True)
class Loader:
    """A repository that reads features.

    Attributes:
        name: what ``--for`` says.
        repository: owner and name on GitHub.
        datasets: by what ``--dataset`` says, the default first.
        of_annotations: format of annotations to the data set that they mean.
    """

    name: str
    repository: str
    datasets: Mapping[str, DatasetLoader]
    of_annotations: Mapping[str, str]


def rounded(number: float) -> float | int:
    """Returns `number` to 4 digits behind the point, whole where it is."""
    value = round(number, 4)
    return int(value) if value == int(value) else value


def detection_database(exported: Exported, more: Callable[[ExportedVideo], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the annotations as ActivityNet's JSON, with `label_id` of segments and `more` of videos with features.

    Args:
        exported: its annotations are those of segments.
    """
    numbers = {label: number for number, label in enumerate(exported.classes)}
    written = {video.name: video for video in exported.videos}
    database: dict[str, Any] = {}
    for video_id, annotated in (exported.annotated or {}).items():
        video = written.get(exported.prefix + video_id)
        duration = annotated.duration_seconds
        if video is not None and video.duration_seconds is not None:
            duration = video.duration_seconds
        database[video_id] = {
            "subset": annotated.subset or "training",
            "duration": duration,
            "annotations": [
                {
                    "segment": [segment.start_seconds, segment.stop_seconds],
                    "label": segment.label or "",
                    "label_id": numbers.get(segment.label or "", 0),
                }
                for segment in annotated.segments
            ],
        } | dict({} if video is None else more(video))
    return {"database": database}


def evenly_read(exported: Exported) -> list[str]:
    """Returns a note where rows are not spread evenly over the whole video, as this kind of loader takes them to be."""
    return exported.timing.uneven_notes()


def frame_notes(exported: Exported) -> list[str]:
    """Returns what a loader that counts rows in frames cannot be told."""
    timing = exported.timing
    notes = []
    if timing.step_frames is None:
        notes.append("frames from row to row are not known (imported rows, or videos of one row); look them up")
    if timing.num_uneven:
        remedy = "build with one sampling.fps for all videos"
        notes.append(f"rows of {timing.num_uneven} videos are not {timing.step_frames} frames apart; {remedy}")
    return notes


def resized(values: Singles, centres: Floats, points: Floats) -> Singles:
    """Returns ``float32[len(points), D]``: rows between those at the times `centres`, by linear interpolation.

    Before the first and after the last centre that row holds.
    """
    after = np.clip(np.searchsorted(centres, points), 1, max(len(centres) - 1, 1))
    if len(centres) == 1:
        return np.repeat(values.astype(np.float32), len(points), axis=0)
    before = after - 1
    share = np.clip((points - centres[before]) / (centres[after] - centres[before]), 0.0, 1.0)[:, None]
    mixed = values[before].astype(np.float64) * (1 - share) + values[after].astype(np.float64) * share
    return mixed.astype(np.float32)
