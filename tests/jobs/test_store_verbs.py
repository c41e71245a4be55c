"""``clipmill diff``, ``doctor``, ``export``, ``requeue`` and ``clean``, as a user runs them on a small store."""

import hashlib
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pyarrow.dataset as ds
import pytest
import yaml
import zarr

from clipmill.stores import FeatureStore
from tests.command_line import ROOT, clipmill, invoke, invoked_result, refused, result
from tests.encoded_videos import encode_video
from tests.outside_packages import install

VIDEOS = {"left/0.mp4": 20, "right/1.mp4": 27}
"""Name and number of frames, at 10 frames a second."""
SQUEEZENET = {"sampling": {"fps": 2}, "weights": {"random": 0}}
HISTOGRAM = {"sampling": {"fps": 5}, "options": {"bins": 4}}
SIDE = 64


def config(folder: Path, name: str = "store", features: dict[str, Any] | None = None) -> str:
    """Writes a build config over ``folder/videos`` into ``folder/<name>`` and returns its path."""
    data = {
        "store": {"url": str(folder / name), "dataset": "d"},
        "videos": {"folder": str(folder / "videos"), "label": "parent_folder"},
        "features": features or {"squeezenet": SQUEEZENET},
        "engine": {"device": "cpu", "threads": 1},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


def digests(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file below `folder`."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two videos, an extractor from outside in ``site``, and ``store`` with two features."""
    folder = tmp_path_factory.mktemp("built")
    for name, num_frames in VIDEOS.items():
        encode_video(folder / "videos" / name, num_frames, fps=10, width=SIDE, height=SIDE)
    install(ROOT / "examples" / "extending", folder / "site")
    features = {"squeezenet": SQUEEZENET, "colour_histogram": HISTOGRAM}
    result("build", "--config", config(folder, features=features), site=folder / "site")
    return folder


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Path:
    """A copy of the store that a test may change."""
    return Path(shutil.copytree(built / "store", tmp_path / "store"))


# diff


def test_diff_shows_the_one_option_two_stores_differ_in(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built / "videos", tmp_path / "videos")
    encode_video(tmp_path / "videos" / "left" / "2.mp4", 20, fps=10, width=SIDE, height=SIDE)
    other = SQUEEZENET | {"sampling": {"fps": 5}}
    invoked_result("build", "--config", config(tmp_path, "other", {"squeezenet": other}))
    stores = str(built / "store"), str(tmp_path / "other")
    found = invoked_result("diff", *stores)
    assert (found["stores"], found["same"]) == (list(stores), False)
    histogram, squeezenet = found["features"]
    assert (histogram["feature"], histogram["summary"]) == ("colour_histogram", f"not in {stores[1]}")
    assert squeezenet["recipe"] == {"sampling.fps": [2.0, 5.0]}
    assert squeezenet["passport"] == [["values_sha256", "rows differ", 2]]
    assert (squeezenet["only_left"], squeezenet["only_right"]) == ([], ["left/2.mp4"])
    done = invoke("diff", *stores)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"{stores[0]} and {stores[1]}: different",
        f"  colour_histogram: not in {stores[1]}",
        "  squeezenet: 0 videos only left, 1 only right, 1 recipe keys and 1 passport changes",
        "    recipe sampling.fps: 2.0 -> 5.0",
        "    passport values_sha256: rows differ in 2 videos",
    ]


def test_diff_of_a_store_and_its_copy_finds_nothing(built: Path, store: Path) -> None:
    found = result("diff", str(built / "store"), str(store))
    assert found["same"]
    assert [(item["feature"], item["same"]) for item in found["features"]] == [
        ("colour_histogram", True),
        ("squeezenet", True),
    ]


def test_diff_with_what_is_no_store_is_refused(built: Path, tmp_path: Path) -> None:
    refused(invoke("diff", str(built / "store"), str(tmp_path / "nothing")), "nothing", "expected a clipmill store")


# doctor


def test_doctor_says_what_this_machine_has() -> None:
    found = invoked_result("doctor")
    assert found["python"] == platform.python_version()
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert found["devices"][0] == "cpu"
    assert found["shared_memory_free_bytes"] > 0
    assert {name: found["libraries"][name] for name in ("torch", "av", "zarr")} == {
        name: version(name) for name in ("torch", "av", "zarr")
    }
    assert [(check["name"], check["passed"]) for check in found["checks"]] == [
        ("encode and probe", True),
        ("decord", True),
        ("pyav", True),
    ]
    assert found["problems"] == []


def test_doctor_finds_a_library_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "decord.py").write_text("raise ImportError('libdecord.so: cannot open shared object file')\n")
    done = clipmill("doctor", site=tmp_path)
    assert done.returncode == 1, done.stdout
    failed = [line for line in done.stdout.splitlines() if line.startswith("  FAIL")]
    assert len(failed) == 1
    assert failed[0].startswith("  FAIL decord: ")
    assert "libdecord.so: cannot open shared object file" in failed[0]
    assert "  ok   pyav: 12 frames exact" in done.stdout.splitlines()


