"""Photographs of a screen, found by key-feature tracks: real encoded videos with cuts at known frames."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from clipmill.jobs.build import run_build
from clipmill.pipelines.evaluation.retrieval.key_features import (
    best_frame,
    hamming_distances,
    read_frames,
    read_key_features,
)
from clipmill.pipelines.evaluation.tasks.scene_retrieval.frames import frame_hits
from clipmill.stores import FeatureStore
from clipmill.stores.formats.records import FoundFrame, ShownFrame
from tests.command_line import invoke, invoked_result, refused
from tests.shot_videos import encode_frames, shots

FPS, LENGTHS = 12.5, (14, 12, 16)
QUERIES = [(video, frame) for video in range(3) for frame in (4, 19, 33)]
"""Frames well inside each shot, none at a multiple of what is built."""


def photographed(frame: np.ndarray, seed: int) -> np.ndarray:
    """Returns a frame as a camera sees it: turned a little in space, blurred, darker, with noise, its border lost."""
    random = np.random.default_rng(seed)
    height, width = frame.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + random.uniform(-0.008, 0.008, (4, 2)).astype(np.float32) * width
    warped = cv2.warpPerspective(frame, cv2.getPerspectiveTransform(corners, moved), (width, height))
    blurred = cv2.GaussianBlur(warped, (3, 3), 0.6).astype(np.float64) / 255
    seen = 255 * blurred**1.2 + random.normal(0, 3, frame.shape)
    return np.clip(seen, 0, 255).astype(np.uint8)[6:-6, 10:-10]


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three videos of three shots, a store of their tracks, and photographs of some of their frames."""
    folder = tmp_path_factory.mktemp("tracks")
    for name in ("videos", "photographs"):
        (folder / name).mkdir()
    for number in range(3):
        frames = list(shots(LENGTHS, height=360, width=640, pan=3, seed=number))
        encode_frames(folder / "videos" / f"film {number}.mp4", iter(frames), FPS)
        for video, frame in QUERIES:
            if video == number:
                picture = photographed(frames[frame], 100 * video + frame)
                cv2.imwrite(str(folder / "photographs" / f"{video} {frame:02d}.png"), picture[:, :, ::-1])
    config = {
        "store": {"url": str(folder / "store"), "dataset": "films"},
        "videos": {"folder": str(folder / "videos")},
        "features": {"tracks": {}, "frames": {"extractor": "tracks", "layer": "frame_descriptors"}},
        "engine": {"device": "cpu", "threads": 1},
    }
    (folder / "build.yaml").write_text(yaml.safe_dump(config))
    assert run_build(str(folder / "build.yaml"), []).exit_code == 0
    return folder


