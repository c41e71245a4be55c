"""Data in memory as the records that files are read into: what a Python caller gives in place of a path.

Every kind takes its own record as it is. Tables are a ``pyarrow.Table`` or a mapping of column name to values; their
columns are those of the CSV and Parquet formats.

=============  =====================================================================================================
kind           taken
=============  =====================================================================================================
segments       `Segments`; a table of video_id, start_seconds, stop_seconds, label, score, duration_seconds
windows        the same with query_id in place of video_id (either is read)
video_classes  the same; times may be left out
queries        `MomentQueries`; a table of query_id, video_id, sentence, duration_seconds, start_seconds, stop_seconds
saliency       a mapping of query id to float[clips] or float[clips, people]
labels         a mapping of item id to class; a table of id, label
class_scores   a table of id and a column per class, or of id, label, score
judgements     a mapping of query to a mapping of document to judgement
rankings       a mapping of query to a mapping of name to score, or to a sequence of names, best first
landmarks      a mapping with imlist, qimlist and gnd, as the published object has them
scenes         a mapping of query to (clip, first second, last second), again and again
reported_      a mapping of query to a mapping of clip to seconds, best first
seconds
=============  =====================================================================================================
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores.formats.moments import MomentQueries
from clipmill.stores.formats.records import (
    AnnotatedQueries,
    ClassScoreTable,
    Judgements,
    Kind,
    Labels,
    LandmarkTruth,
    R,
    Rankings,
    ReportedSeconds,
    Saliency,
    SegmentTable,
    ShownIn,
    ShownScenes,
)

Columns = Mapping[str, Sequence[Any]]
EXPECTED = {
    "segments": "Segments, or a table with the columns video_id, start_seconds and stop_seconds",
    "windows": "Segments, or a table with the columns query_id, start_seconds, stop_seconds and score",
    "video_classes": "Segments, or a table with the columns video_id, label and score",
    "queries": "MomentQueries, or a table with the columns query_id, video_id, start_seconds and stop_seconds",
    "saliency": "a mapping of query id to numbers, one per clip",
    "labels": "a mapping of item id to class, or a table with the columns id and label",
    "class_scores": "a table with the column id and one per class, or id, label and score",
    "judgements": "a mapping of query to document to judgement",
    "rankings": "a mapping of query to name to score, or of query to names, best first",
    "landmarks": "a mapping with imlist, qimlist and gnd",
    "scenes": "a mapping of query to (clip, first second, last second)",
    "reported_seconds": "a mapping of query to clip to seconds",
}
"""Kind of record to what it can be made of, for messages."""


def record_of(kind: Kind[R], value: Any, name: str) -> R:
    """Returns `value`, data in memory, as the record of `kind`.

    Args:
        name: what the data is called in messages.

    Raises:
        FormatError: it is something else, or its columns do not fit together.
    """
    if isinstance(value, kind.record):
        return value
    make = kind.of or _MAKERS.get(kind.name)
    if make is None:
        raise _wrong(kind.name, value, name)
    try:
        made = make(value)
    except (AttributeError, TypeError, ValueError, KeyError, pa.ArrowException) as error:
        if isinstance(error, FormatError):
            raise
        raise _wrong(kind.name, value, name, error) from None
    if not isinstance(made, kind.record):
        raise _wrong(kind.name, value, name)
    return made


def _wrong(kind: str, value: Any, name: str, error: Exception | None = None) -> FormatError:
    got = type(value).__name__
    if isinstance(value, Mapping):
        got += f" with the keys {', '.join(repr(key) for key in list(value)[:6])}"
    elif isinstance(value, pa.Table):
        got = f"a table with the columns {', '.join(value.column_names)}"
    if error is not None and str(error):
        got += f" ({str(error).splitlines()[0].strip(chr(39))})"
    expected = EXPECTED.get(kind, f"a record of kind {kind}")
    return FormatError(describe("data", name, expected, got, "see docs/python.md"))


def _columns(value: Any) -> dict[str, list[Any]]:
    """Returns the columns of a table as lists of one length."""
    if isinstance(value, pa.Table):
        return {name: value.column(name).to_pylist() for name in value.column_names}
    if not isinstance(value, Mapping):
        raise TypeError("no table")
    found: dict[str, list[Any]] = {}
    for name, column in value.items():
        if isinstance(column, str | bytes | Mapping):
            raise TypeError(f"column {name} is no sequence")
        array = np.asarray(column)
        found[str(name)] = array.tolist() if array.ndim == 1 else list(column)
    if len({len(column) for column in found.values()}) > 1:
        lengths = ", ".join(f"{name} {len(column)}" for name, column in found.items())
        raise ValueError(f"columns of different lengths: {lengths}")
    return found


def _numbers(columns: Columns, name: str) -> npt.NDArray[np.float64]:
    values = np.array([np.nan if value is None else value for value in columns[name]], np.float64)
    if np.isnan(values).any():
        raise ValueError(f"column {name} has values that are no number")
    return values


def _ids(columns: Columns, *names: str) -> list[str]:
    name = next((name for name in names if name in columns), None)
    if name is None:
        raise KeyError(f"no column {names[0]}")
    return [str(value) for value in columns[name]]


def _segments(value: Any, *id_columns: str, times: bool = True) -> SegmentTable:
    if isinstance(value, Segments):
        return SegmentTable(value)
    if isinstance(value, SegmentTable):
        return value
    columns = _columns(value)
    videos = _ids(columns, *id_columns)
    nowhere = np.zeros(len(videos))
    start, stop = (
        _numbers(columns, name) if times or name in columns else nowhere for name in ("start_seconds", "stop_seconds")
    )
    labels = ["" if label is None else str(label) for label in columns["label"]] if "label" in columns else None
    score = _numbers(columns, "score") if "score" in columns else None
    durations: dict[str, float] = {}
    if "duration_seconds" in columns:
        known = zip(videos, columns["duration_seconds"], strict=True)
        durations = {video: float(value) for video, value in known if value is not None and value == value}
    return SegmentTable(segments_from_columns(videos, start, stop, labels, score), None, durations)


def _queries(value: Any) -> AnnotatedQueries:
    if isinstance(value, MomentQueries):
        return AnnotatedQueries(value)
    columns = _columns(value)
    queries = _ids(columns, "query_id")
    first: dict[str, int] = {}
    for row, query in enumerate(queries):
        first.setdefault(query, row)
    rows = list(first.values())
    start, stop = (_numbers(columns, name) for name in ("start_seconds", "stop_seconds"))
    sentences = columns.get("sentence", [""] * len(queries))
    durations = columns.get("duration_seconds", [None] * len(queries))
    table = MomentQueries(
        tuple(first),
        tuple(str(columns["video_id"][row]) for row in rows),
        tuple(str(sentences[row]) for row in rows),
        np.array([np.nan if durations[row] is None else durations[row] for row in rows], np.float64),
        segments_from_columns(queries, start, stop, video_ids=first),
    )
    return AnnotatedQueries(table)


def _saliency(value: Mapping[str, Any]) -> Saliency:
    tables = {str(query): np.asarray(scores, np.float64) for query, scores in value.items()}
    tables = {query: table[:, None] if table.ndim == 1 else table for query, table in tables.items()}
    if any(table.ndim != 2 for table in tables.values()):
        raise ValueError("more than one number per clip and person")
    return Saliency(tables)


def _labels(value: Any) -> Labels:
    if isinstance(value, Mapping) and not all(isinstance(label, str) for label in value.values()):
        columns = _columns(value)
    elif isinstance(value, pa.Table):
        columns = _columns(value)
    else:
        return Labels({str(item): label for item, label in value.items()})
    ids = _ids(columns, "id")
    if len(set(ids)) != len(ids):
        raise ValueError("an id stands twice")
    return Labels(dict(zip(ids, (str(label) for label in columns["label"]), strict=True)))


def _class_scores(value: Any) -> ClassScoreTable:
    columns = _columns(value)
    ids = _ids(columns, "id")
    if {"label", "score"} <= set(columns):
        items = {item: row for row, item in enumerate(dict.fromkeys(ids))}
        labels = [str(label) for label in columns["label"]]
        classes = {label: row for row, label in enumerate(dict.fromkeys(labels))}
        if len(set(zip(ids, labels, strict=True))) != len(ids):
            raise ValueError("a class of an item stands twice")
        values = np.full((len(items), len(classes)), -np.inf)
        values[[items[item] for item in ids], [classes[label] for label in labels]] = _numbers(columns, "score")
        return ClassScoreTable(tuple(items), tuple(classes), values)
    if len(set(ids)) != len(ids):
        raise ValueError("an id stands twice")
    names = [name for name in columns if name != "id"]
    if not names:
        raise ValueError("no column of a class")
    return ClassScoreTable(tuple(ids), tuple(names), np.stack([_numbers(columns, name) for name in names], axis=1))


def _judgements(value: Mapping[str, Mapping[str, Any]]) -> Judgements:
    return Judgements(
        {str(query): {str(name): int(judged) for name, judged in items.items()} for query, items in value.items()}
    )


def _rankings(value: Mapping[str, Any]) -> Rankings:
    if all(isinstance(items, Mapping) for items in value.values()):
        return Rankings({str(q): {str(name): float(v) for name, v in items.items()} for q, items in value.items()})
    if any(isinstance(items, str | bytes | Mapping) for items in value.values()):
        raise TypeError("neither names nor scores for each query")
    return Rankings(order={str(query): [str(name) for name in names] for query, names in value.items()})


def _landmarks(value: Mapping[str, Any]) -> LandmarkTruth:
    from clipmill.stores.formats.revisited_oxford import landmark_truth, revisited_from_object

    return landmark_truth(revisited_from_object(value, "data"))


def _scenes(value: Mapping[str, Any]) -> ShownScenes:
    return ShownScenes(
        {
            str(query): tuple(ShownIn(str(clip), int(start), int(stop)) for clip, start, stop in stretches)
            for query, stretches in value.items()
        }
    )


def _reported_seconds(value: Mapping[str, Mapping[str, Any]]) -> ReportedSeconds:
    return ReportedSeconds(
        {
            str(query): {str(clip): [int(second) for second in seconds] for clip, seconds in clips.items()}
            for query, clips in value.items()
        }
    )


_MAKERS: Mapping[str, Callable[[Any], Any]] = {
    "segments": lambda value: _segments(value, "video_id"),
    "windows": lambda value: _segments(value, "query_id", "video_id"),
    "video_classes": lambda value: _segments(value, "video_id", times=False),
    "queries": _queries,
    "saliency": _saliency,
    "labels": _labels,
    "class_scores": _class_scores,
    "judgements": _judgements,
    "rankings": _rankings,
    "landmarks": _landmarks,
    "scenes": _scenes,
    "reported_seconds": _reported_seconds,
}
