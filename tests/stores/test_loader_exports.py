"""Exports for published repositories, opened by the libraries and with the lines that their loaders open them with."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from clipmill.schemas.errors import UsageError
from clipmill.schemas.recipe import Sampling
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows, concatenate
from clipmill.schemas.tables import COMMITS
from clipmill.schemas.task import clips_fingerprint
from clipmill.stores import Feature, FeatureStore, Store
from clipmill.stores.formats.annotated_videos import read_annotated_videos
from clipmill.stores.loaders.export import export_for_loader
from clipmill.stores.loaders.registry import LOADERS

DIM = 4
LENGTHS = {"train/v_a.mp4": 5, "train/v_b.b.mkv": 9, "test/v_c.webm": 1}
NAMES = {"train/v_a.mp4": "v_a", "train/v_b.b.mkv": "v_b.b", "test/v_c.webm": "v_c"}


def rows_each(num_rows: int, step: float = 2.0, seed: int = 0, window: float | None = None) -> Rows:
    """Rows `step` seconds apart that begin with the video."""
    starts = np.arange(num_rows) * step
    values = np.random.default_rng(seed).random((num_rows, DIM)).astype(np.float16)
    stops = starts + (step if window is None else window)
    return Rows(values, np.zeros(num_rows, np.int32), starts, stops, np.ones(num_rows, np.bool_))


MakeFeature = Callable[..., Feature]


@pytest.fixture
def make_feature(tmp_path: Path, make_recipe: Any) -> MakeFeature:
    """Makes a store of given rows; `passports` say how long a video is and how many frames it has."""

    def make(
        rows: dict[str, Rows], passports: dict[str, dict[str, Any]] | None = None, sampling: Sampling | None = None
    ) -> Feature:
        store = Store.create(str(tmp_path / "store"), "zarr", "d")
        recipe = make_recipe(dim=DIM, dtype="float16", sampling=sampling or Sampling(frames=16, fps=8))
        videos = [Video(name, f"/{number}", f"f{number}") for number, name in enumerate(rows)]
        stops = np.cumsum([len(part) for part in rows.values()]).tolist()
        spans = list(zip(rows, [0, *stops[:-1]], stops, strict=True))
        store.write_recipe(recipe)
        shard = store.write_shard(recipe, "t", concatenate(list(rows.values())), spans)
        table = [
            {
                "video_id": name,
                "video_fingerprint": video.fingerprint,
                "clips_fingerprint": clips_fingerprint(video),
                "recipe_fingerprint": recipe.fingerprint,
                "shard": shard,
                "row_start": start,
                "row_stop": stop,
                "clips": [],
                "passport": (passports or {}).get(name, {}),
            }
            for video, (name, start, stop) in zip(videos, spans, strict=True)
        ]
        store.write_commit(recipe, "t", pa.Table.from_pylist(table, schema=COMMITS))
        store.write_manifest("r1", videos)
        return FeatureStore(store.url)["c3d"]

    return make


@pytest.fixture
def feature(make_feature: MakeFeature) -> Feature:
    rows = {name: rows_each(length, seed=length) for name, length in LENGTHS.items()}
    passports = {
        name: {"duration_seconds": 2.0 * length, "num_frames": 50 * length, "first_frame_seconds": 0.0}
        for name, length in LENGTHS.items()
    }
    return make_feature(rows, passports)


# Each loader's own lines, as docs/exports.md cites them.
OPENED: dict[tuple[str, str], Callable[[Path, str], Any]] = {
    ("2dtan", "activitynet"): lambda out, vid: h5py.File(out / "sub_activitynet_v1-3.c3d.hdf5")[vid]["c3d_features"][:],
    ("2dtan", "charades"): lambda out, vid: h5py.File(out / "clipmill_features.hdf5")[vid][:],
    ("2dtan", "tacos"): lambda out, vid: h5py.File(out / "tall_c3d_features.hdf5")[vid][:],
    ("lgi", "activitynet"): lambda out, vid: h5py.File(out / "sub_activitynet_v1-3.c3d.hdf5")[vid]["c3d_features"][:],
    ("lgi", "charades"): lambda out, vid: np.load((str(out) + "/{}.npy").format(vid)).squeeze(),
    ("actionformer", "thumos"): lambda out, vid: np.load(str(out) + "/" + "" + vid + ".npy").astype(np.float32),
    ("opentad", "thumos"): lambda out, vid: np.load(out / f"{vid}.npy").astype(np.float32),
    ("moment-detr", "qvhighlights"): lambda out, vid: np.load(out / f"{vid}.npz")["features"][:75],
    ("umt", "qvhighlights"): lambda out, vid: np.load(out / f"{vid}.npz")["features"],
    ("umt", "charades"): lambda out, vid: np.load(out / f"{vid}.npy"),
}


@pytest.mark.parametrize(("target", "dataset"), OPENED, ids=["-".join(key) for key in OPENED])
def test_a_loader_finds_the_rows_of_each_video(target: str, dataset: str, feature: Feature, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = export_for_loader(feature, target, str(out), dataset=dataset)
    for video_id, name in NAMES.items():
        found = OPENED[target, dataset](out, name)
        expected = feature[video_id].values
        if (target, dataset, len(expected)) == ("lgi", "charades", 1):
            expected = np.repeat(expected, 2, axis=0)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert done.as_json()["num_videos"] == 3
    assert done.shape[1:] == (9, DIM)
    assert not done.notes


def test_every_loader_is_opened_by_a_test() -> None:
    known = {(name, dataset) for name in LOADERS.names for dataset in LOADERS.get(name).datasets}
    assert known - OPENED.keys() == {("bsn", "activitynet")} | {
        ("vslnet", task) for task in ("charades", "activitynet", "tacos")
    }


def test_vslnet_takes_a_name_up_to_its_first_dot(feature: Feature, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"name 'v_b.b': expected a name without dots .*read it as 'v_b'"):
        export_for_loader(feature, "vslnet", str(tmp_path / "out"))
    with pytest.raises(UsageError, match="a name without slashes"):
        export_for_loader(feature, "vslnet", str(tmp_path / "out"), ids="id")
    assert not (tmp_path / "out").exists()
    table = tmp_path / "map.csv"
    table.write_text("name,video_id\nB,train/v_b.b.mkv\nA,train/v_a.mp4\nX,gone.mp4\n")
    done = export_for_loader(feature, "vslnet", str(tmp_path / "out"), ids=str(table))
    assert done.names.unnamed == ["test/v_c.webm"]
    assert done.names.unknown == ["gone.mp4"]
    opened = {str(path).split("/")[-1].split(".")[0]: np.load(path) for path in (tmp_path / "out").glob("*.npy")}
    assert {name: len(values) for name, values in opened.items()} == {"A": 5, "B": 9}
    assert json.loads((tmp_path / "out" / "feature_shapes.json").read_text()) == {"A": 5, "B": 9}
    np.testing.assert_array_equal(opened["B"], feature["train/v_b.b.mkv"].values)


def test_two_videos_of_one_name_are_refused(make_feature: MakeFeature, tmp_path: Path) -> None:
    feature = make_feature({"a/x.mp4": rows_each(2), "b/x.mkv": rows_each(2), "b/y.mkv": rows_each(2)})
    with pytest.raises(UsageError, match=r"ids stem: expected a name of its own.*'x' for 'a/x.mp4', 'b/x.mkv'; "):
        export_for_loader(feature, "lgi", str(tmp_path / "out"))
    export_for_loader(feature, "lgi", str(tmp_path / "out"), ids="id")
    with h5py.File(tmp_path / "out" / "sub_activitynet_v1-3.c3d.hdf5") as file:
        assert file["a/x.mp4"]["c3d_features"].shape == (2, DIM)
    export_for_loader(feature, "actionformer", str(tmp_path / "npy"), ids="id")
    assert np.load(f"{tmp_path}/npy/b/x.mkv.npy").shape == (2, DIM)


@pytest.mark.parametrize("name", ["../up", "/abs", "a//b", "x/.", "n" * 300])
def test_names_that_leave_the_folder_are_refused(name: str, make_feature: MakeFeature, tmp_path: Path) -> None:
    feature = make_feature({name: rows_each(2)})
    for target in ("opentad", "2dtan", "umt", "bsn"):
        with pytest.raises(UsageError, match="one the loader cannot open"):
            export_for_loader(feature, target, str(tmp_path / "out"), ids="id")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_a_video_below_another_one_is_no_hdf5_path(make_feature: MakeFeature, tmp_path: Path) -> None:
    feature = make_feature({"a": rows_each(2), "a/b": rows_each(2)})
    with pytest.raises(UsageError, match=r"not below another's \('a'\)"):
        export_for_loader(feature, "2dtan", str(tmp_path / "out"), ids="id", dataset="charades")


@pytest.mark.parametrize(
    "text",
    [
        "id,name\na,b\n",
        "video_id,name\na,\n",
        "video_id,name\na,b\na,c\n",
        "video_id,name\ntrain/v_a.mp4,x\ntest/v_c.webm,x\n",
    ],
)
def test_a_table_of_names_must_be_one(text: str, feature: Feature, tmp_path: Path) -> None:
    table = tmp_path / "map.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match="export ids "):
        export_for_loader(feature, "umt", str(tmp_path / "out"), ids=str(table))


def anet(path: Path, videos: dict[str, tuple[str, float, list[tuple[str, float, float]]]]) -> str:
    """Writes annotations in ActivityNet's JSON; returns the path."""
    database = {
        name: {
            "subset": subset,
            "duration": duration,
            "annotations": [{"label": label, "segment": [start, stop]} for label, start, stop in segments],
        }
        for name, (subset, duration, segments) in videos.items()
    }
    path.write_text(json.dumps({"version": "", "taxonomy": [], "database": database}))
    return str(path)


