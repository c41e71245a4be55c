"""Builds whose clips are shots, and builds of key-feature tracks: from encoded videos to stored rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.planning import plan_build
from clipmill.pipelines.features.recompute import recompute
from clipmill.schemas.config import BuildConfig
from clipmill.schemas.errors import ConfigError
from clipmill.schemas.model import validate
from clipmill.schemas.task import TaskResult
from clipmill.stores import FeatureStore
from clipmill.stores.store import Store
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


class Interrupting:
    """Presses Ctrl-C when the first task is done."""

    def on_start(self, tasks: Any) -> None: ...

    def on_video(self, task: Any, video_id: str) -> None: ...

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


def test_an_interrupted_build_goes_on_to_clips_that_are_the_shots_with_the_rows_of_such_annotations(root: Path) -> None:
    """The rows are compared with those of the same segments, given by hand in a manifest and built in one go."""
    engine = {"device": "cpu", "threads": 1, "task_seconds": 0.01}
    with pytest.raises(KeyboardInterrupt):
        build(_config(root, engine=engine), [Interrupting()])
    report = build(_config(root, engine=engine))
    assert (report.num_complete_before, report.num_tasks_executed, report.num_quarantined) == (3, 1, 0)
    assert plan_build(_config(root, engine=engine)).plan.tasks == ()
    # The second video's frames are decoded twice, and the time the first pass takes is told.
    assert report.num_frames_decoded == 2 * sum(LENGTHS["b.mp4"])
    assert report.seconds["shots"] > 0

    store = FeatureStore(str(root / "store"))
    lines = ["path,start_seconds,stop_seconds"]
    for name, lengths in LENGTHS.items():
        clips = [clip for clip in store["image"].clips() if clip.video_id == name]
        edges = np.cumsum([0, *lengths]) / FPS
        np.testing.assert_allclose([clip.start_seconds for clip in clips], edges[:-1], atol=1e-6)
        np.testing.assert_allclose([clip.stop_seconds for clip in clips], edges[1:], atol=1e-6)
        lines += [f"{name},{clip.start_seconds},{clip.stop_seconds}" for clip in clips]
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    manifest = {"manifest": str(root / "list.csv"), "root": str(root / "videos")}
    by_hand = build(_config(root, "by_hand", videos=manifest, clips={"from": "annotations"}))
    assert by_hand.num_frames_decoded == sum(map(sum, LENGTHS.values()))
    assert "shots" not in by_hand.seconds
    expected = FeatureStore(str(root / "by_hand"))
    for feature in FEATURES:
        for name in LENGTHS:
            rows, others = store[feature][name], expected[feature][name]
            np.testing.assert_array_equal(rows.values, others.values)
            np.testing.assert_array_equal(rows.clip, others.clip)
            np.testing.assert_allclose(rows.start_seconds, others.start_seconds, atol=1e-9)

    # A clip is one shot, so its tracks see no other.
    rows = store["tracks"]["a.mp4"]
    assert rows.mask.all()
    assert set(rows.extras["shot"].tolist()) == {0}
    assert set(rows.clip.tolist()) == {0, 1, 2}
    video = next(item for item in Store.open(str(root / "store")).run_manifest(report.run_id) if item.id == "a.mp4")
    again = recompute(video, store["tracks"].recipe, "cpu")
    np.testing.assert_array_equal(again.values, rows.values)
    np.testing.assert_array_equal(again.extras["x"], rows.extras["x"])


def test_a_video_whose_shots_cannot_be_found_is_quarantined_and_others_have_a_clip_for_each_shot(root: Path) -> None:
    data = bytearray((root / "videos" / "b.mp4").read_bytes())
    at = data.index(b"mdat") + 4
    data[at : at + 40_000] = bytes(40_000)
    (root / "videos" / "b.mp4").write_bytes(data)
    encode_video(root / "videos" / "drift.mp4", num_frames=30)
    long = FEATURES["tracks"] | {"extractor": "tracks", "options": {"min_track_frames": 20}}
    config = _config(root, features={"long": long})
    assert build(config).reasons == {"undecodable": 1}
    row = Store.open(str(root / "store")).quarantine().to_pylist()[0]
    assert (row["video_id"], row["stage"], row["reason"], row["attempts"]) == ("b.mp4", "decode", "undecodable", 1)
    assert plan_build(config).plan.tasks == ()

    feature = FeatureStore(str(root / "store"))["long"]
    assert feature.video_ids == ["a.mp4", "drift.mp4"]
    assert [(clip.start_seconds, clip.stop_seconds) for clip in feature.clips()][3:] == [(0.0, pytest.approx(1.2))]
    # The second shot has 15 frames, too few for a track: one masked row stands for it.
    rows = feature["a.mp4"]
    assert rows.mask[rows.clip == 1].tolist() == [False]
    assert rows.mask[rows.clip == 2].all()


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
