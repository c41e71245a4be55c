"""Recipes that differ only in their layer: one pass, and the bits each would have by itself."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clipmill.extractors import registry
from clipmill.extractors.base import Extractor
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.shared_pass import LastPass
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.recipe import ClipRule, Recipe

RC3D = {"options": {"form": "caffe-thumos14", "buffer_frames": 32}, "preprocess": {"resize_precision": None}}
I3D = {"sampling": {"frames": 18}, "preprocess": {"crop": [64, 64], "size": [72]}}
FRAMES = {
    "i3d": (2, 18, 64, 64, 3),
    "c3d": (1, 16, 112, 112, 3),
    "resnet50": (2, 1, 64, 64, 3),
    "squeezenet": (2, 1, 64, 64, 3),
    "vgg16": (2, 1, 64, 64, 3),
    "rc3d": (1, 32, 112, 112, 3),
}


def recipe(name: str, layer: str | None, **written: Any) -> Recipe:
    feature = FeatureConfig.model_validate({"weights": {"random": 0}, "layer": layer} | written)
    return resolve_recipe(name, feature, ClipRule(), DecodeConfig())


def noise(name: str, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, FRAMES[name], dtype=np.uint8)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "layers", "written"),
    [
        pytest.param("c3d", ["pool5", "fc6_before_relu", "fc6"], {}, marks=pytest.mark.slow),
        ("resnet50", ["features", "probabilities"], {}),
        ("squeezenet", ["logits", "features"], {}),
        ("vgg16", ["fc6_before_relu", "fc6", "conv5_3"], {}),
        ("i3d", ["features", "probabilities", "logits"], I3D),
        ("i3d", ["logits", "features"], I3D | {"options": {"window_steps": True}}),
        pytest.param("i3d", ["features", "logits"], I3D | {"runtime": "onnxruntime"}, marks=pytest.mark.slow),
        pytest.param("i3d", ["features", "logits"], I3D | {"runtime": "openvino"}, marks=pytest.mark.slow),
        pytest.param("rc3d", ["fc6", "detections"], RC3D | {"runtime": "openvino"}, marks=pytest.mark.slow),
        ("rc3d", ["fc6", "detections"], RC3D),
    ],
)
def test_layers_of_one_pass_have_the_bits_of_their_own(
    name: str, layers: list[str], written: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    num_built = 0
    build = registry.build

    def counted(recipe: Recipe, device: str) -> Extractor:
        nonlocal num_built
        num_built += 1
        return build(recipe, device)

    recipes = [recipe(name, layer, **written) for layer in layers]
    monkeypatch.setattr(registry, "build", counted)
    [group] = registry.groups(recipes)
    shared = registry.build_group(group, "cpu")
    assert num_built == 1
    frames = noise(name)
    found = {made.layer: extractor.forward(frames) for made, extractor in zip(group, shared, strict=True)}
    for made in recipes:
        alone = build(made, "cpu").forward(frames)
        assert alone.keys() == found[made.layer].keys()
        for key, values in alone.items():
            np.testing.assert_array_equal(found[made.layer][key], values, f"{made.layer} {key}")


def test_only_recipes_that_differ_in_their_layer_share() -> None:
    recipes = [
        recipe("squeezenet", "features"),
        recipe("squeezenet", "logits", weights={"random": 1}),
        recipe("squeezenet", "logits", precision="bfloat16"),
        recipe("squeezenet", "logits", runtime="onnxruntime"),
        recipe("squeezenet", "logits", sampling={"fps": 2}),
    ]
    assert registry.groups(recipes) == [[made] for made in recipes]
    pooled = recipe("squeezenet", "logits", pooling="mean", dtype="float16")
    assert registry.groups([recipes[0], pooled]) == [[pooled, recipes[0]]]


def test_a_batch_is_run_once_and_others_each() -> None:
    last = LastPass(lambda frames: int(frames.sum()))
    first, second = noise("squeezenet", 1), noise("squeezenet", 2)
    assert last(first) == last(first.copy()) == int(first.sum())
    assert last.num_runs == 1
    assert last(second) == int(second.sum())
    assert last(first[:1]) == int(first[:1].sum())
    assert last.num_runs == 3


def test_a_batch_that_failed_is_run_again() -> None:
    def run(frames: npt.NDArray[np.uint8]) -> int:
        if frames[0, 0, 0, 0, 0] == 0:
            raise ValueError("zero")
        return 1

    last = LastPass(run)
    frames = np.ones((1, 1, 2, 2, 3), dtype=np.uint8)
    assert last(frames) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="zero"):
            last(np.zeros_like(frames))
    assert last(frames) == 1
