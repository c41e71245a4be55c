"""Videos that a training kept for the test, built and scored by the configs that it leaves for that."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.extractors import registry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.jobs.build import run_build
from clipmill.jobs.evaluate import run_evaluate
from clipmill.jobs.train import run_train
from clipmill.pipelines.training.videos.held_out import HELD_OUT, views_of
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.model import validate
from clipmill.schemas.recipe import ClipRule
from tests.pipelines.training.video_runs import RC3D, make_videos


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("videos") / "videos")


def train(videos: Path, out: Path, model: dict[str, Any], **data: Any) -> Path:
    """Trains for an epoch on two of the four videos; returns the folder of those kept out."""
    config = {
        "data": {"videos": {"folder": str(videos), "label": "parent_folder"}, "split": {"test_fraction": 0.5}, **data},
        "model": model,
        "loop": {"epochs": 1, "batch": 1, "threads": 1, "learning_rate": 1e-4},
        "out": str(out / "run"),
    }
    path = out / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    assert run_train(str(path), ()).exit_code == 0
    return out / "run" / HELD_OUT


def scores(kept: Path, *overrides: str) -> dict[str, Any]:
    """Builds and evaluates what a training kept out, as its configs say; returns the runs of results.json."""
    assert run_build(str(kept / "build.yaml"), ["engine.threads=1", *overrides]).exit_code == 0
    assert run_evaluate(str(kept / "evaluate.yaml"), ["report=false"]).exit_code == 0
    runs: dict[str, Any] = json.loads((kept / "evaluation" / "results.json").read_text())["runs"]
    return runs


@pytest.mark.slow
def test_detections_on_the_videos_that_were_kept_out(videos: Path, tmp_path: Path) -> None:
    kept = train(videos, tmp_path, RC3D, annotations={"file": str(videos / "segments.csv")})
    found = scores(kept)["rc3d"]
    # Two of the four videos, each with two annotations.
    assert found["counts"]["num_videos"] == 2
    assert found["counts"]["num_ground_truths"] == 4


@pytest.mark.slow
def test_classes_of_clips_that_were_kept_out_by_one_view_and_by_ten(videos: Path, tmp_path: Path) -> None:
    # Clips of 30 of a video's 32 frames.
    rows = [f"{label}/{number}.mp4,0.0,1.2,{label}" for label in ("drift", "noise") for number in (1, 2)]
    (tmp_path / "clips.csv").write_text("\n".join(["video_id,start_seconds,stop_seconds,label", *rows]) + "\n")
    kept = train(videos, tmp_path, {"name": "c3d"}, annotations={"file": str(tmp_path / "clips.csv")})
    runs = scores(kept)
    assert list(runs) == ["one_clip", "ten_clips", "ten_crops"]
    for found in runs.values():
        # A clip of each of two videos.
        assert (found["counts"]["num_items"], found["counts"]["num_missing"]) == (2, 0)
        assert 0 <= found["metrics"]["top1"] <= found["metrics"]["top5"] == 1


@pytest.mark.parametrize(
    ("name", "sampling", "expected"),
    [
        ("c3d", {}, {"one_clip": (1, "none", 16), "ten_clips": (10, "none", 16), "ten_crops": (1, "ten", 16)}),
        (
            "cpnet",
            {"fps": 12, "frames": 4, "every": 3, "step": 4, "tail": "overlap"},
            {"one_clip": (1, "none", 4), "eight_clips_six_crops": (8, "six", 4)},
        ),
    ],
)
def test_views_are_the_published_ones_of_the_trained_windows(
    name: str, sampling: dict[str, Any], expected: dict[str, tuple[int, str, int]]
) -> None:
    learner = registry.learner(name)
    feature = {"extractor": name, "layer": learner.trained_layer, "weights": {"random": 0}, "sampling": sampling}
    found = {}
    for view, keys in views_of(feature, learner).items():
        config = validate(FeatureConfig, keys, view)
        recipe = resolve_recipe(view, config, ClipRule(), DecodeConfig())
        crops = recipe.preprocess.crops or "none"
        found[view] = (recipe.sampling.uniform_windows, crops, recipe.sampling.frames)
        assert recipe.sampling.every == sampling.get("every", 1)
        assert recipe.sampling.step is None
    assert found == expected
