"""A build whose list of videos is a file of published annotations, as a user runs it."""

import json
from pathlib import Path
from typing import Any

import yaml

from clipmill.stores import FeatureStore
from tests.command_line import invoke, invoked_result, refused
from tests.encoded_videos import encode_video


def written(folder: Path, **videos: Any) -> str:
    """Writes the build's config; `videos` are keys of its section."""
    config = {
        "store": {"url": str(folder / "store")},
        "videos": {"annotations": str(folder / "anet.json"), "folder": str(folder / "videos")} | videos,
        "clips": {"from": "annotations"},
        "features": {"squeezenet": {"sampling": {"fps": 2}, "weights": {"random": 0}}},
        "engine": {"device": "cpu", "threads": 1},
    }
    (folder / "build.yaml").write_text(yaml.safe_dump(config))
    return str(folder / "build.yaml")


def test_clips_are_the_annotated_segments_and_both_sides_are_counted(tmp_path: Path) -> None:
    for name, num_frames in (("v_a.mp4", 30), ("v_b.mp4", 20), ("v_c.mp4", 10)):
        encode_video(tmp_path / "videos" / name, num_frames, fps=10, width=64, height=64)
    database = {
        "b": {"subset": "validation", "annotations": [{"label": "Jump", "segment": [0.0, 1.0]}]},
        "a": {
            "subset": "training",
            "annotations": [{"label": "Run", "segment": [0.0, 1.0]}, {"label": "Jump", "segment": [1.5, 3.0]}],
        },
        "gone": {"subset": "training", "annotations": [{"label": "Run", "segment": [0.0, 1.0]}]},
    }
    (tmp_path / "anet.json").write_text(json.dumps({"version": "", "database": database}))
    refused(invoke("build", written(tmp_path, ids="{id}.mp4")), "videos.folder", "set videos.ids", "prefix 'v_'")
    path = written(tmp_path, ids="v_{id}.mp4")
    told = {
        "num_annotated": 3,
        "without_file": ["gone"],
        "not_annotated": ["v_c.mp4"],
        "empty_segments": {},
    }
    assert invoked_result("plan", path)["annotations"] == told
    done = invoke("build", path)
    assert done.returncode == 0, done.stderr
    assert "  annotated videos: 3, 2 of them with a file" in done.stdout
    assert "    without a file: 1: 'gone'" in done.stdout
    assert "    files nobody annotated: 1: 'v_c.mp4'" in done.stdout
    store = FeatureStore(str(tmp_path / "store"))
    assert {name: video.split for name, video in store.videos().items()} == {"a": "train", "b": "validation"}
    clips = [(clip.video_id, clip.start_seconds, clip.stop_seconds, clip.label) for clip in store["squeezenet"].clips()]
    assert clips == [("a", 0.0, 1.0, "Run"), ("a", 1.5, 3.0, "Jump"), ("b", 0.0, 1.0, "Jump")]
    # Two frames a second of 1 and of 1.5 seconds.
    assert store["squeezenet"]["a"].clip.tolist() == [0, 0, 1, 1, 1]
    (report,) = (tmp_path / "store" / "runs").glob("*/report.json")
    assert json.loads(report.read_text())["annotations"] == told
    assert "3 videos, 1 of them without a file; 1 files not annotated" in report.with_suffix(".html").read_text()
