"""ResNet-50 against its published size, a functional second reading of the paper, and torchvision where it is there."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from clipmill.extractors import registry
from clipmill.extractors.resnet50.network import ResNet50
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.torch_extractor import seeded
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import WeightsError
from clipmill.schemas.recipe import ClipRule, Recipe


@pytest.fixture(scope="module")
def network() -> ResNet50:
    """Random weights whose batch norms are not the identity."""
    found = seeded(0, lambda: ResNet50("logits")).eval()
    assert isinstance(found, ResNet50)
    generator = torch.Generator().manual_seed(1)
    for module in found.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2.0, generator=generator)  # type: ignore[union-attr]
            module.running_mean.normal_(0.0, 0.2, generator=generator)  # type: ignore[union-attr]
            module.weight.data.uniform_(0.3, 1.0, generator=generator)
            module.bias.data.normal_(0.0, 0.2, generator=generator)
    return found


def recipe(layer: str | None = None, file: Path | None = None, **options: bool) -> Recipe:
    weights = WeightsConfig(file=str(file), card="imagenet-v1") if file is not None else WeightsConfig(random=0)
    feature = FeatureConfig(layer=layer, weights=weights, options=options)
    return resolve_recipe("resnet50", feature, ClipRule(), DecodeConfig())


def test_parameters_and_keys_are_as_many_as_published() -> None:
    with torch.device("meta"):
        found = ResNet50()
    assert sum(parameter.numel() for parameter in found.parameters()) == 25_557_032
    # 53 convolutions, 53 batch norms of five tensors each (one of them the counter), one linear layer.
    assert len(found.state_dict()) == 53 + 53 * 5 + 2 == 320


def by_hand(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """ResNet-50 read off the state dict alone: which key exists decides the structure."""

    def unit(maps: Tensor, convolution: str, norm: str, stride: int, padding: int) -> Tensor:
        maps = functional.conv2d(maps, state[f"{convolution}.weight"], stride=stride, padding=padding)
        mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        scale = state[f"{norm}.weight"] / (var + 1e-5).sqrt()
        return maps * scale[:, None, None] + (state[f"{norm}.bias"] - mean * scale)[:, None, None]

    maps = unit(images, "conv1", "bn1", 2, 3).clamp(min=0)
    maps = functional.max_pool2d(functional.pad(maps, (1, 1, 1, 1), value=float("-inf")), 3, 2)
    for stage in range(1, 5):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in state:
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            inner = unit(maps, f"{name}.conv1", f"{name}.bn1", 1, 0).clamp(min=0)
            inner = unit(inner, f"{name}.conv2", f"{name}.bn2", stride, 1).clamp(min=0)
            inner = unit(inner, f"{name}.conv3", f"{name}.bn3", 1, 0)
            if f"{name}.downsample.0.weight" in state:
                maps = unit(maps, f"{name}.downsample.0", f"{name}.downsample.1", stride, 0)
            maps = (maps + inner).clamp(min=0)
            block += 1
    return maps.flatten(2).mean(2) @ state["fc.weight"].T + state["fc.bias"]


def test_the_network_is_its_state_dict_read_by_hand(network: ResNet50) -> None:
    images = torch.randn(2, 3, 65, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = by_hand(network.state_dict(), images)
        got = network(images)
    assert float((got - expected).norm() / expected.norm()) < 1e-5


def test_the_network_is_torchvisions(network: ResNet50) -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision is the second implementation")
    theirs = models.resnet50(weights=None).eval()
    theirs.load_state_dict(network.state_dict(), strict=True)
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert float((network(images) - theirs(images)).norm() / theirs(images).norm()) < 1e-5


def test_folding_batch_norm_changes_nothing_but_rounding(network: ResNet50) -> None:
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    folded = ResNet50("logits").eval()
    folded.load_state_dict(network.state_dict())
    folded.fold_batch_norm()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        expected = network(images)
        assert float((folded(images) - expected).norm() / expected.norm()) < 1e-5


def test_published_file_gives_features_and_logits(network: ResNet50, tmp_path: Path) -> None:
    path = tmp_path / "resnet50.pth"
    torch.save(network.state_dict(), path)
    frames: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64, 3), dtype=np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = torch.from_numpy(((frames[:, 0] / 255 - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = {"features": network.maps(images).mean((2, 3)).numpy(), "logits": network(images).numpy()}
    for layer, dim in (("features", 2048), ("logits", 1000)):
        found = recipe(layer, path, fold_batch_norm=layer == "logits")
        assert (found.weights.layout, found.dim) == ("resnet50_torchvision", dim)
        values = registry.build(found, "cpu").forward(frames)["values"]
        scale = float(np.abs(expected[layer]).max())
        np.testing.assert_allclose(values, expected[layer], rtol=0, atol=1e-4 * scale)


def test_a_fine_tuned_head_keeps_its_classes(tmp_path: Path) -> None:
    path = tmp_path / "tuned.pth"
    torch.save({"state_dict": seeded(0, lambda: ResNet50("logits", 7)).state_dict()}, path)
    found = recipe("logits", path)
    assert found.dim == 7
    frames = np.zeros((1, 1, 32, 32, 3), dtype=np.uint8)
    assert registry.build(found, "cpu").forward(frames)["values"].shape == (1, 7)


def test_a_wrong_file_says_which_keys(network: ResNet50, tmp_path: Path) -> None:
    state = dict(network.state_dict())
    del state["layer4.2.conv3.weight"]
    state["head.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(WeightsError, match=r"1 missing: layer4.2.conv3.weight; 1 unexpected: head.weight"):
        recipe(file=tmp_path / "wrong.pth")
