"""A video that kills the process that works on it, or never lets it go, is found, booked, and costs no other one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml

from clipmill.pipelines.features.machine_faults import is_passing
from clipmill.stores import FeatureStore
from clipmill.stores.store import Store
from tests.command_line import ROOT, invoked_result

NAMES = [f"{number}.mp4" for number in range(7)]

FATAL = '''
"""An extractor from outside the project that some frames end, or hang."""

import os
import signal
import threading

import numpy as np

from clipmill.extractors.base import EachWindow, ExtractorCard, Layer, Registration, WeightsCard
from clipmill.schemas.recipe import Preprocess, Sampling


class Fatal:
    def __init__(self, recipe, device):
        pass

    def forward(self, frames):
        # The brightness of a whole frame says which video it is of.
        means = frames.reshape(len(frames), -1).mean(axis=1)
        for mean in means:
            video = str(round(float(mean) / 30))
            if video in os.environ.get("FATAL_KILL", "").split(","):
                os.kill(os.getpid(), signal.SIGKILL)
            if video in os.environ.get("FATAL_EXIT", "").split(","):
                os._exit(17)
            if video in os.environ.get("FATAL_HANG", "").split(","):
                threading.Event().wait()
        return {"values": means.astype(np.float32)[:, None]}

    def reducer(self, clip):
        return EachWindow(clip, "float32")


FATAL = Registration(
    ExtractorCard(
        name="fatal",
        version=1,
        summary="ends its process",
        layers=(Layer("mean", 1),),
        sampling=Sampling(frames=1, step=2),
        weights=(WeightsCard("none", (), "none", "none", Preprocess()),),
        gmac_per_window=1e-6,
        batch_windows=4,
    ),
    Fatal,
)
'''


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven grey videos, number n of brightness 30 n."""
    folder = tmp_path_factory.mktemp("fatal") / "videos"
    for number, name in enumerate(NAMES):
        _encode_grey(folder / name, 30 * number)
    return folder


def _encode_grey(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(6):
            pixels = np.full((64, 64, 3), level, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode(None))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder that, on the Python path, provides the extractor through an entry point."""
    root = tmp_path / "plugin"
    info = root / "fatal-1.0.dist-info"
    info.mkdir(parents=True)
    (root / "fatal_extractor.py").write_text(FATAL)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fatal\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clipmill.extractors]\nfatal = fatal_extractor:FATAL\n")
    return root


def build(
    root: Path, videos: Path, site: Path, fatal: dict[str, str], **engine: Any
) -> "subprocess.CompletedProcess[str]":
    config = {
        "store": {"url": str(root / "store")},
        "videos": {"folder": str(videos)},
        "features": {"fatal": {"weights": {"random": 0}}},
        "engine": {"device": "cpu", "threads": 1, **engine},
    }
    (root / "build.yaml").write_text(yaml.safe_dump(config))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])} | fatal
    command = [sys.executable, "-m", "clipmill", "build", "--config", str(root / "build.yaml"), "--json"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


def check(root: Path, fatal: dict[str, str]) -> None:
    """Every other video has its rows, once; each of `fatal` is in quarantine for its reason, which passes."""
    store = Store.open(str(root / "store"))
    rows = {row["video_id"]: row for row in store.quarantine().to_pylist()}
    assert {video_id: row["reason"] for video_id, row in rows.items()} == fatal
    assert all(is_passing(row["reason"]) and row["stage"] == "extract" for row in rows.values())
    feature = FeatureStore(store.url)["fatal"]
    assert feature.video_ids == sorted(set(NAMES) - set(fatal))
    for video_id in feature.video_ids:
        assert feature[video_id].values == pytest.approx(30 * NAMES.index(video_id), abs=4)
    committed = [row["video_id"] for path in store.commit_paths() for row in store.read_table(path).to_pylist()]
    assert sorted(committed) == feature.video_ids, "each once"


@pytest.mark.parametrize(
    "fatal",
    [{"FATAL_KILL": "3"}, pytest.param({"FATAL_KILL": "3", "FATAL_EXIT": "5"}, marks=pytest.mark.slow)],
    ids=["one", "two"],
)
def test_after_a_run_that_was_killed_the_next_one_finds_the_video(
    videos: Path, site: Path, tmp_path: Path, fatal: dict[str, str]
) -> None:
    found = dict.fromkeys((f"{number}.mp4" for number in fatal.values()), "worker_died")
    first = build(tmp_path, videos, site, fatal)
    assert first.returncode == -signal.SIGKILL
    second = build(tmp_path, videos, site, fatal, max_fault_share=0.5)
    assert second.returncode == 3, second.stderr
    report = json.loads(second.stdout)
    assert (report["num_quarantined"], report["reasons"]) == (len(fatal), {"worker_died": len(fatal)})
    assert report["num_rows"] == {key: 3 * (len(NAMES) - len(fatal)) for key in report["num_rows"]}
    check(tmp_path, found)
    booked = Store.open(str(tmp_path / "store")).quarantine().to_pylist()
    [message] = [row["message"] for row in booked if row["video_id"] == "3.mp4"]
    assert "3.mp4: expected a worker that outlives it, got a worker killed by SIGKILL, 3 times" in message
    # What is in quarantine waits; the run after that has nothing to do.
    third = invoked_result("build", "--config", str(tmp_path / "build.yaml"), site=site, code=3)
    assert third["num_tasks"] == 0


def test_a_forward_pass_that_hangs_ends_its_process_and_its_video_is_found(
    videos: Path, site: Path, tmp_path: Path
) -> None:
    fatal = {"FATAL_HANG": "4"}
    first = build(tmp_path, videos, site, fatal, forward_deadline_seconds=2)
    assert first.returncode == 4
    assert "no end of a forward pass within 2 s" in first.stderr
    assert "run the same command again" in first.stderr
    second = build(tmp_path, videos, site, fatal, forward_deadline_seconds=2)
    assert second.returncode == 3, second.stderr
    check(tmp_path, {"4.mp4": "forward_deadline"})


# Ray and Beam within one run: tests/conformance/test_engines.py kills a worker of each in every suite.
@pytest.mark.ray
@pytest.mark.slow
def test_ray_finds_the_video_within_one_run(videos: Path, site: Path, tmp_path: Path) -> None:
    done = build(tmp_path, videos, site, {"FATAL_KILL": "2"}, name="ray", workers=2, task_seconds=0.05)
    assert done.returncode == 3, done.stderr
    check(tmp_path, {"2.mp4": "worker_died"})


@pytest.mark.beam
@pytest.mark.slow
@pytest.mark.parametrize("runner", ["multi_processing", "dask"])
def test_beam_finds_the_video_within_one_run(videos: Path, site: Path, tmp_path: Path, runner: str) -> None:
    engine = {"name": "beam", "runner": runner, "workers": 2, "task_seconds": 0.05}
    done = build(tmp_path, videos, site, {"FATAL_KILL": "2"}, **engine)
    assert done.returncode == 3, done.stderr
    check(tmp_path, {"2.mp4": "worker_died"})
