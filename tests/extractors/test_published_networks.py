"""Networks of transformers, exported as its users do, against the network itself; run where it is installed."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.extractors import registry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import ClipRule, Recipe

transformers = pytest.importorskip("transformers")

# The width and heads of real ones at an eighth, two layers; the published shape in everything else.
SMALL = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 384}

NETWORKS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "vit": (lambda: transformers.ViTModel(transformers.ViTConfig(**SMALL)), (3, 224, 224)),
    "clip": (
        lambda: transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**SMALL, projection_dim=64, patch_size=32)
        ),
        (3, 224, 224),
    ),
    "dinov2": (lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, image_size=518)), (3, 224, 224)),
    "videomae": (lambda: transformers.VideoMAEModel(transformers.VideoMAEConfig(**SMALL)), (16, 3, 224, 224)),
}

CASES: list[tuple[str, str, dict[str, Any], Callable[[Any], torch.Tensor]]] = [
    ("vit", "pooler_output", {}, lambda out: out.pooler_output),
    ("vit", "last_hidden_state", {"pool": "cls"}, lambda out: out.last_hidden_state[:, 0]),
    ("clip", "image_embeds", {}, lambda out: out.image_embeds),
    (
        "dinov2",
        "last_hidden_state",
        {"pool": "mean", "skip_tokens": 1},
        lambda out: out.last_hidden_state[:, 1:].mean(1),
    ),
    ("dinov2", "pooler_output", {}, lambda out: out.pooler_output),
    ("videomae", "last_hidden_state", {"pool": "mean"}, lambda out: out.last_hidden_state.mean(1)),
]


@cache
def network(name: str) -> Any:
    torch.manual_seed(0)
    return NETWORKS[name][0]().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


def exported(folder: Path, name: str) -> Path:
    path = folder / f"{name}.pt2"
    if not path.exists():
        given = {"pixel_values": torch.zeros(2, *NETWORKS[name][1])}
        shapes = {"pixel_values": {0: torch.export.Dim("batch")}}
        torch.export.save(torch.export.export(network(name), (), given, dynamic_shapes=shapes), path)
    return path


def resolve(extractor: str, path: Path, **changes: Any) -> Recipe:
    preprocess = {"resize": "exact", "size": [224, 224], "scale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3}
    feature = FeatureConfig(weights=WeightsConfig(file=str(path)), preprocess=preprocess, **changes)
    return resolve_recipe(extractor, feature, ClipRule(), DecodeConfig())


def error(recipe: Recipe, name: str, expected: Callable[[Any], torch.Tensor]) -> float:
    """Returns the largest difference from the network's own rows, over the largest of these."""
    num_frames = NETWORKS[name][1][0] if len(NETWORKS[name][1]) == 4 else 1
    frames = np.random.default_rng(0).integers(0, 256, (2, num_frames, 224, 224, 3), dtype=np.uint8)
    given = ((torch.from_numpy(frames.astype(np.float32)) / 255 - 0.5) / 0.5).permute(0, 1, 4, 2, 3)
    with torch.inference_mode():
        wanted = expected(network(name)(pixel_values=given if num_frames > 1 else given[:, 0])).numpy()
    found = registry.build(recipe, "cpu").forward(frames)["values"]
    assert found.shape == wanted.shape == (2, recipe.dim)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(("name", "layer", "options", "expected"), CASES)
def test_a_program_gives_the_networks_rows(
    folder: Path, name: str, layer: str, options: dict[str, Any], expected: Callable[[Any], torch.Tensor]
) -> None:
    recipe = resolve("torch", exported(folder, name), layer=layer, options=options)
    assert recipe.sampling.frames == (16 if name == "videomae" else 1)
    assert error(recipe, name, expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "videomae"])
def test_an_onnx_file_of_pytorchs_newer_exporter_gives_the_networks_rows(folder: Path, name: str) -> None:
    pytest.importorskip("onnxscript")
    path = folder / f"{name}.onnx"
    given = {"pixel_values": torch.zeros(2, *NETWORKS[name][1])}
    shapes = {"pixel_values": {0: torch.export.Dim("batch")}}
    names = ["image_embeds", "last_hidden_state"] if name == "clip" else ["last_hidden_state"]
    torch.onnx.export(network(name), (), path, kwargs=given, dynamic_shapes=shapes, output_names=names, dynamo=True)
    layer, options, expected = next((case[1], case[2], case[3]) for case in CASES if case[0] == name)
    assert error(resolve("onnx", path, layer=layer, options=options), name, expected) < 1e-5
