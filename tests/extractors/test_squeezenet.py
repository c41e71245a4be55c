"""SqueezeNet 1.0 with its real weights: what it sees in real frames, and its network by a second implementation."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from clipmill.extractors import registry
from clipmill.extractors.preprocess import apply_geometry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.torch_extractor import seeded
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.recipe import ClipRule, Recipe

REAL = "weights/squeezenet1_0_imagenet_decoded.pt"
CATS = {281, 282, 283, 284, 285}  # tabby, tiger cat, Persian, Siamese, Egyptian cat
TURTLES = {33, 34, 35, 36, 37}  # loggerhead, leatherback, mud turtle, terrapin, box turtle
OWL = {24}  # great grey owl
CROQUET_BALL = {522}  # a ball on a lawn; ImageNet's ball player (981) is in uniform


def resolve(shared_data: Path | None = None, **written: Any) -> Recipe:
    written.setdefault("weights", {"file": str(shared_data / REAL)} if shared_data is not None else {"random": 0})
    return resolve_recipe("squeezenet", FeatureConfig.model_validate(written), ClipRule(), DecodeConfig())


def frames_of(path: Path, shares: tuple[float, ...] = (0.1, 0.5, 0.9)) -> list[npt.NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [frames[int(share * (len(frames) - 1))] for share in shares]


def top(recipe: Recipe, frames: list[npt.NDArray[np.uint8]], count: int) -> list[set[int]]:
    """Returns the classes with the highest logits, per frame."""
    prepared = np.stack([apply_geometry(frame, recipe.preprocess) for frame in frames])[:, None]
    logits = np.asarray(registry.build(recipe, "cpu").forward(prepared)["values"])
    return [set(row[:count].tolist()) for row in np.argsort(-logits, axis=1)]


@pytest.mark.parametrize(
    ("clip", "classes"),
    [
        ("topics70/animals/0.mp4", CATS),
        ("topics70/animals/3.mp4", TURTLES),
        ("topics70/animals/5.mp4", OWL),
        ("ucf101/v_BaseballPitch_g01_c01.avi", CROQUET_BALL),
    ],
    ids=["cat", "turtle", "owl", "ball on a lawn"],
)
def test_real_frames_are_recognised(clip: str, classes: set[int], shared_data: Path) -> None:
    frames = frames_of(shared_data / "clips" / clip)
    assert all(found & classes for found in top(resolve(shared_data, layer="logits"), frames, 3))


def test_colours_the_wrong_way_round_would_be_noticed(shared_data: Path) -> None:
    recipes = {
        "right": resolve(shared_data, layer="logits"),
        "wrong": resolve(shared_data, layer="logits", preprocess={"colour": "rgb", "mean": [123.0, 117.0, 104.0]}),
    }
    hits = dict.fromkeys(recipes, 0)
    for clip, classes in ((0, CATS), (3, TURTLES), (5, OWL)):
        frames = frames_of(shared_data / "clips" / "topics70" / "animals" / f"{clip}.mp4")
        for name, recipe in recipes.items():
            hits[name] += sum(found <= classes for found in top(recipe, frames, 1))
    assert hits["right"] >= 2 * hits["wrong"] + 2, hits


def test_the_real_file_is_whole(shared_data: Path) -> None:
    state = torch.load(shared_data / REAL, weights_only=True)
    assert sum(value.numel() for value in state.values()) == 1_248_424
    recipe = resolve(shared_data)
    assert (recipe.weights.layout, recipe.preprocess.colour, recipe.preprocess.mean) == (
        "squeezenet1_0",
        "bgr",
        (104.0, 117.0, 123.0),
    )
    assert (recipe.preprocess.crop, recipe.preprocess.scale) == ((227, 227), 1.0)


def by_hand(state: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """The paper's table, read off the state dict: pools after conv1, fire4 and fire8 (places 2, 6 and 11)."""

    def convolution(x: Tensor, name: str, **options: int) -> Tensor:
        return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options).clamp(min=0)

    def pool(x: Tensor) -> Tensor:
        # Rounding up: one more window where 3 by 2 does not fit, on a border that never wins.
        padding = [(size - 3) % 2 for size in x.shape[2:]]
        return functional.max_pool2d(functional.pad(x, (0, padding[1], 0, padding[0]), value=-torch.inf), 3, 2)

    x = pool(convolution(images, "features.0", stride=2))
    for place in (3, 4, 5, 7, 8, 9, 10, 12):
        squeezed = convolution(x, f"features.{place}.squeeze")
        wide = convolution(squeezed, f"features.{place}.expand3x3", padding=1)
        x = torch.cat([convolution(squeezed, f"features.{place}.expand1x1"), wide], dim=1)
        x = pool(x) if place in (5, 10) else x
    return {"features": x.mean(dim=(2, 3)), "logits": convolution(x, "classifier.1").mean(dim=(2, 3))}


# 227 and 224: the pools round up differently.
@pytest.mark.parametrize("side", [227, 224, 231])
def test_the_network_is_the_published_one(side: int) -> None:
    network = seeded(0, lambda: SqueezeNet("logits")).eval()
    generator = torch.Generator().manual_seed(side)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0.0, 0.1, generator=generator)
    images = torch.randn((2, 3, side, side), generator=generator)
    with torch.inference_mode():
        expected = by_hand(network.state_dict(), images)
        for layer, values in expected.items():
            part = SqueezeNet(layer).eval()
            part.load_state_dict(network.state_dict())
            found = part(images)
            assert found.shape == values.shape
            assert float((found - values).abs().max() / values.abs().max()) < 1e-5
