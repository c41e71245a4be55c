"""The ceiling of a network on a machine: measured by itself, remembered, and left out where it would take too long."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clipmill.extractors import registry
from clipmill.extractors.base import ReadyExtractor
from clipmill.extractors.compiled_network import sample_frames
from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.features import bare_model
from clipmill.pipelines.features.bare_model import FOLDER, bare_rate
from clipmill.pipelines.features.speed import speed_of_light
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.recipe import ClipRule, Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.task import RunReport, ShardTask, TaskResult


def recipe(name: str, **written: object) -> Recipe:
    feature = FeatureConfig.model_validate({"weights": {"random": 0}} | written)
    return resolve_recipe(name, feature, ClipRule(), DecodeConfig())


SQUEEZENET = recipe("squeezenet")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / FOLDER


def _refuse(*_: object) -> float:
    raise AssertionError("measured")


def test_a_rate_is_measured_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = bare_rate(SQUEEZENET, "cpu", 1, seconds=0.1)
    assert rate is not None
    assert rate > 0
    [file] = cache.iterdir()
    assert json.loads(file.read_text()) == {"recipe": SQUEEZENET.key, "windows_per_second": rate}
    monkeypatch.setattr(bare_model, "measure", _refuse)
    assert bare_rate(SQUEEZENET, "cpu", 1, seconds=0.0) == rate
    with pytest.raises(AssertionError, match="measured"):
        bare_rate(SQUEEZENET, "cpu", 2, seconds=0.1)
    with pytest.raises(AssertionError, match="measured"):
        bare_rate(recipe("squeezenet", layer="logits"), "cpu", 1, seconds=0.1)


def test_a_network_whose_window_may_take_longer_is_left_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare_model, "measure", _refuse)
    assert bare_rate(recipe("rc3d", options={"form": "pytorch-thumos14"}), "cpu", 1, seconds=3.0) is None
    assert not cache.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"windows_per_second": "fast"}', '{"windows_per_second": 0}'])
def test_what_cannot_be_read_is_measured_again(text: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare_model, "measure", lambda *_: 7.0)
    assert bare_rate(SQUEEZENET, "cpu", 1, seconds=0.1) == 7.0
    [file] = cache.iterdir()
    file.write_text(text)
    monkeypatch.setattr(bare_model, "measure", lambda *_: 8.0)
    assert bare_rate(SQUEEZENET, "cpu", 1, seconds=0.1) == 8.0


def test_a_home_that_cannot_be_written_to_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(bare_model, "measure", lambda *_: 7.0)
    assert bare_rate(SQUEEZENET, "cpu", 1, seconds=0.1) == 7.0


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("squeezenet", {}),
        ("i3d", {"sampling": {"frames": 10}, "preprocess": {"crop": [64, 64], "size": [72]}}),
        ("rc3d", {"options": {"form": "pytorch-thumos14", "buffer_frames": 32}}),
    ],
)
def test_what_is_measured_is_the_network_alone(
    name: str, written: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = recipe(name, **written)
    extractor = registry.build(found, "cpu")
    assert isinstance(extractor, ReadyExtractor)
    run: Callable[[], None] = extractor.ready(sample_frames(found))
    # Frames are prepared already: none is looked at again.
    monkeypatch.setattr(np, "ascontiguousarray", _refuse)
    monkeypatch.setattr(type(extractor), "prepare", _refuse, raising=False)
    run()


def test_the_ceiling_is_that_of_the_runs_mix_and_shared_passes_count_once(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    rates = {"squeezenet": 10.0, "vgg16": 2.0}
    monkeypatch.setattr(bare_model, "measure", lambda recipe, *_: rates[recipe.extractor])
    recipes = (SQUEEZENET, recipe("squeezenet", layer="logits"), recipe("vgg16"))
    task = ShardTask((Video("v", "s3://not/looked/at.mp4", "f", 1),), recipes)
    counts = {item.key: 40 for item in recipes}
    result = TaskResult(task.key, True, 1, num_windows=counts, seconds={"forward": 1.0}, device="cpu")
    speed = speed_of_light(RunReport("local", 1, (result,), 100.0), [task], num_threads=1)
    assert speed is not None
    # 40 windows of two layers in 4 s, 40 of VGG-16 in 20 s.
    assert speed.bare_model_windows_per_second == pytest.approx(120 / 24)
    assert "1.2 windows/s = 0.24x the bare model (5.0)" in speed.line()


def test_a_short_run_measures_nothing(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(bare_model, "measure", _refuse)
    task = ShardTask((Video("v", "s3://not/looked/at.mp4", "f", 1),), (recipe("vgg16"),))
    counts = {task.recipes[0].key: 4}
    result = TaskResult(task.key, True, 1, num_windows=counts, seconds={"forward": 1.0}, device="cpu")
    speed = speed_of_light(RunReport("local", 1, (result,), 1.0), [task], num_threads=1)
    assert speed is not None
    assert speed.bare_model_windows_per_second is None
    assert speed.line() == "speed of light: 0 frames/s; 4.0 windows/s; limit: model"
