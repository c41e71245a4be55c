"""QVHighlights JSON lines: annotations and predictions, one query a line.

::

    {"qid": 2579, "query": "...", "duration": 150, "vid": "...", "relevant_windows": [[82, 150]],
     "relevant_clip_ids": [41, ...], "saliency_scores": [[1, 1, 2], ...]}
    {"qid": 2579, "query": "...", "vid": "...", "pred_relevant_windows": [[start, stop, score], ...],
     "pred_saliency_scores": [-0.24, ...]}

Clips are 2 s long. Test annotations have neither windows nor scores. Source: J. Lei et al., QVHighlights, NeurIPS 2021.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.segments import segments_from_columns
from clipmill.stores.formats.moments import MomentQueries
from clipmill.stores.formats.reader import Reader, ReadRequest
from clipmill.stores.formats.records import AnnotatedQueries, Saliency, SegmentTable
from clipmill.stores.formats.sniff import read_json_lines, seconds, wrong_format, wrong_line

CLIP_SECONDS = 2
_TRUTH = "QVHighlights annotations: JSON lines with 'qid', 'query', 'vid' and 'relevant_windows'"
_PREDICTED = "QVHighlights predictions: JSON lines with 'qid' and 'pred_relevant_windows' or 'pred_saliency_scores'"


@dataclass(frozen=True, slots=True)
class QVHighlights:
    """Annotations or predictions.

    Attributes:
        queries: with their windows (with scores, for predictions).
        saliency: query id to ``float64[clips, people]``: annotated scores of all clips of the video, 0 for clips that
            are
            not relevant. For predictions: ``float64[clips, 1]``. Queries without scores are left out.
    """

    queries: MomentQueries
    saliency: Mapping[str, npt.NDArray[np.float64]]


def read_qvhighlights(path: str | Path) -> QVHighlights:
    """Returns the annotations in `path`.

    Raises:
        FormatError: the file is something else, or a line is malformed.
    """
    lines, records = _records(path, ("qid", "vid", "query", "duration"), _TRUTH)
    saliency = {}
    for number, record in zip(lines, records, strict=True):
        clips, scores = record.get("relevant_clip_ids"), record.get("saliency_scores")
        if clips is None or scores is None:
            continue
        duration = seconds(record["duration"])
        if duration is None or duration < 0:
            raise _bad(path, number, record, "'duration' in seconds")
        num_clips = int(duration / CLIP_SECONDS)
        if not isinstance(clips, list) or not isinstance(scores, list):
            raise _bad(path, number, record, "lists as 'relevant_clip_ids' and 'saliency_scores'")
        if len(clips) != len(scores) or not all(isinstance(clip, int) and 0 <= clip < num_clips for clip in clips):
            raise _bad(path, number, record, f"'saliency_scores' for each of 'relevant_clip_ids', below {num_clips}")
        people = len(scores[0]) if scores and isinstance(scores[0], list) else 3
        if not all(_numbers(row, people) for row in scores):
            raise _bad(path, number, record, "'saliency_scores' with as many numbers for every clip")
        table = np.zeros((num_clips, people))
        table[np.array(clips, np.int64)] = np.array(scores, np.float64).reshape(len(clips), people)
        saliency[str(record["qid"])] = table
    return QVHighlights(_queries(path, lines, records, "relevant_windows", 2), saliency)


def read_qvhighlights_predictions(path: str | Path) -> QVHighlights:
    """Returns the predictions in `path`.

    Raises:
        FormatError: the file is something else, or a line is malformed.
    """
    lines, records = _records(path, ("qid",), _PREDICTED)
    if not any("pred_relevant_windows" in record or "pred_saliency_scores" in record for record in records):
        raise wrong_format(path, _PREDICTED)
    saliency = {}
    for number, record in zip(lines, records, strict=True):
        scores = record.get("pred_saliency_scores")
        if not scores:
            continue
        if not _numbers(scores):
            raise _bad(path, number, record, "'pred_saliency_scores' as a list of finite numbers, one per clip")
        saliency[str(record["qid"])] = np.array(scores, np.float64)[:, None]
    return QVHighlights(_queries(path, lines, records, "pred_relevant_windows", 3), saliency)


def write_qvhighlights(path: str | Path, data: QVHighlights) -> None:
    """Writes annotations so that `read_qvhighlights` returns them again."""

    def fields(row: int, windows: list[list[float]]) -> dict[str, Any]:
        record: dict[str, Any] = {"duration": _plain(data.queries.duration_seconds[row])}
        record["relevant_windows"] = [window[:2] for window in windows]
        scores = data.saliency.get(data.queries.query_ids[row])
        if scores is not None:
            relevant = np.flatnonzero(scores.any(axis=1))
            record["relevant_clip_ids"] = relevant.tolist()
            record["saliency_scores"] = [[_plain(value) for value in scores[clip]] for clip in relevant]
        return record

    _write(path, data.queries, fields)


def write_qvhighlights_predictions(path: str | Path, data: QVHighlights) -> None:
    """Writes predictions so that `read_qvhighlights_predictions` returns them again."""

    def fields(row: int, windows: list[list[float]]) -> dict[str, Any]:
        record: dict[str, Any] = {"pred_relevant_windows": windows}
        scores = data.saliency.get(data.queries.query_ids[row])
        if scores is not None:
            record["pred_saliency_scores"] = scores[:, 0].tolist()
        return record

    _write(path, data.queries, fields)


def _write(path: str | Path, queries: MomentQueries, fields: Any) -> None:
    windows: list[list[list[float]]] = [[] for _ in queries.query_ids]
    table = queries.windows
    columns = (table.video, table.start_seconds, table.stop_seconds, table.score)
    for query, start, stop, score in zip(*(column.tolist() for column in columns), strict=True):
        windows[query].append([start, stop, score])
    lines = []
    for row, name in enumerate(queries.query_ids):
        head = {"qid": int(name) if name.isdigit() else name, "query": queries.sentences[row]}
        record = head | {"vid": queries.video_ids[row]} | fields(row, windows[row])
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    Path(path).write_text("".join(lines), encoding="utf-8")


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)


def _records(path: str | Path, keys: tuple[str, ...], expected: str) -> tuple[list[int], list[dict[str, Any]]]:
    lines, records, seen = [], [], set()
    for number, record in read_json_lines(path, expected):
        if any(key not in record for key in keys):
            missing = next(key for key in keys if key not in record)
            raise wrong_format(path, expected) if number == 1 else _bad(path, number, record, f"the key '{missing}'")
        if record["qid"] in seen:
            raise _bad(path, number, record, "each 'qid' once")
        seen.add(record["qid"])
        lines.append(number)
        records.append(record)
    if keys != ("qid",) and any("pred_relevant_windows" in record for record in records):
        raise wrong_format(path, expected)
    return lines, records


def _numbers(values: Any, length: int | None = None) -> bool:
    return (
        isinstance(values, list)
        and (length is None or len(values) == length)
        and all(isinstance(value, int | float) and seconds(value) is not None for value in values)
    )


def _queries(path: str | Path, lines: list[int], records: list[dict[str, Any]], key: str, width: int) -> MomentQueries:
    names, rows = [str(record["qid"]) for record in records], []
    for number, name, record in zip(lines, names, records, strict=True):
        for window in record.get(key) or ():
            values = [seconds(value) for value in window] if isinstance(window, list) else []
            if len(values) != width or None in values:
                raise _bad(path, number, record, f"'{key}' as lists of {width} numbers")
            rows.append((name, *values, *([1.0] if width == 2 else [])))
    query, start, stop, score = zip(*rows, strict=True) if rows else ((), (), (), ())
    durations = [seconds(record.get("duration")) for record in records]
    return MomentQueries(
        tuple(names),
        tuple(str(record.get("vid", "")) for record in records),
        tuple(str(record.get("query", "")).strip() for record in records),
        np.array([np.nan if duration is None else duration for duration in durations], np.float64),
        segments_from_columns(query, start, stop, score=score, video_ids=names),
    )


def _bad(path: str | Path, number: int, record: dict[str, Any], expected: str) -> FormatError:
    return wrong_line(path, number, json.dumps(record, ensure_ascii=False), expected)


def _annotated(request: ReadRequest) -> AnnotatedQueries:
    return AnnotatedQueries(read_qvhighlights(request.path).queries, "qvhighlights")


def _annotated_saliency(request: ReadRequest) -> Saliency:
    return _saliency(request, read_qvhighlights(request.path))


def _predicted_saliency(request: ReadRequest) -> Saliency:
    return _saliency(request, read_qvhighlights_predictions(request.path))


def _saliency(request: ReadRequest, data: QVHighlights) -> Saliency:
    if not data.saliency:
        remedy = "score it with task: moments"
        raise _lacks(request, "saliency scores", "windows alone", remedy)
    sentences = dict(zip(data.queries.query_ids, data.queries.sentences, strict=True))
    return Saliency(data.saliency, sentences)


def _predicted_windows(request: ReadRequest) -> SegmentTable:
    data = read_qvhighlights_predictions(request.path)
    if not len(data.queries.windows) and data.saliency:
        raise _lacks(request, "predicted windows", "saliency scores alone", "score it with task: highlights")
    return SegmentTable(data.queries.windows)


def _lacks(request: ReadRequest, expected: str, got: str, remedy: str) -> FormatError:
    return FormatError(describe(f"{request.thing} file", request.path, expected, got, remedy))


READER = Reader(
    "qvhighlights",
    "QVHighlights JSON lines",
    lambda head: "qid" in head.first_json_object,
    truth={"queries": _annotated, "saliency": _annotated_saliency},
    predictions={"windows": _predicted_windows, "saliency": _predicted_saliency},
    layout="JSON lines: qid, pred_relevant_windows, pred_saliency_scores",
)
