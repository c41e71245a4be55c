"""Imports of every layout: values, times and clips against the arrays that were written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from clipmill.pipelines.datasets.rows import read_rows
from clipmill.pipelines.features.imported import rows as imported_rows
from clipmill.pipelines.features.imported.run import ImportReport, import_features
from clipmill.schemas.arrays import Array
from clipmill.schemas.config_import import ImportConfig
from clipmill.schemas.errors import StoreError
from clipmill.schemas.inputs import Bag
from clipmill.schemas.records import Video, VideoHeader
from clipmill.stores import FeatureStore, Store
from clipmill.stores.verify import values_sha256, verify_commits

IDS = ("a", "b b", "ü")
LENGTHS = (3, 1, 6)


def arrays(dim: int = 4, seed: int = 0) -> dict[str, Array]:
    drawn = np.random.default_rng(seed)
    return {
        name: drawn.normal(size=(length, dim)).astype(np.float32) for name, length in zip(IDS, LENGTHS, strict=True)
    }


def manifest(folder: Path, text: str = "") -> str:
    lines = "id,label,split,duration_seconds,fps\na,cat,train,10,25\nb b,dog,train,4,30\nü,cat,test,12,10\n"
    (folder / "manifest.csv").write_text(text or lines, "utf-8")
    return str(folder / "manifest.csv")


def run(folder: Path, features: Mapping[str, Any], lines: str = "", **keys: Any) -> ImportReport:
    data = {"store": {"url": str(folder / "store")}, "manifest": manifest(folder, lines), "features": dict(features)}
    return import_features(ImportConfig.model_validate(data | keys))


def objects(folder: Path) -> dict[str, int]:
    """Returns when each shard and commit was written."""
    kept = ("shards", "commits")
    found = [path for part in kept for path in (folder / "store" / part).rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in found}


def write_npy(folder: Path, values: Mapping[str, Array]) -> str:
    (folder / "npy").mkdir(exist_ok=True)
    for name, rows in values.items():
        np.save(folder / "npy" / f"{name}.npy", rows)
    return str(folder / "npy" / "{id}.npy")


@pytest.mark.parametrize("format", ["zarr", "parquet"])
def test_a_folder_of_npy_with_rows_at_a_step(format: str, tmp_path: Path) -> None:
    values = arrays()
    file = write_npy(tmp_path, {name: rows[:, np.newaxis, np.newaxis] for name, rows in values.items()})
    report = run(
        tmp_path,
        {"i3d": {"file": file, "steps": {"step_seconds": 0.5, "window_seconds": 1.0}}},
        store={"url": str(tmp_path / "store"), "format": format, "dataset": "mine"},
    )
    store = FeatureStore(str(tmp_path / "store"))
    assert store.store.dataset == "mine"
    for name, rows in values.items():
        found = store["i3d"][name]
        np.testing.assert_array_equal(found.values, rows)
        assert found.start_seconds.tolist() == [0.5 * number for number in range(len(rows))]
        assert found.stop_seconds.tolist() == [0.5 * number + 1.0 for number in range(len(rows))]
        assert found.mask.all()
    assert [(clip.key, clip.stop_seconds, clip.label) for clip in store["i3d"].clips()] == [
        (("a", 0), 10.0, "cat"),
        (("b b", 0), 4.0, "dog"),
        (("ü", 0), 12.0, "cat"),
    ]
    assert {name: video.split for name, video in store.videos().items()} == {"a": "train", "b b": "train", "ü": "test"}
    assert verify_commits(store.store) == []
    (feature,) = report.features
    assert (feature.num_imported, feature.num_rows, feature.num_before, feature.dim) == (3, 10, 0, 4)


def test_c3d_of_activitynet_lies_in_frames(tmp_path: Path) -> None:
    """500 numbers for each 16 frames, every 8 frames, under ``v_<id>/c3d_features``."""
    values = arrays(500)
    with h5py.File(tmp_path / "sub_activitynet_v1-3.c3d.hdf5", "w") as file:
        for name, rows in values.items():
            file[f"v_{name}/c3d_features"] = rows
        file["v_other/c3d_features"] = values["a"]
    report = run(
        tmp_path,
        {
            "c3d": {
                "file": str(tmp_path / "sub_activitynet_v1-3.c3d.hdf5"),
                "dataset": "v_{id}/c3d_features",
                "steps": {"frames": 16, "step": 8},
            }
        },
    )
    found = FeatureStore(str(tmp_path / "store"))["c3d"]
    for name, fps in zip(IDS, (25, 30, 10), strict=True):
        np.testing.assert_array_equal(found[name].values, values[name])
        starts = [8 * number / fps for number in range(len(values[name]))]
        np.testing.assert_allclose(found[name].start_seconds, starts)
        np.testing.assert_allclose(found[name].stop_seconds, [start + 16 / fps for start in starts])
    assert report.features[0].surplus == ("other",)


def test_rows_share_a_duration_evenly_and_may_lie_across(tmp_path: Path) -> None:
    values = arrays()
    file = write_npy(tmp_path, {name: rows.T for name, rows in values.items()})
    run(tmp_path, {"x": {"file": file, "steps": {"evenly": True}, "transpose": True}})
    found = FeatureStore(str(tmp_path / "store"))["x"]
    np.testing.assert_array_equal(found["ü"].values, values["ü"])
    assert found["ü"].start_seconds.tolist() == [0, 2, 4, 6, 8, 10]
    assert found["ü"].stop_seconds.tolist() == [2, 4, 6, 8, 10, 12]


def test_a_matrix_with_the_id_of_each_row(tmp_path: Path) -> None:
    values = arrays()
    order = np.random.default_rng(1).permutation(10)
    ids = np.repeat([f"v_{name}.mp4" for name in IDS], LENGTHS)[order]
    rows = np.concatenate(list(values.values()))[order]
    times = np.concatenate([np.arange(length) * 1.5 for length in LENGTHS])[order]
    np.savez(tmp_path / "all.npz", rows=rows, names=ids, seconds=times, score=np.arange(10.0))
    ids_key = {"dataset": "names", "drop_prefix": "v_", "drop_ending": True}
    run(
        tmp_path,
        {
            "x": {
                "file": str(tmp_path / "all.npz"),
                "dataset": "rows",
                "ids": ids_key,
                "steps": {"start": "seconds", "window_seconds": 1.5},
                "extras": {"score": "score"},
            }
        },
    )
    found = FeatureStore(str(tmp_path / "store"))["x"]
    for name in IDS:
        mine = np.flatnonzero(ids == f"v_{name}.mp4")
        np.testing.assert_array_equal(found[name].values, rows[mine])
        np.testing.assert_array_equal(found[name].start_seconds, times[mine])
        np.testing.assert_array_equal(found[name].extras["score"], mine)


def test_a_matrix_in_the_order_of_the_lines_or_by_position(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).normal(size=(5, 3))
    savemat(tmp_path / "a.mat", {"I_tr": rows[:3], "I_te": rows[3:]})
    np.save(tmp_path / "a.npy", rows.astype(np.float16))
    lines = "id,label,part,row\nv,x,tr,4\nw,y,tr,0\nx,x,te,3\ny,y,tr,2\nz,x,te,1\n"
    features = {
        "mat": {"file": str(tmp_path / "a.mat"), "dataset": "I_{part}"},
        "npy": {"file": str(tmp_path / "a.npy"), "position": "row"},
    }
    run(tmp_path, features, lines)
    store = FeatureStore(str(tmp_path / "store"))
    for name, row in (("v", 0), ("w", 1), ("y", 2), ("x", 3), ("z", 4)):
        np.testing.assert_array_equal(store["mat"][name].values, rows[[row]].astype(np.float32))
    assert store["npy"].recipe.dtype == "float16"
    np.testing.assert_array_equal(store["npy"]["x"].values, rows[[3]].astype(np.float16).astype(np.float32))
    # Nothing is known of times: the clip is empty, and says so.
    assert [(clip.start_seconds, clip.stop_seconds) for clip in store["mat"].clips()] == [(0, 0)] * 5
    record = store["mat"].index().to_pylist()[0]["passport"]
    assert record["duration_seconds"] is None
    assert record["weights_sha256"] is None


SEGMENTS = (
    "id,label,start_seconds,stop_seconds,segment_label\na,cat,0,2,jump\nb b,dog,0,4,\na,cat,1,3,run\nü,cat,2,6,jump\n"
)


def test_annotated_clips_have_a_row_each(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", rows)
    run(tmp_path, {"x": {"file": str(tmp_path / "a.npy")}}, SEGMENTS, clips={"from": "annotations"})
    found = FeatureStore(str(tmp_path / "store"))["x"]
    clips = {clip.key: (clip.start_seconds, clip.stop_seconds, clip.label) for clip in found.clips()}
    assert clips == {
        ("a", 0): (0, 2, "jump"),
        ("a", 1): (1, 3, "run"),
        ("b b", 0): (0, 4, "dog"),
        ("ü", 0): (2, 6, "jump"),
    }
    for key, row in ((("a", 0), 0), (("b b", 0), 1), (("a", 1), 2), (("ü", 0), 3)):
        np.testing.assert_array_equal(found.clip_rows(*key).values, rows[[row]])


def test_steps_lie_in_the_annotated_clips_their_middle_is_in(tmp_path: Path) -> None:
    """Steps of a second, by hand: the middles of `a` are 0.5, 1.5, 2.5; of `b b` 0.5; of `ü` 0.5 to 5.5."""
    values = arrays()
    file = write_npy(tmp_path, values)
    run(tmp_path, {"x": {"file": file, "steps": {"step_seconds": 1}}}, SEGMENTS, clips={"from": "annotations"})
    found = FeatureStore(str(tmp_path / "store"))["x"]
    expected = {("a", 0): [0, 1], ("a", 1): [1, 2], ("b b", 0): [0], ("ü", 0): [2, 3, 4, 5]}
    for (name, clip), rows in expected.items():
        np.testing.assert_array_equal(found.clip_rows(name, clip).values, values[name][rows])
        assert found.clip_rows(name, clip).start_seconds.tolist() == rows


def test_a_bag_is_chosen_from_by_its_score(tmp_path: Path) -> None:
    values = arrays()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, rows in values.items():
            file[f"{name}/rows"] = rows
            file[f"{name}/confidence"] = np.arange(len(rows))[:, np.newaxis]
    feature = {
        "file": str(tmp_path / "a.h5"),
        "dataset": "{id}/rows",
        "rows": "bag",
        "extras": {"score": "{id}/confidence"},
    }
    run(tmp_path, {"x": feature})
    opened = FeatureStore(str(tmp_path / "store"))["x"]
    assert opened["ü"].start_seconds.tolist() == [0.0] * 6
    assert opened["ü"].stop_seconds.tolist() == [12.0] * 6
    bags = read_rows(opened, Bag(2, "score"))
    np.testing.assert_array_equal(bags.of([("ü", 0)]).values, values["ü"][[5, 4]])


def test_what_clipmill_exports_it_imports(tmp_path: Path) -> None:
    from clipmill.stores.export import export_feature

    values = arrays()
    run(tmp_path, {"x": {"file": write_npy(tmp_path, values), "steps": {"step_seconds": 1}}})
    export_feature(FeatureStore(str(tmp_path / "store"))["x"], "hdf5", str(tmp_path / "x.h5"))
    steps = {"start": "{id}/start_seconds", "stop": "{id}/stop_seconds"}
    feature = {"file": str(tmp_path / "x.h5"), "dataset": "{id}/values", "steps": steps}
    run(tmp_path, {"y": feature}, store={"url": str(tmp_path / "store"), "dataset": "manifest"})
    store = FeatureStore(str(tmp_path / "store"))
    assert store.features == ["x", "y"]
    for name in IDS:
        np.testing.assert_array_equal(store["y"][name].values, store["x"][name].values)
        np.testing.assert_array_equal(store["y"][name].stop_seconds, store["x"][name].stop_seconds)


# Again, with more, and with other bytes.


def test_a_second_import_writes_nothing(tmp_path: Path) -> None:
    features = {"x": {"file": write_npy(tmp_path, arrays()), "steps": {"frames": 16}}}
    first = run(tmp_path, features).features[0]
    before = objects(tmp_path)
    again = run(tmp_path, features).features[0]
    assert objects(tmp_path) == before
    assert (again.num_imported, again.num_before, again.fingerprint) == (0, 3, first.fingerprint)
    assert again.replaced is None


def test_new_ids_are_added_under_the_same_recipe(tmp_path: Path) -> None:
    values = arrays()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in IDS[:2]:
            file[name] = values[name]
    features = {"x": {"file": str(tmp_path / "a.h5"), "dataset": "{id}", "rows": "bag"}}
    run(tmp_path, features, "id,label\na,cat\nb b,dog\n")
    before = objects(tmp_path)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["ü"] = values["ü"]
    report = run(tmp_path, features, "id,label\na,cat\nb b,dog\nü,cat\n")
    assert (report.features[0].num_imported, report.features[0].num_before) == (1, 2)
    assert report.features[0].replaced is None
    assert before.items() <= objects(tmp_path).items()
    store = FeatureStore(str(tmp_path / "store"))
    np.testing.assert_array_equal(store["x"]["ü"].values, values["ü"])
    assert len(store.recipes) == 1


def test_a_changed_row_is_another_recipe_and_the_old_stays_readable(tmp_path: Path) -> None:
    values = arrays()
    features = {"x": {"file": write_npy(tmp_path, values), "rows": "bag"}}
    first = run(tmp_path, features).features[0]
    changed = {**values, "ü": values["ü"] + np.float32(1e-3)}
    write_npy(tmp_path, changed)
    second = run(tmp_path, features).features[0]
    assert second.replaced == first.key
    assert second.num_imported == 3
    store = FeatureStore(str(tmp_path / "store"))
    np.testing.assert_array_equal(store["x"]["ü"].values, changed["ü"])
    np.testing.assert_array_equal(store[first.key]["ü"].values, values["ü"])
    before = objects(tmp_path)
    write_npy(tmp_path, values)
    third = run(tmp_path, features).features[0]
    assert (third.key, third.replaced, third.num_imported) == (first.key, second.key, 0)
    assert objects(tmp_path) == before
    np.testing.assert_array_equal(FeatureStore(str(tmp_path / "store"))["x"]["ü"].values, values["ü"])


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ({"frames": 16}, "a,cat,train,10,24"),  # another rate: other times
        ({"step_seconds": 1}, "a,cat,train,11,25"),  # another duration: another clip
    ],
)
def test_other_times_are_another_recipe_although_no_file_changed(
    steps: dict[str, Any], line: str, tmp_path: Path
) -> None:
    features = {"x": {"file": write_npy(tmp_path, arrays()), "steps": steps}}
    first = run(tmp_path, features).features[0]
    text = Path(manifest(tmp_path)).read_text("utf-8").replace("a,cat,train,10,25", line)
    assert run(tmp_path, features, text).features[0].replaced == first.key


def test_other_lines_of_a_matrix_are_another_recipe_although_no_file_changed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(4, dtype=np.float32).reshape(2, 2))
    features = {"x": {"file": str(tmp_path / "a.npy")}}
    first = run(tmp_path, features, "id\nv\nw\n").features[0]
    assert run(tmp_path, features, "id\nw\nv\n").features[0].replaced == first.key
    assert FeatureStore(str(tmp_path / "store"))["x"]["v"].values.tolist() == [[2, 3]]


def test_a_file_written_anew_with_the_same_rows_is_the_same(tmp_path: Path) -> None:
    values = arrays()
    features = {"x": {"file": str(tmp_path / "a.h5"), "dataset": "{id}", "rows": "bag"}}
    for options in ({}, {"compression": "gzip"}):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for name, rows in values.items():
                file.create_dataset(name, data=rows, **options)
        report = run(tmp_path, features)
    assert (report.features[0].num_imported, report.features[0].replaced) == (0, None)


def test_labels_and_splits_are_corrected_without_importing_again(tmp_path: Path) -> None:
    features = {"x": {"file": write_npy(tmp_path, arrays()), "rows": "bag"}}
    run(tmp_path, features)
    report = run(tmp_path, features, "id,label\na,fox\nb b,dog\nü,fox\n")
    # Durations are gone from this manifest, and with them the clips they made.
    assert report.features[0].replaced is not None
    text = Path(manifest(tmp_path)).read_text("utf-8").replace("cat", "fox")
    run(tmp_path, features, text)
    before = objects(tmp_path)
    report = run(tmp_path, features, text.replace("fox", "owl"))
    assert report.features[0].num_imported == 0
    assert objects(tmp_path) == before
    store = FeatureStore(str(tmp_path / "store"))
    assert [clip.label for clip in store["x"].clips()] == ["owl", "dog", "owl"]


def test_a_second_feature_leaves_the_first_in_force(tmp_path: Path) -> None:
    values = arrays()
    run(tmp_path, {"x": {"file": write_npy(tmp_path, values), "rows": "bag"}})
    np.save(tmp_path / "y.npy", np.eye(3, dtype=np.float32))
    run(tmp_path, {"y": {"file": str(tmp_path / "y.npy")}}, "id\na\nb b\nü\n")
    store = FeatureStore(str(tmp_path / "store"))
    assert store.features == ["x", "y"]
    assert store["x"].video_ids == store["y"].video_ids == list(IDS)
    assert store.videos()["a"].label == "cat", "a manifest without labels takes none away"


def test_rows_come_beside_those_of_a_build(tmp_path: Path) -> None:
    """A video that a build has read keeps the fingerprint of its bytes."""
    header = VideoHeader("mp4", "h264", 64, 48, 0, 7.5, 20.0, 150)
    built = Video("a", str(tmp_path / "a.mp4"), "f" * 32, 1000, header, label="cat")
    Store.create(str(tmp_path / "store"), "zarr", "manifest").write_manifest("20200101T000000000-0000", [built])
    run(tmp_path, {"x": {"file": write_npy(tmp_path, arrays()), "steps": {"frames": 10}}}, "id\na\n")
    store = FeatureStore(str(tmp_path / "store"))
    assert store.videos()["a"] == built
    assert store["x"]["a"].start_seconds.tolist() == [0.0, 0.5, 1.0], "frames at the rate its header has"
    assert store["x"].clips()[0].stop_seconds == 7.5


def test_a_killed_import_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imported_rows, "BATCH_BYTES", 1)
    features = {"x": {"file": write_npy(tmp_path, arrays()), "rows": "bag"}}
    data = {"store": {"url": str(tmp_path / "store")}, "manifest": manifest(tmp_path), "features": features}
    config = ImportConfig.model_validate(data)

    def kill(feature: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_features(config, kill)
    assert FeatureStore(str(tmp_path / "store"))["x"].video_ids == ["a"]
    report = import_features(config)
    assert (report.features[0].num_imported, report.features[0].num_before) == (2, 1)
    assert FeatureStore(str(tmp_path / "store"))["x"].video_ids == list(IDS)


def test_two_imports_write_the_same_bytes(tmp_path: Path) -> None:
    features = {"x": {"file": write_npy(tmp_path, arrays()), "steps": {"step_seconds": 1}}}
    found = []
    for name in ("one", "two"):
        run(tmp_path, features, store={"url": str(tmp_path / name), "dataset": "d"})
        kept = [path for part in ("shards", "commits", "recipes") for path in (tmp_path / name / part).rglob("*")]
        found.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in kept if path.is_file()})
    assert found[0] == found[1]
    assert len(found[0]) >= 3


def test_the_record_says_which_file_and_row_and_no_more(tmp_path: Path) -> None:
    import hashlib

    rows = np.eye(3, dtype=np.float32)
    np.save(tmp_path / "a.npy", rows)
    run(tmp_path, {"x": {"file": str(tmp_path / "a.npy"), "made_by": "a colleague's network"}})
    feature = FeatureStore(str(tmp_path / "store"))["x"]
    digest = hashlib.sha256((tmp_path / "a.npy").read_bytes()).hexdigest()
    record = {row["video_id"]: row["passport"] for row in feature.index().to_pylist()}["b b"]
    assert record["decoder_version"] == f"a.npy row 1, SHA-256 {digest}"
    assert (record["weights"], record["decoder"]) == ("imported", "imported")
    assert record["values_sha256"] == values_sha256(rows[[1]])
    known = {"clipmill_version", "weights", "decoder", "decoder_version", "duration_seconds", "values_sha256"}
    assert {name for name, value in record.items() if value is not None} == known
    assert feature.recipe.is_imported
    assert (feature.recipe.layer, feature.recipe.weights.source) == ("a colleague's network", "imported")
    assert feature.recipe.files == {"source": str(tmp_path / "a.npy")}


def test_items_without_rows_are_skipped_where_that_is_asked_for(tmp_path: Path) -> None:
    file = write_npy(tmp_path, {"a": arrays()["a"], "other": arrays()["a"]})
    report = run(tmp_path, {"x": {"file": file, "rows": "bag"}}, missing="skip")
    assert report.features[0].missing == ("b b", "ü")
    assert report.features[0].surplus == ("other",)
    with pytest.raises(StoreError, match="got none yet"):
        FeatureStore(str(tmp_path / "store"))["x"]["ü"]
