"""Builds whose clips are shots, and builds of key-feature tracks: from encoded videos to stored rows."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.features.build import build, plan_build
from pipelines.features.recompute import recompute
from schemas.config import BuildConfig
from schemas.errors import ConfigError
from schemas.model import validate
from schemas.records import Clip
from schemas.task import TaskResult
from stores import FeatureStore
from stores.store import Store
from tests.encoded_videos import encode_video
from tests.shot_videos import encode_frames, shots

LENGTHS = {"a.mp4": (20, 15, 25), "b.mp4": (13, 9, 14)}
FPS = 25
FEATURES: dict[str, Any] = {
    "image": {"extractor": "squeezenet", "sampling": {"fps": 2}, "weights": {"random": 0}},
    "tracks": {"weights": {"random": 0}, "preprocess": {"size": [320]}},
    "descriptors": {"extractor": "tracks", "layer": "frame_descriptors", "preprocess": {"size": [320]}},
}


def _config(root: Path, store: str = "store", **changes: Any) -> BuildConfig:
    data: dict[str, Any] = {
        "store": {"url": str(root / store)},
        "videos": {"folder": str(root / "videos")},
        "clips": {"from": "shots", "options": {"min_shot_seconds": 0.1}},
        "features": FEATURES,
        "engine": {"device": "cpu", "threads": 1},
    }
    return BuildConfig.model_validate(data | changes)


class Watcher:
    """Remembers what an engine told."""

    def __init__(self) -> None:
        self.results: list[TaskResult] = []

    def on_start(self, tasks: Any) -> None: ...

    def on_video(self, task: Any, video_id: str) -> None: ...

    def on_task(self, result: TaskResult) -> None:
        self.results.append(result)


class Interrupting(Watcher):
    """Presses Ctrl-C when the first task is done."""

    def on_task(self, result: TaskResult) -> None:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cut") / "videos"
    folder.mkdir()
    for number, (name, lengths) in enumerate(LENGTHS.items()):
        encode_frames(folder / name, shots(lengths, height=120, width=160, pan=1, seed=number), FPS)
    return folder


@pytest.fixture
def root(videos: Path, tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for path in videos.iterdir():
        (tmp_path / "videos" / path.name).write_bytes(path.read_bytes())
    return tmp_path


def _shards(root: Path, store: str) -> dict[str, str]:
    found = {}
    for folder in ("shards", "commits"):
        for path in sorted((root / store / folder).rglob("*")):
            if path.is_file():
                found[path.relative_to(root / store).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_clips_are_the_shots_and_rows_those_of_the_same_segments_given_by_hand(root: Path) -> None:
    watcher = Watcher()
    report = build(_config(root), [watcher])
    assert report.num_quarantined == 0
    store = FeatureStore(str(root / "store"))
    clips = {
        name: [(clip.start_seconds, clip.stop_seconds) for clip in store["image"].clips() if clip.video_id == name]
        for name in LENGTHS
    }
    lines = ["path,start_seconds,stop_seconds"]
    for name, lengths in LENGTHS.items():
        edges = np.cumsum([0, *lengths]) / FPS
        np.testing.assert_allclose(clips[name], np.stack([edges[:-1], edges[1:]], axis=1), atol=1e-6)
        lines += [f"{name},{start},{stop}" for start, stop in clips[name]]
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    manifest = {"manifest": str(root / "list.csv"), "root": str(root / "videos")}
    by_hand = build(_config(root, "by_hand", videos=manifest, clips={"from": "annotations"}))
    expected = FeatureStore(str(root / "by_hand"))
    for feature in FEATURES:
        for name in LENGTHS:
            np.testing.assert_array_equal(store[feature][name].values, expected[feature][name].values)
            np.testing.assert_array_equal(store[feature][name].clip, expected[feature][name].clip)
    # Every frame is decoded once more, and the time it takes is told.
    num_frames = sum(sum(lengths) for lengths in LENGTHS.values())
    assert by_hand.num_frames_decoded == num_frames
    assert report.num_frames_decoded == 2 * num_frames
    assert report.seconds["shots"] > 0
    assert "shots" not in by_hand.seconds
    # A clip is one shot, so its tracks see no other.
    rows = store["tracks"]["a.mp4"]
    assert rows.mask.all()
    assert set(rows.extras["shot"].tolist()) == {0}
    assert set(rows.clip.tolist()) == {0, 1, 2}
    found = Store.open(str(root / "store"))
    video = next(item for item in found.run_manifest(report.run_id) if item.id == "a.mp4")
    again = recompute(video, store["tracks"].recipe, "cpu")
    np.testing.assert_array_equal(again.values, rows.values)
    np.testing.assert_array_equal(again.extras["x"], rows.extras["x"])


def test_an_interrupted_build_goes_on_to_the_same_bytes(root: Path) -> None:
    engine = {"device": "cpu", "threads": 1, "task_seconds": 0.01}
    features = {"tracks": FEATURES["tracks"]}
    whole = build(_config(root, "whole", features=features, engine=engine))
    assert whole.num_tasks == 2
    with pytest.raises(KeyboardInterrupt):
        build(_config(root, features=features, engine=engine), [Interrupting()])
    report = build(_config(root, features=features, engine=engine))
    assert (report.num_complete_before, report.num_tasks_executed) == (1, 1)
    assert _shards(root, "store") == _shards(root, "whole")
    assert build(_config(root, features=features, engine=engine)).num_tasks == 0


def test_a_video_whose_shots_cannot_be_found_is_quarantined_with_the_decoders_reason(root: Path) -> None:
    data = bytearray((root / "videos" / "a.mp4").read_bytes())
    at = data.index(b"mdat") + 4
    data[at : at + 40_000] = bytes(40_000)
    (root / "videos" / "broken.mp4").write_bytes(data)
    features = {"image": FEATURES["image"]}
    reports = {rule: build(_config(root, rule, features=features, clips={"from": rule})) for rule in ("shots", "whole")}
    assert reports["shots"].reasons == reports["whole"].reasons == {"undecodable": 1}
    rows = [Store.open(str(root / rule)).quarantine().to_pylist()[0] for rule in ("shots", "whole")]
    assert [{key: row[key] for key in ("video_id", "stage", "reason", "attempts")} for row in rows] == [
        {"video_id": "broken.mp4", "stage": "decode", "reason": "undecodable", "attempts": 1}
    ] * 2
    assert FeatureStore(str(root / "shots"))["image"].video_ids == sorted(LENGTHS)
    assert build(_config(root, "shots", features=features, clips={"from": "shots"})).num_tasks == 0


def test_a_shot_too_short_for_a_window_has_no_rows_and_a_video_without_cuts_is_one_clip(root: Path) -> None:
    encode_video(root / "videos" / "drift.mp4", num_frames=30)
    feature = FEATURES["tracks"] | {"extractor": "tracks", "options": {"min_track_frames": 20}}
    build(_config(root, features={"long": feature}))
    long = FeatureStore(str(root / "store"))["long"]
    rows = long["a.mp4"]
    # The second shot has 15 frames: one masked row stands for it.
    assert rows.mask[rows.clip == 1].tolist() == [False]
    assert rows.mask[rows.clip == 2].all()
    assert [
        Clip(item.clip, item.start_seconds, item.stop_seconds) for item in long.clips() if "drift" in item.video_id
    ] == [
        Clip(0, 0.0, pytest.approx(1.2))  # type: ignore[arg-type]
    ]


def test_plans_count_the_pass_that_finds_shots(root: Path) -> None:
    seconds = {}
    for name, rule in (("whole", {}), ("histogram", {}), ("tracks", {"options": {"detector": "tracks"}})):
        clips = {"from": "whole" if name == "whole" else "shots"} | rule
        planned = plan_build(_config(root, features={"image": FEATURES["image"]}, clips=clips))
        seconds[name] = sum(task.cost_estimated for task in planned.plan.tasks)
    assert seconds["whole"] < seconds["histogram"] < seconds["tracks"]


def test_an_unknown_option_is_refused_with_the_near_one() -> None:
    data = {"store": {"url": "x"}, "videos": {"folder": "v"}, "features": {"tracks": {}}}
    with pytest.raises(
        ConfigError, match="clips.options.min_shot_second: unknown key; did you mean 'min_shot_seconds'"
    ):
        validate(BuildConfig, data | {"clips": {"from": "shots", "options": {"min_shot_second": 1}}}, "config")
