"""R-C3D's further releases: Charades in Caffe, 3D ResNets in PyTorch; layouts, network and rows."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from clipmill.extractors import registry
from clipmill.extractors.rc3d.layouts import layouts
from clipmill.extractors.rc3d.network import RC3D
from clipmill.extractors.rc3d.releases import RELEASES
from clipmill.extractors.rc3d.resnet import Stage, Trunk, head_features
from clipmill.extractors.rc3d.training import parameter_groups
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.torch_extractor import seeded
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import WeightsError
from clipmill.schemas.recipe import ClipRule, Recipe

FRAMES: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (1, 16, 112, 112, 3), dtype=np.uint8)


def recipe(form: str, file: Path | None = None, layer: str | None = None) -> Recipe:
    weights = {"file": str(file)} if file is not None else {"random": 0}
    written = {"options": {"form": form, "buffer_frames": 16, "top": 4}, "weights": weights, "layer": layer}
    return resolve_recipe("rc3d", FeatureConfig.model_validate(written), ClipRule(), DecodeConfig())


def layout_of(form: str) -> dict[str, tuple[int | None, ...]]:
    name = "rc3d_" + form.replace("-", "_")
    layout = next(layout for layout in layouts() if layout.name == name)
    return {key: shape for key, (_, shape) in layout.keys.items()}


def test_charades_has_the_prototxts_layers() -> None:
    """experiments/charades/test/test.prototxt: 18 anchors, one proposal convolution, fc7, 157 classes and one more."""
    found = layout_of("caffe-charades")
    assert len(found) == 2 * (8 + 3 + 2 + 2)
    assert found["rpn_conv/3x3[0]"] == (512, 512, 3, 3, 3)
    assert found["rpn_cls_score[0]"] == found["rpn_twin_pred[0]"] == (36, 512, 1, 1, 1)
    assert found["fc6[0]"] == (4096, 8192)
    assert found["fc7[1]"] == (4096,)
    assert (found["cls_score[0]"], found["twin_pred[0]"]) == ((158, 4096), (316, 4096))
    assert "rpn_conv/3x3_2[0]" not in found


@pytest.mark.parametrize(
    ("form", "anchors", "classes", "blocks", "channels"),
    [
        ("pytorch-activitynet-resnet18", 37, 201, (2, 2, 2, 2), 512),
        ("pytorch-thumos14-resnet34", 10, 21, (3, 4, 6, 3), 512),
        ("pytorch-activitynet-resnet50", 37, 201, (3, 4, 6, 3), 2048),
    ],
)
def test_resnets_are_named_as_the_release_names_them(
    form: str, anchors: int, classes: int, blocks: tuple[int, ...], channels: int
) -> None:
    """RCNN_base holds the ResNet's children in a row (ReLU and pool have no tensors), RCNN_top its fourth stage."""
    found = layout_of(form)
    deep = channels == 2048
    convolutions = 3 if deep else 2
    shortcuts = 4 if deep else 0
    num_units = 1 + convolutions * sum(blocks) + shortcuts
    # Each unit is a convolution and the four tensors of a batch norm; then five layers with weight and bias, one more
    # of the two proposal convolutions.
    assert len(found) == 5 * num_units + 2 * 6
    assert found["RCNN_base.0.weight"] == (64, 3, 7, 7, 7)
    assert found["RCNN_base.1.running_var"] == (64,)
    assert found["RCNN_base.4.0.conv1.weight"] == ((64, 64, 1, 1, 1) if deep else (64, 64, 3, 3, 3))
    assert found[f"RCNN_base.6.{blocks[2] - 1}.bn{convolutions}.bias"] == (channels // 2,)
    assert found[f"RCNN_top.0.{blocks[3] - 1}.conv2.weight"] == (512, 512, 3, 3, 3)
    assert ("RCNN_top.0.0.downsample.0.weight" in found) == deep
    assert found["RCNN_rpn.RPN_Conv1.weight"] == (512, channels // 2, 3, 3, 3)
    assert found["RCNN_rpn.RPN_cls_score.bias"] == (2 * anchors,)
    assert (found["RCNN_cls_score.weight"], found["RCNN_twin_pred.bias"]) == ((classes, channels), (2 * classes,))


def by_hand(state: dict[str, Tensor], prefix: str, maps: Tensor, stride: int) -> Tensor:
    """One block, read off its tensors; the shortcut of 18 and 34 as the release writes it: average pool, then zeros."""

    def unit(x: Tensor, index: int, step: int) -> Tensor:
        weight = state[f"{prefix}.conv{index}.weight"]
        x = functional.conv3d(x, weight, stride=step, padding=weight.shape[-1] // 2)
        norm = [state[f"{prefix}.bn{index}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *norm)

    num = 3 if f"{prefix}.conv3.weight" in state else 2
    x = maps
    for index in range(1, num + 1):
        at = 2 if num == 3 else 1
        x = unit(x, index, stride if index == at else 1)
        x = x.clamp(min=0) if index < num else x
    if f"{prefix}.downsample.0.weight" in state:
        maps = functional.conv3d(maps, state[f"{prefix}.downsample.0.weight"], stride=stride)
        names = ("running_mean", "running_var", "weight", "bias")
        maps = functional.batch_norm(maps, *[state[f"{prefix}.downsample.1.{name}"] for name in names])
    elif maps.shape != x.shape:
        maps = functional.avg_pool3d(maps, 1, stride)
        maps = torch.cat([maps, torch.zeros(x.shape[0], x.shape[1] - maps.shape[1], *x.shape[2:])], dim=1)
    return (x + maps).clamp(min=0)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_the_resnets_are_the_releases(depth: int) -> None:
    trunk, top = seeded(0, lambda: Trunk(depth)).eval(), seeded(1, lambda: Stage(depth, 3, 2)).eval()
    generator = torch.Generator().manual_seed(2)
    for module in (trunk, top):
        for name, value in module.state_dict().items():
            if "running_var" in name or (".bn" in name and name.endswith("weight")):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith(("running_mean", "bias")):
                value.normal_(0.0, 0.1, generator=generator)
    clip = torch.randn(1, 3, 8, 32, 32, generator=generator)
    state = trunk.state_dict()
    with torch.inference_mode():
        x = functional.conv3d(clip, state["conv1.weight"], stride=(1, 2, 2), padding=3)
        names = ("running_mean", "running_var", "weight", "bias")
        x = functional.batch_norm(x, *[state[f"bn1.{name}"] for name in names]).clamp(min=0)
        x = functional.max_pool3d(x, 3, 2, padding=1)
        for stage in (1, 2, 3):
            num = len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
            for block in range(num):
                x = by_hand(state, f"layer{stage}.{block}", x, 2 if block == 0 and stage > 1 else 1)
        maps = trunk(clip)
        assert tuple(maps.shape) == (1, 1024 if depth == 50 else 256, 1, 2, 2)
        torch.testing.assert_close(maps, x, rtol=1e-4, atol=1e-4 * float(x.max()))
        pooled = torch.randn(2, maps.shape[1], 4, 2, 2, generator=generator)
        y = pooled
        for block in range(len({key.split(".")[0] for key in top.state_dict()})):
            y = by_hand(
                {f"_.{key}": value for key, value in top.state_dict().items()}, f"_.{block}", y, 2 if not block else 1
            )
        # The release's order: mean over columns, rows, time.
        expected = y.mean(4).mean(3).mean(2)
        torch.testing.assert_close(head_features(top, pooled), expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize(
    ("form", "layer", "dim"),
    [
        ("pytorch-thumos14-resnet18", "features", 512),
        pytest.param("caffe-charades", "fc7", 4096, marks=pytest.mark.slow),
    ],
)
def test_a_file_of_each_makes_rows(form: str, layer: str, dim: int, tmp_path: Path) -> None:
    network = seeded(0, lambda: RC3D(RELEASES[form]))
    network.initialise_heads(torch.Generator().manual_seed(0))
    layout = next(layout for layout in layouts() if layout.name == "rc3d_" + form.replace("-", "_"))
    ours = network.state_dict()
    state = {key: ours[own] for key, (own, _) in layout.keys.items()}
    torch.save({"session": 1, "model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pth")
    found = recipe(form, tmp_path / "w.pth", layer)
    assert (found.weights.layout, found.dim) == (layout.name, dim)
    values = registry.build(found, "cpu").forward(FRAMES)["values"]
    assert values.shape == (1, 300, dim)
    assert np.isfinite(values).all()
    # Proposals are not moved by their class's offsets, so a file without them is enough; detections are.
    headless = {key: value for key, value in state.items() if "twin_pred" not in key or "RPN" in key or "rpn" in key}
    torch.save(headless, tmp_path / "headless.pth")
    part = recipe(form, tmp_path / "headless.pth", layer)
    np.testing.assert_array_equal(registry.build(part, "cpu").forward(FRAMES)["values"], values)
    with pytest.raises(WeightsError, match="features.rc3d layer: expected one of "):
        recipe(form, tmp_path / "headless.pth", "detections")


def test_batch_norms_of_a_resnet_are_never_trained() -> None:
    network = RC3D(RELEASES["pytorch-thumos14-resnet18"]).train()
    assert not any(module.training for module in network.modules() if isinstance(module, torch.nn.BatchNorm3d))
    groups = parameter_groups(network)
    trained = {id(parameter) for group in groups for parameter in group["params"]}  # type: ignore[attr-defined]
    names = [name for name, parameter in network.named_parameters() if id(parameter) in trained]
    assert not any(".bn" in name or name.startswith("base.conv1.") for name in names)
    assert {"base.layer1.0.conv1.weight", "top.0.conv1.weight", "cls_score.bias"} <= set(names)


def test_regions_of_a_resnet_have_any_number_of_cells() -> None:
    assert RELEASES["pytorch-activitynet-resnet50"].pooled == (16, 4, 4)
    assert registry.card_of(recipe("pytorch-activitynet-resnet50")).layers[0].dim == 2048
