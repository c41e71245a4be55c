"""Manifests of items whose features were made elsewhere: ids, and what is known of each, without a video."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from clipmill.schemas.config_import import ItemTableConfig
from clipmill.schemas.records import Video
from clipmill.stores.manifest_tables import (
    TIMES,
    Row,
    check_columns,
    problem,
    read_table,
    seconds_of,
    segment_of,
    text_of,
)

THING = "manifest"
ID, PATHS = "id", ("path", "uri")
NUMBERS = ("duration_seconds", "fps")
KNOWN = (ID, *PATHS, "label", "split", "segment_label", *TIMES, *NUMBERS)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the manifest.

    Attributes:
        item: position of its item.
        cells: as text, by column; empty cells are left out.
    """

    item: int
    cells: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Item:
    """What the manifest says of one item.

    Attributes:
        video: its id, label, split and segments; `uri` is empty where no file of it is named.
        duration_seconds, fps: None where they are not known.
    """

    video: Video
    duration_seconds: float | None = None
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class ItemManifest:
    """The items of all files, in order.

    Attributes:
        lines: as they stand; several belong to an item that has several segments.
        columns: every column that any of the files has.
        name: of the first file, without its ending.
    """

    items: tuple[Item, ...]
    lines: tuple[Line, ...]
    columns: frozenset[str]
    name: str


def read_item_manifest(tables: Sequence[ItemTableConfig]) -> ItemManifest:
    """Returns the items that `tables` list, in their order.

    Raises:
        ManifestError: a file cannot be read, has no column ``id``, or a line of it cannot be used.
    """
    items: dict[str, Item] = {}
    places: dict[str, str] = {}
    positions: dict[str, int] = {}
    lines: list[Line] = []
    columns: set[str] = set()
    for table in tables:
        names, rows = _read(table)
        columns.update(names)
        for number, row in enumerate(rows, start=1):
            place = f"{table.file} row {number}"
            item = _item(place, row, os.path.dirname(os.path.abspath(table.file)))
            name = item.video.id
            if name in items:
                item = _joined(place, places[name], items[name], item)
            items[name] = item
            places.setdefault(name, place)
            at = positions.setdefault(name, len(positions))
            lines.append(Line(at, _texts(place, row)))
    if not items:
        raise problem(THING, tables[0].file, "at least one line", "none", "add a line for each item")
    return ItemManifest(tuple(items.values()), tuple(lines), frozenset(columns), PurePosixPath(tables[0].file).stem)


def _read(table: ItemTableConfig) -> tuple[list[str], list[Row]]:
    """Returns the columns and rows of one file, by our names and with its constants."""
    if isinstance(table.columns, tuple) and table.columns:
        columns, rows = _read_list(table.file, table.columns)
    else:
        columns, rows = read_table(THING, table.file, ())
        columns, rows = _renamed(table, columns, rows)
    check_columns(THING, table.file, columns, KNOWN)
    twice = sorted(set(table.constants).intersection(columns))
    if twice:
        remedy = "leave it out of constants, or rename the column"
        raise problem(THING, table.file, f"{twice[0]} once", "a column and a constant", remedy)
    if ID not in columns:
        got = f"columns {', '.join(columns) or 'none'}"
        remedy = "rename that of the ids, or say which it is: columns: {id: NAME}"
        raise problem(THING, table.file, "a column id", got, remedy)
    return [*columns, *table.constants], [row | table.constants for row in rows]


def _renamed(table: ItemTableConfig, columns: list[str], rows: list[Row]) -> tuple[list[str], list[Row]]:
    named = dict(table.columns) if isinstance(table.columns, dict) else {}
    missing = [theirs for theirs in named.values() if theirs not in columns]
    if missing:
        got = f"columns {', '.join(columns)}"
        raise problem(THING, table.file, f"a column {missing[0]!r}", got, "correct the name under columns")
    # A column may go by several of our names, and gives way where its own name is taken by another.
    ours: dict[str, str] = {column: column for column in columns if column not in named.values()} | named
    return list(ours), [{name: row[theirs] for name, theirs in ours.items()} for row in rows]


def _read_list(path: str, columns: Sequence[str]) -> tuple[list[str], list[Row]]:
    """Returns the rows of text without a header: separated by tabs, else by commas, else by spaces."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        remedy = "check the path"
        raise problem(THING, path, "a readable file", error.strerror or type(error).__name__, remedy) from None
    except UnicodeDecodeError:
        raise problem(THING, path, "UTF-8", "other bytes", "save it as UTF-8") from None
    separator = next((mark for mark in ("\t", ",") if mark in text), None)
    if separator is None:
        table = [line.split() for line in text.splitlines()]
    else:
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    rows: list[Row] = []
    for number, cells in enumerate((cells for cells in table if cells), start=1):
        if len(cells) != len(columns):
            got = f"{len(cells)} fields"
            remedy = "name each under columns; a file with a header needs none"
            raise problem(THING, f"{path} row {number}", f"{len(columns)} fields", got, remedy)
        rows.append({name: cell.strip() or None for name, cell in zip(columns, cells, strict=True)})
    return list(columns), rows


def _item(place: str, row: Row, folder: str) -> Item:
    name = text_of(place, ID, row.get(ID))
    if name is None:
        raise problem(place, ID, "the id of an item", "nothing", "fill it in")
    segment = segment_of(place, row)
    written = next((found for column in PATHS if (found := text_of(place, column, row.get(column)))), "")
    if written and "://" not in written:
        written = os.path.abspath(os.path.join(folder, os.path.expanduser(written)))
    numbers = [seconds_of(place, column, row.get(column)) for column in NUMBERS]
    for column, number in zip(NUMBERS, numbers, strict=True):
        if number is not None and number <= 0:
            raise problem(place, column, "a number above 0", f"{number:g}", "correct it, or leave it empty")
    video = Video(
        name,
        written,
        label=text_of(place, "label", row.get("label")),
        split=text_of(place, "split", row.get("split")),
        segments=() if segment is None else (segment,),
    )
    return Item(video, *numbers)


def _joined(place: str, first: str, known: Item, item: Item) -> Item:
    """Returns the item of two lines of one id: both have a segment, and agree in all else."""
    if not (known.video.segments and item.video.segments):
        got = f"{item.video.id!r}, the id of {first} as well"
        remedy = "give each item its own id, or each of its lines a segment (start_seconds, stop_seconds)"
        raise problem(place, ID, "an id of its own", got, remedy)
    for name in ("uri", "label", "split"):
        _check_equal(place, first, name, getattr(known.video, name), getattr(item.video, name))
    for name in NUMBERS:
        _check_equal(place, first, name, getattr(known, name), getattr(item, name))
    return replace(known, video=replace(known.video, segments=known.video.segments + item.video.segments))


def _check_equal(place: str, first: str, column: str, known: object, now: object) -> None:
    if known != now:
        raise problem(place, column, f"{known!r} as in {first}", repr(now), "make the lines of one item agree")


def _texts(place: str, row: Row) -> dict[str, str]:
    """Returns the cells that can stand in the name of a file or an array; what is no text or number cannot."""
    found = {}
    for column, value in row.items():
        if isinstance(value, float):
            found[column] = f"{value:g}"
        elif isinstance(value, str | int) and not isinstance(value, bool) and str(value):
            found[column] = str(value)
    return found
