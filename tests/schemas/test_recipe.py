"""Recipes: what belongs to their identity, what does not, and fingerprints that must never change."""

import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from clipmill.schemas.errors import ConfigError
from clipmill.schemas.fingerprint import fingerprint
from clipmill.schemas.model import validate
from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe, Sampling, ShotOptions, Weights


def c3d(**changes: Any) -> Recipe:
    base: dict[str, Any] = {
        "name": "c3d",
        "extractor": "c3d",
        "extractor_version": 1,
        "layer": "fc6",
        "dim": 4096,
        "weights": Weights(source="random(0)", seed=0, card="sports1m"),
        "sampling": Sampling(frames=16, step=8),
        "preprocess": Preprocess(resize="exact", size=(128, 171), crop=(112, 112), mean=(90.25, 97.66, 101.41)),
        "clips": ClipRule(),
    }
    return Recipe(**(base | changes))


def vgg16() -> Recipe:
    return Recipe(
        name="query",
        extractor="vgg16",
        extractor_version=1,
        layer="fc7",
        dim=4096,
        weights=Weights(source="file", file="vgg16.pth", sha256="ab" * 32, layout="vgg16_torchvision", card="imagenet"),
        sampling=Sampling(random_frames=1, seed=3),
        preprocess=Preprocess(
            resize="short_side",
            size=(256,),
            interpolation="bilinear_antialias",
            crop=(224, 224),
            scale=1 / 255,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        clips=ClipRule(**{"from": "windows", "length_seconds": 10.0}),
        pooling="mean_l2",
    )


@pytest.mark.parametrize(
    ("recipe", "golden"),
    [
        (c3d(), "2aefb130e438f1f67a8aececb598eddd"),
        (
            c3d(options={"pool5": "caffe"}, sampling=Sampling(fps=8, frames=16, tail="overlap")),
            "42bd4e709ce2361a1faa62b33edb9046",
        ),
        (vgg16(), "ce08c8fca503190a5373db7052bc34c8"),
    ],
    ids=["c3d", "c3d with options", "vgg16"],
)
def test_golden_fingerprints_never_change(recipe: Recipe, golden: str) -> None:
    """A change here makes every feature that anyone has stored be computed again."""
    assert recipe.fingerprint == golden
    assert recipe.key == f"{recipe.name}-{golden[:8]}"


def test_name_file_and_licence_are_not_part_of_the_identity() -> None:
    weights = Weights(source="file", file="a.pth", sha256="00" * 32, layout="l", card="c", licence="MIT")
    moved = weights.model_copy(update={"file": "/elsewhere/b.pth", "licence": None})
    assert c3d(weights=weights).fingerprint == c3d(weights=moved, name="motion").fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"extractor": "i3d"},
        {"extractor_version": 2},
        {"layer": "fc7"},
        {"dim": 487},
        {"dtype": "float16"},
        {"weights": Weights(source="random(1)", seed=1, card="sports1m")},
        {"weights": Weights(source="random(0)", seed=0, card="other")},
        {"sampling": Sampling(frames=16, step=16)},
        {"sampling": Sampling(frames=16, step=8, tail="repeat")},
        {"sampling": Sampling(frames=16, step=8, fps=25)},
        {"sampling": Sampling(frames=16, step=8, every=2)},
        {"preprocess": Preprocess(resize="exact", size=(128, 171), crop=(112, 112))},
        {"clips": ClipRule(**{"from": "annotations"})},
        {"options": {"flip": True}},
        {"pooling": "mean"},
        {"precision": "bfloat16"},
        {"decoder": "pyav"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_everything_else_is(changes: dict[str, Any]) -> None:
    assert c3d(**changes).fingerprint != c3d().fingerprint


def test_an_option_that_is_off_is_no_difference() -> None:
    assert c3d(options={"flip": False, "taps": [], "mode": None}).fingerprint == c3d().fingerprint


def test_a_recipe_survives_json() -> None:
    for recipe in (c3d(), vgg16()):
        again = Recipe.model_validate_json(recipe.model_dump_json(by_alias=True))
        assert again == recipe
        assert again.fingerprint == recipe.fingerprint


def test_a_recipe_is_frozen_and_strict() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        c3d().layer = "fc7"
    with pytest.raises(ValidationError, match="Extra inputs"):
        c3d(lajer="fc7")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"random_frames": 1, "fps": 1}, "expected either random_frames or a grid"),
        ({"random_frames": 1, "step": 4}, "expected either random_frames or a grid"),
        ({"fps": 0}, "greater than 0"),
        ({"frames": 0}, "greater than or equal to 1"),
        ({"every": 0}, "greater than or equal to 1"),
        ({"tail": "keep"}, "'drop', 'repeat', 'overlap', 'loop', 'before_last' or 'both_ways'"),
        ({"centred": True, "uniform_windows": 2}, "one of random_frames, uniform_windows and centred"),
        ({"uniform_windows": 2, "step": 4}, "uniform_windows has no step"),
        ({"centred": True, "tail": "both_ways"}, "tail: both_ways belongs to a grid of windows, got centred too"),
        ({"random_frames": 1, "frames_after": 1}, "frames_after belongs to a grid of windows, got random_frames too"),
        ({"tail": "before_last", "every": 2}, "takes every frame"),
        ({"tail": "both_ways", "first_frame": 2}, "starts at the clip's first frame"),
    ],
)
def test_sampling_refuses(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Sampling(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"resize": "exact", "size": (128,)}, "resize exact: expected 2 numbers in size"),
        ({"resize": "short_side", "size": (1, 2)}, "resize short_side: expected 1 numbers"),
        ({"size": (224, 224)}, "resize none: expected 0 numbers"),
        ({"resize": "exact", "size": (0, 171)}, r"expected positive numbers in size \[0, 171\]"),
        ({"crop": (112, -1)}, r"expected positive numbers in size \[\] and crop \[112, -1\]"),
        ({"crop": (112, 112), "crop_offset": (-1, 0)}, r"expected crop_offset of zero or more, got \[-1, 0\]"),
    ],
)
def test_preprocess_refuses(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Preprocess(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"from": "windows"}, "expected length_seconds, got none"),
        ({"from": "whole", "length_seconds": 3}, "belong to from: windows"),
        ({"from": "annotations", "tail": "keep"}, "belong to from: windows"),
        ({"from": "windows", "length_seconds": 0}, "greater than or equal to 0.01"),
        ({"from": "scenes"}, "'whole', 'windows', 'annotations' or 'shots'"),
        ({"from": "shots", "length_seconds": 3}, "belong to from: windows"),
        ({"from": "whole", "options": {"threshold": 0.3}}, "clips from whole: options belong to from: shots"),
        ({"from": "shots", "options": {"detector": "scenes"}}, "'histogram' or 'tracks'"),
        ({"from": "shots", "options": {"threshold": 1.0}}, "expected a distance from 0 to less than 1, got 1"),
        ({"from": "shots", "options": {"threshold": -1}}, "greater than or equal to 0"),
        (
            {"from": "shots", "options": {"detector": "tracks", "threshold": 0.5}},
            "expected a number of tracks, got 0.5",
        ),
        (
            {"from": "shots", "options": {"min_shot_seconds": 2, "max_shot_seconds": 3}},
            "at least twice min_shot_seconds",
        ),
        ({"from": "shots", "options": {"min_shot_seconds": -1}}, "greater than or equal to 0"),
    ],
)
def test_clip_rule_refuses(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClipRule(**kwargs)


def test_shots_write_their_defaults_into_the_rule_and_other_rules_have_no_options() -> None:
    shots = ClipRule.model_validate({"from": "shots"})
    assert shots.options == ShotOptions(detector="histogram", threshold=0.4, min_shot_seconds=0.5, version=1)
    tracks = ClipRule.model_validate({"from": "shots", "options": {"detector": "tracks"}})
    assert tracks.options is not None
    assert tracks.options.threshold == 1
    assert ClipRule.model_validate_json(shots.model_dump_json(by_alias=True)) == shots
    # As recipes written before there were shots have it.
    assert ClipRule.model_validate({"from": "whole", "options": {}}) == ClipRule()


@pytest.mark.parametrize("options", [{"detector": "tracks"}, {"threshold": 0.41}, {"min_shot_seconds": 1}])
def test_the_options_of_shots_are_part_of_the_fingerprint(options: dict[str, Any]) -> None:
    rules = [ClipRule.model_validate({"from": "shots", "options": given}) for given in ({}, options)]
    one, two = (fingerprint(rule.model_dump(mode="json", by_alias=True)) for rule in rules)
    assert one != two


def test_an_unknown_option_of_shots_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match="options.treshold: unknown key; did you mean 'threshold'"):
        validate(ClipRule, {"from": "shots", "options": {"treshold": 0.3}}, "config")


@pytest.mark.parametrize("copied", ["model_copy", "deep", "pickled"])
def test_a_copy_with_changes_has_a_fingerprint_of_its_own(copied: str) -> None:
    recipe = c3d()
    before = recipe.fingerprint
    changed = recipe.model_copy(update={"layer": "fc7"}, deep=copied == "deep")
    if copied == "pickled":
        changed = pickle.loads(pickle.dumps(changed))
    assert changed.fingerprint == c3d(layer="fc7").fingerprint != before
    assert recipe.fingerprint == before
    assert changed == c3d(layer="fc7")
