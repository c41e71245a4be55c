"""Stanford I2V: which news clips show what a query photo shows, and ranked lists of clips.

::

    0 20121002/PBS_..._segment/01.700k.mp4 0:56 1:02 20121002/..._segment/07.700k.mp4 0:30 0:55     ground truth
    Query 0                                                                                        ranked clips
    20121002/PBS_..._segment/01.700k.mp4

A ground-truth line has a query's number and, again and again, a clip with the first and last second that show it, as
``m:ss`` or ``h:mm:ss``; a clip may stand several times. The unit of retrieval is the clip.
Source: A. Araujo et al., Stanford I2V, MMSys 2015, and the file formats beside its scoring tools.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipmill.schemas.errors import FormatError
from clipmill.stores.formats.sniff import read_lines, wrong_format, wrong_line

_TRUTH = "Stanford I2V ground truth: lines of <query number> and repeated <clip> <start m:ss> <stop m:ss>"
_RANKED = "Stanford I2V results: 'Query <number>' and then one clip a line, best first"


@dataclass(frozen=True, slots=True)
class ShownIn:
    """A stretch of a clip that shows what a query shows: first and last whole second."""

    clip: str
    start_seconds: int
    stop_seconds: int


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
        fields = line.split()
        if fields[0] == "Query":
            if len(fields) != 2 or not fields[1].isdecimal():
                raise _wrong(path, number, line, _RANKED, not ranked)
            query = fields[1]
            if query in ranked:
                raise wrong_line(path, number, line, f"query {query} once")
            ranked[query] = []
        elif not ranked:
            raise wrong_format(path, _RANKED)
        else:
            ranked[query].append(line.strip())
    return {name: tuple(clips) for name, clips in ranked.items()}


def write_stanford_i2v_results(path: str | Path, ranked: Mapping[str, Sequence[str]]) -> None:
    """Writes ranked clips of each query, in the order of `ranked`."""
    lines = [line for query, clips in ranked.items() for line in (f"Query {query}", *clips)]
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _seconds(text: str) -> int | None:
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(part.isdecimal() for part in parts):
        return None
    return sum(int(part) * (1, 60, 3600)[place] for place, part in enumerate(reversed(parts)))


def _wrong(path: str | Path, number: int, line: str, expected: str, is_first: bool) -> FormatError:
    return wrong_format(path, expected) if is_first else wrong_line(path, number, line, expected)
