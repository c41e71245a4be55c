"""VGG-16: its layouts, its network by a second implementation, and both flavours' preprocessing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from PIL import Image
from torch import Tensor

from clipmill.extractors import registry
from clipmill.extractors.preprocess import apply_geometry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.torch_extractor import TorchExtractor, empty, seeded
from clipmill.extractors.vgg16.layouts import layouts
from clipmill.extractors.vgg16.network import VGG16
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.recipe import ClipRule, Recipe
from tests.extractors.published_layouts import numbered_state, published

NAME = "vgg16_torchvision_imagenet1k"


def resolve(**written: Any) -> Recipe:
    written.setdefault("weights", {"random": 0})
    return resolve_recipe("vgg16", FeatureConfig.model_validate(written), ClipRule(), DecodeConfig())


def test_the_layout_is_torchvisions(shared_data: Path) -> None:
    layout = layouts()[0]
    assert layout.name == NAME
    found = {key: [size or 1000 for size in shape] for key, (_, shape) in layout.keys.items()}
    assert found == published(shared_data, NAME)
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in VGG16().parameters()) == 138_357_544


def test_caffes_layers_follow_each_other() -> None:
    layout = layouts()[1]
    assert len(layout.keys) == 32
    # The published prototxt: 2, 2, 3, 3, 3 convolutions, then three linear layers.
    assert layout.keys["conv1_1[0]"] == ("features.0.weight", (64, 3, 3, 3))
    assert layout.keys["conv3_1[0]"] == ("features.10.weight", (256, 128, 3, 3))
    assert layout.keys["conv5_3[1]"] == ("features.28.bias", (512,))
    assert layout.keys["fc6[0]"] == ("classifier.0.weight", (4096, 25088))
    assert layout.keys["fc8[1]"] == ("classifier.6.bias", (None,))


@pytest.mark.parametrize(
    ("layout", "card", "colour"), [(0, "imagenet-torchvision", "rgb"), (1, "imagenet-caffe", "bgr")]
)
def test_both_files_land_where_they_belong(layout: int, card: str, colour: str, tmp_path: Path) -> None:
    keys = {key: [size or 1000 for size in shape] for key, (_, shape) in layouts()[layout].keys.items()}
    torch.save(dict(numbered_state(keys)), tmp_path / "vgg16.pth")
    named = {"card": card} if layouts()[layout].others else {}
    recipe = resolve(layer="pool5", weights={"file": str(tmp_path / "vgg16.pth")} | named)
    assert (recipe.weights.layout, recipe.weights.card) == (layouts()[layout].name, card)
    assert recipe.preprocess.colour == colour
    extractor = registry.build(recipe, "cpu")
    assert isinstance(extractor, TorchExtractor)
    found = extractor.network.state_dict()
    assert len(found) == 26
    for index, (key, value) in enumerate(found.items()):
        assert bool((value == index + 1).all()), key


def by_hand(state: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """VGG-16 read off the state dict: a key two after the last is in the same block, one three after, pooled."""
    x, last = images, -2
    for index in sorted({int(key.split(".")[1]) for key in state if key.startswith("features")}):
        if index - last == 3:
            x = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).amax(dim=(3, 5))
        weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
        patches = functional.unfold(x, 3, padding=1)
        x = (weight.flatten(1) @ patches + bias[:, None]).reshape(len(x), -1, *x.shape[2:]).clamp(min=0)
        last = index
    found = {"conv5_3": x.flatten(1)}
    x = x.reshape(*x.shape[:2], 7, 2, 7, 2).amax(dim=(3, 5))
    found["pool5"] = x.flatten(1)
    found["fc6"] = (found["pool5"] @ state["classifier.0.weight"].T + state["classifier.0.bias"]).clamp(min=0)
    found["fc7"] = (found["fc6"] @ state["classifier.3.weight"].T + state["classifier.3.bias"]).clamp(min=0)
    found["logits"] = found["fc7"] @ state["classifier.6.weight"].T + state["classifier.6.bias"]
    return found


def test_the_network_is_the_published_one() -> None:
    network = seeded(0, lambda: VGG16("logits")).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0.0, 0.1, generator=generator)
    state = network.state_dict()
    images = torch.randn((1, 3, 224, 224), generator=generator)
    with torch.inference_mode():
        expected = by_hand(state, images)
        for layer, values in expected.items():
            part = empty(lambda wanted=layer: VGG16(wanted))  # type: ignore[misc]
            part.drop_unused()
            part.load_state_dict({key: value for key, value in state.items() if key in part.state_dict()})
            found = part.eval()(images)
            assert found.shape == values.shape
            assert float((found - values).abs().max() / values.abs().max()) < 1e-5, layer
            if layer != "logits":
                assert float(found.min()) == 0.0


@pytest.mark.parametrize(
    ("layer", "preprocess", "maps"),
    [
        ("pool5", {}, (512, 7, 7)),
        ("conv5_3", {}, (512, 14, 14)),
        ("pool5", {"crop": [64, 130]}, (512, 2, 4)),
        ("conv5_3", {"resize": "exact", "size": [50, 72], "crop": None}, (512, 3, 4)),
    ],
)
def test_maps_have_the_length_the_frames_size_gives(
    layer: str, preprocess: dict[str, Any], maps: tuple[int, int, int]
) -> None:
    recipe = resolve(layer=layer, preprocess=preprocess)
    assert recipe.dim == maps[0] * maps[1] * maps[2]
    if not preprocess:
        return
    frames = np.random.default_rng(0).integers(0, 256, (1, 1, 100, 300, 3), dtype=np.uint8)
    frames = apply_geometry(frames[0, 0], recipe.preprocess)[None, None]
    values = registry.build(recipe, "cpu").forward(frames)["values"]
    assert values.shape == (1, recipe.dim)
    if layer == "conv5_3":
        # The maps that one more pooling turns into pool5's, cell by cell.
        pooled = resolve(layer="pool5", preprocess=preprocess)
        expected = registry.build(pooled, "cpu").forward(frames)["values"].reshape(512, 1, 2)
        found = values.reshape(maps)[:, :2].reshape(512, 1, 2, 2, 2).max(axis=(2, 4))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_maps_of_frames_of_any_size_are_refused() -> None:
    with pytest.raises(UsageError, match=r"features.vgg16.preprocess crop: expected one size .*got frames of any"):
        resolve(layer="pool5", preprocess={"crop": None})


def test_maps_without_a_cell_are_refused() -> None:
    with pytest.raises(UsageError, match=r"expected at least 32 x 32 for layer pool5, got 224 x 31; enlarge it"):
        resolve(layer="pool5", preprocess={"crop": [224, 31]})


@pytest.fixture(scope="module")
def extractor() -> TorchExtractor:
    found = registry.build(resolve(layer="pool5"), "cpu")
    assert isinstance(found, TorchExtractor)
    return found


@pytest.mark.parametrize(("height", "width"), [(240, 320), (240, 426), (426, 240), (256, 455), (100, 130)])
def test_torchvisions_preprocessing_on_pillow_images(height: int, width: int, extractor: TorchExtractor) -> None:
    """torchvision's own two formulas, on Pillow: the long side is cut, the crop's corner rounds half to even."""
    frame = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(frame)
    short, long = sorted((height, width))
    far = int(256 * long / short)
    image = image.resize((256, far) if width <= height else (far, 256), Image.Resampling.BILINEAR)
    left, top = int(round((image.width - 224) / 2.0)), int(round((image.height - 224) / 2.0))
    cropped = np.asarray(image.crop((left, top, left + 224, top + 224)))
    found = apply_geometry(frame, resolve().preprocess)
    np.testing.assert_array_equal(found, cropped)
    scaled = (cropped / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    # Scale, mean and std are one multiplication and one addition in float32.
    np.testing.assert_allclose(
        extractor.prepare(found[None, None])[0].permute(1, 2, 0).numpy(), scaled, rtol=0, atol=2e-6
    )


def test_caffes_arithmetic() -> None:
    extractor = registry.build(resolve(layer="pool5", weights={"random": 0, "card": "imagenet-caffe"}), "cpu")
    assert isinstance(extractor, TorchExtractor)
    frames = np.random.default_rng(0).integers(0, 256, (1, 1, 224, 224, 3), dtype=np.uint8)
    # In RGB order, as the first convolution's input channels are reversed instead.
    expected = frames[0, 0] - np.array([123.68, 116.779, 103.939])
    np.testing.assert_allclose(extractor.prepare(frames)[0].permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-4)
