"""Switches of networks: probabilities, values before ReLU, batch norm's epsilon, I3D's maps; against torch alone."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as functional

from clipmill.extractors import registry
from clipmill.extractors.c3d.network import C3D
from clipmill.extractors.i3d.network import InceptionI3D
from clipmill.extractors.resnet50.network import ResNet50
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.torch_extractor import seeded
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.recipe import ClipRule, Recipe

Floats = npt.NDArray[np.float32]
PLAIN = {"resize": "exact", "size": [32, 32], "crop": None}


def recipe(extractor: str, **written: Any) -> Recipe:
    written.setdefault("weights", {"random": 0})
    return resolve_recipe(extractor, FeatureConfig.model_validate(written), ClipRule(), DecodeConfig())


def values(found: Recipe, frames: npt.NDArray[np.uint8]) -> Floats:
    return np.asarray(registry.build(found, "cpu").forward(frames)["values"], dtype=np.float32)


def noise(*shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize(
    ("extractor", "more", "shape"),
    [
        ("squeezenet", {"preprocess": PLAIN}, (2, 1, 32, 32, 3)),
        ("resnet50", {"preprocess": PLAIN}, (2, 1, 32, 32, 3)),
        ("i3d", {"sampling": {"frames": 17}}, (1, 17, 32, 32, 3)),
        ("i3d", {"sampling": {"frames": 24, "step": 8}, "options": {"steps": True}}, (1, 24, 32, 32, 3)),
        ("i3d", {"sampling": {"frames": 18}, "options": {"stream": "both", "crop": 32}}, (1, 18, 32, 32, 3)),
        ("cpnet", {"sampling": {"frames": 4}}, (1, 4, 64, 64, 3)),
    ],
)
def test_probabilities_are_the_softmax_of_the_logits_row(
    extractor: str, more: dict[str, Any], shape: tuple[int, ...]
) -> None:
    frames = noise(*shape)
    logits = values(recipe(extractor, layer="logits", **more), frames)
    found = recipe(extractor, layer="probabilities", **more)
    assert found.dim == logits.shape[-1]
    np.testing.assert_allclose(values(found, frames), softmax(logits), rtol=0, atol=1e-5)


def test_a_files_classes_are_the_length_of_its_probabilities(tmp_path: Any) -> None:
    torch.save(seeded(0, lambda: ResNet50("logits", 7)).state_dict(), tmp_path / "w.pth")
    weights = {"file": str(tmp_path / "w.pth"), "card": "imagenet-v1"}
    assert recipe("resnet50", layer="probabilities", weights=weights).dim == 7


def test_values_before_relu_have_a_sign_and_become_the_layer() -> None:
    frames = noise(1, 16, 112, 112, 3)
    network = seeded(0, lambda: C3D("logits")).eval()
    for layer in ("fc6", "fc7"):
        before = values(recipe("c3d", layer=f"{layer}_before_relu"), frames)
        assert float(before.min()) < 0
        np.testing.assert_array_equal(np.maximum(before, 0), values(recipe("c3d", layer=layer), frames))
    # fc7's layer on what fc6 is after its ReLU.
    fc6 = torch.from_numpy(values(recipe("c3d", layer="fc6"), frames))
    with torch.inference_mode():
        expected = network.fc7(fc6).numpy()
    np.testing.assert_allclose(before, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))


def test_vgg16_before_relu() -> None:
    frames = noise(1, 1, 32, 32, 3)
    before = values(recipe("vgg16", layer="fc6_before_relu", preprocess=PLAIN), frames)
    after = values(recipe("vgg16", layer="fc6", preprocess=PLAIN), frames)
    assert float(before.min()) < 0
    np.testing.assert_array_equal(np.maximum(before, 0), after)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("extractor", ["resnet50", "i3d", "cpnet"])
def test_batch_norms_epsilon_is_the_one_asked_for(extractor: str, fold: bool) -> None:
    """Random weights have variance 1, so that each of n batch norms scales by (1 + eps) ** -0.5: a large one shows."""
    shape = {"resnet50": (1, 1, 32, 32, 3), "i3d": (1, 9, 32, 32, 3), "cpnet": (1, 4, 64, 64, 3)}[extractor]
    more: dict[str, Any] = {"preprocess": PLAIN} if extractor == "resnet50" else {"sampling": {"frames": shape[1]}}
    frames = noise(*shape)
    own = {"resnet50": 1e-5, "i3d": 1e-3, "cpnet": 1e-3}[extractor]
    default = recipe(extractor, options={"fold_batch_norm": fold}, **more)
    same = recipe(extractor, options={"fold_batch_norm": fold, "batch_norm_epsilon": own}, **more)
    other = recipe(extractor, options={"fold_batch_norm": fold, "batch_norm_epsilon": 0.05}, **more)
    assert len({default.fingerprint, same.fingerprint, other.fingerprint}) == 3
    found = values(default, frames)
    np.testing.assert_array_equal(values(same, frames), found)
    assert not np.allclose(values(other, frames), found, rtol=1e-2)


def test_video_features_epsilon_is_torchs_own() -> None:
    network = seeded(0, lambda: InceptionI3D("rgb")).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.eps = 1e-5
    frames = noise(1, 16, 32, 32, 3)
    clips = torch.from_numpy(frames.astype(np.float32) * (2 / 255) - 1).permute(0, 4, 1, 2, 3).contiguous()
    with torch.inference_mode():
        expected = network.features(clips).mean(2).numpy()
    found = recipe("i3d", sampling={"frames": 16}, options={"batch_norm_epsilon": 1e-5})
    np.testing.assert_allclose(values(found, frames), expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    ("block", "size"), [("Mixed_3c", (480, 9, 4, 5)), ("Mixed_4f", (832, 5, 2, 3)), ("Mixed_5c", (1024, 3, 1, 2))]
)
def test_i3ds_maps_are_the_blocks_output(block: str, size: tuple[int, ...]) -> None:
    preprocess = {"resize": "exact", "size": [32, 40], "crop": None}
    found = recipe("i3d", options={"maps": block}, sampling={"frames": 17}, preprocess=preprocess)
    assert (found.layer, found.dim) == ("maps", int(np.prod(size)))
    frames = noise(2, 17, 32, 40, 3)
    network = seeded(0, lambda: InceptionI3D("rgb")).eval()
    clips = torch.from_numpy(frames.astype(np.float32) * (2 / 255) - 1).permute(0, 4, 1, 2, 3).contiguous()
    with torch.inference_mode():
        expected = network.endpoint(clips, block)
    assert tuple(expected.shape[1:]) == size
    scale = float(expected.abs().max())
    np.testing.assert_allclose(values(found, frames), expected.flatten(1).numpy(), rtol=0, atol=1e-4 * scale)


def test_maps_pooled_are_the_features() -> None:
    frames = noise(1, 16, 64, 64, 3)
    maps = values(recipe("i3d", options={"maps": "Mixed_5c"}, sampling={"frames": 16}, preprocess=SQUARE), frames)
    pooled = functional.avg_pool3d(torch.from_numpy(maps).reshape(1, 1024, 2, 2, 2), 2).flatten(1).numpy()
    features = values(recipe("i3d", sampling={"frames": 16}, preprocess=SQUARE), frames)
    np.testing.assert_allclose(pooled, features, rtol=0, atol=1e-5 * float(features.max()))


SQUARE = {"resize": "exact", "size": [64, 64], "crop": None}


def test_maps_of_both_streams_stand_one_after_another_and_steps_have_none() -> None:
    found = recipe("i3d", options={"maps": "Mixed_5c", "stream": "both", "crop": 32}, sampling={"frames": 17})
    assert found.dim == 2048 * 2
    assert values(found, noise(1, 17, 32, 32, 3)).shape == (1, 4096)
    with pytest.raises(ClipmillError, match="maps: expected windows, got steps: true"):
        recipe("i3d", options={"maps": "Mixed_5c", "steps": True})
    with pytest.raises(ClipmillError, match="expected one size of frame, for maps of one length"):
        recipe("i3d", options={"maps": "Mixed_5c"}, preprocess={"crop": None})


# Of recipes before there were these switches.
FINGERPRINTS = [
    ("c3d", {}, "18b8d71b2988afccd81cb20d21bec7b7"),
    ("cpnet", {}, "4d1947c78d47f65b563ba27ca596e085"),
    ("i3d", {}, "c051a8bbe273f14a8e75714120952979"),
    ("i3d", {"stream": "flow"}, "f35181f7e101a25f884fd3012985a583"),
    ("rc3d", {}, "44127e47299343f9a25da8057cf0cf1d"),
    ("resnet50", {}, "0757b327d5912a00353ef80a8aa55266"),
    ("rmac", {}, "4a79a090187ae0137ebe59976c99d399"),
    ("squeezenet", {}, "c4682e9dfa797b6125fb703c8015f41e"),
    ("vgg16", {}, "12c58509b041db4052b09fe7b2474de1"),
]


@pytest.mark.parametrize(("extractor", "options", "fingerprint"), FINGERPRINTS)
def test_switches_left_alone_leave_recipes_alone(extractor: str, options: dict[str, Any], fingerprint: str) -> None:
    assert recipe(extractor, options=options).fingerprint == fingerprint
