"""A table of query images and the frames they were taken from: .csv with ``query``, ``video_id`` and ``seconds``."""

import csv
import io
import math
from pathlib import Path

from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.formats.reader import Head, Reader
from clipmill.stores.formats.records import ShownFrame, ShownFrames
from clipmill.stores.formats.sniff import read_text, wrong_format

COLUMNS = ("query", "video_id", "seconds")
_EXPECTED = f".csv of query images with the columns {', '.join(COLUMNS)}"


def read_query_frames(path: str | Path) -> dict[str, ShownFrame]:
    """Returns query to the video that its frame is of, and the second of the video at which that begins.

    Raises:
        FormatError: the file is something else, a second is no number, or a query stands there twice.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, _EXPECTED)))
    if not set(COLUMNS) <= set(reader.fieldnames or ()):
        raise wrong_format(path, _EXPECTED)
    found: dict[str, ShownFrame] = {}
    for number, row in enumerate(reader, start=2):
        where = f"{path} line {number}"
        try:
            seconds = float(row["seconds"])
        except (TypeError, ValueError):
            seconds = math.nan
        if not math.isfinite(seconds):
            raise FormatError(describe(where, "seconds", "a number of seconds", repr(row["seconds"]), "correct it"))
        if row["query"] in found:
            raise FormatError(describe(where, "query", "each query once", repr(row["query"]), "remove one of them"))
        found[row["query"]] = ShownFrame(row["video_id"], seconds)
    if not found:
        raise FormatError(describe("file", str(path), "at least one query", "none", "add a line for each"))
    return found


def _is_table(head: Head) -> bool:
    return set(COLUMNS) <= set(head.first_line.strip().split(","))


READER = Reader(
    "query_frames",
    _EXPECTED,
    _is_table,
    truth={"shown_frames": lambda request: ShownFrames(read_query_frames(request.path))},
)