def test_doctor_takes_no_argument() -> None:
    done = invoke("doctor", "store")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unexpected extra argument (store)" in done.stderr.replace("(s)", "")


# export


def decoded(path: Path) -> "Iterator[np.ndarray]":
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def histogram(pixels: np.ndarray) -> np.ndarray:
    counts, _ = np.histogramdd(pixels.reshape(-1, 3), bins=(4, 4, 4), range=[(0, 256)] * 3)
    return (counts / counts.sum()).astype(np.float32).ravel()


def test_export_writes_the_rows_of_the_decoded_frames(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    arguments = [str(built / "store"), "--feature", "colour_histogram", "--format", "hdf5", "--out", str(out)]
    # At 5 rows a second: of every second frame.
    num_rows = {name: -(-num_frames // 2) for name, num_frames in VIDEOS.items()}
    assert invoked_result("export", *arguments) == {
        "store": str(built / "store"),
        "feature": "colour_histogram",
        "format": "hdf5",
        "out": str(out),
        "num_videos": 2,
        "num_rows": sum(num_rows.values()),
    }
    with h5py.File(out) as file:
        assert sorted(name for group in file.values() for name in group) == ["0.mp4", "1.mp4"]
        for name in VIDEOS:
            expected = [histogram(pixels) for pixels in list(decoded(built / "videos" / name))[::2]]
            group = file[name]
            assert group.attrs["video_id"] == name
            np.testing.assert_allclose(group["values"][...], np.stack(expected), atol=1e-6)
            np.testing.assert_allclose(group["start_seconds"][...], np.arange(num_rows[name]) / 5, atol=1e-9)
            assert group["mask"][...].all()
            assert (group["clip"][...] == 0).all()


def test_export_writes_the_bytes_of_the_shard(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "npy"
    done = clipmill("export", str(built / "store"), "--feature", "squeezenet", "--format", "npy", "--out", str(out))
    assert (done.returncode, done.stdout) == (0, f"squeezenet: 2 videos, 10 rows written to {out} (npy)\n")
    (folder,) = (built / "store" / "commits").glob("squeezenet-*")
    commits = ds.dataset(folder, format="parquet").to_table().to_pylist()
    assert {row["video_id"] for row in commits} == set(VIDEOS)
    for row in commits:
        values = zarr.open_group(built / "store" / row["shard"], mode="r")["values"][row["row_start"] : row["row_stop"]]
        np.testing.assert_array_equal(np.load(out / f"{row['video_id'].replace('/', '%2F')}.npy"), values)


@pytest.mark.parametrize("format", ["hdf5", "npy", "parquet", "arrow", "zarr", "webdataset", "lance"])
def test_each_format_is_written_by_a_fresh_process(built: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    arguments = [str(built / "store"), "--feature", "squeezenet", "--format", format, "--out", str(out)]
    assert result("export", *arguments)["num_rows"] == 10
    assert out.exists()


LOADERS = ["2dtan", "vslnet", "lgi", "actionformer", "opentad", "bsn", "moment-detr", "umt"]


@pytest.mark.parametrize("target", LOADERS)
def test_what_each_loader_opens_is_written(built: Path, tmp_path: Path, target: str) -> None:
    out = tmp_path / "out"
    arguments = [str(built / "store"), "--feature", "squeezenet", "--for", target, "--out", str(out)]
    found = invoked_result("export", *arguments)
    assert (found["num_videos"], found["dim"]) == (2, FeatureStore(str(built / "store"))["squeezenet"].dim)
    assert any(str(out) in step for step in found["next_steps"])
    assert any(out.rglob("*"))


def test_an_export_for_a_loader_says_what_is_missing_and_what_to_run(built: Path, tmp_path: Path) -> None:
    annotations = tmp_path / "truth.csv"
    annotations.write_text("video_id,start_seconds,stop_seconds,label\n0,0.5,1.0,a\n7,0,1,b\n")
    out = tmp_path / "out"
    options = ["--feature", "squeezenet", "--for", "actionformer", "--out", str(out), "--annotations", str(annotations)]
    done = invoke("export", str(built / "store"), *options)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"squeezenet: 2 videos, 10 rows written to {out} for actionformer (thumos)"
    assert lines[2] == f"{annotations}: 2 videos, 1 of them exported"
    assert "  1 annotated and without features: '7'" in lines
    assert "  1 exported and not annotated: '1'" in lines
    # 2 frames a second, a row each.
    assert "feat_stride: 1, num_frames: 1, default_fps: 2 }" in done.stdout
    assert lines[-1] == "  python ./train.py ./configs/thumos_i3d.yaml --output clipmill"


def test_export_refuses_what_it_cannot_do(built: Path, tmp_path: Path) -> None:
    def run(feature: str, *options: str) -> Any:
        return invoke("export", str(built / "store"), "--feature", feature, *options)

    out = str(tmp_path / "out")
    refused(run("squeezent", "--out", out), "feature squeezent", "did you mean 'squeezenet")
    refused(run("squeezenet", "--out", out, "--format", "hdf4"), "export format", "'hdf4'; did you mean 'hdf5'")
    refused(run("squeezenet", "--out", out, "--for", "bsm"), "loader bsm", "did you mean 'bsn'")
    refused(run("squeezenet", "--out", out, "--for", "bsn", "--format", "npy"), "leave one out")
    refused(run("squeezenet", "--out", out, "--ids", "id"), "export --ids: expected --for beside it")
    refused(
        run("squeezenet", "--out", out, "--for", "bsn", "--annotations", "nowhere"), "file nowhere", "nothing there"
    )
    refused(run("squeezenet", "--out", str(tmp_path)), f"export {tmp_path}: expected a new path, got one that exists")
    assert not os.path.exists(out)


# requeue


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with a good video and two broken ones, built once."""
    for name in ("good", "cut", "text"):
        encode_video(tmp_path / "whole" / f"{name}.mp4", 30, fps=10, options={"movflags": "faststart"})
    shutil.copytree(tmp_path / "whole", tmp_path / "videos")
    (tmp_path / "videos" / "text.mp4").write_text("this is no video")
    whole = (tmp_path / "whole" / "cut.mp4").read_bytes()
    (tmp_path / "videos" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    invoked_result("build", "--config", config(tmp_path), code=3)
    return tmp_path


def quarantine(folder: Path) -> dict[str, str]:
    return {item["video_id"]: item["reason"] for item in invoked_result("status", str(folder / "store"))["quarantine"]}


def test_requeue_puts_videos_back_and_a_repaired_one_is_built(broken: Path) -> None:
    store = str(broken / "store")
    reasons = quarantine(broken)
    assert reasons == {"cut.mp4": "truncated", "text.mp4": "not_a_video"}
    # Without requeue the same bytes are not tried again.
    plan = invoked_result("plan", "--config", config(broken))
    assert (plan["num_quarantined_before"], plan["num_unreadable"], plan["num_tasks"]) == (2, 0, 0)

    refused(
        invoke("requeue", store, "--reason", "no_such_reason"),
        "requeue --reason: expected not_a_video, truncated, got no_such_reason; see clipmill status",
    )
    assert invoked_result("requeue", store, "--reason", "not_a_video") == {
        "store": store,
        "num_released": 1,
        "videos": ["text.mp4"],
    }
    assert quarantine(broken) == {"cut.mp4": "truncated"}
    plan = invoked_result("plan", "--config", config(broken))
    assert (plan["num_quarantined_before"], plan["num_unreadable"]) == (1, 1)

    # Still broken: it comes back. Then all are put back, one is repaired, and it alone becomes complete.
    assert invoked_result("build", "--config", config(broken), code=3)["num_quarantined"] == 2
    done = invoke("requeue", store)
    assert (done.returncode, done.stdout) == (0, f"{store}: 2 videos put back; run clipmill build again\n")
    shutil.copy(broken / "whole" / "cut.mp4", broken / "videos" / "cut.mp4")
    report = invoked_result("build", "--config", config(broken), code=3)
    assert (report["num_complete_before"], report["num_complete"]) == (1, 2)
    assert quarantine(broken) == {"text.mp4": "not_a_video"}
    feature = FeatureStore(store)["squeezenet"]
    assert feature.video_ids == ["cut.mp4", "good.mp4"]
    # The same pictures as in the good one, in other batches.
    np.testing.assert_allclose(feature["cut.mp4"].values, feature["good.mp4"].values, atol=1e-3)


def test_requeue_with_nothing_in_quarantine_writes_nothing(store: Path) -> None:
    before = digests(store)
    done = clipmill("requeue", str(store))
    assert (done.returncode, done.stdout) == (0, f"{store}: nothing to put back\n")
    refused(clipmill("requeue", str(store), "--reason", "not_a_video"), "expected nothing: quarantine is empty")
    assert digests(store) == before


def test_damaged_rows_are_made_again(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built / "videos", tmp_path / "videos")
    path = config(tmp_path)
    invoked_result("build", "--config", path)
    store = tmp_path / "store"
    before = {name: digest for name, digest in digests(store).items() if name.startswith("shards/")}
    assert invoked_result("requeue", str(store), "--damaged")["num_withdrawn"] == 0
    (values,) = (store / "shards").glob("squeezenet-*/*.zarr/values/c/0/0")
    values.write_bytes(values.read_bytes()[:-9])
    found = invoke("verify", str(store), "--sample", "0")
    assert found.returncode == 1
    assert f"clipmill requeue {store} --damaged" in found.stdout
    data = invoked_result("requeue", str(store), "--damaged")
    assert (data["num_withdrawn"], data["videos"]) == (1, sorted(VIDEOS))
    assert invoked_result("build", "--config", path)["num_complete"] == len(VIDEOS)
    assert invoked_result("verify", str(store), "--sample", "0")["problems"] == []
    assert {name: digest for name, digest in digests(store).items() if name.startswith("shards/")} == before


def test_other_bytes_of_the_same_size_and_time_are_found_by_rechecking(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built / "videos", tmp_path / "videos")
    path, video = config(tmp_path), tmp_path / "videos" / "left" / "0.mp4"
    invoked_result("build", "--config", path)
    status = video.stat()
    data = bytearray(video.read_bytes())
    # The version of the encoder, in a message that no frame depends on.
    place = data.index(b"x264 - core")
    data[place : place + 4] = b"X264"
    video.write_bytes(data)
    os.utime(video, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert invoked_result("plan", "--config", path)["num_tasks"] == 0
    found = invoke("verify", str(tmp_path / "store"), "--sample", "1")
    assert "run clipmill build --recheck bytes" in found.stdout
    report = invoked_result("build", "--config", path, "--recheck", "bytes")
    assert (report["num_tasks_executed"], report["num_complete"]) == (1, len(VIDEOS))
    assert invoked_result("plan", "--config", path)["num_tasks"] == 0
    refused(invoke("build", "--config", path, "--recheck", "all"), "--recheck", "bytes")


# clean


def test_clean_deletes_what_no_commit_names_and_nothing_else(store: Path) -> None:
    before = digests(store)
    (shard,) = (store / "shards").glob("squeezenet-*/*.zarr")
    orphan = shard.with_name(f"{'f' * 16}.zarr")
    shutil.copytree(shard, orphan)
    killed = store / "commits" / shard.parent.name / ".half.parquet.0123456789ab.tmp"
    killed.write_bytes(b"a write that was killed")
    at_root = store / ".store.json.0123456789ab.tmp"
    at_root.write_bytes(b"another")
    paths = [killed, at_root, *orphan.rglob("*")]
    garbage = sorted(path.relative_to(store).as_posix() for path in paths if path.is_file())
    num_bytes = sum((store / path).stat().st_size for path in garbage)

    nothing_removed = {"num_removed_videos": 0, "num_commits_changed": 0, "problems": []}
    data = {"store": str(store), "num_bytes": num_bytes, "paths": garbage, **nothing_removed}
    assert invoked_result("clean", str(store), "--dry-run") == data | {"dry_run": True}
    assert digests(store).keys() == before.keys() | set(garbage)
    assert invoked_result("clean", str(store)) == data | {"dry_run": False}
    assert digests(store) == before
    assert not orphan.exists()
    done = invoke("clean", str(store))
    assert (done.returncode, done.stdout) == (0, f"{store}: deleted 0 objects, 0 bytes\n")
    assert invoked_result("verify", str(store), "--sample", "0")["problems"] == []


def test_clean_of_what_is_no_store_deletes_nothing(built: Path) -> None:
    refused(clipmill("clean", str(built / "videos")), "expected a clipmill store, got a folder without store.json")
    assert set(VIDEOS) == set(digests(built / "videos"))
