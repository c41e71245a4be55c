"""Rows by position, long clips and chunks: the same values whatever is read together, and little of the rest."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from clipmill.schemas.errors import StoreError
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows
from clipmill.stores import FeatureStore, Store, shards_zarr, zarr_chunks
from clipmill.stores import shards as shards_module
from clipmill.stores.objects import Objects
from clipmill.stores.shard_formats import open_shard, write_shard
from clipmill.stores.shards import take_values
from clipmill.stores.shards_npy import NpyShard
from clipmill.stores.shards_zarr import ZarrShard


def stored(url: str, shard_format: str, make_recipe: Any, make_rows: Any, commit: Any) -> tuple[FeatureStore, Rows]:
    """A store of two shards and a video without rows; and all its rows in the order of the index."""
    store = Store.create(url, shard_format, "d")
    videos = {Video(f"v{n}", "/", f"f{n}"): make_rows(40, dim=6, seed=n, clips=4) for n in range(5)}
    videos = {video: replace(rows, extras={"score": rows.values[:, 0].copy()}) for video, rows in videos.items()}
    empty = make_rows(0, dim=6)
    videos[Video("v2b", "/", "e")] = replace(empty, extras={"score": np.zeros(0, np.float32)})
    items = sorted(videos.items(), key=lambda item: item[0].id)
    commit(store, make_recipe(dim=6), "b", dict(items[:3]), [(0.0, 1.0, None)] * 4)
    commit(store, make_recipe(dim=6), "a", dict(items[3:]), [(0.0, 1.0, None)] * 4)
    store.write_manifest("r1", list(videos))
    found = FeatureStore(url)
    by_id = {video.id: rows for video, rows in videos.items()}
    parts = [by_id[name] for name in found["c3d"].index().column("video_id").to_pylist()]
    names = ("values", "clip", "start_seconds", "stop_seconds", "mask")
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
    return found, Rows(*columns, {"score": np.concatenate([part.extras["score"] for part in parts])})


def test_rows_by_position_are_those_of_the_index_in_the_order_asked(
    any_url: str, shard_format: str, make_recipe: Any, make_rows: Any, commit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "CHUNK_BYTES", 6 * 4 * 5)
    monkeypatch.setattr(shards_zarr, "CHUNK_BYTES", 6 * 4 * 5)
    store, every = stored(any_url, shard_format, make_recipe, make_rows, commit)
    feature, rng = store["c3d"], np.random.default_rng(0)
    assert len(every) == 200
    for rows in (rng.integers(0, 200, 64), np.array([199, 0, 0, 7]), np.arange(37, 90), np.zeros(0, np.int64)):
        found = feature.take(rows)
        assert found.values.dtype == np.float32
        np.testing.assert_array_equal(found.values, every.values[rows])
        for name in ("clip", "start_seconds", "stop_seconds", "mask"):
            np.testing.assert_array_equal(getattr(found, name), getattr(every, name)[rows])
        if len(rows):
            np.testing.assert_array_equal(found.extras["score"], every.extras["score"][rows])
            found.values[...] = -1.0  # the caller's own
    np.testing.assert_array_equal(feature.take(np.arange(200)).values, every.values)
    for wrong in ([200], [-1, 3]):
        with pytest.raises(IndexError, match="expected 0 to 199"):
            feature.take(np.array(wrong))


def test_clips_are_looked_up_alike_after_the_travel_to_another_process(
    tmp_path: Path, shard_format: str, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store, _ = stored(str(tmp_path), shard_format, make_recipe, make_rows, commit)
    feature = store["c3d"]
    for clip in feature.clips():
        rows = feature[clip.video_id]
        chosen = rows.values[rows.clip == clip.clip]
        np.testing.assert_array_equal(feature.clip_rows(*clip.key).values, chosen)
        again = pickle.loads(pickle.dumps(feature))
        np.testing.assert_array_equal(again.clip_rows(*clip.key).values, chosen)


@pytest.mark.parametrize("slab_bytes", [1, 200, 1 << 20])
def test_a_clip_longer_than_a_slab_has_the_mean_of_one_sum(
    slab_bytes: int, tmp_path: Path, shard_format: str, make_recipe: Any, make_rows: Any, commit: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("clipmill.stores.feature._SLAB_BYTES", slab_bytes)
    store = Store.create(str(tmp_path), shard_format, "d")
    rows = make_rows(500, dim=6)
    rows = replace(rows, values=(rows.values * np.float32(1e4)).astype(np.float32))
    commit(store, make_recipe(dim=6), "a", {Video("v", "/", "f"): rows})
    store.write_manifest("r1", [Video("v", "/", "f")])
    feature = FeatureStore(str(tmp_path))["c3d"]
    chosen = rows.values[(rows.clip == 0) & rows.mask].astype(np.float64)
    expected = np.zeros(6)
    for row in chosen:
        expected = expected + row
    np.testing.assert_array_equal(feature.clip_means(feature.clips())[0], (expected / len(chosen)).astype(np.float32))


# --- Zarr's chunks --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_chunks_hold_what_zarr_itself_reads(dtype: str, tmp_path: Path, make_rows: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(shards_zarr, "CHUNK_BYTES", 7 * 6 * np.dtype(dtype).itemsize)
    rows = make_rows(100, dim=6, dtype=dtype)
    objects = Objects(str(tmp_path))
    write_shard(objects, "x.zarr", rows, [("v", 0, 100)])
    shard = open_shard(objects, "x.zarr")
    assert isinstance(shard, ZarrShard)
    assert shard._chunks is not None, "the quick way is the one that is tested"
    array: Any = zarr.open_group(str(tmp_path / "x.zarr"), mode="r")["values"]
    assert array.chunks == (7, 6)
    rng = np.random.default_rng(0)
    for start, stop in [(0, 100), (99, 100), (0, 0), (6, 8), *np.sort(rng.integers(0, 101, (30, 2)), axis=1)]:
        np.testing.assert_array_equal(shard.values(int(start), int(stop)), array[start:stop])
        assert shard.values(int(start), int(stop)).flags.writeable
    # Chunks that lie together come with one read, others by themselves; none is read twice.
    for gap, most in [(1 << 20, 1 << 24), (0, 1 << 24), (1 << 20, 64)]:
        monkeypatch.setattr(zarr_chunks, "_GAP_BYTES", gap)
        monkeypatch.setattr(zarr_chunks, "_READ_BYTES", most)
        for chosen in (rng.integers(0, 100, 25), np.arange(5, 80), np.array([99, 0, 0, 50]), np.zeros(0, np.int64)):
            np.testing.assert_array_equal(take_values(shard, chosen), array[:][chosen])
            assert take_values(shard, chosen).flags.writeable
    with pytest.raises(IndexError):
        shard.take(np.array([100]))


def test_single_rows_come_with_few_reads_and_each_chunk_is_decoded_once(
    tmp_path: Path, make_rows: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(shards_zarr, "CHUNK_BYTES", 6 * 4 * 10)
    rows = make_rows(100, dim=6)
    objects = Objects(str(tmp_path))
    write_shard(objects, "x.zarr", rows, [("v", 0, 100)])
    shard = open_shard(objects, "x.zarr")
    shard.values(0, 1)
    decoded: list[int] = []
    whole = zarr_chunks.ChunkReader._decoded
    monkeypatch.setattr(
        zarr_chunks.ChunkReader, "_decoded", lambda self, data: decoded.append(len(data)) or whole(self, data)
    )
    before = objects.calls.num_reads
    chosen = np.array([95, 3, 4, 55, 3, 99, 51])
    np.testing.assert_array_equal(take_values(shard, chosen), rows.values[chosen])
    assert objects.calls.num_reads - before == 1
    assert len(decoded) == 3


def test_an_array_of_another_make_is_left_to_zarr(tmp_path: Path, make_rows: Any) -> None:
    rows = make_rows(20, dim=6)
    objects = Objects(str(tmp_path))
    write_shard(objects, "x.zarr", rows, [("v", 0, 20)])
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="r+")
    del group["values"]
    group.create_array("values", data=rows.values, chunks=(8, 3))
    shard = open_shard(objects, "x.zarr")
    assert isinstance(shard, ZarrShard)
    assert shard._chunks is None
    np.testing.assert_array_equal(shard.values(3, 17), rows.values[3:17])


@pytest.mark.parametrize("place", [40, -30, -3])
def test_a_byte_that_changed_in_a_chunk_or_in_the_index_is_damage(place: int, tmp_path: Path, make_rows: Any) -> None:
    objects = Objects(str(tmp_path))
    write_shard(objects, "x.zarr", make_rows(50, dim=6), [("v", 0, 50)])
    path = tmp_path / "x.zarr" / "values" / "c" / "0" / "0"
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"shard x.zarr: expected the rows its commit names, got values that cannot"):
        open_shard(objects, "x.zarr").values(0, 50)


# --- mapped shards --------------------------------------------------------------------------------


def test_a_mapped_shard_is_plain_npy_and_its_rows_are_copies(tmp_path: Path, make_rows: Any) -> None:
    rows = make_rows(30, dim=6)
    objects = Objects(str(tmp_path))
    write_shard(objects, "x.npy", rows, [("v", 0, 30)])
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy" / "values.npy"), rows.values)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy" / "start_seconds.npy"), rows.start_seconds)
    shard = open_shard(objects, "x.npy")
    assert isinstance(shard, NpyShard)
    for read in (shard.values(2, 9), take_values(shard, np.array([2, 3, 8]))):
        read[...] = 0
    np.testing.assert_array_equal(shard.values(0, 30), rows.values)


def test_a_mapped_shard_knows_its_videos_whatever_they_are_called(tmp_path: Path, make_rows: Any) -> None:
    objects = Objects(str(tmp_path))
    spans = [(', "videos": [', 0, 10), ('"videos": [["v", 0, 30]]}', 10, 10), ("ü]}", 10, 30)]
    rows = replace(make_rows(30, dim=6), extras={"videos": np.zeros(30), ', "videos": [': np.zeros(30)})
    write_shard(objects, "x.npy", rows, spans)
    shard = open_shard(objects, "x.npy")
    assert shard.videos() == spans
    assert shard.num_rows == 30


def test_a_mapped_shard_that_was_cut_is_named_and_not_read(tmp_path: Path, make_rows: Any) -> None:
    objects = Objects(str(tmp_path))
    write_shard(objects, "x.npy", make_rows(30, dim=6), [("v", 0, 30)])
    for name, got in (("values.npy", "a values.npy cut short"), ("shard.json", "a shard.json that cannot be read")):
        path = tmp_path / "x.npy" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        with pytest.raises(StoreError, match=got):
            open_shard(objects, "x.npy")
        path.write_bytes(whole)
    (tmp_path / "x.npy" / "mask.npy").write_bytes(b"")
    with pytest.raises(StoreError, match="a mask.npy cut short"):
        open_shard(objects, "x.npy").columns()