ANNOTATED = {
    "a": ("training", 10.0, [("Run", 0.5, 3.0), ("Jump", 4.0, 6.0)]),
    "c": ("validation", 2.0, []),
    "gone": ("validation", 33.0, [("Run", 1.0, 2.0)]),
}


def test_ids_missing_on_either_side_are_listed(feature: Feature, tmp_path: Path) -> None:
    annotations = anet(tmp_path / "anet.json", ANNOTATED)
    done = export_for_loader(feature, "actionformer", str(tmp_path / "out"), annotations=annotations)
    assert done.exported.prefix == "v_"
    assert (list(done.not_exported), list(done.not_annotated)) == (["gone"], ["v_b.b"])
    done = export_for_loader(feature, "umt", str(tmp_path / "umt"), annotations=annotations)
    assert list(done.not_exported) == ["a", "c", "gone"]
    assert "would match without the prefix 'v_'" in done.id_hint


def test_actionformer_gets_its_annotations_and_keys(feature: Feature, tmp_path: Path) -> None:
    annotations = anet(tmp_path / "anet.json", ANNOTATED)
    done = export_for_loader(feature, "actionformer", str(tmp_path / "out"), annotations=annotations)
    database = json.loads((tmp_path / "out" / "annotations.json").read_text())["database"]
    # Of resampled rows, the rate they were made at.
    assert database["a"]["fps"] == 8
    assert "fps" not in database["gone"]
    assert database["gone"]["duration"] == 33.0
    assert [(item["label"], item["label_id"]) for item in database["a"]["annotations"]] == [("Run", 1), ("Jump", 0)]
    keys = "num_classes: 2, input_dim: 4, feat_stride: 16, num_frames: 16, default_fps: 8"
    assert keys in done.next_steps[0]
    # The file itself is of ActivityNet's form.
    assert read_annotated_videos(str(tmp_path / "out" / "annotations.json")).videos.keys() == ANNOTATED.keys()


