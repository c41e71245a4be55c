"""The videos of a folder that published annotations name, with their segments, labels and parts of the data set."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from clipmill.schemas.config import VideosConfig
from clipmill.schemas.errors import ManifestError, describe
from clipmill.schemas.records import Segment, Video
from clipmill.stores.formats.annotated_videos import AnnotatedVideo, read_annotated_videos
from clipmill.stores.formats.ids import match_ids
from clipmill.stores.formats.sniff import listed

_ANYWHERE = "**/{id}.*"
_SPLITS = {"training": "train", "val": "validation", "testing": "test"}
"""What data sets call their parts, where a manifest's column `split` says it otherwise."""


@dataclass(frozen=True, slots=True)
class Matching:
    """How annotations and the files of a folder fit each other.

    Attributes:
        num_annotated: videos that the annotations name.
        without_file: ids of those that have no file.
        not_annotated: names of video files that no annotation names.
        empty_segments: id to number of segments that end where they start or before, and are left out.
    """

    num_annotated: int
    without_file: tuple[str, ...] = ()
    not_annotated: tuple[str, ...] = ()
    empty_segments: Mapping[str, int] | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns what plans and reports hold of it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Returns what a person reads of it: the first names of each side."""
        num_files = self.num_annotated - len(self.without_file)
        lines = [f"annotated videos: {self.num_annotated}, {num_files} of them with a file"]
        for names, what in ((self.without_file, "without a file"), (self.not_annotated, "files nobody annotated")):
            if names:
                lines.append(f"  {what}: {len(names)}: {listed(names)}")
        if self.empty_segments:
            count = sum(self.empty_segments.values())
            lines.append(f"  segments without length, left out: {count}, of {listed(self.empty_segments)}")
        return lines


def annotated(path: str, config: VideosConfig, files: Sequence[Video]) -> tuple[tuple[Video, ...], Matching]:
    """Returns the videos that the annotations at `path` name and that have a file, in the order of the annotations.

    A video's label is the class of its segments where they have one; those of language queries have none, and
    their sentences as labels of segments.

    Args:
        files: the video files of the folder, by their paths below it.

    Raises:
        ManifestError: two files are one video's, or none is any's.
        FormatError: the annotations are of no known format, or malformed.
    """
    found = read_annotated_videos(path, config.format, config.subset)
    places = _places(config.ids or _ANYWHERE, found.videos, files)
    videos, empty = [], {}
    for video_id, annotation in found.videos.items():
        segments = tuple(item for item in annotation.segments if item.stop_seconds > item.start_seconds)
        if len(segments) < len(annotation.segments):
            empty[video_id] = len(annotation.segments) - len(segments)
        if video_id in places:
            label = None if found.of_queries else _only_label(segments)
            split = None if annotation.subset is None else annotation.subset.lower()
            split = _SPLITS.get(split or "", split)
            videos.append(replace(places[video_id], id=video_id, label=label, split=split, segments=segments))
    if not videos:
        _refuse(path, config, found.videos, files)
    used = {video.uri for video in videos}
    return tuple(videos), Matching(
        len(found.videos),
        tuple(video_id for video_id in found.videos if video_id not in places),
        tuple(file.id for file in files if file.uri not in used),
        empty,
    )


def _only_label(segments: Sequence[Segment]) -> str | None:
    labels = {segment.label for segment in segments}
    return labels.pop() if len(labels) == 1 else None


def _places(pattern: str, ids: Mapping[str, AnnotatedVideo], files: Sequence[Video]) -> dict[str, Video]:
    """Returns the file of each id that has one."""
    if "*" not in pattern:
        by_name = {file.id: file for file in files}
        names = {video_id: pattern.replace("{id}", video_id) for video_id in ids}
        return {video_id: by_name[name] for video_id, name in names.items() if name in by_name}
    form = _expression(pattern)
    places: dict[str, Video] = {}
    for file in files:
        match = form.fullmatch(file.id)
        video_id = match["id"] if match else None
        if video_id is None or video_id not in ids:
            continue
        if video_id in places:
            got = f"{places[video_id].id!r} and {file.id!r}"
            remedy = "move one of them away, or say which by ids"
            raise ManifestError(describe("videos.ids", pattern, f"one file of id {video_id!r}", got, remedy))
        places[video_id] = file
    return places


def _expression(pattern: str) -> re.Pattern[str]:
    parts = {"{id}": "(?P<id>[^/]+)", "**/": "(?:.*/)?", "*": "[^/]*"}
    pieces = re.split(r"(\{id\}|\*\*/|\*)", pattern)
    return re.compile("".join(parts.get(piece, re.escape(piece)) for piece in pieces), re.DOTALL)


def _refuse(path: str, config: VideosConfig, ids: Mapping[str, AnnotatedVideo], files: Sequence[Video]) -> None:
    match = match_ids((file.id.rsplit("/", 1)[-1].rsplit(".", 1)[0] for file in files), ids, "the files", path)
    hint = f"; {match.hint}" if match.hint else ""
    examples = f"ids such as {listed(ids, 2)} and files such as {listed((file.id for file in files), 2)}"
    expected = f"a file {config.ids or _ANYWHERE} of at least one of {len(ids)} annotated videos"
    remedy = f"set videos.ids, such as v_{{id}}.mp4{hint}"
    raise ManifestError(describe("videos.folder", config.folder or "", expected, examples, remedy))
