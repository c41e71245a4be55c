"""What ``clipmill search`` wrote, read as ranked lists."""

import json
from pathlib import Path
from typing import Any

import pytest

from clipmill.schemas.errors import FormatError
from clipmill.stores.formats.registry import format_of
from clipmill.stores.formats.search_results import read_search_results

HEAD: dict[str, Any] = {"version": 1, "about": {}, "k": 2}


def file(folder: Path, queries: list[dict[str, Any]], failed: list[dict[str, Any]] | None = None) -> Path:
    (folder / "results.json").write_text(json.dumps(HEAD | {"queries": queries, "failed": failed or []}))
    return folder / "results.json"


def clips(*names: str) -> list[dict[str, Any]]:
    return [{"rank": rank, "clip": name, "score": 0.5} for rank, name in enumerate(names, start=1)]


def test_clips_are_ranked_and_a_query_that_failed_found_none(tmp_path: Path) -> None:
    ranked = clips("b.mp4#0", "a.mp4#1")[::-1]
    path = file(
        tmp_path, [{"query": "photos/1.png", "spaces": {"mean": ranked}}], [{"query": "2.png", "message": "no"}]
    )
    assert format_of(path) == "search"
    assert read_search_results(path) == {"photos/1.png": ["b.mp4#0", "a.mp4#1"], "2.png": []}


def test_shots_of_a_search_by_key_features_have_names_of_their_own(tmp_path: Path) -> None:
    shots = [{"rank": n, "video": "a.mp4", "clip": 0, "shot": shot, "votes": 3} for n, shot in ((1, 4), (2, 0))]
    path = file(tmp_path, [{"query": "1.png", "shots": shots}])
    assert read_search_results(path) == {"1.png": ["a.mp4#0/4", "a.mp4#0/0"]}


def test_other_files_and_several_spaces_are_refused(tmp_path: Path) -> None:
    path = file(tmp_path, [{"query": "1.png", "spaces": {"mean": clips("a#0"), "max": clips("b#0")}}])
    with pytest.raises(FormatError, match=r"expected clips ranked in one space, got max, mean; search with spaces"):
        read_search_results(path)
    with pytest.raises(FormatError, match="results.json of clipmill search with images"):
        read_search_results(file(tmp_path, [{"query": "a person sits", "moments": []}]))
