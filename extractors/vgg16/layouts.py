"""How the published weights of VGG-16 name their tensors: torchvision's way and Caffe's."""

from functools import cache

import torch

from clipmill.extractors.vgg16.network import VGG16
from clipmill.extractors.weights import Layout, Shape

CAFFE_NAMES = (
    *(f"conv{block}_{index}" for block, num in enumerate((2, 2, 3, 3, 3), start=1) for index in range(1, num + 1)),
    *("fc6", "fc7", "fc8"),
)


@cache
def layouts() -> tuple[Layout, ...]:
    """Returns the layout of every published file."""
    with torch.device("meta"):
        state = VGG16().state_dict()
    shapes: dict[str, Shape] = {key: tuple(value.shape) for key, value in state.items()}
    shapes |= {"classifier.6.weight": (None, 4096), "classifier.6.bias": (None,)}
    # Weight and bias of each layer follow each other in both.
    caffe = [f"{name}[{index}]" for name in CAFFE_NAMES for index in (0, 1)]
    return (
        Layout(
            "vgg16_torchvision_imagenet1k",
            "imagenet-torchvision",
            {key: (key, shape) for key, shape in shapes.items()},
        ),
        Layout("vgg16_caffe", "imagenet-caffe", dict(zip(caffe, shapes.items(), strict=True))),
    )