def search(folder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    config = {
        "data": {"store": str(folder / "store"), "image": "frames", "video": "tracks"},
        "queries": {"folder": str(folder / "photographs")},
        "k": 3,
        "out": str(out),
    }
    path = out.parent / "search.yaml"
    path.write_text(yaml.safe_dump(config | changes))
    return invoked_result("search", "--config", str(path))


def test_photographs_find_their_video_shot_and_moment(filmed: Path, tmp_path: Path) -> None:
    found = search(filmed, tmp_path / "out")
    store = FeatureStore(str(filmed / "store"))
    features, frames = read_key_features(store["tracks"]), store["frames"]
    assert found["num_shots"] == len(features.shots) == 9
    assert found["about"]["index_bytes"] == 32 * found["about"]["num_key_features"]
    truth = [ShownFrame(f"film {video}.mp4", frame / FPS) for video, frame in QUERIES]
    lines = [f"{item['query']},{own.video},{own.seconds}" for item, own in zip(found["queries"], truth, strict=True)]
    (tmp_path / "frames.csv").write_text("\n".join(["query,video_id,seconds", *lines]) + "\n")
    scored = evaluated(tmp_path)
    assert (scored["metrics"]["video@1"], scored["metrics"]["shot@1"]) == (1, 1)
    assert scored["counts"]["index_bytes"] == found["about"]["index_bytes"]
    for item in found["queries"]:
        votes = [shot["votes"] for shot in item["shots"]]
        assert votes == sorted(votes, reverse=True)
    # What an index of all frames would hold: of a shot of some frames nearly as many times more.
    num_descriptors = sum(int(frames.stored(video).mask.sum()) for video in frames.video_ids)
    assert num_descriptors / len(features.shot) > 8
    # Against all frames of all videos, compared one by one: no photograph is lost by the index.
    per_frame = []
    for item in found["queries"]:
        codes = np.asarray(query_codes(item["query"], frames.recipe))
        ranked = [(best_frame(codes, read_frames(frames, shot)), shot) for shot in features.shots]
        (seconds, num), shot = max(ranked, key=lambda answer: answer[0][1])
        assert num > 0
        per_frame.append((shot, seconds))
    firsts = [FoundFrame(shot.video_id, shot.start_seconds, shot.stop_seconds, at) for shot, at in per_frame]
    direct = frame_hits(truth, firsts, (0.5,))
    assert direct["shot@1"].mean() == 1
    assert scored["metrics"]["recall@0.5s"] >= direct["recall@0.5s"].mean() > 0.7
    # As scenes, of photographs named by number: each finds its video before any other.
    numbered = {item["query"]: str(number) for number, item in enumerate(found["queries"])}
    lines = [f"{numbered[item['query']]} film_{Path(item['query']).name[0]}.mp4 0:00 0:03" for item in found["queries"]]
    (tmp_path / "truth.txt").write_text("\n".join(lines) + "\n")
    text = (tmp_path / "out" / "results.json").read_text().replace("film ", "film_")
    for name, number in numbered.items():
        text = text.replace(json.dumps(name), json.dumps(number))
    (tmp_path / "numbered.json").write_text(text)
    scenes = {"ground_truth": str(tmp_path / "truth.txt"), "predictions": str(tmp_path / "numbered.json")}
    (tmp_path / "scenes.yaml").write_text(
        yaml.safe_dump(scenes | {"task": "scene_retrieval", "scene_separator": "#", "out": str(tmp_path / "scenes")})
    )
    scored = invoked_result("evaluate", "--config", str(tmp_path / "scenes.yaml"))["runs"]["numbered"]["metrics"]
    assert (scored["p@1"], scored["map@100"]) == (1, 1)
    report = (tmp_path / "out" / "report.html").read_text()
    assert "film 0.mp4" in report
    assert "queries a second" in report


def evaluated(folder: Path, **changes: Any) -> dict[str, Any]:
    """Returns what ``clipmill evaluate`` makes of a search's results and the frames that were photographed."""
    files = {"ground_truth": str(folder / "frames.csv"), "predictions": str(folder / "out" / "results.json")}
    config = files | {"task": "scene_retrieval", "protocol": "frames", "out": str(folder / "frames")} | changes
    (folder / "frames.yaml").write_text(yaml.safe_dump(config))
    (run,) = invoked_result("evaluate", "--config", str(folder / "frames.yaml"))["runs"].values()
    return dict(run)


def test_queries_without_a_shot_are_misses_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    shot = {"rank": 1, "video": "a", "start_seconds": 2.0, "stop_seconds": 5.0, "frame_seconds": 3.5}
    queries = [{"query": "1", "shots": [shot, shot | {"rank": 2, "video": "b"}]}, {"query": "2", "shots": []}]
    results = {"about": {"index_bytes": 640}, "k": 3, "queries": queries, "failed": [{"query": "3", "message": "no"}]}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text(json.dumps(results))
    (tmp_path / "frames.csv").write_text("query,video_id,seconds\n1,a,3.0\n2,a,1\n3,b,0\n")
    scored = evaluated(tmp_path, min_coverage=0.3, tolerances=[0.4, 0.5])
    assert scored["metrics"] == {
        "coverage": pytest.approx(1 / 3), "video@1": pytest.approx(1 / 3), "shot@1": pytest.approx(1 / 3),
        "recall@0.4s": 0, "recall@0.5s": pytest.approx(1 / 3),
    }  # fmt: skip
    assert scored["counts"]["num_without_answer"] == 2
    path = str(tmp_path / "frames.yaml")
    assert "shot@1" in (tmp_path / "frames" / "report.html").read_text()
    for text, message in {
        "query,video_id,seconds\n1,a,soon\n": "line 2 seconds: expected a number of seconds, got 'soon'",
        "query,video_id,seconds\n1,a,1\n1,a,2\n": "line 3 query: expected each query once, got '1'",
        "query,video_id,seconds\n1,x,1\n": "videos of the ground truth",
    }.items():
        (tmp_path / "frames.csv").write_text(text)
        refused(invoke("evaluate", "--config", path), message)
    (tmp_path / "frames.csv").write_text("query,video_id,seconds\n1,a,3.0\n")
    clips = {"query": "1", "spaces": {"cosine": [{"rank": 1, "clip": "a#0"}]}}
    (tmp_path / "out" / "results.json").write_text(json.dumps(results | {"queries": [clips], "failed": []}))
    refused(invoke("evaluate", "--config", path), "results.json of clipmill search by key features")


def query_codes(path: str, recipe: Any) -> np.ndarray:
    from clipmill.extractors import registry
    from clipmill.pipelines.features.query_images import frame_codes, image_row, read_image

    return np.asarray(image_row(registry.build(recipe, "cpu"), recipe, read_image(path), path, frame_codes), np.uint8)


def test_faiss_finds_the_same(filmed: Path, tmp_path: Path) -> None:
    exact, flat = (
        search(filmed, tmp_path / kind, tracks={"index": kind, "max_distance": 60}) for kind in ("exact", "flat")
    )
    assert [item["shots"] for item in exact["queries"]] == [item["shots"] for item in flat["queries"]]


def test_a_frame_is_as_near_as_it_was_described(filmed: Path) -> None:
    """The photographs are no copies: most of their descriptors are no frame's."""
    frames = FeatureStore(str(filmed / "store"))["frames"]
    rows = np.asarray(frames.stored("film 0.mp4").values, np.uint8)
    codes = query_codes(str(filmed / "photographs" / "0 04.png"), frames.recipe)
    nearest = hamming_distances(codes, rows).min(axis=1)
    assert (nearest == 0).mean() < 0.05


def test_what_cannot_be_searched_is_refused_in_one_line(filmed: Path, tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    data = {"store": str(filmed / "store"), "image": "tracks", "video": "tracks"}
    config = {"data": data, "queries": {"folder": str(filmed / "photographs")}, "out": str(tmp_path / "out")}
    path.write_text(yaml.safe_dump(config))
    refused(invoke("search", "--config", str(path)), "expected tracks frame_descriptors, got tracks key_features")
