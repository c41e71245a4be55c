"""Stanford I2V: which news clips show what a query photo shows, ranked lists of clips, and seconds found in clips.

::

    0 20121002/PBS_..._segment/01.700k.mp4 0:56 1:02 20121002/..._segment/07.700k.mp4 0:30 0:55     ground truth
    Query 0                                                                                         ranked clips
    20121002/PBS_..._segment/01.700k.mp4
    Query 0                                                                                         seconds: "times"
    20121002/PBS_..._segment/01.700k.mp4,0:56 1:02,1:10 1:10
    Query 0                                                                                         "frames"
    20121002/PBS_..._segment/01.700k.mp4,60,61,63

A ground-truth line has a query's number and, again and again, a clip with the first and last second that show it, as
``m:ss`` or ``h:mm:ss``; a clip may stand several times. The unit of retrieval is the clip. Keyframes are numbered from
1, one a second, best first; keyframe n is second max(n - 4, 0), for FFmpeg gave the first second four of them.
Source: A. Araujo et al., Stanford I2V, MMSys 2015, and the file formats beside its scoring tools.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from clipmill.schemas.errors import FormatError
from clipmill.stores.formats.reader import Head, Reader
from clipmill.stores.formats.records import Rankings, ReportedSeconds, ShownIn, ShownScenes
from clipmill.stores.formats.sniff import read_lines, wrong_format, wrong_line

_TRUTH = "Stanford I2V ground truth: lines of <query number> and repeated <clip> <start m:ss> <stop m:ss>"
_RANKED = "Stanford I2V results: 'Query <number>' and then one clip a line, best first"
_SECONDS = (
    "Stanford I2V seconds: 'Query <number>' and then <clip>,<start m:ss> <stop m:ss>,... or <clip>,<keyframe>,..."
)
KEYFRAME_DELAY = 4
"""Keyframes that FFmpeg gave the first second, as the dataset's authors extracted them."""


def read_stanford_i2v(path: str | Path) -> dict[str, tuple[ShownIn, ...]]:
    """Returns query number (as text) to where it is shown.

    Raises:
        FormatError: the file is something else, a line is malformed, or a query stands twice.
    """
    truth: dict[str, tuple[ShownIn, ...]] = {}
    for number, line in read_lines(path, _TRUTH):
        query, *fields = line.split()
        times = [_seconds(text) for place, text in enumerate(fields) if place % 3]
        if not query.isdecimal() or not fields or len(fields) % 3 or None in times:
            raise _wrong(path, number, line, _TRUTH, not truth)
        if query in truth:
            raise wrong_line(path, number, line, f"query {query} once")
        spans = zip(fields[::3], times[::2], times[1::2], strict=True)
        shown = tuple(ShownIn(clip, start or 0, stop or 0) for clip, start, stop in spans)
        if any(item.stop_seconds < item.start_seconds for item in shown):
            raise wrong_line(path, number, line, "stretches that stop after they start")
        truth[query] = shown
    return truth


def read_stanford_i2v_results(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Returns query number (as text) to the clips of its list, best first, as they stand.

    Raises:
        FormatError: the file is something else, or a query stands twice.
    """
    ranked: dict[str, list[str]] = {}
    query = ""
    for number, line in read_lines(path, _RANKED):
        if line.split()[0] == "Query":
            query = _query_of(path, number, line, _RANKED, ranked)
            ranked[query] = []
        elif not ranked:
            raise wrong_format(path, _RANKED)
        else:
            ranked[query].append(line.strip())
    return {name: tuple(clips) for name, clips in ranked.items()}


def read_stanford_i2v_seconds(path: str | Path) -> ReportedSeconds:
    """Returns query number (as text) to clip to the seconds reported; of keyframes best first, of times unranked.

    Raises:
        FormatError: the file is something else, a line is malformed or of the other form, or a query or a clip of one
            stands twice.
    """
    seconds: dict[str, dict[str, list[int]]] = {}
    query, has_times = "", None
    for number, line in read_lines(path, _SECONDS):
        if line.split()[0] == "Query":
            query = _query_of(path, number, line, _SECONDS, seconds)
            seconds[query] = {}
            continue
        clip, *fields = (part.strip() for part in line.split(","))
        are_times = any(":" in field for field in fields)
        if not seconds or not fields:
            raise _wrong(path, number, line, _SECONDS, not any(seconds.values()))
        has_times = are_times if has_times is None else has_times
        listed = _times(fields) if has_times else _keyframes(fields)
        if listed is None:
            expected = "<start m:ss> <stop m:ss> after each comma" if has_times else "a keyframe after each comma"
            raise wrong_line(path, number, line, expected)
        if clip in seconds[query]:
            raise wrong_line(path, number, line, f"clip {clip} once for query {query}")
        seconds[query][clip] = listed
    return ReportedSeconds(seconds, is_ranked=not has_times)


def write_stanford_i2v_results(path: str | Path, ranked: Mapping[str, Sequence[str]]) -> None:
    """Writes ranked clips of each query, in the order of `ranked`."""
    lines = [line for query, clips in ranked.items() for line in (f"Query {query}", *clips)]
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _query_of(path: str | Path, number: int, line: str, expected: str, before: Mapping[str, object]) -> str:
    fields = line.split()
    if len(fields) != 2 or not fields[1].isdecimal():
        raise _wrong(path, number, line, expected, not before)
    if fields[1] in before:
        raise wrong_line(path, number, line, f"query {fields[1]} once")
    return fields[1]


def _times(fields: Sequence[str]) -> list[int] | None:
    """Returns all seconds of stretches ``<start> <stop>``, both ends included; None where one is no such stretch."""
    listed: list[int] = []
    for field in fields:
        ends = [_seconds(text) for text in field.split()]
        if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[1] < ends[0]:
            return None
        listed += range(ends[0], ends[1] + 1)
    return listed


def _keyframes(fields: Sequence[str]) -> list[int] | None:
    if not all(field.isdecimal() and int(field) > 0 for field in fields):
        return None
    return [max(int(field) - KEYFRAME_DELAY, 0) for field in fields]


def _seconds(text: str) -> int | None:
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(part.isdecimal() for part in parts):
        return None
    return sum(int(part) * (1, 60, 3600)[place] for place, part in enumerate(reversed(parts)))


def _wrong(path: str | Path, number: int, line: str, expected: str, is_first: bool) -> FormatError:
    return wrong_format(path, expected) if is_first else wrong_line(path, number, line, expected)


def _is_stanford(head: Head) -> bool:
    fields = head.first_line.split()
    if len(fields) == 2 and fields[0] == "Query":
        return fields[1].isdecimal()
    times = [text for place, text in enumerate(fields[1:]) if place % 3]
    is_whole = len(fields) > 3 and (len(fields) - 1) % 3 == 0 and fields[0].isdecimal()
    return is_whole and all(":" in text and _seconds(text) is not None for text in times)


READER = Reader(
    "stanford_i2v",
    "Stanford I2V's ground truth, ranked clips or seconds",
    _is_stanford,
    truth={"scenes": lambda request: ShownScenes(read_stanford_i2v(request.path))},
    predictions={
        "rankings": lambda request: Rankings(order=read_stanford_i2v_results(request.path)),
        "reported_seconds": lambda request: read_stanford_i2v_seconds(request.path),
    },
)
