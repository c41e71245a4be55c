"""Pairs as MAP-IVR cuts them: counts from the real annotations, and the whole way on small videos, labels merged."""

import csv
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from clipmill.pipelines.datasets.label_map import read_label_map
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.schemas.config import TrainConfig, parse_config
from clipmill.schemas.errors import ManifestError
from clipmill.stores import FeatureStore
from tests.command_line import ROOT, invoked_result, python, refused
from tests.command_line import invoke as command
from tests.encoded_videos import encode_video

EXAMPLE = ROOT / "examples" / "map_ivr"
MERGES = str(EXAMPLE / "thumos14_merges.csv")
ANNOTATIONS = ROOT.parent / "shared" / "data" / "annotations"
real = pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="../shared/data/annotations is absent")


def written(dataset: str, annotations: Path, videos: Path, manifest: Path, *more: str) -> dict[str, list[str]]:
    """Runs the script; returns its table by name: ours and the published."""
    script = str(EXAMPLE / "manifest.py")
    done = python(script, dataset, str(annotations), str(videos), str(manifest), *more)
    assert done.returncode == 0, done.stderr
    return {name: cells for name, *cells in (line.split() for line in done.stdout.splitlines())}


def actions(dataset: str, *names: str) -> list[dict[str, str]]:
    rows = []
    for name in names:
        with open(ANNOTATIONS / dataset / name, encoding="utf-8", newline="") as file:
            rows += [row for row in csv.DictReader(file) if row["temporal-region-label"] == "Action"]
    return rows


@real
def test_counts_of_thumos14_beside_the_published(tmp_path: Path) -> None:
    manifest = tmp_path / "clips.csv"
    table = written("thumos14", ANNOTATIONS / "thumos14", tmp_path, manifest)
    rows = actions("thumos14", "thumos14_valid_tsp_groundtruth.csv", "thumos14_test_tsp_groundtruth.csv")
    spans = [(float(row["t-start"]), float(row["t-end"]), float(row["video-duration"])) for row in rows]
    counted = sum(math.ceil((stop - start) / 9) for start, stop, _ in spans)
    inside = sum(math.ceil((min(stop, end) - start) / 9) for start, stop, end in spans if start < end)
    assert (len(rows), counted) == (6365, 7029), "one more than the published 7,028"
    assert table["pairs"] == [str(inside), "7028"]
    assert table["videos"] == ["412", "413"]
    assert int(table["train"][0]) + int(table["test"][0]) == inside
    assert abs(int(table["test"][0]) / inside - 1414 / 7028) < 0.02
    lines = manifest.read_text().splitlines()
    assert len(lines) == inside + 1
    merged = written("thumos14", ANNOTATIONS / "thumos14", tmp_path, manifest, "--label-map", MERGES)
    assert merged["labels"] == ["18", "18"]
    assert int(merged["pairs"][0]) < inside, "CliffDiving is annotated as Diving, too"


@real
def test_counts_of_activitynet_beside_the_published(tmp_path: Path) -> None:
    manifest = tmp_path / "clips.csv"
    table = written("activitynet", ANNOTATIONS / "activitynet1.3", tmp_path, manifest)
    rows = actions("activitynet1.3", "activitynet_v1-3_valid_tsp_groundtruth.csv")
    inside = [row for row in rows if float(row["t-start"]) < float(row["video-duration"])]
    assert table["pairs"] == [str(len({(row["filename"], row["action-label"]) for row in inside})), "4739"]
    assert table["labels"] == ["200", "200"]
    with open(manifest, encoding="utf-8", newline="") as file:
        longest = {(row["id"], row["segment_label"]): row for row in csv.DictReader(file)}
    for row in inside[:500]:
        kept = longest[row["filename"], row["action-label"]]
        length = min(float(row["t-end"]), float(row["video-duration"])) - float(row["t-start"])
        assert float(kept["stop_seconds"]) - float(kept["start_seconds"]) >= length - 1e-9


