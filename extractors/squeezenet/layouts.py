"""How the published weights of SqueezeNet name their tensors: torchvision's way."""

from functools import cache

import torch

from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.weights import Layout, Shape


def _keys() -> dict[str, tuple[str, Shape]]:
    with torch.device("meta"):
        state = SqueezeNet().state_dict()
    shapes: dict[str, Shape] = {key: tuple(value.shape) for key, value in state.items()}
    shapes |= {"classifier.1.weight": (None, 512, 1, 1), "classifier.1.bias": (None,)}
    return {key: (key, shape) for key, shape in shapes.items()}


@cache
def layouts() -> tuple[Layout, ...]:
    """Returns the layout of every published file."""
    return (Layout("squeezenet1_0", "imagenet-caffe", _keys(), others=("imagenet-torchvision",)),)
