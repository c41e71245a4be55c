"""Exports, read back by the libraries they are meant for."""

import csv
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import h5py
import lance
import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
import webdataset
import zarr
from hypothesis import given
from hypothesis import strategies as st

from clipmill.schemas.errors import StorageUnavailableError, UsageError
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows
from clipmill.stores import Feature, FeatureStore, Store
from clipmill.stores import export as export_module
from clipmill.stores.export import export_feature, group_names, safe_name

FORMATS = ("hdf5", "npy", "parquet", "arrow", "zarr", "webdataset", "lance")
IDS = ["snow/a b.mp4", "snow", "日本.mp4", "a%2Fb", "../up", "x" * 400, "none"]


@pytest.fixture
def exported(tmp_path: Path, make_recipe: Any, make_rows: Any, commit: Any) -> tuple[Feature, dict[str, Rows]]:
    store = Store.create(str(tmp_path / "store"), "zarr", "d")
    rows = {id: make_rows(0 if id == "none" else n + 1, dtype="float16", seed=n, clips=2) for n, id in enumerate(IDS)}
    videos = {Video(id, f"/{n}", f"f{n}", label=f"l{n}" if n else None): rows[id] for n, id in enumerate(IDS)}
    items = list(videos.items())
    commit(store, make_recipe(dtype="float16"), "b", dict(items[:3]))
    commit(store, make_recipe(dtype="float16"), "a", dict(items[3:]))
    store.write_manifest("r1", list(videos))
    return FeatureStore(store.url)["c3d"], rows


REPORT = {"num_videos": 7, "num_rows": 21}


def test_hdf5_has_a_group_per_video(exported: tuple[Feature, dict[str, Rows]], tmp_path: Path) -> None:
    feature, rows = exported
    out = tmp_path / "out" / "c3d.h5"
    assert export_feature(feature, "hdf5", str(out)) == REPORT | {"format": "hdf5"}
    with h5py.File(out) as file:
        for video_id, name in group_names(feature.video_ids).items():
            group = file[name]
            assert group.attrs["video_id"] == video_id
            for column in ("values", "start_seconds", "stop_seconds", "mask", "clip"):
                expected = getattr(rows[video_id], column)
                assert group[column].dtype == expected.dtype
                np.testing.assert_array_equal(group[column][...], expected)
        np.testing.assert_array_equal(file["日本.mp4"]["values"][...], rows["日本.mp4"].values)


def test_hdf5_groups_are_named_by_the_id_itself_wherever_that_is_clear() -> None:
    ids = ["a/b.mp4", "a", "c/d.mp4", "e//f", "/g", "h/.", "i%", ".", "j/../k", ".."]
    names = group_names(ids)
    assert {id for id in ids if names[id] == id} == {"a", "c/d.mp4"}
    assert names["a/b.mp4"] == "a%2Fb%2Emp4"
    assert len(set(names.values())) == len(ids)


def test_npy_has_a_file_per_video_and_an_index(exported: tuple[Feature, dict[str, Rows]], tmp_path: Path) -> None:
    feature, rows = exported
    out = tmp_path / "npy"
    assert export_feature(feature, "npy", str(out)) == REPORT | {"format": "npy"}
    with open(out / "index.csv", newline="", encoding="utf-8") as file:
        index = list(csv.DictReader(file))
    assert len(list(out.iterdir())) == len(IDS) + 1
    assert {line["video_id"] for line in index} == set(IDS)
    for video_id, expected in rows.items():
        lines = [line for line in index if line["video_id"] == video_id]
        values = np.load(out / lines[0]["file"], allow_pickle=False)
        assert values.dtype == np.float16
        np.testing.assert_array_equal(values, expected.values)
        if len(expected):
            np.testing.assert_array_equal([float(line["start_seconds"]) for line in lines], expected.start_seconds)
            np.testing.assert_array_equal([line["mask"] == "1" for line in lines], expected.mask)
            np.testing.assert_array_equal([int(line["clip"]) for line in lines], expected.clip)


