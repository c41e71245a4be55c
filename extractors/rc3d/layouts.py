"""How the published weights of R-C3D name their tensors: one layout of each release."""

from collections.abc import Mapping
from functools import cache

import torch

from clipmill.extractors.rc3d.network import RC3D
from clipmill.extractors.rc3d.releases import RELEASES, TRUNK, Release
from clipmill.extractors.weights import COUNTER, Layout, Shape

_PYTORCH_TRUNK = dict(zip(TRUNK, (f"RCNN_base.{index}" for index in (0, 3, 6, 8, 11, 13, 16, 18)), strict=True))
_PYTORCH = _PYTORCH_TRUNK | {
    "rpn_conv1": "RCNN_rpn.RPN_Conv1",
    "rpn_conv2": "RCNN_rpn.RPN_Conv2",
    "rpn_cls_score": "RCNN_rpn.RPN_cls_score",
    "rpn_twin_pred": "RCNN_rpn.RPN_twin_pred",
    "fc6": "RCNN_top.0",
    "cls_score": "RCNN_cls_score",
    "twin_pred": "RCNN_twin_pred",
}
_RESNET = {
    "base.conv1": "RCNN_base.0",
    "base.bn1": "RCNN_base.1",
    "base.layer1": "RCNN_base.4",
    "base.layer2": "RCNN_base.5",
    "base.layer3": "RCNN_base.6",
    "top": "RCNN_top.0",
}
_OPEN = ("rpn_cls_score.", "rpn_twin_pred.", "cls_score.", "twin_pred.")
"""Our layers whose outputs are classes or anchors."""
_CAFFE = {"rpn_conv1": "rpn_conv/3x3", "rpn_conv2": "rpn_conv/3x3_2"}


def _keys(release: Release) -> Mapping[str, tuple[str, Shape]]:
    with torch.device("meta"):
        state = RC3D(release).state_dict()
    keys: dict[str, tuple[str, Shape]] = {}
    for key, value in state.items():
        layer, kind = key.rsplit(".", 1)
        if kind == COUNTER:
            continue
        if release.name.startswith("caffe"):
            published = f"{_CAFFE.get(layer, layer)}[{0 if kind == 'weight' else 1}]"
        elif release.resnet is not None and layer.startswith(("base.", "top.")):
            part = next(part for part in _RESNET if key.startswith(f"{part}."))
            published = _RESNET[part] + key.removeprefix(part)
        else:
            published = f"{_PYTORCH[layer]}.{kind}"
        keys[published] = (key, tuple(value.shape))
    return keys


def layout_name(release: Release) -> str:
    """Returns the layout's name, such as ``rc3d_pytorch_thumos14``."""
    return "rc3d_" + release.name.replace("-", "_")


def trained_layout_name(release: Release) -> str:
    """Returns the name of the layout of what is trained here, such as ``rc3d_pytorch_thumos14_trained``."""
    return f"{layout_name(release)}_trained"


def _trained_keys(release: Release) -> Mapping[str, tuple[str, Shape]]:
    """Returns the network's own names, with any number of classes and anchors."""
    with torch.device("meta"):
        state = RC3D(release).state_dict()
    return {
        key: (key, (None, *value.shape[1:]) if key.startswith(_OPEN) else tuple(value.shape))
        for key, value in state.items()
        if not key.endswith(COUNTER)
    }


@cache
def layouts() -> tuple[Layout, ...]:
    """Returns the layouts of every release's weights, and of what is trained from it here.

    The latter give normalised offsets, whatever the release's do.
    """
    published = [Layout(layout_name(release), release.name, _keys(release)) for release in RELEASES.values()]
    trained = [
        Layout(trained_layout_name(release), release.name, _trained_keys(release)) for release in RELEASES.values()
    ]
    return (*published, *trained)
