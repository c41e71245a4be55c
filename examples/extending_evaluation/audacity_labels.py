"""A file format from outside: a folder of Audacity label tracks, ``<video>.labels.txt`` each.

::

    12.500000	18.250000	clapping        start, stop in seconds and label, separated by tabs
"""

from pathlib import Path

from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.segments import segments_from_columns
from clipmill.stores.formats.reader import Head, Reader, ReadRequest
from clipmill.stores.formats.records import SegmentTable

ENDING = ".labels.txt"


def looks_like(head: Head) -> bool:
    """Returns whether it is a folder of label tracks alone."""
    return bool(head.names) and all(name.endswith(ENDING) for name in head.names)


def read_segments(request: ReadRequest) -> SegmentTable:
    """Returns the segments of every track; a video's id is its file's name without the ending.

    Raises:
        FormatError: a line is something else.
    """
    rows = []
    files = sorted(Path(request.path).glob(f"*{ENDING}"))
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            fields = line.split("\t")
            try:
                start, stop = float(fields[0]), float(fields[1])
            except (IndexError, ValueError):
                expected = "start, stop and label between tabs"
                raise FormatError(
                    describe("file", f"{file} line {number}", expected, repr(line), "export it again")
                ) from None
            rows.append((file.name.removesuffix(ENDING), start, stop, fields[2] if len(fields) > 2 else ""))
    video, start_seconds, stop_seconds, label = zip(*rows, strict=True) if rows else ((), (), (), ())
    names = [file.name.removesuffix(ENDING) for file in files]
    return SegmentTable(segments_from_columns(video, start_seconds, stop_seconds, label, video_ids=names))


READER = Reader(
    "audacity_labels",
    "a folder of Audacity label tracks",
    looks_like,
    truth={"segments": read_segments},
    predictions={"segments": read_segments},
)
