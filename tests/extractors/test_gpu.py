"""The same rows on a GPU as on the CPU, up to the order of sums, for every extractor; run where there is a GPU."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clipmill.extractors import registry
from clipmill.extractors.base import QueueingExtractor
from clipmill.extractors.preprocess import output_shape
from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.features.extraction import resolve_device
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import ClipRule, Recipe
from tests.extractors.registered import recipe as default_recipe

# Measured on the CPU between one and many threads: 1e-6; a GPU's sums are ordered differently again.
RELATIVE_TOLERANCE = 1e-4

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


def noise(name: str) -> tuple[Recipe, npt.NDArray[np.uint8]]:
    recipe = default_recipe(name)
    if recipe.weights.file is None:
        recipe = resolve_recipe(name, FeatureConfig(weights=WeightsConfig(random=0)), ClipRule(), DecodeConfig())
    if name == "onnx" and "CUDAExecutionProvider" not in pytest.importorskip("onnxruntime").get_available_providers():
        pytest.skip("onnxruntime has no CUDA here")
    height, width, channels = output_shape(recipe.preprocess, 240, 320)
    shape = (2, recipe.sampling.frames or 1, height, width, channels)
    return recipe, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", registry.names())
def test_a_gpu_gives_the_rows_of_the_cpu(name: str) -> None:
    recipe, frames = noise(name)
    outputs = [registry.build(recipe, resolve_device(device, 2)).forward(frames) for device in ("cpu", "cuda")]
    # Proposals with nearly equal scores may change places: R-C3D is held to its scores, in order.
    key = "score" if name == "rc3d" else "values"
    cpu, gpu = (output[key].astype(np.float64).reshape(len(frames), -1) for output in outputs)
    difference = np.linalg.norm(cpu - gpu, axis=1) / np.linalg.norm(cpu, axis=1)
    assert difference.max() < RELATIVE_TOLERANCE


@pytest.mark.parametrize("name", registry.names())
def test_a_gpu_gives_the_same_bytes_twice(name: str) -> None:
    recipe, frames = noise(name)
    first, second = (registry.build(recipe, "cuda").forward(frames) for _ in range(2))
    for key, values in first.items():
        assert values.tobytes() == second[key].tobytes(), key


@pytest.mark.parametrize("name", registry.names())
def test_a_gpu_gives_a_window_the_same_bits_at_every_place(name: str) -> None:
    recipe, frames = noise(name)
    windows = np.concatenate([frames, 255 - frames])
    extractor = registry.build(recipe, "cuda")
    full = extractor.forward(windows)
    for order in ([3, 0, 1, 2], [1, 1, 1, 1]):
        outputs = extractor.forward(windows[order])
        for place, window in enumerate(order):
            count = int(full["num_valid"][window]) if "num_valid" in full else None
            for key, values in full.items():
                expected, got = values[window], outputs[key][place]
                if count is not None and expected.ndim:
                    expected, got = expected[:count], got[:count]
                assert got.tobytes() == expected.tobytes(), f"{key} of window {window} at {place}"


@pytest.mark.parametrize("name", [name for name in registry.names() if name != "tracks"])
def test_a_queued_batch_has_the_bytes_of_a_forward_pass(name: str) -> None:
    recipe, frames = noise(name)
    extractor = registry.build(recipe, "cuda")
    assert isinstance(extractor, QueueingExtractor)
    assert extractor.queues
    # The frames may be gone once they are submitted, and more is submitted before the first is waited for.
    batches = [frames, 255 - frames, frames // 2]
    given = [batch.copy() for batch in batches]
    waiting = [extractor.submit(batch) for batch in given]
    given[0][:] = 0
    for outputs, batch in zip(waiting, batches, strict=True):
        found, expected = outputs(), extractor.forward(batch)
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            assert found[key].tobytes() == values.tobytes(), key
