"""R-MAC's further forms: keras_rmac's matrix, R-MAC+'s resolutions, cnnimageretrieval's pools and scales."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as functional
from PIL import Image
from scipy.io import savemat

from clipmill.extractors import registry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.vgg16.build import network_of
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import UsageError, WeightsError
from clipmill.schemas.recipe import ClipRule, Recipe

Floats = npt.NDArray[np.float64]
FRAMES: npt.NDArray[np.uint8] = np.random.default_rng(3).integers(0, 256, (2, 1, 96, 160, 3), dtype=np.uint8)
KEPT = {"resize": "none", "size": []}


def recipe(layer: str = "descriptor", **options: Any) -> Recipe:
    written = {"weights": {"random": 0}, "layer": layer, "options": options, "preprocess": KEPT}
    return resolve_recipe("rmac", FeatureConfig.model_validate(written), ClipRule(), DecodeConfig())


def values(found: Recipe, frames: npt.NDArray[np.uint8] = FRAMES) -> Floats:
    return np.asarray(registry.build(found, "cpu").forward(frames)["values"], dtype=np.float64)


def unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def plain() -> Floats:
    return values(recipe("regions"))


def matrix(path: Path, size: int = 512) -> tuple[str, Floats, Floats]:
    """Writes weights and bias as keras_rmac publishes them: orthogonal rows of falling length."""
    generator = np.random.default_rng(5)
    rotation = np.linalg.qr(generator.normal(size=(512, 512)))[0][:size]
    weights = rotation * np.geomspace(100, 5, size)[:, None]
    bias = -weights @ generator.normal(0.02, 0.03, 512)
    savemat(path, {"weights": weights, "bias": bias[:, None]})
    return str(path), weights, bias


def test_keras_rmacs_matrix_is_a_whitening(plain: Floats, tmp_path: Path) -> None:
    path, weights, bias = matrix(tmp_path / "PCAmatrices.mat")
    found = recipe("regions", whitening=path, means="krmac")
    vectors = values(recipe("regions", means="krmac"))
    # Their Dense layer: x . weights' + bias, then unit length.
    expected = unit(vectors @ weights.T + bias)
    np.testing.assert_allclose(values(found), expected, rtol=0, atol=2e-4)
    descriptor = recipe(whitening=path, means="krmac")
    np.testing.assert_allclose(values(descriptor), unit(expected.sum(axis=1)), rtol=0, atol=2e-4)
    assert descriptor.dim == 512
    assert len(descriptor.options["whitening"]) == 32


def test_its_matrix_is_refused_for_what_it_was_not_fitted_on(tmp_path: Path) -> None:
    path, *_ = matrix(tmp_path / "PCAmatrices.mat")
    with pytest.raises(WeightsError, match="use Caffe's VGG-16 with means: krmac, or fit one"):
        recipe(whitening=path)
    with pytest.raises(WeightsError, match=r"one fitted on regions of this network \(network resnet50\)"):
        recipe(whitening=path, network="resnet50")
    savemat(tmp_path / "other.mat", {"weights": np.ones((3, 4))})
    with pytest.raises(WeightsError, match="expected weights .* as in keras_rmac's PCAmatrices.mat, got 'bias'"):
        recipe(whitening=str(tmp_path / "other.mat"), means="krmac")
    (tmp_path / "cut.mat").write_bytes(Path(path).read_bytes()[:1000])
    with pytest.raises(WeightsError, match="whitening .*: expected weights"):
        recipe(whitening=str(tmp_path / "cut.mat"), means="krmac")


def resized(factor: float, kind: Image.Resampling) -> npt.NDArray[np.uint8]:
    """Pillow's resize of each frame to ``round(side + side * delta)``, as R-MAC+'s code has it."""
    size = (round(160 + 160 * (factor - 1)), round(96 + 96 * (factor - 1)))
    return np.stack([np.asarray(Image.fromarray(window[0]).resize(size, kind)) for window in FRAMES])[:, None]


@pytest.mark.parametrize("kind", ["nearest", "bicubic"])
def test_resolutions_are_in_one_sum_with_all_their_regions(kind: str) -> None:
    form = {"grid": "rmac_plus", "mac": True}
    filters = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}
    each = [values(recipe("regions", **form), resized(factor, filters[kind])) for factor in (1, 0.75, 1.25)]
    assert [part.shape[1] for part in each] == [15, 15, 15]
    expected = np.concatenate(each, axis=1)
    more = {} if kind == "nearest" else {"resolutions_filter": kind}
    together = recipe("regions", **form, resolutions=[1, 0.75, 1.25], **more)
    np.testing.assert_allclose(values(together), expected, rtol=0, atol=1e-5)
    descriptor = recipe(**form, resolutions=[1, 0.75, 1.25], **more)
    np.testing.assert_allclose(values(descriptor), unit(expected.sum(axis=1)), rtol=0, atol=1e-5)
    assert registry.card_of(together).layer("regions").rows_per_window == 45


def cnnimageretrieval(pool: str, scales: list[float], power: float) -> Floats:
    """That code's network and extract_ms: VGG-16 without its last pool, pool, unit length, scales by a power mean."""
    network = network_of(recipe(), "conv5_3").eval()
    bgr = FRAMES[:, 0, :, :, ::-1] - np.array([103.939, 116.779, 123.68])
    images = torch.from_numpy(bgr.astype(np.float32)).permute(0, 3, 1, 2)
    total = torch.zeros(len(FRAMES), 512)
    with torch.inference_mode():
        for scale in scales:
            given = images
            if scale != 1:
                given = functional.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
            maps = network.features[:-1](given)
            if pool == "mac":
                pooled = functional.max_pool2d(maps, maps.shape[2:]).flatten(1)
            elif pool == "spoc":
                pooled = functional.avg_pool2d(maps, maps.shape[2:]).flatten(1)
            else:
                pooled = functional.avg_pool2d(maps.clamp(min=1e-6).pow(3), maps.shape[2:]).pow(1 / 3).flatten(1)
            total += functional.normalize(pooled).pow(power)
        return np.asarray(functional.normalize((total / len(scales)).pow(1 / power)).double().numpy())