@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_parquet_has_a_row_per_row(
    batch_bytes: int, exported: tuple[Feature, dict[str, Rows]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_BATCH_BYTES", batch_bytes)
    feature, rows = exported
    assert export_feature(feature, "parquet", str(tmp_path / "x.parquet")) == REPORT | {"format": "parquet"}
    table = pq.read_table(tmp_path / "x.parquet")
    order = sorted(IDS)
    assert table.column("video_id").to_pylist() == [id for id in order for _ in range(len(rows[id]))]
    expected = np.concatenate([rows[id].values for id in order])
    np.testing.assert_array_equal(np.array(table.column("values").to_pylist(), np.float16), expected)


@pytest.mark.parametrize("format", ["arrow", "lance"])
@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_arrow_and_lance_have_the_table_of_parquet(
    format: str,
    batch_bytes: int,
    exported: tuple[Feature, dict[str, Rows]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_module, "_BATCH_BYTES", batch_bytes)
    feature, _ = exported
    assert export_feature(feature, format, str(tmp_path / "x")) == REPORT | {"format": format}
    export_feature(feature, "parquet", str(tmp_path / "x.parquet"))
    expected = pq.read_table(tmp_path / "x.parquet")
    found = _arrow_table(tmp_path / "x") if format == "arrow" else lance.dataset(str(tmp_path / "x")).to_table()
    assert found.schema.names == expected.schema.names
    assert found.to_pylist() == expected.to_pylist()


def _arrow_table(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return ipc.open_file(source).read_all()


def test_webdataset_has_a_sample_per_video(
    exported: tuple[Feature, dict[str, Rows]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_TAR_BYTES", 200)
    feature, rows = exported
    out = tmp_path / "100%d"
    assert export_feature(feature, "webdataset", str(out)) == REPORT | {"format": "webdataset"}
    shards = sorted(str(path) for path in out.iterdir())
    assert len(shards) > 1
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
    assert [sample["json"]["video_id"] for sample in samples] == sorted(IDS)
    for sample in samples:
        expected, about = rows[sample["json"]["video_id"]], sample["json"]
        assert sample["npy"].dtype == np.float16
        np.testing.assert_array_equal(sample["npy"], expected.values)
        np.testing.assert_array_equal(about["start_seconds"], expected.start_seconds)
        assert about["mask"] == expected.mask.tolist()
    export_feature(feature, "webdataset", str(tmp_path / "again"))
    assert [path.read_bytes() for path in sorted(out.iterdir())] == [
        path.read_bytes() for path in sorted((tmp_path / "again").iterdir())
    ]


@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_zarr_has_an_array_per_column(
    batch_bytes: int, exported: tuple[Feature, dict[str, Rows]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_BATCH_BYTES", batch_bytes)
    feature, rows = exported
    assert export_feature(feature, "zarr", str(tmp_path / "x.zarr")) == REPORT | {"format": "zarr"}
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="r")
    assert group.attrs["video_ids"] == sorted(IDS)
    for number, video_id in enumerate(sorted(IDS)):
        span = slice(int(group["row_start"][number]), int(group["row_stop"][number]))
        np.testing.assert_array_equal(group["values"][span], rows[video_id].values)
        np.testing.assert_array_equal(group["mask"][span], rows[video_id].mask)


@pytest.mark.parametrize("format", FORMATS)
def test_a_feature_without_rows_exports_as_nothing(
    format: str, tmp_path: Path, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store = Store.create(str(tmp_path / "store"), "parquet", "d")
    store.write_recipe(make_recipe())
    report = export_feature(FeatureStore(store.url)["c3d"], format, str(tmp_path / "out"))
    assert report == {"format": format, "num_videos": 0, "num_rows": 0}
    assert (tmp_path / "out").exists()


HOSTILE = (
    """.. ../up ../../../up.mp4 a/../../b /abs/c.mp4 //d ./e f/./g h//i j/ . ... ~ -k l\\..\\m "t" u,v .hidden
w/.hidden %2e%2e/x index.csv values""".split()
    + ["n\no", "p\rq", "r\ts"]
)


@pytest.mark.parametrize("format", FORMATS)
def test_ids_that_look_like_paths_come_back_whole_and_nothing_lands_outside(
    format: str, tmp_path: Path, make_recipe: Any, make_rows: Any, commit: Any
) -> None:
    store = Store.create(str(tmp_path / "store"), "zarr", "d")
    rows = {id: make_rows(n % 3 + 1, seed=n) for n, id in enumerate(HOSTILE)}
    videos = {Video(id, f"/{n}", f"f{n}"): rows[id] for n, id in enumerate(HOSTILE)}
    commit(store, make_recipe(), "k", videos)
    store.write_manifest("r1", list(videos))
    before = {path for path in tmp_path.rglob("*")}
    out = tmp_path / "one" / "two" / "out"
    export_feature(FeatureStore(store.url)["c3d"], format, str(out))
    made = {path for path in tmp_path.rglob("*")} - before
    assert all(path in (tmp_path / "one", out.parent, out) or out in path.parents for path in made)
    found = _values_by_id(format, out)
    assert found.keys() == rows.keys()
    for video_id, expected in rows.items():
        np.testing.assert_array_equal(found[video_id], expected.values)


def _values_by_id(format: str, out: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    if format == "hdf5":
        with h5py.File(out) as file:

            def visit(name: str, item: Any) -> None:
                assert not {"", ".", ".."} & set(name.split("/"))
                if "video_id" in item.attrs:
                    found[item.attrs["video_id"]] = item["values"][...]

            file.visititems(visit)
    elif format == "npy":
        with open(out / "index.csv", newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                assert os.path.basename(line["file"]) == line["file"]
                found[line["video_id"]] = np.load(out / line["file"], allow_pickle=False)
    elif format == "webdataset":
        for shard in sorted(out.iterdir()):
            with tarfile.open(shard) as tar:
                assert not {"", ".", ".."} & {part for name in tar.getnames() for part in name.split("/")}
            for sample in webdataset.WebDataset(str(shard), shardshuffle=False):
                found[json.loads(sample["json"])["video_id"]] = np.load(io.BytesIO(sample["npy"]))
    elif format in ("parquet", "arrow", "lance"):
        opened = {"parquet": pq.read_table, "arrow": _arrow_table}
        table = opened[format](out) if format in opened else lance.dataset(str(out)).to_table()
        values = np.array(table.column("values").to_pylist(), np.float32)
        ids = np.array(table.column("video_id").to_pylist(), object)
        found |= {video_id: values[ids == video_id] for video_id in ids}
    else:
        group = zarr.open_group(str(out), mode="r")
        bounds = zip(group["row_start"][...], group["row_stop"][...], strict=True)
        for video_id, (start, stop) in zip(group.attrs["video_ids"], bounds, strict=True):
            found[video_id] = group["values"][start:stop]
    return found


def test_an_unknown_format_an_existing_path_and_a_url_are_refused(
    exported: tuple[Feature, dict[str, Rows]], tmp_path: Path
) -> None:
    feature, _ = exported
    with pytest.raises(
        UsageError,
        match=r"expected hdf5, npy, parquet, arrow, zarr, webdataset or lance, got 'hdf'; did you mean 'hdf5'",
    ):
        export_feature(feature, "hdf", str(tmp_path / "out"))
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="expected a new path, got one that exists"):
        export_feature(feature, "npy", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"
    with pytest.raises(UsageError, match="expected a local path, got a URL"):
        export_feature(feature, "npy", "s3://bucket/out")


def test_an_export_that_fails_leaves_nothing(
    exported: tuple[Feature, dict[str, Rows]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module.np, "save", full)
    with pytest.raises(StorageUnavailableError, match="no space left on device; free some space"):
        export_feature(exported[0], "npy", str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@given(st.lists(st.text(min_size=1).filter(lambda text: text.isprintable()), unique=True, max_size=20))
def test_file_names_are_safe_and_distinct(ids: list[str]) -> None:
    names = [safe_name(id) for id in ids]
    assert len(set(names)) == len(names)
    for name in names:
        assert len(name.encode()) <= 200
        assert "/" not in name
        assert name.isascii()
        assert not name.startswith((".", " ", "-"))
