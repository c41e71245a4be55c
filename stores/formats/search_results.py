"""``results.json`` of ``clipmill search`` with images: the clips that each query found, best first.

Of a search by key features the shots, named ``<video>#<clip>/<shot>``; of others the clips, ``<video>#<clip>``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipmill.schemas.errors import FormatError, describe
from clipmill.stores.formats.reader import Head, Reader
from clipmill.stores.formats.records import FoundFrame, FoundFrames, Rankings
from clipmill.stores.formats.sniff import read_text, wrong_format

_EXPECTED = "results.json of clipmill search with images"


def read_search_results(path: str | Path) -> dict[str, list[str]]:
    """Returns query to the ids of what it found, best first; queries that could not be used have none.

    Raises:
        FormatError: the file is something else, or clips were ranked in several spaces.
    """
    try:
        found = json.loads(read_text(path, _EXPECTED))
        ranked = {str(item["query"]): _ids(item, path) for item in found["queries"]}
        return ranked | {str(item["query"]): [] for item in found["failed"]}
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError):
        raise wrong_format(path, _EXPECTED) from None


def read_found_frames(path: str | Path) -> FoundFrames:
    """Returns the first shot of each query of a search by key features, and the best frame in it.

    Raises:
        FormatError: the file is something else, or of a search that finds no shots.
    """
    expected = "results.json of clipmill search by key features"
    try:
        found = json.loads(read_text(path, expected))
        frames: dict[str, FoundFrame | None] = {}
        for item in found["queries"]:
            shots = _best_first(item["shots"])
            keys = ("start_seconds", "stop_seconds", "frame_seconds")
            first = FoundFrame(str(shots[0]["video"]), *(float(shots[0][key]) for key in keys)) if shots else None
            frames[str(item["query"])] = first
        failed = {str(item["query"]): None for item in found["failed"]}
        size = found["about"].get("index_bytes")
        return FoundFrames(frames | failed, None if size is None else int(size))
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError):
        raise wrong_format(path, expected) from None


def _ids(query: Mapping[str, Any], path: str | Path) -> list[str]:
    if "shots" in query:
        return [f"{item['video']}#{item['clip']}/{item['shot']}" for item in _best_first(query["shots"])]
    spaces: Mapping[str, Sequence[Mapping[str, Any]]] = query["spaces"]
    if len(spaces) != 1:
        got, remedy = ", ".join(sorted(spaces)), "search with spaces: [NAME]"
        raise FormatError(describe("predictions", str(path), "clips ranked in one space", got, remedy))
    return [str(item["clip"]) for item in _best_first(next(iter(spaces.values())))]


def _best_first(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(found, key=lambda item: int(item["rank"]))


def _is_search(head: Head) -> bool:
    queries = head.json_object.get("queries")
    return isinstance(queries, list) and {"about", "failed", "k"} <= head.json_object.keys()


READER = Reader(
    "search",
    _EXPECTED,
    _is_search,
    predictions={
        "rankings": lambda request: Rankings(order=read_search_results(request.path)),
        "found_frames": lambda request: read_found_frames(request.path),
    },
)
