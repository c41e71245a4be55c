"""Averaged crops against a re-reading of torchvision's ten-crop and CPNet's six, and through a network."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from clipmill.extractors import registry
from clipmill.extractors.crops import AveragedCrops, cut
from clipmill.extractors.resolve import resolve_recipe
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe


def noise(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def recipe(preprocess: dict[str, Any]) -> Recipe:
    feature = FeatureConfig(preprocess=preprocess, weights=WeightsConfig(random=0))
    return resolve_recipe("squeezenet", feature, ClipRule(), DecodeConfig())


@pytest.mark.parametrize("size", [(240, 320), (241, 333), (224, 224)])
def test_ten_crops_are_torchvisions(size: tuple[int, int]) -> None:
    frames = noise(2, 3, *size, 3)
    found = cut(frames, Preprocess(crop=(224, 224), crop_rounding="half_even", crops="ten"))
    top, left = int(round((size[0] - 224) / 2.0)), int(round((size[1] - 224) / 2.0))
    expected = []
    for image in (frames, np.flip(frames, axis=3)):
        expected += [image[:, :, :224, :224], image[:, :, :224, size[1] - 224 :]]
        expected += [image[:, :, top : top + 224, left : left + 224]]
        expected += [image[:, :, size[0] - 224 :, :224], image[:, :, size[0] - 224 :, size[1] - 224 :]]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("size", [(112, 148), (148, 112), (112, 199), (112, 112)])
def test_six_crops_are_cpnets(size: tuple[int, int]) -> None:
    video = noise(1, 2, *size, 3)
    height, width = size
    if height > width:
        fifth = (height - 112) // 5
        rows = [slice(0, 112), slice(height - 112, None), *(slice(fifth * k, fifth * k + 112) for k in (1, 2, 3, 4))]
        expected = [video[:, :, row] for row in rows]
    else:
        fifth = (width - 112) // 5
        columns = [slice(0, 112), slice(width - 112, None), *(slice(fifth * k, fifth * k + 112) for k in (1, 2, 3, 4))]
        expected = [video[:, :, :, column] for column in columns]
    found = cut(video, Preprocess(crop=(112, 112), crop_rounding="half_even", crops="six"))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_row_is_the_mean_of_its_crops_rows() -> None:
    keys: dict[str, Any] = {"resize": "exact", "size": [40, 52], "crop": [32, 32]}
    averaged = registry.build(recipe(keys | {"crops": "ten"}), "cpu")
    one = registry.build(recipe(keys), "cpu")
    assert isinstance(averaged, AveragedCrops)
    frames = noise(2, 1, 40, 52, 3)
    rows = []
    for source in (frames, np.flip(frames, 3)):
        for top, left in ((0, 0), (0, 20), (4, 10), (8, 0), (8, 20)):
            rows.append(one.forward(np.ascontiguousarray(source[:, :, top : top + 32, left : left + 32]))["values"])
    found = averaged.forward(frames)["values"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.mean(rows, axis=0), rtol=1e-5)
    assert np.abs(found - rows[2]).max() > 1e-3


def test_crops_of_a_frame_in_float32_have_its_fractions() -> None:
    keys: dict[str, Any] = {"resize": "exact", "size": [40, 52], "crop": [32, 32]}
    fine = recipe(keys | {"crops": "ten", "resize_precision": "float32"})
    values = np.random.default_rng(0).uniform(0, 255, (1, 1, 40, 52, 3)).astype(np.float32)
    found = registry.build(fine, "cpu").forward(values.view(np.uint8))["values"]
    one = registry.build(recipe(keys | {"resize_precision": "float32"}), "cpu")
    rows = [
        one.forward(np.ascontiguousarray(source[:, :, top : top + 32, left : left + 32]).view(np.uint8))["values"]
        for source in (values, np.flip(values, 3))
        for top, left in ((0, 0), (0, 20), (4, 10), (8, 0), (8, 20))
    ]
    np.testing.assert_allclose(found, np.mean(rows, axis=0), rtol=1e-5)
