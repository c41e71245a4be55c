"""Classes of items and their predicted scores, as CSV or Parquet.

::

    id,label                     labels: the true class of each item
    id,archery,bowling,...       scores, wide: a column per class
    id,label,score               scores, long: a row per item and class; a class without a row scores minus infinity
"""

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.segments import segments_from_columns
from clipmill.stores.formats.reader import Head, Reader, ReadRequest
from clipmill.stores.formats.records import ClassScoreTable, Labels, SegmentTable
from clipmill.stores.formats.sniff import read_text, seconds, wrong_format

_LABELS = "labels: a CSV or Parquet table with the columns id and label"
_SCORES = "class scores: a CSV or Parquet table with the column id and one per class, or id, label and score"


def read_labels(path: str | Path) -> dict[str, str]:
    """Returns item id to class name.

    Raises:
        FormatError: the file is something else, or an item stands twice.
    """
    columns, rows = _table(path, _LABELS)
    if not {"id", "label"} <= set(columns):
        raise wrong_format(path, _LABELS)
    first, second = columns.index("id"), columns.index("label")
    labels: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        item, label = row[first], row[second]
        if not item or not label:
            raise _bad(path, number, "an id and a label", ",".join(row))
        if item in labels:
            raise _bad(path, number, "each id once", item)
        labels[item] = label
    return labels


def read_class_scores(path: str | Path) -> ClassScoreTable:
    """Returns the scores in `path`.

    Raises:
        FormatError: the file is something else, an item (or an item's class) stands twice, or a score is no number.
    """
    columns, rows = _table(path, _SCORES)
    if "id" not in columns or len(columns) < 2:
        raise wrong_format(path, _SCORES)
    if {"label", "score"} <= set(columns):
        return _long(path, columns, rows)
    key = columns.index("id")
    names = [name for name in columns if name != "id"]
    ids, values, seen = [], np.empty((len(rows), len(names))), set()
    for number, row in enumerate(rows):
        item = row[key]
        if item in seen:
            raise _bad(path, number + 2, "each id once", item)
        seen.add(item)
        ids.append(item)
        numbers = [seconds(value) for position, value in enumerate(row) if position != key]
        if None in numbers:
            raise _bad(path, number + 2, "a number for each class", ",".join(row))
        values[number] = [value for value in numbers if value is not None]
    return ClassScoreTable(tuple(ids), tuple(names), values)


def _long(path: str | Path, columns: list[str], rows: list[list[str]]) -> ClassScoreTable:
    place = [columns.index(name) for name in ("id", "label", "score")]
    items: dict[str, int] = {}
    labels: dict[str, int] = {}
    found: dict[tuple[int, int], float] = {}
    for number, row in enumerate(rows, 2):
        item, label, text = (row[position] for position in place)
        score = seconds(text)
        if score is None or not item or not label:
            raise _bad(path, number, "an id, a label and a number", ",".join(row))
        cell = (items.setdefault(item, len(items)), labels.setdefault(label, len(labels)))
        if cell in found:
            raise _bad(path, number, "each class of an item once", f"{item},{label}")
        found[cell] = score
    values = np.full((len(items), len(labels)), -np.inf)
    for (row_number, column), score in found.items():
        values[row_number, column] = score
    return ClassScoreTable(tuple(items), tuple(labels), values)


def _table(path: str | Path, expected: str) -> tuple[list[str], list[list[str]]]:
    if Path(path).is_file():
        with Path(path).open("rb") as stream:
            if stream.read(4) == b"PAR1":
                return _parquet(path, expected)
    lines = list(csv.reader(io.StringIO(read_text(path, expected))))
    lines = [line for line in lines if line]
    columns = [name.strip() for name in lines[0]] if lines else []
    if len(set(columns)) != len(columns) or len(columns) < 2:
        raise wrong_format(path, expected)
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(columns):
            raise _bad(path, number, f"{len(columns)} fields", ",".join(line))
    return columns, [[value.strip() for value in line] for line in lines[1:]]


def _parquet(path: str | Path, expected: str) -> tuple[list[str], list[list[str]]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        raise wrong_format(path, expected) from None
    columns = [[_plain(value) for value in column.to_pylist()] for column in table.columns]
    return table.column_names, [list(row) for row in zip(*columns, strict=True)]


def _plain(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _bad(path: str | Path, number: int, expected: str, got: str) -> FormatError:
    return FormatError(describe("file", f"{path} line {number}", expected, repr(got[:60]), "correct the row"))


def _are_labels(head: Head) -> bool:
    return head.columns >= {"id", "label"} and "score" not in head.columns


def _video_classes(request: ReadRequest) -> SegmentTable:
    table = read_class_scores(request.path)
    row, column = np.nonzero(np.isfinite(table.values))
    labels = [table.class_names[code] for code in column.tolist()]
    videos = [table.ids[code] for code in row.tolist()]
    nowhere = np.zeros(len(videos))
    scores = table.values[row, column]
    return SegmentTable(segments_from_columns(videos, nowhere, nowhere, labels, scores, video_ids=table.ids))


LABELS_READER = Reader(
    "labels",
    "a CSV with the columns id and label",
    _are_labels,
    truth={"labels": lambda request: Labels(read_labels(request.path))},
)
READER = Reader(
    "scores",
    "a CSV or Parquet table of class scores with the column id",
    lambda head: "id" in head.columns and not _are_labels(head),
    predictions={"class_scores": lambda request: read_class_scores(request.path), "video_classes": _video_classes},
    layout="id and a column per class, or id,label,score",
)
