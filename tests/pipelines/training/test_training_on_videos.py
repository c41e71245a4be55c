"""Trainings on videos: killed and resumed with the same bits, refused where they differ, and read by the extractor."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from clipmill.extractors import registry
from clipmill.extractors.rc3d.segments import propose
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.torch_extractor import affine, network_input
from clipmill.models.checkpoints import checkpoints
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.pipelines.training.run_folder import RunFolder
from clipmill.pipelines.training.train import TrainReport
from clipmill.pipelines.training.videos.checkpoints import load
from clipmill.pipelines.training.videos.held_out import HELD_OUT
from clipmill.pipelines.training.videos.train import FEATURE, recipe_of, resolve
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import UsageError, WeightsError
from clipmill.schemas.model import validate
from clipmill.schemas.recipe import ClipRule
from clipmill.stores.formats.segments_csv import read_segments_csv
from clipmill.stores.manifests import read_manifest
from tests.pipelines.training.gloo_workers import run_workers
from tests.pipelines.training.video_runs import (
    C3D,
    CPNET,
    RC3D,
    UNEVEN,
    assert_the_same,
    config_of,
    killed,
    make_videos,
    run,
    state_of,
)

LOOPS: dict[str, dict[str, Any]] = {"rc3d": {}, "c3d": {"batch": 1}, "cpnet": {"batch": 2}}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("videos") / "videos")


@pytest.mark.parametrize(
    "model",
    [pytest.param(RC3D, marks=pytest.mark.slow), pytest.param(C3D, marks=pytest.mark.slow), CPNET],
    ids=lambda model: model["name"],
)
def test_a_killed_training_goes_on_with_the_same_bits(videos: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    loop = {"epochs": 2, "milestones": [1], "keep_checkpoints": 1} | LOOPS[model["name"]]
    whole = run(config_of(videos, tmp_path / "whole", model, **loop))
    broken = config_of(videos, tmp_path / "broken", model, **loop)
    per_epoch = -(-whole.num_train // LOOPS[model["name"]].get("batch", 1))
    assert killed(broken, per_epoch + 1) == -9
    assert list(checkpoints(broken.out)) == [1]
    assert_the_same(run(broken), whole)


@pytest.mark.parametrize("model", [pytest.param(RC3D, marks=pytest.mark.slow), CPNET], ids=lambda model: model["name"])
def test_two_workers_give_the_numbers_of_one(videos: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    alone = run(config_of(videos, tmp_path / "alone", model, validates=True, **UNEVEN[model["name"]]))
    out = tmp_path / "shared"
    function = "tests.pipelines.training.video_runs:share_of_a_run"
    ours, _ = run_workers(function, 2, tmp_path / "workers", model=model["name"], videos=str(videos), out=str(out))
    line = json.loads((out / "metrics.jsonl").read_text())
    assert line["losses"] == pytest.approx(alone.losses[0], rel=1e-4, abs=1e-5)
    assert line["validation"] == pytest.approx(validation_of(alone)[0], rel=1e-3, abs=1e-5)
    theirs = state_of(alone)
    for name, values in ours.items():
        np.testing.assert_allclose(values.numpy(), theirs[name].numpy(), rtol=1e-3, atol=1e-5, err_msg=name)


def validation_of(report: TrainReport) -> list[dict[str, float]]:
    return [line["validation"] for line in RunFolder(report.out).metrics()]


@pytest.mark.slow
def test_the_epoch_of_the_least_validation_loss_is_used_and_nothing_else_changes(videos: Path, tmp_path: Path) -> None:
    loop = {"epochs": 3, "batch": 2, "learning_rate": 0.05, "keep_checkpoints": 1}
    plain = run(config_of(videos, tmp_path / "plain", CPNET, validates=True, **loop))
    config = config_of(videos, tmp_path / "selected", CPNET, validates=True, select="total", **loop)
    assert killed(config, 3) == -9
    selected = run(config)
    assert (plain.num_validation, plain.selected_epoch) == (1, 3)
    # Weights and momenta of the last epoch: validating, and being killed, moved nothing.
    assert_the_same(selected, plain)
    values = [found["total"] for found in validation_of(selected)]
    assert len(set(values)) == 3
    assert selected.selected_epoch == int(np.argmin(values)) + 1
    # Of the others the newest one is kept.
    assert set(checkpoints(selected.out)) == {selected.selected_epoch, 3}
    feature = yaml.safe_load((tmp_path / "selected" / FEATURE).read_text())["cpnet"]
    assert feature["weights"]["file"] == str(checkpoints(selected.out)[selected.selected_epoch])


@pytest.mark.slow
def test_patience_ends_a_training_that_learns_nothing(videos: Path, tmp_path: Path) -> None:
    loop = {"epochs": 9, "batch": 2, "learning_rate": 1e-12, "select": "total", "patience": 1}
    report = run(config_of(videos, tmp_path, RC3D, validates=True, **loop))
    # What is trained on is drawn anew in each epoch, what validates is not.
    first, second = validation_of(report)
    assert report.losses[0]["total"] != report.losses[1]["total"]
    assert first == pytest.approx(second, rel=1e-6)
    assert (report.epoch, report.selected_epoch, report.stopped_early) == (2, 1, True)
    again = run(config_of(videos, tmp_path, RC3D, validates=True, **loop))
    assert (again.start_epoch, again.epoch) == (2, 2)


def test_what_no_epoch_can_be_selected_by_is_refused(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"loop select: expected one of last, total, rpn_class.* got error"):
        run(config_of(videos, tmp_path, RC3D, validates=True, select="error"))
    with pytest.raises(UsageError, match=r"loop select: expected videos to validate total on, got none; .*validation_"):
        run(config_of(videos, tmp_path, RC3D, select="total"))
    with pytest.raises(UsageError, match=r"loop.*patience waits for a smaller loss"):
        config_of(videos, tmp_path, RC3D, patience=2)


def test_nothing_is_dropped_out_of_clips_that_validate(videos: Path, tmp_path: Path) -> None:
    config = resolve(config_of(videos, tmp_path, CPNET))
    learner = registry.learner("cpnet")
    recipe = recipe_of(config, learner)
    options = validate(learner.options, config.model.training, "training")
    learning = learner.start(recipe, options, ("drift", "noise"), torch.device("cpu"))
    clip = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)

    def losses(seed: int) -> dict[str, float]:
        with torch.no_grad():
            found = learning.losses([clip], [1], [np.random.default_rng(seed)])
        return {name: value.item() for name, value in found.items()}

    learning.network.eval()
    evaluated = losses(0)
    assert evaluated == losses(1)
    # Of two classes the best one is that whose probability is above a half.
    assert evaluated["error"] == float(evaluated["total"] > np.log(2))
    learning.begin_epoch(0, config.loop)
    assert losses(0)["total"] != losses(1)["total"]


@pytest.fixture(scope="module")
def rc3d_run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    """R-C3D, trained for an epoch."""
    return run(config_of(videos, tmp_path_factory.mktemp("rc3d"), RC3D, epochs=1))


def test_a_run_of_another_kind_is_not_gone_on_with(videos: Path, rc3d_run: TrainReport, tmp_path: Path) -> None:
    out, before = Path(rc3d_run.out), state_of(rc3d_run)
    with pytest.raises(UsageError, match=r"another loop.learning_rate \(0.0001 there, 0.01 now\)"):
        run(config_of(videos, out, RC3D, epochs=2, learning_rate=0.01))
    other = RC3D | {"options": {**RC3D["options"], "scales": [1, 2]}}
    with pytest.raises(UsageError, match="another"):
        run(config_of(videos, out, other, epochs=2))
    assert state_of(run(config_of(videos, out, RC3D, epochs=1))).keys() == before.keys()
    with pytest.raises(UsageError, match="at most the 4 items there are to train on"):
        run(config_of(videos, tmp_path / "batch", RC3D, batch=50))


def test_a_checkpoint_is_the_extractors_weights(videos: Path, tmp_path: Path) -> None:
    # The release whose own weights give real offsets: what is trained gives normalised ones.
    model = RC3D | {"options": {**RC3D["options"], "form": "caffe-thumos14"}}
    config = resolve(config_of(videos, tmp_path, model, epochs=1, learning_rate=0.0001))
    report = run(config)
    feature = yaml.safe_load((tmp_path / FEATURE).read_text())["rc3d"]
    assert feature["options"]["classes"] == ["first drift", "first noise", "second"]
    # What is left for the videos that were kept for the test is a build of this feature, and its truth.
    kept = tmp_path / HELD_OUT
    build = parse_build_config((kept / "build.yaml").read_text(), (), "build.yaml")
    assert build.features["rc3d"] == validate(FeatureConfig, feature, "feature")
    listed = [video.id for video in read_manifest(build.videos).videos]
    truth = read_segments_csv(kept / "truth.csv").segments
    assert (listed, len(truth)) == (sorted(truth.video_ids), 4)
    assert len(listed) == report.num_test == 2
    recipe = resolve_recipe("rc3d", validate(FeatureConfig, feature, "feature"), ClipRule(), DecodeConfig())
    assert registry.class_names(recipe) == ("first drift", "first noise", "second")
    # Low, so that an untrained network finds something.
    recipe = recipe.model_copy(update={"options": recipe.options | {"score_threshold": 0.01}})
    extractor = registry.build(recipe, "cpu")
    frames = np.random.default_rng(0).uniform(0, 255, (1, 16, 32, 32, 3)).astype(np.float32).view(np.uint8)

    learner = registry.learner("rc3d")
    training = validate(learner.options, config.model.training, "training")
    of_training = recipe_of(config, learner)
    learning: Any = learner.start(of_training, training, report_classes(report), torch.device("cpu"))
    learning.load(load(checkpoints(report.out)[1]).weights)
    network = learning.network.eval()
    with torch.inference_mode():
        values = network_input(frames[0], of_training.preprocess, affine(of_training.preprocess, 5))
        maps = network.trunk(values.permute(3, 0, 1, 2)[None])
        scores, offsets = network.propose(maps)
        foreground = scores[0].softmax(dim=0)[1].double().numpy()
        rule = network.release.test_filter
        segments, _ = propose(foreground, offsets[0].double().numpy(), network.release.scales, rule)
        _, last = network.hidden(maps[0], torch.from_numpy(segments))
        probabilities = network.classify(last)[0].softmax(dim=1).numpy()
    outputs = extractor.forward(frames)
    found = outputs["values"][0, : int(outputs["num_valid"][0])]
    assert len(found) > 0
    # Each detection has the class probabilities of its region.
    distance = np.abs(found[:, None] - probabilities[None]).max(axis=2).min(axis=1)
    assert distance.max() < 1e-5


def report_classes(report: Any) -> tuple[str, ...]:
    return load(checkpoints(report.out)[report.epoch]).classes


def test_other_classes_than_the_weights_are_refused(rc3d_run: TrainReport) -> None:
    feature = {"extractor": "rc3d", "layer": "detections", "weights": {"file": rc3d_run.checkpoint}, **rest_of(RC3D)}
    recipe = resolve_recipe("rc3d", validate(FeatureConfig, feature, "feature"), ClipRule(), DecodeConfig())
    with pytest.raises(WeightsError, match=r"expected 21 classes with the background and 2 scales"):
        registry.build(recipe, "cpu")


def rest_of(model: dict[str, Any]) -> dict[str, Any]:
    return {key: model[key] for key in ("sampling", "preprocess", "options")}
