"""ActivityNet JSON: annotations (`database`) and predictions (`results`).

::

    {"version": "...", "taxonomy": [...], "database": {<id>: {"subset": "validation", "duration": 82.7,
                                          "annotations": [{"label": "...", "segment": [start, stop]}, ...]}, ...}}
    {"version": "...", "external_data": {...}, "results": {<id>: [{"label", "score", "segment"}, ...], ...}}

Proposals and video classification use `results` too, the one without labels, the other without segments.
Source: the ActivityNet challenge; THUMOS14, HACS and FineAction are passed around in the same form.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores.formats.reader import Reader, ReadRequest
from clipmill.stores.formats.records import SegmentTable
from clipmill.stores.formats.sniff import keys_of, read_json_object, seconds

ALL_SUBSETS = "all"
"""Value of `subset` that keeps every video."""
_DATABASE = "an ActivityNet annotation file: a JSON object with the key 'database'"
_RESULTS = "an ActivityNet prediction file: a JSON object with the key 'results'"


@dataclass(frozen=True, slots=True)
class ActivityNetDatabase:
    """An ActivityNet annotation file.

    Attributes:
        segments: annotations; every video of the file (or subset) is listed, with annotations or without.
        duration_seconds: video id to duration, where the file has one.
        subset: video id to ``training``, ``validation``, ``testing``.
        taxonomy: as in the file.
        left_out: videos of the file's other subsets, to their subset.
    """

    segments: Segments
    duration_seconds: Mapping[str, float]
    subset: Mapping[str, str]
    version: str = ""
    taxonomy: tuple[Mapping[str, Any], ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ActivityNetResults:
    """An ActivityNet prediction file; `segments` has the scores."""

    segments: Segments
    version: str = ""
    external_data: Mapping[str, Any] = field(default_factory=dict)


def read_activitynet_database(
    path: str | Path, subset: str | None = None, prefer: str | None = None
) -> ActivityNetDatabase:
    """Returns the annotations in `path`.

    Args:
        subset: keep the videos of this subset alone; ``all`` or None: of every one.
        prefer: without `subset`: keep those of this subset, in any case of letters, where there is one.

    Raises:
        FormatError: the file is something else, has no video of `subset`, or an annotation is malformed.
    """
    data = read_json_object(path, _DATABASE)
    database = data.get("database")
    if not isinstance(database, dict):
        raise FormatError(describe("file", str(path), _DATABASE, _seen(data), _other_kind(data, "results")))
    subsets = {name: str(_entry(path, name, video).get("subset", "")) for name, video in database.items()}
    if subset == ALL_SUBSETS and subset not in subsets.values():
        subset = None
    elif subset is None and prefer is not None:
        subset = next((name for name in sorted(set(subsets.values())) if name.lower() == prefer), None)
    if subset is not None and subset not in subsets.values():
        known = ", ".join(sorted(set(subsets.values())))
        raise FormatError(
            describe("file", str(path), f"videos of subset '{subset}'", f"only {known}", "name one of these")
        )
    kept = [name for name in database if subset is None or subsets[name] == subset]
    rows = [
        (name, *_segment(path, name, item), _label(path, name, item))
        for name in kept
        for item in database[name].get("annotations") or ()
    ]
    video, start, stop, label = zip(*rows, strict=True) if rows else ((), (), (), ())
    durations = {name: seconds(database[name].get("duration")) for name in kept}
    return ActivityNetDatabase(
        segments_from_columns(video, start, stop, label, video_ids=kept),
        {name: duration for name, duration in durations.items() if duration is not None},
        {name: subsets[name] for name in kept},
        str(data.get("version", "")),
        _taxonomy(data.get("taxonomy")),
        {name: part for name, part in subsets.items() if subset is not None and part != subset},
    )


def read_activitynet_results(path: str | Path, whole_videos: bool = False) -> ActivityNetResults:
    """Returns the predictions in `path`; a prediction without a label gets the empty one (proposals).

    Args:
        whole_videos: predictions need no segment (video classification); one without gets [0, 1).

    Raises:
        FormatError: the file is something else, or a prediction is malformed.
    """
    data = read_json_object(path, _RESULTS)
    results = data.get("results")
    if not isinstance(results, dict):
        raise FormatError(describe("file", str(path), _RESULTS, _seen(data), _other_kind(data, "database")))
    rows = []
    for name, items in results.items():
        if not isinstance(items, list):
            raise _malformed(path, name, "a list of predictions", items)
        for item in items:
            score = seconds(item.get("score")) if isinstance(item, dict) else None
            if score is None:
                raise _malformed(path, name, "predictions with a number as 'score'", item)
            label = str(item.get("label", ""))
            times = (0.0, 1.0) if whole_videos and "segment" not in item else _segment(path, name, item)
            rows.append((name, *times, label, score))
    video, start, stop, labels, scores = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    segments = segments_from_columns(video, start, stop, labels, scores, video_ids=results)
    # Free text and lists stand there too; nothing of it is scored.
    external = data.get("external_data")
    external = external if isinstance(external, dict) else {"details": external} if external else {}
    return ActivityNetResults(segments, str(data.get("version", "")), external)


def write_activitynet_database(path: str | Path, database: ActivityNetDatabase) -> None:
    """Writes `database` so that `read_activitynet_database` returns it again."""
    videos: dict[str, dict[str, Any]] = {}
    for name in database.segments.video_ids:
        videos[name] = {"subset": database.subset.get(name, "")}
        if name in database.duration_seconds:
            videos[name]["duration"] = database.duration_seconds[name]
        videos[name]["annotations"] = []
    for name, start, stop, label, _ in _rows(database.segments):
        videos[name]["annotations"].append({"label": label, "segment": [start, stop]})
    data = {"version": database.version, "taxonomy": [dict(item) for item in database.taxonomy], "database": videos}
    Path(path).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def write_activitynet_results(path: str | Path, results: ActivityNetResults) -> None:
    """Writes `results` so that `read_activitynet_results` returns them again."""
    videos: dict[str, list[dict[str, Any]]] = {name: [] for name in results.segments.video_ids}
    for name, start, stop, label, score in _rows(results.segments):
        videos[name].append({"label": label, "score": score, "segment": [start, stop]})
    data = {"version": results.version, "external_data": dict(results.external_data), "results": videos}
    Path(path).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def _taxonomy(nodes: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple(node for node in nodes if isinstance(node, dict)) if isinstance(nodes, list) else ()


def _rows(segments: Segments) -> list[tuple[str, float, float, str, float]]:
    videos, labels = segments.video_ids, segments.label_names
    columns = (segments.video, segments.start_seconds, segments.stop_seconds, segments.label, segments.score)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [(videos[video], start, stop, labels[label], score) for video, start, stop, label, score in rows]


def _entry(path: str | Path, name: str, video: Any) -> dict[str, Any]:
    if not isinstance(video, dict):
        raise _malformed(path, name, "an object with 'annotations'", video)
    return video


def _label(path: str | Path, name: str, item: Any) -> str:
    if not isinstance(item.get("label"), str):
        raise _malformed(path, name, "annotations with text as 'label'", item)
    return str(item["label"])


def _segment(path: str | Path, name: str, item: Any) -> tuple[float, float]:
    pair = item.get("segment") if isinstance(item, dict) else None
    times = [seconds(value) for value in pair] if isinstance(pair, list) else []
    if len(times) != 2 or times[0] is None or times[1] is None:
        raise _malformed(path, name, "'segment': [start, stop] in seconds", item)
    return times[0], times[1]


def _malformed(path: str | Path, name: str, expected: str, got: Any) -> FormatError:
    text = json.dumps(got, ensure_ascii=False)
    return FormatError(describe("file", f"{path} video {name}", expected, text[:80], "correct the entry"))


def _seen(data: dict[str, Any]) -> str:
    return f"a JSON object with the keys {keys_of(data)}"


def _other_kind(data: dict[str, Any], key: str) -> str:
    if key in data:
        return "this is the other kind of file; the two may have been swapped"
    return "check the path and the kind of file"


def _annotations(request: ReadRequest) -> SegmentTable:
    """Returns the annotations of the subset that is asked for, else of the one that such a file is read for.

    Scores are those of the validation videos, as long as the annotations of the test are kept back; what a baseline is
    tuned on are the training videos.
    """
    prefer = "training" if request.thing == "training" else "validation"
    database = read_activitynet_database(request.path, request.subset, prefer)
    notes = _subset_notes(request, database) if request.subset is None else ()
    parts = sorted(set(database.subset.values()))
    part = parts[0] if len(parts) == 1 and parts[0] else None
    return SegmentTable(database.segments, None, database.duration_seconds, part, database.left_out, notes)


def _subset_notes(request: ReadRequest, database: ActivityNetDatabase) -> tuple[str, ...]:
    counts = Counter([*database.subset.values(), *database.left_out.values()])
    if len(counts) < 2:
        return ()
    every = ", ".join(f"{name or '(none)'} {num:,}" for name, num in sorted(counts.items()))
    thing = request.thing.replace("_", " ")
    if not database.left_out:
        return (f"{thing}: all its subsets are read ({every} videos); give {request.thing}.subset for one of them",)
    taken = next(iter(database.subset.values()))
    return (f"{thing}: subset {taken}, of {every} videos; give {request.thing}.subset for another, or all",)


def _predicted(request: ReadRequest) -> SegmentTable:
    return SegmentTable(read_activitynet_results(request.path).segments)


def _video_classes(request: ReadRequest) -> SegmentTable:
    return SegmentTable(read_activitynet_results(request.path, whole_videos=True).segments)


READER = Reader(
    "activitynet",
    "ActivityNet JSON with 'database' or 'results'",
    lambda head: "qid" not in head.first_json_object and bool({"database", "results"} & set(head.json_object)),
    truth={"segments": _annotations},
    predictions={"segments": _predicted, "windows": _predicted, "video_classes": _video_classes},
    takes=frozenset({"subset"}),
    layout="JSON: results: {video: [{segment, label, score}]}",
)