@pytest.mark.parametrize(
    ("pool", "scales", "power"),
    [
        ("mac", [1.0], 1.0),
        ("spoc", [1.0], 1.0),
        ("gem", [1.0], 1.0),
        ("gem", [1.0, 2**-0.5, 0.5], 1.0),
        ("gem", [1.0, 2**-0.5, 0.5], 3.0),
        ("mac", [1.0, 0.5], 2.0),
    ],
)
def test_pools_and_scales_are_cnnimageretrievals(pool: str, scales: list[float], power: float) -> None:
    options: dict[str, Any] = {"pool": pool, "last_pool": False}
    if len(scales) > 1:
        options |= {"scales": scales, "scale_power": power}
    expected = cnnimageretrieval(pool, scales, power)
    np.testing.assert_allclose(values(recipe(**options)), expected, rtol=0, atol=1e-5)


def test_another_power_of_gem_and_scales_of_regions() -> None:
    one = values(recipe(pool="gem", gem_power=1.0))
    np.testing.assert_allclose(one, values(recipe(pool="spoc")), rtol=0, atol=1e-5)
    both = values(recipe(scales=[1.0, 0.75]))
    smaller = functional.interpolate(
        torch.from_numpy(FRAMES[:, 0].astype(np.float32)).permute(0, 3, 1, 2), scale_factor=0.75, mode="bilinear"
    )
    assert smaller.shape[2:] == (72, 120)
    assert not np.allclose(both, values(recipe()), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        ("descriptor", {"scales": [1.0], "resolutions": [1.0]}, "expected resolutions or scales, got both"),
        ("regions", {"pool": "gem"}, "expected none for layer regions, got gem"),
        ("regions", {"scales": [1.0, 0.5]}, "expected layer: descriptor, as scales combine descriptors"),
    ],
)
def test_forms_that_do_not_go_together(layer: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe(layer, **options)
