"""Presets: what they mean written out, what overrides them, and what is refused."""

from typing import Any

import pytest

from clipmill.extractors.presets import PRESETS, expand, written_out
from clipmill.extractors.resolve import resolve_recipe
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.recipe import ClipRule, Recipe

READY = [(name, extractor) for name, found in PRESETS.items() for extractor in found.features if not found.needs]


def resolve(name: str, **written: Any) -> Recipe:
    written.setdefault("weights", {"random": 0})
    return resolve_recipe(name, FeatureConfig.model_validate(written), ClipRule(), DecodeConfig())


@pytest.mark.parametrize(("name", "extractor"), READY)
def test_a_preset_is_its_keys_written_out(name: str, extractor: str) -> None:
    keys = written_out(extractor, PRESETS[name].features[extractor], {"weights": {"random": 0}})
    by_hand = resolve("mine", **keys)
    by_name = resolve("mine", preset=name, extractor=extractor)
    assert by_name.fingerprint == by_hand.fingerprint
    assert "preset" not in by_name.identity()


def test_keys_beside_a_preset_override_it() -> None:
    plain = resolve("i3d", preset="charades-i3d-vslnet")
    assert (plain.sampling.fps, plain.sampling.frames, plain.options["window_steps"]) == (24, 24, True)
    changed = resolve(
        "i3d",
        preset="charades-i3d-vslnet",
        layer="logits",
        sampling={"frames": 32, "step": 16},
        options={"fold_batch_norm": False},
        preprocess={"crop_rounding": None},
        weights={"random": 1, "card": "kinetics-rgb"},
        pooling="mean",
    )
    assert (changed.layer, changed.pooling, changed.weights.card) == ("logits", "mean", "kinetics-rgb")
    sampling = changed.sampling
    assert (sampling.fps, sampling.frames, sampling.step, sampling.tail) == (24, 32, 16, "before_last")
    assert (changed.options["window_steps"], changed.options["fold_batch_norm"]) == (True, False)
    assert changed.preprocess.crop_rounding is None


def test_what_an_override_makes_meaningless_goes() -> None:
    assert resolve("i3d", preset="charades-i3d-vslnet", sampling={"fps": None}).sampling.rounding is None
    drawn = resolve("resnet50", preset="semart-resnet50", sampling={"random_frames": 1})
    assert (drawn.sampling.fps, drawn.sampling.random_frames) == (None, 1)
    assert resolve("cpnet", preset="cpnet-kinetics", sampling={"step": 12}).sampling.uniform_windows is None


def test_a_preset_of_two_extractors_goes_by_the_features_name() -> None:
    assert resolve("rc3d", preset="map-ivr").layer == "fc6"
    assert resolve("vgg16", preset="map-ivr").sampling.random_frames == 1
    assert resolve("query", preset="map-ivr", extractor="vgg16").extractor == "vgg16"
    with pytest.raises(UsageError, match="query extractor: expected rc3d or vgg16, got query with preset: map-ivr"):
        resolve("query", preset="map-ivr")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"preset": "charades-lgi"}, "preset charades-lgi: .*did you mean 'charades-i3d-lgi'"),
        ({"preset": "video_features_i3d"}, "did you mean 'video-features-i3d'"),
        ({"preset": "cpnet-kinetics", "extractor": "i3d"}, "extractor: expected cpnet, got i3d"),
        ({"preset": "charades-i3d-lgi", "weights": None}, "weights: expected {file: PATH} or {random: SEED}"),
    ],
)
def test_what_is_refused(written: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve("mine", **written)


@pytest.mark.parametrize("name", [name for name, found in PRESETS.items() if found.needs])
def test_files_a_preset_cannot_name_are_asked_for(name: str) -> None:
    needed = PRESETS[name].needs[0].split(".")[1]
    with pytest.raises(UsageError, match=f"options {needed}: expected a value"):
        resolve("mine", preset=name)
    (extractor,) = PRESETS[name].features
    given: dict[str, Any] = {dotted.split(".")[1]: "columns" for dotted in PRESETS[name].needs}
    feature = FeatureConfig.model_validate({"preset": name, "options": given, "weights": {"random": 0}})
    written = expand("mine", feature)
    assert (written.extractor, written.options[needed]) == (extractor, "columns")


def test_each_says_where_it_is_from_and_what_it_is_for() -> None:
    for name, found in PRESETS.items():
        assert all((found.summary, found.source, found.rows, found.weights)), name
        assert all("\n" not in text for text in (found.summary, found.source, found.rows)), name