def test_strides_of_videos_at_their_own_rate_are_counted_in_frames(make_feature: MakeFeature, tmp_path: Path) -> None:
    # 16 frames every 8, of videos of 25 and of 30 frames a second.
    rows, passports = {}, {}
    for name, fps in (("a", 25.0), ("b", 30.0), ("c", 30.0)):
        rows[name] = rows_each(9, 8 / fps, window=16 / fps)
        passports[name] = {"duration_seconds": 80 / fps, "num_frames": 80, "first_frame_seconds": 0.0}
    feature = make_feature(rows, passports, Sampling(frames=16, step=8))
    done = export_for_loader(feature, "actionformer", str(tmp_path / "out"))
    assert "feat_stride: 8, num_frames: 16, default_fps: ~" in done.next_steps[0]
    assert not done.notes
    done = export_for_loader(feature, "opentad", str(tmp_path / "tad"))
    assert "dataset.test.feature_stride=8 dataset.test.offset_frames=8" in done.next_steps[0]
    done = export_for_loader(feature, "moment-detr", str(tmp_path / "moments"))
    assert "takes rows 2 s apart (--clip_length, whole seconds), these are 0.2667 s apart" in done.notes[0]


def test_opentad_is_told_what_is_missing(feature: Feature, tmp_path: Path) -> None:
    annotations = anet(tmp_path / "anet.json", ANNOTATED)
    done = export_for_loader(feature, "opentad", str(tmp_path / "out"), annotations=annotations)
    assert (tmp_path / "out" / "missing_files.txt").read_text() == "gone\n"
    assert (tmp_path / "out" / "category_idx.txt").read_text() == "Jump\nRun\n"
    database = json.loads((tmp_path / "out" / "annotations.json").read_text())["database"]
    # The loader multiplies seconds by frame / duration: 8 frames a second.
    assert database["a"]["frame"] / database["a"]["duration"] == 8
    for key in ("pipeline.0.prefix=v_", "feature_stride=16", "offset_frames=8"):
        assert f"dataset.train.{key}" in done.next_steps[0]


