"""Bad input meets one clear line, the right exit code, and loses nothing; each exit code once from a fresh process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from clipmill.stores import FeatureStore, Store
from tests.command_line import ROOT, clipmill, invoke, refused
from tests.encoded_videos import encode_video

SQUEEZENET = {"squeezenet": {"sampling": {"fps": 2}, "weights": {"random": 0}}}


def config(folder: Path, features: dict[str, Any] | None = None, **changes: Any) -> str:
    """Writes a build config over ``folder/videos`` and returns its path."""
    data = {
        "store": {"url": str(folder / "store")},
        "videos": {"folder": str(folder / "videos")},
        "features": features or SQUEEZENET,
        "engine": {"device": "cpu", "threads": 1, "batch_windows": 4},
    }
    path = folder / "build.yaml"
    path.write_text(yaml.safe_dump(data | changes, allow_unicode=True))
    return str(path)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with one good video."""
    folder = tmp_path / "videos"
    folder.mkdir()
    encode_video(folder / "good.mp4", num_frames=20, fps=10)
    return folder


def outcome(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """Returns the one JSON object of a command that quarantined something."""
    assert done.returncode == 3, done.stderr
    return json.loads(done.stdout)


def test_missing_folder(tmp_path: Path) -> None:
    refused(invoke("build", "--config", config(tmp_path)), str(tmp_path / "videos"))


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    refused(invoke("build", "--config", config(tmp_path)), str(tmp_path / "videos"))


def test_missing_config_file() -> None:
    refused(clipmill("build", "--config", "nowhere.yaml"), "nowhere.yaml", "No such file")


def test_broken_files_are_quarantined_each_with_its_reason_and_the_good_one_is_complete(videos: Path) -> None:
    whole = (videos / "good.mp4").read_bytes()
    (videos / "garbage.mp4").write_bytes(os.urandom(5000))
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "truncated.mp4").write_bytes(whole[: len(whole) // 3])
    (videos / "text.mp4").write_text("this is no video")
    _sound_only(videos / "sound.mp4")
    report = outcome(clipmill("build", "--config", config(videos.parent), "--json"))
    status = json.loads(invoke("status", str(videos.parent / "store"), "--json").stdout)
    reasons = {item["video_id"]: item["reason"] for item in status["quarantine"]}
    assert set(reasons) == {"garbage.mp4", "empty.mp4", "truncated.mp4", "text.mp4", "sound.mp4"}
    assert reasons["empty.mp4"] == "empty_file"
    assert reasons["sound.mp4"] == "no_video_stream"
    assert reasons["text.mp4"] == "not_a_video"
    assert report["num_quarantined"] == 5
    assert FeatureStore(str(videos.parent / "store"))["squeezenet"].video_ids == ["good.mp4"]


def _sound_only(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def test_video_shorter_than_one_window_loses_only_that_recipe(videos: Path) -> None:
    features = SQUEEZENET | {"long": {"extractor": "squeezenet", "weights": {"random": 0}, "sampling": {"fps": 2}}}
    encode_video(videos / "long.mp4", num_frames=100, fps=10)
    path = config(videos.parent, features, clips={"from": "windows", "length_seconds": 5})
    report = outcome(invoke("build", "--config", path, "--json"))
    assert report["reasons"] == {"shorter_than_clip": 1}
    assert FeatureStore(str(videos.parent / "store"))["long"].video_ids == ["long.mp4"]


def test_equal_file_names_in_two_folders_and_ids_of_any_script(videos: Path) -> None:
    names = ["a/clip.mp4", "b/clip.mp4", "with space/лыжи снег.mp4", "日本/映像 #1 100%.mp4"]
    for name in names:
        (videos / name).parent.mkdir(exist_ok=True)
        (videos / name).write_bytes((videos / "good.mp4").read_bytes())
    done = invoke("build", "--config", config(videos.parent))
    assert done.returncode == 0, done.stderr
    feature = FeatureStore(str(videos.parent / "store"))["squeezenet"]
    assert set(feature.video_ids) == {"good.mp4", *names}
    for name in names:
        assert feature[name].values.shape == (4, feature.dim)


def _manifest(folder: Path, text: str) -> str:
    (folder / "videos.csv").write_text(text)
    return config(folder, videos={"manifest": str(folder / "videos.csv")})


def test_manifest_without_a_needed_column(videos: Path) -> None:
    path = _manifest(videos.parent, "name,label\ngood.mp4,a\n")
    refused(invoke("build", "--config", path), "videos.csv", "path", "name")


def test_manifest_with_a_duplicated_id(videos: Path) -> None:
    path = _manifest(videos.parent, "id,path\nx,videos/good.mp4\nx,videos/good.mp4\n")
    refused(invoke("build", "--config", path), "videos.csv", "x")


def test_manifest_that_names_a_missing_file(videos: Path) -> None:
    path = _manifest(videos.parent, "path\nvideos/good.mp4\nvideos/gone.mp4\n")
    assert outcome(invoke("build", "--config", path, "--json"))["reasons"] == {"missing_file": 1}


def test_unknown_extractor_layer_and_key_name_the_near_ones(videos: Path) -> None:
    folder = videos.parent
    refused(invoke("build", "--config", config(folder, {"squeezent": {"weights": {"random": 0}}})), "squeezenet")
    wrong_layer = {"squeezenet": {"weights": {"random": 0}, "layer": "logitz"}}
    refused(invoke("build", "--config", config(folder, wrong_layer)), "logitz", "logits")
    refused(invoke("build", "--config", config(folder), "--set", "engine.nmae=ray"), "engine.nmae", "name")
    refused(invoke("build", "--config", config(folder), "--set", "store"), "--set store")


def test_weights_of_the_wrong_layout_say_which_keys(videos: Path) -> None:
    weights = videos.parent / "wrong.pth"
    torch.save({"features.0.weight": torch.zeros(96, 3, 7, 7), "head.weight": torch.zeros(5, 5)}, weights)
    path = config(videos.parent, {"squeezenet": {"weights": {"file": str(weights)}}})
    refused(invoke("build", "--config", path), "missing", "unexpected", "head.weight")


class _RunsCode:
    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self._path}",)


def test_weights_that_try_to_run_code_are_refused_and_nothing_runs(videos: Path) -> None:
    weights, trace = videos.parent / "evil.pth", videos.parent / "trace"
    torch.save({"weight": _RunsCode(str(trace))}, weights)
    path = config(videos.parent, {"squeezenet": {"weights": {"file": str(weights)}}})
    refused(clipmill("build", "--config", path), "evil.pth")
    assert not trace.exists()


def test_store_of_another_dataset(videos: Path) -> None:
    assert (
        invoke(
            "build", "--config", config(videos.parent, store={"url": str(videos.parent / "s"), "dataset": "one"})
        ).returncode
        == 0
    )
    other = config(videos.parent, store={"url": str(videos.parent / "s"), "dataset": "two"})
    for arguments in (["--dry-run"], []):
        refused(invoke("build", "--config", other, *arguments), "one", "two")


def test_store_that_is_a_file_or_another_folder_is_refused_before_any_work(videos: Path) -> None:
    (videos.parent / "file").write_text("no store")
    for url in (videos.parent / "file", videos):
        refused(invoke("build", "--dry-run", "--config", config(videos.parent, store={"url": str(url)})), str(url))


def test_values_out_of_range_are_refused(videos: Path) -> None:
    path = config(videos.parent)
    for setting in (
        "engine.device=banana",
        "features.squeezenet.sampling.fps=1e9",
        "store.url=''",
        "decode.x=2001-99-99",
    ):
        refused(
            invoke("build", "--dry-run", "--config", path, "--set", setting),
            "--set" if "99" in setting else setting.split("=")[0],
        )


def test_status_of_no_store(tmp_path: Path) -> None:
    refused(invoke("status", str(tmp_path / "nothing")), "nothing")


def test_read_only_disk_is_retryable_and_says_so(videos: Path) -> None:
    mount = videos.parent / "mount"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", mount], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a read-only file system needs root")
    try:
        done = clipmill("build", "--config", config(videos.parent, store={"url": str(mount / "store")}))
    finally:
        subprocess.run(["umount", mount], check=True)
    assert done.returncode == 4, done.stderr
    assert "clipmill: " in done.stderr
    assert "Read-only" in done.stderr or "read-only" in done.stderr


def test_full_disk_loses_nothing_that_is_committed(videos: Path) -> None:
    for index in range(4):
        encode_video(videos / f"{index}.mp4", num_frames=20, fps=10)
    mount = videos.parent / "mount"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", mount], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a small file system needs root")
    features = {"squeezenet": {"weights": {"random": 0}, "sampling": {"fps": 5}, "layer": "logits"}}
    try:
        settings = {
            "engine": {"device": "cpu", "threads": 1, "batch_windows": 4, "task_seconds": 0.5},
            "store": {"url": str(mount / "store")},
        }
        path = config(videos.parent, features, **settings)
        full = clipmill("build", "--config", path)
        assert full.returncode == 4, full.stderr
        assert "no space left" in full.stderr
        kept = json.loads(invoke("status", str(mount / "store"), "--json").stdout)["features"][0]["num_complete"]
        subprocess.run(["mount", "-o", "remount,size=64m", mount], check=True)
        assert invoke("build", "--config", path).returncode == 0
        assert json.loads(invoke("verify", str(mount / "store"), "--json").stdout)["problems"] == []
    finally:
        subprocess.run(["umount", mount], check=True)
    assert 0 <= kept < 5


