"""A video's rows have the same bits however a store was filled: cut, order, kills and engines make no difference."""

import multiprocessing
import os
import shutil
import signal
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.pipelines.decode import slots
from clipmill.pipelines.decode.session import DecodeSession
from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.pipelines.features.build_report import BuildReport
from clipmill.pipelines.features.engines.base import Observer
from clipmill.schemas.task import ShardTask, TaskResult
from clipmill.stores import FeatureStore
from clipmill.stores.feature import Feature
from tests.command_line import ROOT, invoke, invoked_result, result
from tests.encoded_videos import encode_video
from tests.outside_packages import install

NAMES = [f"{index}.mp4" for index in range(6)]
SMALL = {"resize": "exact", "size": [24, 24], "crop": None}
FEATURES: dict[str, Any] = {
    # Two sizes of frames, since no crop makes them alike.
    "squeezenet": {"sampling": {"fps": 4}, "preprocess": {"resize": "short_side", "size": [64], "crop": None}},
    "windows": {"extractor": "i3d", "sampling": {"fps": 10, "frames": 16, "step": 8}, "preprocess": SMALL},
    "steps": {
        "extractor": "i3d",
        "options": {"steps": True},
        "sampling": {"fps": 10, "frames": 16, "step": 8},
        "preprocess": SMALL,
    },
    "rows_of_one_frame": {"extractor": "squeezenet", "layer": "logits", "sampling": {"random_frames": 1}},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of differing lengths and two shapes."""
    folder = tmp_path_factory.mktemp("same_bits") / "videos"
    for index, name in enumerate(NAMES):
        encode_video(folder / name, num_frames=17 + 6 * index, fps=10, width=96 + 32 * (index % 2), height=64)
    return folder


def config(path: Path, videos: Path, store: str, **engine: Any) -> Path:
    data = {
        "store": {"url": str(path / store), "dataset": "same bits"},
        "videos": {"folder": str(videos)},
        "features": {name: feature | {"weights": {"random": 0}} for name, feature in FEATURES.items()},
        "engine": {"device": "cpu", "threads": 1, "batch_windows": 5} | engine,
    }
    found = path / f"{store}.yaml"
    found.write_text(yaml.safe_dump(data))
    return found


def rows(store: Path) -> dict[tuple[str, str], bytes]:
    """The bytes of every video's values, times and masks, by feature and video."""
    opened = FeatureStore(str(store))
    return {
        (name, video_id): b"".join(
            column.tobytes() for column in (item.values, item.start_seconds, item.stop_seconds, item.mask, item.clip)
        )
        for name in opened.features
        for video_id in opened[name].video_ids
        if (item := opened[name].stored(video_id)) is not None
    }


def features(store: Path) -> list[Feature]:
    opened = FeatureStore(str(store))
    return [opened[name] for name in opened.features]


@pytest.fixture(scope="module")
def at_once(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that one task filled."""
    root = tmp_path_factory.mktemp("at_once")
    report = build(parse_build_config(config(root, videos, "store", task_seconds=1e6).read_text()))
    assert (report.num_tasks, report.num_complete) == (1, len(NAMES) * len(FEATURES))
    return root / "store"


def _build(path: Path, observers: Sequence[Observer] = ()) -> BuildReport:
    return build(parse_build_config(path.read_text()), observers)


class Killed:
    """Kills the process it is in when the first task is done."""

    def on_start(self, tasks: Sequence[ShardTask]) -> None: ...

    def on_video(self, task: ShardTask, video_id: str) -> None: ...

    def on_task(self, result: TaskResult) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_one_killed_after_a_task_and_resumed_in_other_tasks(videos: Path, at_once: Path, tmp_path: Path) -> None:
    path = config(tmp_path, videos, "store", task_seconds=0.02)
    # A fork has everything imported.
    killed = multiprocessing.get_context("fork").Process(target=_build, args=(path, [Killed()]))
    killed.start()
    killed.join(280)
    assert killed.exitcode == -signal.SIGKILL
    left = {video_id for _, video_id in rows(tmp_path / "store")}
    assert 0 < len(left) < len(NAMES), "the kill came between tasks"
    build(parse_build_config(config(tmp_path, videos, "store", task_seconds=1e6).read_text()))
    assert rows(tmp_path / "store") == rows(at_once)


def test_one_that_grew_in_three_builds(videos: Path, at_once: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for names in ([NAMES[4], NAMES[1]], [NAMES[0]], [NAMES[5], NAMES[2], NAMES[3]]):
        for name in names:
            shutil.copy(videos / name, tmp_path / "videos" / name)
        build(parse_build_config(config(tmp_path, tmp_path / "videos", "store").read_text()))
    assert rows(tmp_path / "store") == rows(at_once)


class KilledDecoder:
    """Kills every decode child there is when the first video is done, whatever they are doing."""

    def __init__(self) -> None:
        self.num_killed = 0

    def on_start(self, tasks: Sequence[ShardTask]) -> None: ...

    def on_video(self, task: ShardTask, video_id: str) -> None:
        for session in [] if self.num_killed else living_sessions:
            for pid in session.pids:
                os.kill(pid, signal.SIGKILL)
                self.num_killed += 1

    def on_task(self, result: TaskResult) -> None: ...


living_sessions: "weakref.WeakSet[DecodeSession]" = weakref.WeakSet()


@pytest.mark.parametrize(
    ("decoders", "killed"),
    [
        (2, False),
        (4, True),
        pytest.param(4, False, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
    ],
)
def test_one_of_several_decoders(
    decoders: int, killed: bool, videos: Path, at_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "FURTHER_SECONDS", 0.0)
    monkeypatch.setattr(DecodeSession, "__enter__", lambda self: living_sessions.add(self) or self)
    path = config(tmp_path, videos, "store", task_seconds=1e6, decoders=decoders)
    killer = KilledDecoder()
    report = build(parse_build_config(path.read_text()), [killer] if killed else [])
    assert report.num_complete == len(NAMES) * len(FEATURES)
    assert bool(killer.num_killed) == killed
    assert rows(tmp_path / "store") == rows(at_once)
    if not killed:
        # The shards too: rows are in the order of the task, whatever order their videos ended in.
        assert shard_bytes(tmp_path / "store") == shard_bytes(at_once)


def shard_bytes(store: Path) -> dict[str, bytes]:
    shards = store / "shards"
    return {str(path.relative_to(shards)): path.read_bytes() for path in shards.rglob("*") if path.is_file()}


ENGINES: dict[str, Any] = {
    "ray": {"name": "ray", "workers": 2},
    "beam": {"name": "beam", "runner": "in_process"},
    "process_pool": {"name": "process_pool", "processes": 2},
}
# tests/conformance/test_engines.py holds Ray and Beam to the bytes of the local engine, too, and
# tests/pipelines/features/test_engine_from_outside.py the pool of processes.
MARKS: dict[str, Any] = {
    "ray": (pytest.mark.ray, pytest.mark.slow),
    "beam": (pytest.mark.beam, pytest.mark.slow),
    "process_pool": pytest.mark.slow,
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS[name]) for name in ENGINES])
def test_one_of_another_engine(name: str, videos: Path, at_once: Path, tmp_path: Path) -> None:
    site = install(ROOT / "examples" / "extending_engine", tmp_path / "site")
    # Tasks of several videos, each committed as soon as it is done.
    path = config(tmp_path, videos, "store", task_seconds=0.05, commit_seconds=1e-6, **ENGINES[name])
    report = result("build", "--config", str(path), site=site)
    assert 2 <= report["num_tasks_executed"] < len(NAMES)
    assert len(list((tmp_path / "store" / "commits").glob("windows-*/*.parquet"))) == len(NAMES)
    assert report["num_rows"] == {
        key: sum(len(feature[video_id]) for video_id in NAMES)
        for key, feature in ((item.recipe.key, item) for item in features(tmp_path / "store"))
    }
    assert rows(tmp_path / "store") == rows(at_once)


def test_another_batch_size_moves_the_last_bits_and_diff_calls_it_rounding(
    videos: Path, at_once: Path, tmp_path: Path
) -> None:
    build(parse_build_config(config(tmp_path, videos, "store", batch_windows=1).read_text()))
    other = str(tmp_path / "store")
    found = invoked_result("diff", str(at_once), other)
    assert (found["same"], found["difference"]) == (False, "rounding")
    differences = {item["feature"]: item["difference"] for item in found["features"]}
    # Steps go through the network one by one, whatever the batch.
    assert differences == {
        "rows_of_one_frame": "rounding",
        "squeezenet": "rounding",
        "windows": "rounding",
        "steps": "passport",
    }
    squeezenet = next(item["rows"] for item in found["features"] if item["feature"] == "squeezenet")
    assert (squeezenet["num_different"], squeezenet["tolerance"]) == (0, 1e-4)
    assert squeezenet["num_rounding"] > 0
    assert 0 < squeezenet["relative_rounding"] < 1e-5

    told = invoke("diff", str(at_once), other)
    assert told.returncode == 0
    assert "the same up to rounding" in told.stdout.splitlines()[0]
    assert f"{squeezenet['num_rounding']} videos differ by rounding: at most" in told.stdout
    assert invoke("diff", str(at_once), other, "--fail-on", "rows").returncode == 0
    assert invoke("diff", str(at_once), other, "--fail-on", "rounding").returncode == 5
