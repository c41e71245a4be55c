"""Rows through shards, commits and the reader, in both formats and over several file systems."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clipmill.schemas.errors import StoreError
from clipmill.schemas.recipe import ClipRule, Recipe
from clipmill.schemas.records import Segment, Video
from clipmill.schemas.rows import Rows
from clipmill.schemas.tables import rows_schema
from clipmill.stores import ClipRows, FeatureStore, Store, shards_zarr
from clipmill.stores import shards as shards_module
from clipmill.stores.objects import Objects
from clipmill.stores.shard_formats import SHARD_FORMATS, open_shard, write_shard
from clipmill.stores.zarr_chunks import CHUNK_BYTES

AWKWARD_IDS = [
    "a/b/c.mp4",
    " leading space",
    "日本語/видео.mp4",
    "..",
    "%2F",
    "emoji 🎬",
    "x" * 3000,
    "quote\"'\n",
    "con.mp4",
]


def assert_rows_equal(found: Rows, expected: Rows) -> None:
    assert found.values.dtype == expected.values.dtype
    np.testing.assert_array_equal(found.values, expected.values)
    for name in ("clip", "start_seconds", "stop_seconds", "mask"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert set(found.extras) == set(expected.extras)
    for name, column in expected.extras.items():
        assert found.extras[name].dtype == column.dtype
        np.testing.assert_array_equal(found.extras[name], column)


def test_awkward_ids_round_trip_on_every_file_system(
    any_url: str, shard_format: str, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store = Store.create(any_url, shard_format, "d")
    videos = {Video(id, f"/v/{n}", f"f{n}", label=f"l{n}"): make_rows(n, seed=n) for n, id in enumerate(AWKWARD_IDS)}
    commit(store, make_recipe(), "0" * 16, videos)
    store.write_manifest("r1", list(videos))
    feature = FeatureStore(any_url)["c3d"]
    assert feature.video_ids == sorted(AWKWARD_IDS)
    for video, rows in videos.items():
        assert_rows_equal(feature[video.id], rows)
    assert FeatureStore(any_url).videos() == {video.id: video for video in videos}
    for stored in store.objects.find():
        assert all(len(part) < 100 and part.isascii() and "%" not in part for part in stored.path.split("/"))


def rows_strategy() -> st.SearchStrategy[Rows]:
    def build(num_rows: int, dim: int, dtype: str) -> st.SearchStrategy[Rows]:
        def column(kind: Any, shape: Any = (num_rows,)) -> st.SearchStrategy[Any]:
            return arrays.arrays(kind, shape)

        return st.builds(
            Rows,
            values=column(np.dtype(dtype), (num_rows, dim)),
            clip=column(np.int32),
            start_seconds=column(np.float64),
            stop_seconds=column(np.float64),
            mask=column(np.bool_),
            extras=st.one_of(
                st.just({}), st.fixed_dictionaries({"score": column(np.float32), "frames": column(np.int64)})
            ),
        )

    return st.tuples(st.integers(0, 40), st.integers(1, 9), st.sampled_from(["float32", "float16", "uint8"])).flatmap(
        lambda shape: build(*shape)
    )


@given(rows=rows_strategy(), cut=st.tuples(st.integers(0, 40), st.integers(0, 40)), chunk_bytes=st.integers(1, 400))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_rows_come_back_bit_for_bit_in_every_format(rows: Rows, cut: tuple[int, int], chunk_bytes: int) -> None:
    start, stop = sorted(min(place, len(rows)) for place in cut)
    videos = [("a", 0, start), ("b", start, len(rows))]
    objects = Objects("memory://property")
    patch = pytest.MonkeyPatch()
    patch.setattr(shards_module, "CHUNK_BYTES", chunk_bytes)
    patch.setattr(shards_zarr, "CHUNK_BYTES", chunk_bytes)
    paths = [f"x.{name}" for name in SHARD_FORMATS.names]
    try:
        for path in paths:
            write_shard(objects, path, rows, videos)
            shard = open_shard(objects, path)
            assert shard.num_rows == len(rows)
            assert shard.videos() == videos
            found = shard.values(start, stop)
            assert found.dtype == rows.values.dtype
            assert found.tobytes() == rows.values[start:stop].tobytes()
            columns = shard.columns()
            for name in ("clip", "start_seconds", "stop_seconds", "mask"):
                assert getattr(columns, name).tobytes() == getattr(rows, name).tobytes()
            assert {name: item.tobytes() for name, item in columns.extras.items()} == {
                name: item.tobytes() for name, item in rows.extras.items()
            }
    finally:
        patch.undo()
        for path in paths:
            for item in objects.find(path):
                objects.delete(item.path)


def test_same_rows_give_the_same_bytes_and_few_objects(make_rows: Callable[..., Rows]) -> None:
    rows = make_rows(5000, dim=256)
    again = replace(rows, values=np.asfortranarray(rows.values.copy()))
    spans = [("v", 0, 5000)]
    written = {name: SHARD_FORMATS.get(name).encode(rows, spans) for name in SHARD_FORMATS.names}
    assert written == {name: SHARD_FORMATS.get(name).encode(again, spans) for name in SHARD_FORMATS.names}
    assert {name: list(objects)[-1] for name, objects in written.items()} == {
        name: SHARD_FORMATS.get(name).last_object for name in SHARD_FORMATS.names
    }
    assert list(written["parquet"]) == [""]
    assert sorted(written["zarr"]) == sorted(
        ["zarr.json"]
        + [f"{name}/zarr.json" for name in ("values", "clip", "start_seconds", "stop_seconds", "mask")]
        + ["values/c/0/0", "clip/c/0", "start_seconds/c/0", "stop_seconds/c/0", "mask/c/0"]
    )


def test_rewriting_a_half_written_shard_leaves_what_one_write_leaves(
    tmp_path: Path, shard_format: str, make_recipe: Callable[..., Recipe], make_rows: Callable[..., Rows]
) -> None:
    def bytes_of(store: Store) -> dict[str, bytes]:
        return {item.path: store.objects.read(item.path) for item in store.objects.find("shards")}

    recipe, rows = make_recipe(), make_rows(100)
    once = Store.create(str(tmp_path / "once"), shard_format, "d")
    once.write_shard(recipe, "t", rows, [("v", 0, 100)])
    again = Store.create(str(tmp_path / "again"), shard_format, "d")
    again.write_shard(recipe, "t", rows, [("v", 0, 100)])
    paths = [item.path for item in again.objects.find("shards")]
    for path in paths[::2]:
        again.objects.delete(path)
    again.write_shard(recipe, "t", rows, [("v", 0, 100)])
    assert bytes_of(again) == bytes_of(once)


def test_other_software_reads_the_shards(
    tmp_path: Path, make_recipe: Callable[..., Recipe], make_rows: Callable[..., Rows]
) -> None:
    rows = make_rows(1000, dim=512)
    rows = replace(rows, extras={"score": np.arange(1000, dtype=np.float32)})
    paths = {}
    for shard_format in ("zarr", "parquet"):
        store = Store.create(str(tmp_path / shard_format), shard_format, "d")
        paths[shard_format] = store.objects.full(
            store.write_shard(make_recipe(dim=512), "t", rows, [("a", 0, 600), ("b", 600, 1000)])
        )
    group = zarr.open_group(paths["zarr"], mode="r")
    np.testing.assert_array_equal(group["values"][...], rows.values)
    np.testing.assert_array_equal(group["score"][...], rows.extras["score"])
    assert group["values"].metadata.zarr_format == 3
    assert group["values"].chunks == (CHUNK_BYTES // 2048, 512)
    assert group.attrs["videos"] == [["a", 0, 600], ["b", 600, 1000]]
    table = pq.read_table(paths["parquet"])
    assert table.schema.equals(rows_schema(512, "float32", {"score": "float32"}))
    assert table.column("video_id").to_pylist() == ["a"] * 600 + ["b"] * 400
    np.testing.assert_array_equal(np.array(table.column("values").to_pylist(), np.float32), rows.values)


def test_reading_a_clip_reads_a_small_part_of_the_shard(
    tmp_path: Path, shard_format: str, make_recipe: Any, make_rows: Any, commit: Any, monkeypatch: Any
) -> None:
    # Not on a local disk: what Arrow reads of its own files cannot be counted here.
    url = f"memory://{tmp_path.name}"
    store = Store.create(url, shard_format, "d")
    rows = make_rows(20_000, dim=512, clips=500)
    commit(store, make_recipe(dim=512), "t", {Video("v", "/v", "f"): rows}, [(0.0, 1.0, None)] * 500)
    store.write_manifest("r1", [Video("v", "/v", "f")])
    num_bytes = sum(item.num_bytes for item in store.objects.find("shards"))
    feature = FeatureStore(url)["c3d"]
    feature.clip_rows("v", 0)
    read = 0
    original_read, original_open = Objects.read, Objects.open

    def counting_read(self: Objects, path: str, start: int | None = None, stop: int | None = None) -> bytes:
        nonlocal read
        data = original_read(self, path, start, stop)
        read += len(data)
        return data

    class Counting:
        def __init__(self, file: Any) -> None:
            self._file = file

        def read(self, *args: Any) -> bytes:
            nonlocal read
            data = self._file.read(*args)
            read += len(data)
            return bytes(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *error: object) -> None:
            self._file.close()

    monkeypatch.setattr(Objects, "read", counting_read)
    monkeypatch.setattr(Objects, "open", lambda self, path: Counting(original_open(self, path)))
    found = feature.clip_rows("v", 250)
    np.testing.assert_array_equal(found.values, rows.values[rows.clip == 250])
    assert 0 < read < num_bytes / 10


def test_dask_index_and_clips_agree_with_the_rows(
    tmp_path: Path, shard_format: str, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store = Store.create(str(tmp_path), shard_format, "d")
    recipe = make_recipe(dtype="float16", clips=ClipRule(from_="annotations"))
    videos = {Video(f"v{n}", f"/{n}", f"f{n}", label="l"): make_rows(n, dtype="float16", seed=n) for n in range(6)}
    items = list(videos.items())
    commit(store, recipe, "b", dict(items[:3]), [(0.0, 2.0, "own"), (2.0, 3.0, None)])
    commit(store, recipe, "a", dict(items[3:]))
    store.write_manifest("r1", list(videos))
    feature = FeatureStore(str(tmp_path))[recipe.key]
    lazy = feature.dask()
    assert (lazy.shape, lazy.dtype, lazy.numblocks) == ((15, 4), np.float32, (2, 1))
    computed = lazy.compute(scheduler="threads")
    for row in feature.index().to_pylist():
        expected = feature[row["video_id"]].values
        assert expected.dtype == np.float32
        np.testing.assert_array_equal(computed[row["first_row"] :][: row["num_rows"]], expected)
        np.testing.assert_array_equal(videos[store.manifest()[row["video_id"]]].values, expected)
        assert (row["label"], row["passport"]["weights"]) == ("l", "random(0)")
    assert feature.clips()[:3] == [
        ClipRows("v0", 0, 0.0, 2.0, "own"),
        ClipRows("v0", 1, 2.0, 3.0, "l"),
        ClipRows("v1", 0, 0.0, 2.0, "own"),
    ]
    assert [clip.video_id for clip in feature.clips()] == ["v0", "v0", "v1", "v1", "v2", "v2", "v3", "v4", "v5"]


def test_an_opened_feature_is_what_it_was_when_a_video_is_built_again(
    tmp_path: Path, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store, recipe = Store.create(str(tmp_path), "npy", "d"), make_recipe()
    before, after = (Video("v", "/v", f"bytes {number}") for number in range(2))
    commit(store, recipe, "a", {before: make_rows(3)}, [(0.0, 1.0, None)])
    store.write_manifest("r1", [before])
    opened, other = (FeatureStore(str(tmp_path))["c3d"] for _ in range(2))
    assert opened.video_ids == other.video_ids == ["v"]
    commit(store, recipe, "b", {after: make_rows(5)}, [(0.0, 2.0, None)])
    store.write_manifest("r2", [after])
    assert opened.index().column("num_rows").to_pylist() == [3]
    assert opened.clips() == [ClipRows("v", 0, 0.0, 1.0)]
    assert FeatureStore(str(tmp_path))["c3d"].clips() == [ClipRows("v", 0, 0.0, 2.0)]
    store.withdraw_commit(next(path for path in store.commit_paths() if path.endswith("/a.parquet")))
    with pytest.raises(StoreError, match="expected the commit of video v .* open it again"):
        other.clips()


@pytest.mark.parametrize("slab_bytes", [1, 100, 1 << 20])
def test_clip_means_are_masked_means_in_the_order_asked(
    slab_bytes: int, tmp_path: Path, shard_format: str, make_recipe: Any, make_rows: Any, commit: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("clipmill.stores.feature._SLAB_BYTES", slab_bytes)
    store = Store.create(str(tmp_path), shard_format, "d")
    videos = {Video(f"v{n}", "/", f"f{n}"): make_rows(30, seed=n, clips=4) for n in range(4)}
    videos[Video("empty", "/", "e")] = make_rows(0)
    items = list(videos.items())
    commit(store, make_recipe(), "a", dict(items[:2]), [(0.0, 1.0, None)] * 4)
    commit(store, make_recipe(), "b", dict(items[2:]), [(0.0, 1.0, None)] * 4)
    store.write_manifest("r1", list(videos))
    feature = FeatureStore(str(tmp_path))["c3d"]
    clips = feature.clips()[::-1]
    assert len(clips) == 20
    means = feature.clip_means(clips)
    assert means.dtype == np.float32
    by_id = {video.id: rows for video, rows in videos.items()}
    for clip, mean in zip(clips, means, strict=True):
        rows = by_id[clip.video_id]
        chosen = rows.values[(rows.clip == clip.clip) & rows.mask]
        if len(chosen):
            np.testing.assert_allclose(mean, chosen.mean(axis=0, dtype=np.float64), rtol=1e-6)
        else:
            assert np.isnan(mean).all()
    assert feature.clip_means([]).shape == (0, 4)


def test_clips_whose_rows_are_not_contiguous_are_still_found(
    tmp_path: Path, shard_format: str, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    rows = replace(make_rows(6), clip=np.array([0, 1, 0, 1, 1, 0], np.int32))
    store = Store.create(str(tmp_path), shard_format, "d")
    video = Video("v", "/", "f")
    commit(store, make_recipe(), "a", {video: rows}, [(0.0, 1.0, None)] * 3)
    store.write_manifest("r1", [video])
    feature = FeatureStore(str(tmp_path))["c3d"]
    assert_rows_equal(feature.clip_rows("v", 1), Rows(*(getattr(rows, name)[[1, 3, 4]] for name in _COLUMNS)))
    assert len(feature.clip_rows("v", 2)) == 0
    with pytest.raises(StoreError, match="clip 3 of video v: expected 0 to 2"):
        feature.clip_rows("v", 3)


_COLUMNS = ("values", "clip", "start_seconds", "stop_seconds", "mask")


def test_labels_come_from_the_newest_manifest_without_a_rebuild(
    tmp_path: Path, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store = Store.create(str(tmp_path), "parquet", "d")
    video = Video("v", "/", "f", label="x", segments=(Segment(0.0, 1.0, "old"), Segment(1.0, 2.0)))
    recipe = make_recipe(clips=ClipRule(from_="annotations"))
    commit(store, recipe, "a", {video: make_rows(2)}, [(0.0, 1.0, "old"), (1.0, 2.0, None)])
    store.write_manifest("r1", [video])
    renamed = replace(video, label="y", segments=(Segment(0.0, 1.0, "new"), Segment(1.0, 2.0)))
    store.write_manifest("r2", [renamed])
    assert [clip.label for clip in FeatureStore(str(tmp_path))["c3d"].clips()] == ["new", "y"]


@pytest.mark.parametrize("rule", [ClipRule(from_="whole"), ClipRule(from_="windows", length_seconds=1.0)])
def test_clips_of_a_relabelled_video_have_its_new_label(
    rule: ClipRule, tmp_path: Path, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store = Store.create(str(tmp_path), "parquet", "d")
    video = Video("v", "/", "f", label="old")
    commit(store, make_recipe(clips=rule), "a", {video: make_rows(2)}, [(0.0, 1.0, "old")])
    for run, label in (("r1", "old"), ("r2", "new")):
        store.write_manifest(run, [replace(video, label=label)])
        assert [clip.label for clip in FeatureStore(str(tmp_path))["c3d"].clips()] == [label]


def test_a_feature_travels_to_other_processes(
    tmp_path: Path, shard_format: str, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store = Store.create(str(tmp_path), shard_format, "d")
    rows = make_rows(3)
    commit(store, make_recipe(), "a", {Video("v", "/", "f"): rows})
    store.write_manifest("r1", [Video("v", "/", "f")])
    feature = FeatureStore(str(tmp_path))["c3d"]
    assert_rows_equal(feature["v"], rows)
    assert_rows_equal(pickle.loads(pickle.dumps(feature))["v"], rows)


def test_rows_are_the_callers_to_change(
    tmp_path: Path, shard_format: str, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store = Store.create(str(tmp_path), shard_format, "d")
    rows = make_rows(3)
    commit(store, make_recipe(), "a", {Video("v", "/", "f"): rows})
    store.write_manifest("r1", [Video("v", "/", "f")])
    feature = FeatureStore(str(tmp_path))["c3d"]
    for found in (feature["v"], feature.clip_rows("v", 0)):
        for name in _COLUMNS:
            getattr(found, name)[...] = 0
    assert_rows_equal(feature["v"], rows)