def test_bsn_reads_a_hundred_rows_over_the_whole_video(make_feature: MakeFeature, tmp_path: Path) -> None:
    # Values that grow by one a second: a row is then the middle of its hundredth, wherever rows lay.
    starts = np.arange(41) * 0.5
    centres = (starts + 0.25)[:, None]
    values = np.concatenate([centres, 2 * centres, centres, centres], axis=1).astype(np.float16)
    ramp = Rows(values, np.zeros(41, np.int32), starts, starts + 0.5, np.ones(41, np.bool_))
    feature = make_feature(
        {"v_a": ramp, "v_c": rows_each(1)}, {"v_a": {"duration_seconds": 20.5, "num_frames": 410}}, Sampling(frames=5)
    )
    annotations = anet(tmp_path / "anet.json", ANNOTATED)
    done = export_for_loader(feature, "bsn", str(tmp_path / "out"), annotations=annotations)
    feature_path = str(tmp_path / "out") + "/"
    info = pd.read_csv(f"{feature_path}video_info.csv")
    database = json.loads((tmp_path / "out" / "video_anno.json").read_text())
    assert list(info.video.values) == ["v_a", "v_c"] == list(database)
    assert list(info.subset.values) == ["training", "validation"]
    opened = pd.read_csv(feature_path + "csv_mean_100/v_a.csv").values
    assert opened.shape == (100, DIM)
    entry = database["v_a"]
    covered = float(entry["feature_frame"]) / entry["duration_frame"] * entry["duration_second"]
    assert (covered, entry["duration_frame"]) == (20.5, 410)
    middles = (np.arange(100) + 0.5) * covered / 100
    np.testing.assert_allclose(opened[2:-2, 0], middles[2:-2], rtol=2e-3)
    np.testing.assert_allclose(opened[2:-2, 1], 2 * middles[2:-2], rtol=2e-3)
    once = pd.read_csv(feature_path + "csv_mean_100/v_c.csv").values
    np.testing.assert_allclose(once, np.repeat(feature["v_c"].values, 100, axis=0), rtol=1e-6)
    assert f"--tem_feat_dim {DIM} --video_info {feature_path}video_info.csv" in done.next_steps[-1]


