"""Segments as CSV: one row per segment, for annotations and predictions alike.

::

    video_id,start_seconds,stop_seconds,label,score                          ours; label and score may be missing
    video-name,t-start,t-end,action-label,video-duration,...                 TSP's ground truth of ActivityNet, THUMOS14

TSP's ground truth also lists what lies between the annotations, with ``temporal-region-label`` "No action" and no
class; these rows are no annotations and are left out (their videos stay listed).
Source of the second: H. Alwassel et al., TSP, ICCVW 2021 (ground-truth files of its release).
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores.formats.reader import Head, Reader, ReadRequest
from clipmill.stores.formats.records import SegmentTable
from clipmill.stores.formats.sniff import read_text, seconds, wrong_format, wrong_line

_EXPECTED = "a CSV of segments with the columns video_id, start_seconds, stop_seconds (or video-name, t-start, t-end)"
_NAMES = {
    "video_id": ("video_id", "video-name"),
    "start": ("start_seconds", "t-start"),
    "stop": ("stop_seconds", "t-end"),
    "label": ("label", "action-label"),
    "score": ("score",),
    "duration": ("duration_seconds", "video-duration"),
    "region": ("temporal-region-label",),
}
_BACKGROUND = "No action"


@dataclass(frozen=True, slots=True)
class SegmentsCsv:
    """The segments of a CSV, and the durations of videos where it has them."""

    segments: Segments
    duration_seconds: dict[str, float]


def read_segments_csv(path: str | Path) -> SegmentsCsv:
    """Returns the segments in `path`, in its order.

    Raises:
        FormatError: the file is something else, lacks a column, or a row is malformed.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, _EXPECTED)))
    given = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = given
    column = {key: next((name for name in names if name in given), None) for key, names in _NAMES.items()}
    if None in (column["video_id"], column["start"], column["stop"]):
        raise wrong_format(path, _EXPECTED)
    rows, durations, everyone = [], {}, []
    for record in reader:
        number = reader.line_num
        start, stop = (seconds(record[column[key] or ""]) for key in ("start", "stop"))
        score = seconds(record[column["score"]]) if column["score"] else 1.0
        video = record[column["video_id"] or ""]
        if start is None or stop is None or score is None or not video:
            raise wrong_line(path, number, ",".join(str(value) for value in record.values()), "a video and numbers")
        label = record[column["label"]] if column["label"] else ""
        everyone.append(video)
        if column["region"] is None or record[column["region"]] != _BACKGROUND:
            rows.append((video, start, stop, label or "", score))
        if column["duration"]:
            duration = seconds(record[column["duration"]])
            if duration is None:
                raise FormatError(
                    describe("file", f"{path} line {number}", "a duration in seconds", "no number", "correct the row")
                )
            durations[video] = duration
    videos, starts, stops, labels, scores = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return SegmentsCsv(segments_from_columns(videos, starts, stops, labels, scores, video_ids=everyone), durations)


def write_segments_csv(path: str | Path, segments: Segments) -> None:
    """Writes `segments` so that `read_segments_csv` returns them again; videos without a segment have no row."""
    with Path(path).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["video_id", "start_seconds", "stop_seconds", "label", "score"])
        columns = (segments.video, segments.start_seconds, segments.stop_seconds, segments.label, segments.score)
        for video, start, stop, label, score in zip(*(column.tolist() for column in columns), strict=True):
            row = [segments.video_ids[video], repr(start), repr(stop), segments.label_names[label], repr(score)]
            writer.writerow(row)


def _looks_like(head: Head) -> bool:
    ours, tsp = {"video_id", "start_seconds", "stop_seconds"}, {"video-name", "t-start", "t-end"}
    return not head.is_parquet and (head.columns >= ours or head.columns >= tsp)


def _segments(request: ReadRequest) -> SegmentTable:
    table = read_segments_csv(request.path)
    return SegmentTable(table.segments, None, table.duration_seconds)


READER = Reader(
    "csv",
    "a CSV of segments",
    _looks_like,
    truth={"segments": _segments},
    predictions=dict.fromkeys(("segments", "windows", "video_classes"), _segments),
    layout="video_id,start_seconds,stop_seconds,label,score",
)
