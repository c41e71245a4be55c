"""A store as mappings, batches of rows and frames of pandas."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipmill
from clipmill.schemas.errors import UnknownNameError, nearest
from clipmill.schemas.records import Video, VideoHeader
from clipmill.schemas.rows import Rows
from clipmill.stores import Feature, FeatureStore, Store

LENGTHS = {"b/2.mp4": 3, "a": 0, "c": 7, "b/1.mp4": 2}


@pytest.fixture
def store(tmp_path: Path, make_recipe: Any, make_rows: Any, commit: Any) -> FeatureStore:
    created = Store.create(str(tmp_path / "store"), "zarr", "d")
    header = VideoHeader("mp4", "h264", 64, 48, 0, 1.5, 25.0, 38)
    videos = [Video(name, f"/{name}", f"f{name}", header=header, label=f"l {name}") for name in LENGTHS]
    rows = {video: make_rows(LENGTHS[video.id], dtype="float16", seed=number) for number, video in enumerate(videos)}
    parts = list(rows.items())
    commit(created, make_recipe(dtype="float16"), "z", dict(parts[:2]))
    commit(created, make_recipe(dtype="float16"), "y", dict(parts[2:]))
    commit(created, make_recipe("other"), "x", {videos[0]: make_rows(2)})
    created.write_manifest("r1", [*videos, Video("unbuilt", "/u", "fu")])
    return clipmill.open(created.url)


def same(found: Rows, expected: Rows) -> None:
    for name in ("values", "clip", "start_seconds", "stop_seconds", "mask"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_store_is_a_mapping_of_features(store: FeatureStore) -> None:
    assert list(store) == ["c3d", "other"] == store.keys()
    assert len(store) == 2
    assert {name: feature.recipe.name for name, feature in store.items()} == {"c3d": "c3d", "other": "other"}
    assert [feature.dim for feature in store.values()] == [4, 4]
    assert store.get("none") is None
    assert dict(store)["c3d"] is store["c3d"]


def test_a_feature_is_a_mapping_of_rows(store: FeatureStore) -> None:
    feature = store["c3d"]
    assert list(feature) == sorted(LENGTHS)
    found = dict(feature.items())
    assert {name: len(rows) for name, rows in found.items()} == LENGTHS
    assert dict(feature).keys() == LENGTHS.keys()
    for (name, rows), other in zip(found.items(), feature.values(), strict=True):
        assert rows.values.dtype == np.float32
        same(rows, feature[name])
        same(other, feature[name])
    assert feature.get("c") is not None
    assert (feature.get("unbuilt"), feature.get("d", 0)) == (None, 0)


@pytest.mark.parametrize("num_rows", [1, 4, 5, 100])
def test_batches_are_the_rows_in_the_order_of_the_index(store: FeatureStore, num_rows: int) -> None:
    feature = store["c3d"]
    batches = list(feature.batches(num_rows))
    assert {len(batch) for batch in batches[:-1]} <= {num_rows}
    order = feature.index().column("video_id").to_pylist()
    assert [name for batch in batches for name in batch.video_ids] == [
        name for name in order for _ in range(LENGTHS[name])
    ]
    values = np.concatenate([batch.rows.values for batch in batches])
    np.testing.assert_array_equal(values, feature.dask().compute(scheduler="synchronous"))
    np.testing.assert_array_equal(values, np.concatenate([feature[name].values for name in order]))
    with pytest.raises(ValueError, match="expected at least one row, got 0"):
        feature.batches(0)


def test_a_frame_has_a_row_for_each_row(store: FeatureStore) -> None:
    feature = store["c3d"]
    frame = feature.to_pandas()
    assert frame["video_id"].tolist() == [name for name in sorted(LENGTHS) for _ in range(LENGTHS[name])]
    assert set(frame["label"]) == {f"l {name}" for name, length in LENGTHS.items() if length}
    np.testing.assert_array_equal(
        np.stack(frame["values"]), np.concatenate([feature[name].values for name in sorted(LENGTHS)])
    )
    one = feature.to_pandas(["c"])
    np.testing.assert_array_equal(one["start_seconds"], feature["c"].start_seconds)
    assert one.groupby("video_id")["mask"].sum()["c"] == feature["c"].mask.sum()
    assert list(feature.to_pandas(["a"]).columns) == list(frame.columns)
    with pytest.raises(KeyError):
        feature.to_pandas(["unbuilt"])


def test_the_videos_of_a_store_are_a_frame_too(store: FeatureStore) -> None:
    frame = store.to_pandas().set_index("video_id")
    assert set(frame.index) == {*LENGTHS, "unbuilt"}
    assert frame.loc["c", "duration_seconds"] == 1.5
    assert frame.loc["c", "label"] == "l c"


def test_a_missing_id_is_a_key_error_of_one_line(store: FeatureStore) -> None:
    feature: Feature = store["c3d"]
    with pytest.raises(KeyError) as error:
        feature["2.mp4"]
    line = str(error.value)
    assert line.startswith("video 2.mp4: expected an id of store ")
    assert "got none of its 4; near ones: 'b/2.mp4', 'b/1.mp4'" in line
    with pytest.raises(KeyError, match="got none yet; see clipmill status"):
        feature["unbuilt"]
    with pytest.raises(KeyError, match="did you mean 'c3d'"):
        store["c3"]
    assert isinstance(error.value, UnknownNameError)


def test_of_a_hundred_thousand_ids_five_near_ones_are_named() -> None:
    names = [f"train/class_{number % 100:02}/video_{number:06}.mp4" for number in range(100_000)]
    line = nearest("video_000123", names)
    assert line.startswith("near ones: 'train/class_23/video_000123.mp4', ")
    assert line.count(".mp4'") == 5
    misspelt = nearest("train/class_07/vidoe_000107.mp4", names)
    assert "'train/class_07/video_000107.mp4'" in misspelt
    assert misspelt.count(".mp4'") == 5
    assert nearest("x", []) == "there are none"