def test_rows_that_fill_up_and_videos_without_rows_are_left_out_and_counted(
    make_feature: MakeFeature, tmp_path: Path
) -> None:
    filled = rows_each(4)
    filled.mask[2:] = False
    feature = make_feature({"a": filled, "b": rows_each(0), "c": rows_each(2)})
    done = export_for_loader(feature, "umt", str(tmp_path / "out"))
    assert (done.without_rows, done.num_masked) == (["b"], 2)
    assert np.load(tmp_path / "out" / "a.npz")["features"].shape == (2, DIM)
    assert not (tmp_path / "out" / "b.npz").exists()


def test_rows_in_no_order_of_time_are_refused(make_feature: MakeFeature, tmp_path: Path) -> None:
    feature = make_feature({"a": rows_each(3), "b": concatenate([rows_each(2), rows_each(2)])})
    with pytest.raises(UsageError, match=r"video b: expected one row after the other.*row 2 at 0 s after row 1 at 2 s"):
        export_for_loader(feature, "2dtan", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_spreads_rows_over_the_video_is_told_where_there_are_none(
    make_feature: MakeFeature, tmp_path: Path
) -> None:
    late = concatenate([rows_each(3), rows_each(1)])
    late.start_seconds[:] = [0, 2, 10, 12]
    late.stop_seconds[:] = [2, 4, 12, 14]
    feature = make_feature({"a": rows_each(4), "b": late}, {"a": {"duration_seconds": 10.0, "num_frames": 100}})
    done = export_for_loader(feature, "lgi", str(tmp_path / "out"))
    assert any("rows of 1 videos are not one step apart" in note for note in done.notes)
    assert any("up to 20 % of a video has no rows" in note for note in done.notes)


def test_annotations_say_which_data_set_is_meant(feature: Feature, tmp_path: Path) -> None:
    charades = tmp_path / "charades_sta_test.txt"
    charades.write_text("v_a 0.5 3.0##a person runs.\nv_x 1.0 2.0##a person sits.\n")
    done = export_for_loader(feature, "umt", str(tmp_path / "out"), annotations=str(charades))
    assert done.dataset == "charades"
    assert list(done.not_exported) == ["v_x"]
    assert "pred_head=dict(unit=2)" in done.next_steps[1]
    with pytest.raises(UsageError, match="expected segments of classes.*got language queries"):
        export_for_loader(feature, "opentad", str(tmp_path / "tad"), annotations=str(charades))


def test_unknown_loaders_and_data_sets_are_refused(feature: Feature, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="loader 2dtna.*did you mean '2dtan'"):
        export_for_loader(feature, "2dtna", str(tmp_path / "out"))
    with pytest.raises(UsageError, match=r"dataset: .*2D-TAN.*'charade'; did you mean 'charades'"):
        export_for_loader(feature, "2dtan", str(tmp_path / "out"), dataset="charade")


def test_csv_files_bring_every_bit_back(make_feature: MakeFeature, tmp_path: Path) -> None:
    rows = rows_each(1)
    rows.values[0] = np.array([1 / 3, 65504, 6e-8, -0.1], np.float16)
    feature = make_feature({"a": rows})
    export_for_loader(feature, "bsn", str(tmp_path / "out"))
    with open(tmp_path / "out" / "csv_mean_100" / "a.csv", newline="") as file:
        line = list(csv.reader(file))[1]
    np.testing.assert_array_equal(np.array(line, np.float32), feature["a"].values[0])
