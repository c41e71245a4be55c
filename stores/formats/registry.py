"""Which file formats there are, and which of them a file is. To add one: a file with a `Reader`, and one line here.

One from outside the project registers under the entry point group ``clipmill.formats``. Names are those of `format:` in
an evaluation's config.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.registry import Registry
from clipmill.stores.formats.reader import Head, Reader
from clipmill.stores.formats.sniff import looks_like

Side = Literal["truth", "predictions"]

_FORMATS = "clipmill.stores.formats"
BUILT_IN = {
    "activitynet": f"{_FORMATS}.activitynet:READER",
    "thumos14": f"{_FORMATS}.thumos14:READER",
    "scnn": f"{_FORMATS}.scnn:READER",
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
    "search": f"{_FORMATS}.search_results:READER",
    "query_frames": f"{_FORMATS}.query_frames:READER",
}
"""Name to module and attribute."""
_REGISTRY: Registry[Reader] = Registry("format", "clipmill.formats", Reader, BUILT_IN, "format")


def names() -> tuple[str, ...]:
    """Returns the names of all formats: ours in the order of the table, then those from outside."""
    return _REGISTRY.names


def reader(name: str) -> Reader:
    """Returns the reader of the format called `name`.

    Raises:
        UsageError: there is no such format (near names are listed), or the package that brings it is broken.
    """
    return _REGISTRY.get(name)


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
    # Of pickles only what is expected is looked for: to call one by another format would not say what to do about it.
    others = [] if head.is_pickle and expected else [name for name in names() if name not in expected]
    order: list[str] = [*expected, *others]
    for name in order:
        if reader(name).looks_like(head):
            return name
    known = ", ".join(expected or names())
    remedy = "check the path and the kind of file"
    if head.is_pickle:
        layouts = [f"{name} ({reader(name).layout})" for name in expected if reader(name).layout]
        remedy = "a pickle can run code and is never opened here; write it as " + (" or ".join(layouts) or "text")
    raise FormatError(describe("file", str(path), f"a known format ({known})", looks_like(path), remedy))