INTERRUPTED = """
import os, sys

commits = 0

def interrupt_at_the_second_commit(event, arguments):
    global commits
    if event == "os.rename" and "/store/commits/" in str(arguments[1]):
        commits += 1
        if commits == 2:
            os.kill(os.getpid(), {number})

if "build" in sys.orig_argv:
    sys.addaudithook(interrupt_at_the_second_commit)
"""


# A verb turns SIGTERM into what SIGINT is.
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_cleanly_says_how_to_go_on_and_the_next_run_finishes(
    videos: Path, number: signal.Signals
) -> None:
    for index in range(4):
        encode_video(videos / f"{index}.mp4", num_frames=10, fps=10)
    features = {"squeezenet": {"weights": {"random": 0}, "sampling": {"fps": 5}}}
    path = config(
        videos.parent, features, engine={"device": "cpu", "threads": 1, "batch_windows": 4, "task_seconds": 0.05}
    )
    site = videos.parent / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(INTERRUPTED.format(number=int(number)))
    interrupted = clipmill("build", "--config", path, site=site)
    assert interrupted.returncode == 4, interrupted.stderr
    assert "interrupted" in interrupted.stderr
    assert "run the same command again" in interrupted.stderr
    assert 1 <= len(list((videos.parent / "store" / "commits").glob("*/*.parquet"))) <= 2
    finished = invoke("build", "--config", path, "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["num_complete_before"] >= 1
    assert len(FeatureStore(str(videos.parent / "store"))["squeezenet"].video_ids) == 5


def test_a_closed_or_full_standard_output_is_told_in_one_line(tmp_path: Path) -> None:
    Store.create(str(tmp_path / "store"), "parquet", "d")
    command = [sys.executable, "-m", "clipmill", "status", str(tmp_path / "store")]
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], cwd=ROOT, capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "standard output" in done.stderr