def test_the_whole_way_on_small_videos(tmp_path: Path) -> None:
    """Eight videos of four labels, three of which are merged to two: a clip of 9 s at most has one query frame."""
    (tmp_path / "videos").mkdir()
    header = ["video-name", "t-start", "t-end", "action-label", "video-duration", "filename", "temporal-region-label"]
    labels = ["CricketBowling", "CricketShot", "Diving", "CliffDiving"]
    for part in ("valid", "test"):
        with open(tmp_path / f"thumos14_{part}_tsp_groundtruth.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for number in range(0 if part == "valid" else 4, 4 if part == "valid" else 8):
                name = f"v{number}.mp4"
                encode_video(tmp_path / "videos" / name, num_frames=40, fps=2, width=96, height=64)
                label = labels[number % 4]
                writer.writerow([name[:-4], 0, 19.5, label, 20.0, name, "Action"])
                writer.writerow([name[:-4], 19.5, 20, "", 20.0, name, "No action"])
                writer.writerow([name[:-4], 30, 31, label, 20.0, name, "Action"])
                if label == "CliffDiving":
                    writer.writerow([name[:-4], 0, 19.5, "Diving", 20.0, name, "Action"])
    manifest = tmp_path / "clips.csv"
    table = written(
        "thumos14", tmp_path, tmp_path / "videos", manifest, "--label-map", MERGES, "--test-fraction", "0.5"
    )
    assert table["pairs"][0] == "24", "19.5 s are three clips of 6.5 s; what begins after the end is left out"
    squeezenet = {"extractor": "squeezenet", "weights": {"random": 0}}
    config = {
        "store": {"url": str(tmp_path / "store")},
        "videos": {"manifest": str(manifest)},
        "clips": {"from": "annotations"},
        "features": {
            "query": squeezenet | {"sampling": {"random_frames": 1, "seed": 0}},
            "clip": squeezenet | {"sampling": {"fps": 0.5}},
        },
        "engine": {"device": "cpu", "threads": 1},
    }
    build = tmp_path / "build.yaml"
    build.write_text(yaml.safe_dump(config))
    invoked_result("build", "--config", str(build))
    store = FeatureStore(str(tmp_path / "store"))
    clips = store["query"].clips()
    assert len(clips) == 24
    assert [round(clip.stop_seconds - clip.start_seconds, 3) for clip in clips] == [6.5] * 24
    for clip in clips:
        frame = store["query"].clip_rows(*clip.key)
        assert len(frame) == 1
        assert clip.start_seconds <= frame.start_seconds[0] <= clip.stop_seconds
    assert len({float(store["query"].clip_rows(*clip.key).start_seconds[0] - clip.start_seconds) for clip in clips}) > 4
    train = {
        "data": {"store": str(tmp_path / "store"), "image": "query", "video": "clip",
                 "label_map": MERGES, "split": {"from": "manifest"}},
        "model": {"name": "cca"}, "out": str(tmp_path / "run"),
    }  # fmt: skip
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(train))
    done = invoked_result("train", "--config", str(path))
    assert (done["num_labels"], done["num_train"], done["num_test"]) == (2, 12, 12)
    evaluation = tmp_path / "evaluate.yaml"
    evaluation.write_text(yaml.safe_dump({"run": str(tmp_path / "run"), "cutoffs": [1], "report": False}))
    assert set(next(iter(invoked_result("evaluate", "--config", str(evaluation))["runs"].values()))["per_class"]) == {
        "Cricket",
        "Diving",
    }
    other = tmp_path / "other.json"
    other.write_text('{"Surfing": "Water"}')
    refused(
        command("train", "--config", str(path), "--set", f"data.label_map={other}", "--set", f"out={tmp_path / 'no'}"),
        "label_map", "some of the 4 labels of the clips, got 'Surfing'",
    )  # fmt: skip


def test_the_example_configs_are_configs() -> None:
    build = parse_build_config((EXAMPLE / "build.yaml").read_text(), source="build.yaml")
    assert build.clips.from_ == "annotations"
    query = build.features["query"].sampling
    assert query is not None
    assert query.random_frames == 1
    config = parse_config(TrainConfig, (EXAMPLE / "train.yaml").read_text(), source="train.yaml")
    assert config.data.label_map == "examples/map_ivr/thumos14_merges.csv"
    assert len(read_label_map(MERGES)) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "label,to\nx,y\n", r"with the columns label and merged, got the columns label, to"),
        ("a.csv", "label,merged\nx,\n", "got a line with an empty cell"),
        ("a.csv", "label,merged\nx,y\nx,z\n", "expected 'x' once, got 'y' and 'z'"),
        ("a.csv", "label,merged\nx,y\ny,z\n", "a label that stays for 'x', got 'y', which becomes 'z'"),
        ("a.json", '["x"]', "got JSON that is no object of texts"),
        ("a.json", '{"x": "y", "x": "z"}', "expected 'x' once"),
        ("a.json", "{", "expected a .json object of labels"),
        ("none.csv", None, "No such file"),
    ],
)
def test_a_label_map_that_does_not_fit_is_one_line(
    name: str, content: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        read_label_map(str(path))
    assert "\n" not in str(caught.value)


def test_merges_may_be_json_and_labels_that_are_not_named_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"x": "y", "z": "y", "y": "y"}')
    assert read_label_map(str(path)) == {"x": "y", "z": "y", "y": "y"}
    assert np.unique(list(read_label_map(MERGES).values())).tolist() == ["Cricket", "Diving"]
