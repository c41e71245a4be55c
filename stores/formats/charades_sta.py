"""Charades-STA: one query a line, ``<video> <start> <end>##<sentence>``.

Durations are not in the file; they come from the column `length` of ``Charades_v1_{train,test}.csv`` or from a JSON
object of video to seconds (or to an object with ``duration``). The original training file has four lines with start >
end; which are refused, dropped or swapped as asked, since papers count 12,408 or 12,404 pairs.
Source: J. Gao et al., TALL, ICCV 2017.
"""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.segments import segments_from_columns
from clipmill.stores.formats.moments import MomentQueries
from clipmill.stores.formats.reader import Reader, ReadRequest
from clipmill.stores.formats.records import AnnotatedQueries
from clipmill.stores.formats.sniff import read_lines, read_text, seconds, wrong_format, wrong_line

_LINES = "Charades-STA: lines of <video> <start> <end>##<sentence>"


def read_charades_sta(
    path: str | Path,
    duration_seconds: Mapping[str, float] | None = None,
    inverted: Literal["refuse", "drop", "swap"] = "refuse",
) -> MomentQueries:
    """Returns the queries in `path`; a query's id is ``<video>#<line number>``, counted from 1.

    Args:
        duration_seconds: of the videos, as `read_charades_durations`; moments are not clipped to them here.
        inverted: what to do with lines whose start is after their end.

    Raises:
        FormatError: the file is something else, or a line is malformed.
    """
    rows = []
    for number, line in read_lines(path, _LINES):
        head, separator, sentence = line.partition("##")
        fields = head.split()
        start, stop = (seconds(fields[1]), seconds(fields[2])) if len(fields) == 3 else (None, None)
        if not separator or start is None or stop is None:
            raise wrong_format(path, _LINES) if number == 1 else wrong_line(path, number, line, _LINES)
        if start > stop and inverted == "refuse":
            raise wrong_line(
                path, number, line, "start <= end", "correct the line, or have such lines dropped or swapped"
            )
        if start > stop and inverted == "drop":
            continue
        rows.append((f"{fields[0]}#{number}", fields[0], sentence.strip(), min(start, stop), max(start, stop)))
    query, video, sentences, starts, stops = zip(*rows, strict=True)
    known = duration_seconds or {}
    return MomentQueries(
        query,
        video,
        sentences,
        np.array([known.get(name, np.nan) for name in video], np.float64),
        segments_from_columns(query, starts, stops, video_ids=query),
    )


def write_charades_sta(path: str | Path, queries: MomentQueries) -> None:
    """Writes one line per window; durations have no place in the format."""
    table = queries.windows
    columns = (table.video, table.start_seconds, table.stop_seconds)
    lines = [
        f"{queries.video_ids[query]} {start!r} {stop!r}##{queries.sentences[query]}\n"
        for query, start, stop in zip(*(column.tolist() for column in columns), strict=True)
    ]
    Path(path).write_text("".join(lines), encoding="utf-8")


def read_charades_durations(path: str | Path) -> dict[str, float]:
    """Returns video id to seconds from a JSON object or a CSV with the columns ``id`` and ``length``.

    A CSV with the columns ``filename`` and ``video-duration`` (TSP's metadata) is read as well, without the endings.

    Raises:
        FormatError: the file is neither, or a duration is no number.
    """
    expected = "durations: a JSON object of video to seconds, or a CSV with the columns id and length"
    text = read_text(path, expected)
    if text.lstrip().startswith("{"):
        try:
            pairs = [
                (name, item["duration"] if isinstance(item, dict) else item) for name, item in json.loads(text).items()
            ]
        except (ValueError, KeyError):
            raise wrong_format(path, expected) from None
    else:
        reader = csv.DictReader(io.StringIO(text))
        columns = set(reader.fieldnames or ())
        if {"filename", "video-duration"} <= columns:
            pairs = [(row["filename"].rsplit(".", 1)[0], row["video-duration"]) for row in reader]
        elif {"id", "length"} <= columns:
            pairs = [(row["id"], row["length"]) for row in reader]
        else:
            raise wrong_format(path, expected)
    durations = {str(name): seconds(value) for name, value in pairs}
    for name, value in durations.items():
        if value is None:
            raise FormatError(describe("file", f"{path} video {name}", "seconds", "no number", "correct the entry"))
    return {name: value for name, value in durations.items() if value is not None}


def _queries(request: ReadRequest) -> AnnotatedQueries:
    return AnnotatedQueries(read_charades_sta(request.path, inverted=request.inverted))


READER = Reader(
    "charades_sta",
    "Charades-STA lines",
    lambda head: "##" in head.first_line,
    truth={"queries": _queries},
    takes=frozenset({"inverted"}),
)
