"""Late fusion: the weighted sum of the scores of several files, before anything is scored.

::

    fused(i) = sum over files f of  weight_f * score_f(i)

over the class scores of items (`scale: softmax` turns each item's into shares of one first), or over the scores of the
same segments. The sum is not divided by the weights: only its order counts for ranks, and thresholds there are none.
What only some files have is refused, since its sum would be of fewer terms, or scores zero there (`missing: zero`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from clipmill.schemas.arrays import Floats
from clipmill.schemas.config_evaluate import PredictionsConfig
from clipmill.schemas.errors import FormatError, UsageError, describe
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores.formats.ids import match_ids
from clipmill.stores.formats.records import ClassScoreTable, SegmentTable

Key = tuple[str, str, float, float, int]


def fused(records: Sequence[Any], config: PredictionsConfig, names: Sequence[str]) -> Any:
    """Returns the records of the files of `config.fuse` as one.

    Args:
        names: of the files, for messages.

    Raises:
        FormatError: the files differ in what they score, and the config does not say that it scores zero there.
        UsageError: such records have no scores to be added up.
    """
    weights = [part.weight for part in config.fuse or ()]
    if all(isinstance(record, ClassScoreTable) for record in records):
        return fuse_class_scores(records, weights, config.scale, config.missing, names)
    if all(isinstance(record, SegmentTable) for record in records):
        if config.scale != "none":
            expected = "class scores of items for softmax"
            raise UsageError(describe("predictions", "scale", expected, "segments", "leave scale out"))
        segments = fuse_segments([record.segments for record in records], weights, config.missing, names)
        return SegmentTable(segments)
    expected = "class scores, classes of videos or detections"
    got = type(records[0]).__name__
    raise UsageError(describe("predictions", "fuse", expected, got, "score each file by itself"))


def fuse_class_scores(
    tables: Sequence[ClassScoreTable],
    weights: Sequence[float],
    scale: Literal["none", "softmax"] = "none",
    missing: Literal["refuse", "zero"] = "refuse",
    names: Sequence[str] = (),
) -> ClassScoreTable:
    """Returns the weighted sum over tables of N items and C classes, in the order of the first table.

    Raises:
        FormatError: the tables have other items or classes, or an item has no score for a class.
    """
    names = names or [str(number) for number in range(1, len(tables) + 1)]
    for name, table in zip(names, tables, strict=True):
        if missing == "refuse":
            _require_same(tables[0].ids, table.ids, names[0], name, "items")
            _require_same(tables[0].class_names, table.class_names, names[0], name, "classes")
            if scale == "none" and np.isneginf(table.values).any():
                row, column = np.argwhere(np.isneginf(table.values))[0]
                expected = "a score of every item for every class, to be added up"
                got = f"none of {table.ids[row]} for {table.class_names[column]}"
                remedy = "write scale: softmax, or missing: zero"
                raise FormatError(describe("predictions", name, expected, got, remedy))
    ids = tuple(dict.fromkeys(item for table in tables for item in table.ids))
    classes = tuple(dict.fromkeys(label for table in tables for label in table.class_names))
    row_of, column_of = ({key: place for place, key in enumerate(keys)} for keys in (ids, classes))
    total = np.zeros((len(ids), len(classes)))
    for table, weight in zip(tables, weights, strict=True):
        values = _shares(table.values) if scale == "softmax" else np.where(np.isneginf(table.values), 0, table.values)
        rows = [row_of[item] for item in table.ids]
        columns = [column_of[label] for label in table.class_names]
        total[np.ix_(rows, columns)] += weight * values
    return ClassScoreTable(ids, classes, total)


def fuse_segments(
    tables: Sequence[Segments],
    weights: Sequence[float],
    missing: Literal["refuse", "zero"] = "refuse",
    names: Sequence[str] = (),
) -> Segments:
    """Returns the segments of all tables, each with the weighted sum of its scores.

    A segment is the same where video, class, start and stop are; of one that a table lists several times the best
    scored go together.

    Raises:
        FormatError: the tables have other segments.
    """
    names = names or [str(number) for number in range(1, len(tables) + 1)]
    scores = [_by_segment(table) for table in tables]
    for name, found in zip(names, scores, strict=True):
        if missing == "refuse":
            both = len(scores[0].keys() & found.keys())
            alone = len(scores[0]) - both, len(found) - both
            if any(alone):
                got = f"{both:,} in both, {alone[0]:,} in {names[0]} alone, {alone[1]:,} in {name} alone"
                remedy = "fuse scores of the same segments, or write missing: zero"
                expected = f"the same segments in {names[0]} and {name}"
                raise FormatError(describe("predictions", "fuse", expected, got, remedy))
    keys = dict.fromkeys(key for found in scores for key in found)
    total = [sum(weight * found.get(key, 0.0) for weight, found in zip(weights, scores, strict=True)) for key in keys]
    video, label, start, stop, _ = zip(*keys, strict=True) if keys else ((), (), (), (), ())
    videos = dict.fromkeys(name for table in tables for name in table.video_ids)
    classes = dict.fromkeys(name for table in tables for name in table.label_names)
    return segments_from_columns(video, start, stop, label, total, video_ids=videos, label_names=classes)


def what_was_fused(config: PredictionsConfig, names: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
    """Returns what a score of fused files has to say of them: as a note, and as data for ``results.json``."""
    parts = config.fuse or ()
    terms = " + ".join(f"{part.weight:g} x {name}" for part, name in zip(parts, names, strict=True))
    scale = " after softmax" if config.scale == "softmax" else ""
    zero = ", what a file lacks scoring zero there" if config.missing == "zero" else ""
    plain = [{"name": name, "weight": part.weight} for part, name in zip(parts, names, strict=True)]
    return f"fused scores: {terms}{scale}{zero}", {
        "fused": {"parts": plain, "scale": config.scale, "missing": config.missing}
    }


def _require_same(left: Sequence[str], right: Sequence[str], first: str, second: str, what: str) -> None:
    match = match_ids(left, right, first, second)
    if not match.complete:
        remedy = "fuse scores of the same, or write missing: zero"
        raise FormatError(describe("predictions", "fuse", f"the same {what} in every file", str(match), remedy))


def _shares(values: Floats) -> Floats:
    """Returns the softmax of each row, ``float64[N, C]``; a class without a score has no share."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(values - values.max(axis=1, keepdims=True, initial=-np.inf))
    powers = np.nan_to_num(powers)
    return np.asarray(powers / np.maximum(powers.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny), np.float64)


def _by_segment(table: Segments) -> dict[Key, float]:
    if not np.isfinite(table.score).all():
        row = int(np.flatnonzero(~np.isfinite(table.score))[0])
        video = table.video_ids[int(table.video[row])]
        expected, remedy = "finite scores, to be added up", "correct the score"
        raise FormatError(describe("predictions", f"video {video}", expected, str(table.score[row]), remedy))
    by_segment: dict[tuple[str, str, float, float], list[float]] = {}
    columns = (table.video, table.label, table.start_seconds, table.stop_seconds, table.score)
    for video, label, start, stop, score in zip(*(column.tolist() for column in columns), strict=True):
        by_segment.setdefault((table.video_ids[video], table.label_names[label], start, stop), []).append(score)
    return {
        (*segment, place): score
        for segment, scores in by_segment.items()
        for place, score in enumerate(sorted(scores, reverse=True))
    }
