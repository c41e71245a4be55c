"""Published annotations by video, whichever format they are in: what a build and an export are given them for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.records import Segment
from clipmill.schemas.segments import Segments
from clipmill.stores.formats import registry
from clipmill.stores.formats.activitynet import read_activitynet_database
from clipmill.stores.formats.moments import MomentQueries
from clipmill.stores.formats.reader import ReadRequest
from clipmill.stores.formats.records import AnnotatedQueries, SegmentTable
from clipmill.stores.formats.thumos14 import read_thumos14

_THUMOS14_SUBSETS = {"val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class AnnotatedVideo:
    """What a file says of one video.

    Attributes:
        segments: in the order of the file; the label is the class, or the sentence of a language query.
        duration_seconds: None where the file has none.
        subset: part of the data set, in the file's own words; None where it has no parts.
    """

    segments: tuple[Segment, ...] = ()
    duration_seconds: float | None = None
    subset: str | None = None


@dataclass(frozen=True, slots=True)
class Annotations:
    """The annotated videos of a file.

    Attributes:
        format: name of its format.
        videos: by id, in the order of the file.
        of_queries: whether labels of segments are sentences, not classes.
    """

    format: str
    videos: Mapping[str, AnnotatedVideo]
    of_queries: bool = False


def read_annotated_videos(path: str, format: str | None = None, subset: str | None = None) -> Annotations:
    """Returns what the annotations at `path` say of each video.

    Args:
        format: its name; None: it is told by the content.
        subset: keep this part alone; None: all of a file that names them, and of a folder of THUMOS14.

    Raises:
        FormatError: there is no such file, it is of no known format, or malformed.
        UsageError: there is no format of that name.
    """
    expected = registry.formats_of("truth", ("segments", "queries"))
    name = format or registry.format_of(path, expected)
    if name not in expected:
        registry.reader(name)
        remedy = "name annotations of segments or of language queries"
        raise FormatError(describe("annotations", path, f"one of {', '.join(expected)}", name, remedy))
    if name == "activitynet":
        database = read_activitynet_database(path, subset)
        return Annotations(name, _of_segments(database.segments, database.duration_seconds, database.subset))
    if name == "thumos14":
        return Annotations(name, _of_thumos14(path, subset))
    readers = registry.reader(name).truth
    request = ReadRequest(path, thing="annotations", subset=subset)
    if "queries" in readers:
        queries: AnnotatedQueries = readers["queries"](request)
        return Annotations(name, _of_queries(queries.queries), of_queries=True)
    table: SegmentTable = readers["segments"](request)
    parts = {} if table.subset is None else dict.fromkeys(table.ids, table.subset)
    return Annotations(name, _of_segments(table.segments, table.duration_seconds, parts))


def _of_thumos14(path: str, subset: str | None) -> dict[str, AnnotatedVideo]:
    there = [name for name in _THUMOS14_SUBSETS if any(Path(path).glob(f"*_{name}.txt"))]
    videos: dict[str, AnnotatedVideo] = {}
    for name in [subset] if subset is not None else there:
        segments = read_thumos14(path, name).segments
        videos |= _of_segments(segments, {}, dict.fromkeys(segments.video_ids, _THUMOS14_SUBSETS.get(name, name)))
    return videos


def _of_segments(
    segments: Segments, durations: Mapping[str, float], subsets: Mapping[str, str]
) -> dict[str, AnnotatedVideo]:
    found: list[list[Segment]] = [[] for _ in segments.video_ids]
    columns = (segments.video, segments.start_seconds, segments.stop_seconds, segments.label)
    for video, start, stop, label in zip(*(column.tolist() for column in columns), strict=True):
        found[video].append(Segment(start, stop, segments.label_names[label] or None))
    return {
        name: AnnotatedVideo(tuple(parts), durations.get(name), subsets.get(name) or None)
        for name, parts in zip(segments.video_ids, found, strict=True)
    }


def _of_queries(queries: MomentQueries) -> dict[str, AnnotatedVideo]:
    windows: list[list[tuple[float, float]]] = [[] for _ in queries.query_ids]
    columns = (queries.windows.video, queries.windows.start_seconds, queries.windows.stop_seconds)
    for query, start, stop in zip(*(column.tolist() for column in columns), strict=True):
        windows[query].append((start, stop))
    found: dict[str, list[Segment]] = {}
    durations: dict[str, float] = {}
    rows = zip(queries.video_ids, queries.sentences, queries.duration_seconds.tolist(), windows, strict=True)
    for video, sentence, duration, times in rows:
        found.setdefault(video, []).extend(Segment(start, stop, sentence) for start, stop in times)
        if duration == duration:
            durations[video] = duration
    return {name: AnnotatedVideo(tuple(parts), durations.get(name)) for name, parts in found.items()}
