"""How the published weights of ResNet-50 name their tensors: torchvision's way."""

from functools import cache

import torch

from clipmill.extractors.resnet50.network import NUM_FEATURES, ResNet50
from clipmill.extractors.weights import Layout, Shape


def _keys() -> dict[str, tuple[str, Shape]]:
    with torch.device("meta"):
        state = ResNet50().state_dict()
    shapes: dict[str, Shape] = {key: tuple(value.shape) for key, value in state.items()}
    shapes |= {"fc.weight": (None, NUM_FEATURES), "fc.bias": (None,)}
    return {key: (key, shape) for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}


@cache
def layouts() -> tuple[Layout, ...]:
    """Returns the layout of every published file."""
    return (Layout("resnet50_torchvision", "imagenet-v1", _keys()),)
