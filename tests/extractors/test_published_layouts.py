"""Every published layout, in every wrapper it is published in, is recognised from a file; a wrong file says why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clipmill.extractors import registry
from clipmill.extractors.weights import match_layout, nearest_layout, read_state_dict
from clipmill.extractors.weights_report import report_weights
from clipmill.schemas.errors import WeightsError
from tests.extractors.published_layouts import numbered_state, published

LAYOUTS = {
    "c3d": (
        "c3d_sports1m_caffe",
        "c3d_sports1m_davidea",
        "c3d_sports1m_jfzhang95",
        "c3d_sports1m_mmaction2",
        "c3d_ucf101_jfzhang95",
        "c3d_ucf101_mmaction2",
    ),
    "i3d": (
        "i3d_hassony2_flow",
        "i3d_hassony2_rgb",
        "i3d_piergiaj_flow_charades",
        "i3d_piergiaj_flow_imagenet",
        "i3d_piergiaj_rgb_charades",
        "i3d_piergiaj_rgb_imagenet",
        "i3d_tf_flow_imagenet",
        "i3d_tf_rgb_imagenet",
    ),
    "rc3d": (
        "rc3d_caffe_activitynet",
        "rc3d_caffe_thumos14",
        "rc3d_pytorch_activitynet",
        "rc3d_pytorch_thumos14",
    ),
    "vgg16": ("vgg16_torchvision_imagenet1k",),
}
EVERY = pytest.mark.parametrize(
    ("extractor", "name"), [(key, name) for key, names in LAYOUTS.items() for name in names]
)

State = dict[str, torch.Tensor]


def prefixed(state: State) -> State:
    return {f"module.{key}": value for key, value in state.items()}


# Wrapped, and whether as a legacy file (PyTorch before 1.6).
WRAPPERS: dict[str, tuple[Callable[[State], Any], bool]] = {
    "flat": (lambda state: state, False),
    "state_dict": (lambda state: {"state_dict": state, "epoch": 3, "opt_dict": {"state": {}, "lr": 1e-3}}, False),
    "module": (prefixed, False),
    "state_dict with module, legacy": (lambda state: {"state_dict": prefixed(state), "meta": {"epoch": 3}}, True),
    "session": (
        lambda state: {"session": 1, "epoch": 8, "model": prefixed(state), "optimizer": {}, "pooling_mode": "temporal"},
        True,
    ),
}


def test_no_published_layout_is_left_out(shared_data: Path) -> None:
    folder = shared_data.parent / "reference" / "checkpoints"
    others = ("cpnet_", "apivr_", "dscmr_", "pca_", "i3d_key_map")
    wanted = {path.stem for path in folder.glob("*.json") if not path.stem.startswith(others)}
    assert {name for names in LAYOUTS.values() for name in names} == wanted


@EVERY
def test_every_wrapper_of_every_layout_is_recognised(
    extractor: str, name: str, shared_data: Path, tmp_path: Path
) -> None:
    state = numbered_state(published(shared_data, name))
    layouts = registry.registration(extractor).layouts
    assert layouts is not None
    for wrap, legacy in WRAPPERS.values():
        torch.save(wrap(state), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
        found = read_state_dict(str(tmp_path / "w.pth"))
        assert found.keys() == state.keys()
        assert all(found[key].flatten()[:1].item() == value.flatten()[:1].item() for key, value in state.items())
        fit = nearest_layout({key: tuple(value.shape) for key, value in found.items()}, layouts())
        assert (fit.layout.name, fit.num_problems) == (name, 0)


@EVERY
def test_parameters_are_as_many_as_published(extractor: str, name: str, shared_data: Path, tmp_path: Path) -> None:
    torch.save(numbered_state(published(shared_data, name)), tmp_path / "w.pth")
    report = report_weights(extractor, str(tmp_path / "w.pth"))
    facts = json.loads((shared_data.parent / "reference" / "checkpoints" / f"{name}.json").read_text("utf-8"))
    assert report.passed
    assert report.fit.layout.name == name
    assert report.num_parameters == facts.get("trainable_parameters", facts.get("num_params"))
    assert report.published == ()
    if name == "vgg16_torchvision_imagenet1k":
        # Caffe's weights are published with these keys too: a recipe has to say which they are.
        assert (report.recipe, report.cards[0], len(report.cards)) == (None, "imagenet-torchvision", 3)
        return
    assert report.recipe is not None
    assert report.recipe.weights.layout == name


@EVERY
def test_a_wrong_file_says_which_keys_are_missing_unexpected_and_misshaped(
    extractor: str, name: str, shared_data: Path, tmp_path: Path
) -> None:
    keys = published(shared_data, name)
    first, second, third, *_ = keys
    changed = {key: shape for key, shape in keys.items() if key != first}
    # One more cell in every axis fits no layout, whatever number of classes it leaves open.
    changed |= {second: [size + 1 for size in keys[second]], third: [*keys[third], 1], "stray.weight": [3]}
    layouts = registry.registration(extractor).layouts
    assert layouts is not None
    torch.save(numbered_state(changed), tmp_path / "w.pth")
    shapes = {key: tuple(value.shape) for key, value in read_state_dict(str(tmp_path / "w.pth")).items()}
    fit = nearest_layout(shapes, layouts())
    assert first in fit.missing
    assert "stray.weight" in fit.unexpected
    told = "; ".join(fit.misshaped)
    assert f"{third} {[*keys[third], 1]} for [" in told
    assert len(fit.missing) == len(fit.unexpected) == 1, "the nearest layout is that of the file"
    if None not in fit.layout.keys[second][1]:
        assert f"{second} {changed[second]} for {keys[second]}" in told
    with pytest.raises(WeightsError, match="1 missing: .*; 1 unexpected: stray.weight; [12] mis-shaped: ") as caught:
        match_layout("w.pth", shapes, layouts())
    assert "\n" not in str(caught.value)
