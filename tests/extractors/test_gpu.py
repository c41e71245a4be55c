"""The same rows on a GPU as on the CPU, up to the order of sums; run where there is a GPU."""

import numpy as np
import pytest
import torch

from extractors import registry
from extractors.preprocess import output_shape
from extractors.resolve import resolve_recipe
from pipelines.features.extraction import resolve_device
from schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from schemas.recipe import ClipRule

# Measured on the CPU between one and many threads: 1e-6; a GPU's sums are ordered differently again.
RELATIVE_TOLERANCE = 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", ["c3d", "resnet50", "squeezenet", "vgg16"])
def test_a_gpu_gives_the_rows_of_the_cpu(name: str) -> None:
    recipe = resolve_recipe(name, FeatureConfig(weights=WeightsConfig(random=0)), ClipRule(), DecodeConfig())
    height, width, channels = output_shape(recipe.preprocess, 240, 320)
    shape = (2, recipe.sampling.frames or 1, height, width, channels)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    rows = [
        registry.build(recipe, resolve_device(device, 2)).forward(frames)["values"].astype(np.float64)
        for device in ("cpu", "cuda")
    ]
    difference = np.linalg.norm(rows[0] - rows[1], axis=1) / np.linalg.norm(rows[0], axis=1)
    assert difference.max() < RELATIVE_TOLERANCE
