"""What all networks share: seeded weights, channel order, precision, batches, devices."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from clipmill.extractors import registry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.torch_extractor import (
    TorchExtractor,
    affine,
    make_arithmetic_exact,
    reverse_input_channels,
    seeded,
)
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe

ROOT = Path(__file__).resolve().parents[2]


def resolve(**written: Any) -> Recipe:
    written.setdefault("weights", {"random": 0})
    return resolve_recipe("squeezenet", FeatureConfig.model_validate(written), ClipRule(), DecodeConfig())


def noise(num_windows: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (num_windows, 1, 227, 227, 3), dtype=np.uint8)


DIGEST = """
import hashlib
from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.torch_extractor import seeded
total = hashlib.sha256()
for value in seeded(3, SqueezeNet).state_dict().values():
    total.update(value.numpy().tobytes())
print(total.hexdigest())
"""


def test_random_weights_are_a_function_of_the_seed_alone() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", prelude + DIGEST], cwd=ROOT, capture_output=True, text=True, check=True, timeout=280
        ).stdout
        for prelude in ("", "import torch; torch.manual_seed(99); torch.set_num_threads(2); torch.rand(7)\n")
    }
    assert len(found) == 1


def test_random_weights_leave_torchs_own_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = seeded(0, SqueezeNet), seeded(1, SqueezeNet)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_random_weights_have_hes_scale_and_zero_biases() -> None:
    network = seeded(0, lambda: nn.Sequential(nn.Conv2d(64, 256, 3), nn.BatchNorm2d(256), nn.Linear(512, 1024)))
    convolution, norm, linear = network
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(linear, nn.Linear)
    assert float(convolution.weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert float(linear.weight.detach().std()) == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert not convolution.bias.any()  # type: ignore[union-attr]
    assert norm.running_var is not None
    assert norm.running_mean is not None
    assert bool((norm.weight == 1).all())
    assert bool((norm.running_var == 1).all())
    assert not norm.running_mean.any()


@pytest.mark.parametrize("name", ["c3d", "vgg16", "squeezenet"])
def test_features_of_random_weights_do_not_vanish(name: str) -> None:
    recipe = resolve_recipe(name, FeatureConfig.model_validate({"weights": {"random": 5}}), ClipRule(), DecodeConfig())
    rows, columns = recipe.preprocess.crop or (0, 0)
    shape = (1, recipe.sampling.frames or 1, rows, columns, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    values = np.asarray(registry.build(recipe, "cpu").forward(frames)["values"])
    assert 0.2 < float((values > 0).mean()) < 0.99
    assert 0.1 < float(values.std()) < 1e4


def test_bgr_weights_take_rgb_frames() -> None:
    """Reversing the input channels of the first convolution is reversing every frame."""
    frames = noise(2)
    bgr = registry.build(resolve(), "cpu").forward(frames)["values"]
    turned = {"colour": "rgb", "mean": [104.0, 117.0, 123.0]}
    rgb = registry.build(resolve(preprocess=turned), "cpu")
    np.testing.assert_allclose(rgb.forward(frames[..., ::-1].copy())["values"], bgr, rtol=1e-4, atol=1e-3)
    assert not np.allclose(rgb.forward(frames)["values"], bgr, rtol=1e-2)


def test_reversing_touches_the_input_axis_only() -> None:
    convolution = nn.Conv3d(3, 4, 2)
    before = convolution.weight.detach().clone()
    reverse_input_channels(convolution)
    for channel in range(3):
        assert torch.equal(convolution.weight[:, channel], before[:, 2 - channel])


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_affine_is_scale_mean_std_in_rgb_order(colour: Any) -> None:
    preprocess = Preprocess(colour=colour, scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    scale, shift = affine(preprocess, 5)
    assert scale.shape == shift.shape == (1, 3, 1, 1, 1)
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    if colour == "bgr":
        mean, std = mean[::-1], std[::-1]
    found = 200 * scale.flatten().numpy() + shift.flatten().numpy()
    np.testing.assert_allclose(found, (200 / 255 - mean) / std, rtol=1e-6)


def test_a_batch_of_any_size_even_of_none() -> None:
    extractor = registry.build(resolve(), "cpu")
    frames = noise(5)
    together = extractor.forward(frames)["values"]
    assert together.dtype == np.float32
    for size in (1, 2, 4):
        values = extractor.forward(frames[:size])["values"]
        np.testing.assert_allclose(values, together[:size], rtol=0, atol=1e-5 * float(np.abs(together).max()))
    assert extractor.forward(frames[:0])["values"].shape == (0, 512)


def test_frames_are_not_written_to() -> None:
    extractor = registry.build(resolve(preprocess={"scale": 0.5}), "cpu")
    frames = noise(1)
    kept = frames.copy()
    first = extractor.forward(frames)["values"]
    np.testing.assert_array_equal(frames, kept)
    frames.flags.writeable = False
    np.testing.assert_array_equal(extractor.forward(frames)["values"], first)


# bfloat16 has 8 bits and float16 11: their rounding errors over a few dozen layers. A CPU without their
# instructions warns.
@pytest.mark.filterwarnings("ignore::clipmill.extractors.precision.SlowPrecisionWarning")
@pytest.mark.parametrize(("precision", "most"), [("bfloat16", 3e-2), ("float16", 5e-3)])
def test_lower_precision_is_close_and_is_float32_again(precision: str, most: float) -> None:
    frames = noise(2)
    # Scaled down, so that float16's largest number is far away.
    small = {"scale": 1 / 128, "mean": [0.8, 0.9, 1.0]}
    exact = registry.build(resolve(preprocess=small), "cpu").forward(frames)["values"]
    extractor = registry.build(resolve(preprocess=small, precision=precision), "cpu")
    assert isinstance(extractor, TorchExtractor)
    assert next(extractor.network.parameters()).dtype == getattr(torch, precision)
    values = extractor.forward(frames)["values"]
    assert values.dtype == np.float32
    error = float(np.linalg.norm(values - exact) / np.linalg.norm(exact))
    assert 0 < error < most


def test_float32_means_float32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    make_arithmetic_exact()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.deterministic


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    frames = noise(3)
    expected = np.asarray(registry.build(resolve(), "cpu").forward(frames)["values"])
    values = registry.build(resolve(), "cuda").forward(frames)["values"]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))
