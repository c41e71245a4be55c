"""ActivityNet Captions JSON: timed sentences per video.

::

    {"v_uqiMw7tQ1Cc": {"duration": 55.15, "timestamps": [[0.28, 55.15], ...], "sentences": ["...", ...]}, ...}

Three protocols are in use and differ by up to six points: testing on val_1 (VSLNet), on val_2 (2D-TAN), or on both
together (LGI); always print which. A folder of ``train.json``, ``val_1.json`` and ``val_2.json`` is read by the names
in `SUBSETS`. Source: R. Krishna et al., Dense-Captioning Events in Videos, ICCV 2017.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.segments import segments_from_columns
from clipmill.stores.formats.moments import MomentQueries
from clipmill.stores.formats.reader import Head, Reader, ReadRequest
from clipmill.stores.formats.records import AnnotatedQueries
from clipmill.stores.formats.sniff import read_json_object, seconds, wrong_format

_CAPTIONS = "ActivityNet Captions: a JSON object of videos with 'duration', 'timestamps' and 'sentences'"


SUBSETS = {
    "train": ("train",),
    "val_1": ("val_1",),
    "val_2": ("val_2",),
    "vslnet_validation": ("val_2",),
    "vslnet_test": ("val_1",),
    "2d_tan_validation": ("val_1",),
    "2d_tan_test": ("val_2",),
    "lgi_test": ("val_1", "val_2"),
}
"""Files of the folder by the name of a part, or of a protocol's part. All protocols train on ``train``."""


def read_activitynet_captions(path: str | Path, subset: str | None = None) -> MomentQueries:
    """Returns the queries in `path`, in its order; a query's id is ``<video>#<number of the sentence>``, from 0.

    Both of LGI's files have sentences about the same videos, so a query's id has the file's name before it there.

    Args:
        path: a file, or a folder with all three.
        subset: of a folder, one of `SUBSETS`.

    Raises:
        FormatError: the file is something else, a video's lists do not fit together, or `subset` is none of them.
    """
    if not Path(path).is_dir():
        if subset is not None:
            got = f"{subset} of a file"
            raise FormatError(describe("file", str(path), "a folder, to have subsets", got, "leave subset out"))
        return _read_file(path)
    if subset not in SUBSETS:
        got, expected = str(subset), f"one of {', '.join(SUBSETS)}"
        raise FormatError(describe("file", f"{path} subset", expected, got, "say which part of the folder is meant"))
    names = SUBSETS[subset]
    parts = [_read_file(Path(path) / f"{name}.json") for name in names]
    if len(parts) == 1:
        return parts[0]
    ids = tuple(f"{name}:{query}" for name, part in zip(names, parts, strict=True) for query in part.query_ids)
    first = np.cumsum([0, *map(len, parts)])[:-1].tolist()
    query = np.concatenate([part.windows.video + start for part, start in zip(parts, first, strict=True)])
    start, stop = (
        np.concatenate([getattr(part.windows, f"{name}_seconds") for part in parts]) for name in ("start", "stop")
    )
    return MomentQueries(
        ids,
        tuple(name for part in parts for name in part.video_ids),
        tuple(text for part in parts for text in part.sentences),
        np.concatenate([part.duration_seconds for part in parts]),
        segments_from_columns([ids[row] for row in query.tolist()], start, stop, video_ids=ids),
    )


def _read_file(path: str | Path) -> MomentQueries:
    data = read_json_object(path, _CAPTIONS)
    rows = []
    for number, (video, item) in enumerate(data.items()):
        keys = {"duration", "timestamps", "sentences"}
        if not isinstance(item, dict) or not keys <= set(item):
            raise wrong_format(path, _CAPTIONS) if number == 0 else _bad(path, video, f"the keys {sorted(keys)}", item)
        duration, times, sentences = seconds(item["duration"]), item["timestamps"], item["sentences"]
        if duration is None or len(times) != len(sentences):
            raise _bad(path, video, "a duration, and as many timestamps as sentences", item)
        for index, (pair, sentence) in enumerate(zip(times, sentences, strict=True)):
            values = [seconds(value) for value in pair] if isinstance(pair, list) else []
            if len(values) != 2 or None in values:
                raise _bad(path, video, "timestamps as [start, stop] in seconds", pair)
            rows.append((f"{video}#{index}", video, str(sentence).strip(), duration, *values))
    query, videos, text, durations, start, stop = zip(*rows, strict=True) if rows else ((), (), (), (), (), ())
    windows = segments_from_columns(query, start, stop, video_ids=query)
    return MomentQueries(query, videos, text, np.array(durations, np.float64), windows)


def write_activitynet_captions(path: str | Path, queries: MomentQueries) -> None:
    """Writes `queries` so that `read_activitynet_captions` returns them again; each must have one window."""
    videos: dict[str, dict[str, Any]] = {}
    table = queries.windows
    columns = (table.video, table.start_seconds, table.stop_seconds)
    for query, start, stop in zip(*(column.tolist() for column in columns), strict=True):
        entry = videos.setdefault(
            queries.video_ids[query],
            {"duration": float(queries.duration_seconds[query]), "timestamps": [], "sentences": []},
        )
        entry["timestamps"].append([start, stop])
        entry["sentences"].append(queries.sentences[query])
    Path(path).write_text(json.dumps(videos, ensure_ascii=False), encoding="utf-8")


def _bad(path: str | Path, video: str, expected: str, got: Any) -> FormatError:
    text = json.dumps(got, ensure_ascii=False)[:80]
    return FormatError(describe("file", f"{path} video {video}", expected, text, "correct the entry"))


def _looks_like(head: Head) -> bool:
    if head.names:
        return {"train.json", "val_1.json"} <= head.names
    if "qid" in head.first_json_object:
        return False
    first = next(iter(head.json_object.values()), None)
    return isinstance(first, dict) and {"timestamps", "sentences"} <= set(first)


def _queries(request: ReadRequest) -> AnnotatedQueries:
    return AnnotatedQueries(read_activitynet_captions(request.path, request.subset))


READER = Reader(
    "activitynet_captions",
    "ActivityNet Captions JSON",
    _looks_like,
    truth={"queries": _queries},
    takes=frozenset({"subset"}),
)
