"""Rows of removed videos leave their shards, in every format, and nothing of other videos changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.jobs.clean import run_clean
from clipmill.schemas.errors import EXIT_FAILURE
from clipmill.schemas.records import Video
from clipmill.stores import FeatureStore
from clipmill.stores.clean import drop_removed_rows, find_garbage, find_removed_rows, shard_of
from clipmill.stores.store import Store
from clipmill.stores.verify import verify_commits


@pytest.fixture
def filled(tmp_path: Path, shard_format: str, make_recipe: Any, make_rows: Any, commit: Any) -> tuple[Store, Any]:
    """A store with two commits: of four videos (one without rows, all with a further column), and of one."""
    store = Store.create(str(tmp_path / "store"), shard_format, "d")
    rows = {}
    for number, name in enumerate("abcde"):
        made = make_rows(0 if name == "c" else number + 3, seed=number, clips=2)
        rows[name] = replace(made, extras={"score": np.arange(len(made), dtype=np.float32) + number})
    videos = {name: Video(name, f"/{name}", f"bytes of {name}") for name in rows}
    commit(store, make_recipe(), "first", {videos[name]: rows[name] for name in "abcd"})
    commit(store, make_recipe(), "second", {videos["e"]: rows["e"]})
    store.write_manifest("20260101T000000000-aaaa", list(videos.values()))
    return store, rows


def check(store: Store, rows: Any, names: str) -> None:
    feature = FeatureStore(store.url)["c3d"]
    assert feature.video_ids == list(names)
    for name in names:
        found = feature.stored(name)
        for column in ("values", "clip", "start_seconds", "stop_seconds", "mask"):
            np.testing.assert_array_equal(getattr(found, column), getattr(rows[name], column))
        np.testing.assert_array_equal(found.extras["score"], rows[name].extras["score"])
    assert verify_commits(store) == []


@pytest.mark.parametrize("gone", ["a", "d", "bc", "abc", "e", "abcd", "abcde"])
def test_what_is_left_is_the_same_and_the_old_shard_is_garbage(filled: tuple[Store, Any], gone: str) -> None:
    store, rows = filled
    left = "".join(name for name in "abcde" if name not in gone)
    store.write_removal("20260102T000000000-aaaa", {name: f"bytes of {name}" for name in gone})
    check(store, rows, left)
    old = {shard for item in find_removed_rows(store) for shard in item.shards}
    for item in find_removed_rows(store):
        assert item.video_ids <= set(gone)
        drop_removed_rows(store, item)
    assert find_removed_rows(store) == []
    check(store, rows, left)
    assert set(store.commits().column("video_id").to_pylist()) == set(left)
    assert {shard_of(item.path) for item in find_garbage(store)} == old


def test_an_old_catalog_does_not_bring_rows_back(filled: tuple[Store, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    store, rows = filled
    monkeypatch.setattr("clipmill.stores.catalog._WORTH_IT", 1)
    store.write_catalog()
    store.write_removal("20260102T000000000-aaaa", {"a": "bytes of a", "e": "bytes of e"})
    for item in find_removed_rows(store):
        drop_removed_rows(store, item)
    assert set(store.commits().column("video_id").to_pylist()) == set("bcd")
    check(store, rows, "bcd")


@pytest.mark.parametrize("shard_format", ["parquet"], indirect=True)
def test_a_damaged_shard_is_left_as_it_is_and_told(filled: tuple[Store, Any]) -> None:
    store, _ = filled
    store.write_removal("20260102T000000000-aaaa", {"a": "bytes of a"})
    [removed] = find_removed_rows(store)
    [shard] = removed.shards
    path = Path(store.url) / shard
    path.write_bytes(path.read_bytes()[:-40])
    before = (Path(store.url) / removed.path).read_bytes()
    done = run_clean(store.url, False)
    assert done.exit_code == EXIT_FAILURE
    assert "requeue" in done.text
    assert (Path(store.url) / removed.path).read_bytes() == before
    assert path.exists()
