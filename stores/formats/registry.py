"""Which file formats there are, and which of them a file is. To add one: a file with a `Reader`, and one line here.

One from outside the project registers under the entry point group ``clipmill.formats``. Names are those of `format:` in
an evaluation's config.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Literal

from clipmill.schemas.errors import FormatError, UsageError, describe, near
from clipmill.stores.formats.reader import Head, Reader
from clipmill.stores.formats.sniff import looks_like

ENTRY_POINT_GROUP = "clipmill.formats"
Side = Literal["truth", "predictions"]

_FORMATS = "clipmill.stores.formats"
BUILT_IN = {
    "activitynet": f"{_FORMATS}.activitynet:READER",
    "thumos14": f"{_FORMATS}.thumos14:READER",
    "csv": f"{_FORMATS}.segments_csv:READER",
    "parquet": f"{_FORMATS}.parquet:READER",
    "charades_sta": f"{_FORMATS}.charades_sta:READER",
    "activitynet_captions": f"{_FORMATS}.activitynet_captions:READER",
    "qvhighlights": f"{_FORMATS}.qvhighlights:READER",
    "labels": f"{_FORMATS}.class_scores:LABELS_READER",
    "scores": f"{_FORMATS}.class_scores:READER",
    "trec": f"{_FORMATS}.trec:READER",
    "revisited": f"{_FORMATS}.revisited_oxford:READER",
    "oxford": f"{_FORMATS}.oxford_buildings:READER",
    "ranks": f"{_FORMATS}.oxford_buildings:RANKS_READER",
    "stanford_i2v": f"{_FORMATS}.stanford_i2v:READER",
}
"""Name to module and attribute."""


@cache
def _outside() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name not in BUILT_IN}


def names() -> tuple[str, ...]:
    """Returns the names of all formats: ours in the order of the table, then those from outside."""
    return (*BUILT_IN, *sorted(_outside()))


@cache
def reader(name: str) -> Reader:
    """Returns the reader of the format called `name`.

    Raises:
        UsageError: there is no such format (near names are listed), or the package that brings it is broken.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found: object = getattr(import_module(module), attribute)
    elif name in _outside():
        try:
            found = _outside()[name].load()
        except Exception as error:
            got = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise UsageError(describe("format", name, "a package that imports", got, "fix or remove it")) from error
    else:
        raise UsageError(describe("format", name, "a known format", "an unknown one", near(name, names())))
    if not isinstance(found, Reader):
        expected = "a clipmill.stores.formats.reader.Reader"
        raise UsageError(describe("format", name, expected, type(found).__name__, "see docs/extending.md"))
    if found.format != name:
        remedy = "give the entry point the name of its format"
        raise UsageError(describe("format", name, "a reader of that name", found.format, remedy))
    return found


def formats_of(side: Side, kinds: Iterable[str]) -> tuple[str, ...]:
    """Returns the formats that carry one of `kinds` of records, as ground truth or as predictions."""
    wanted = set(kinds)
    return tuple(name for name in names() if wanted & set(getattr(reader(name), side)))


def format_of(path: str | Path, expected: Sequence[str] = ()) -> str:
    """Returns the format of the file or folder at `path`, by its content.

    Where several formats would take a file, it is the first of `expected`, else the first of the table.

    Args:
        expected: formats that can be used; the message about an unknown file lists them. None: any.

    Raises:
        FormatError: there is nothing at `path`, or it is of no known format; the message says what it looks like.
    """
    file = Path(path)
    if not file.exists():
        raise FormatError(describe("file", str(path), "a file or folder", "nothing there", "check the path"))
    head = Head(file)
    order = (*expected, *(name for name in names() if name not in expected))
    for name in order:
        if reader(name).looks_like(head):
            return name
    known = ", ".join(expected or names())
    remedy = "check the path and the kind of file"
    raise FormatError(describe("file", str(path), f"a known format ({known})", looks_like(path), remedy))
