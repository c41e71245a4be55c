"""How the published weights of ResNet-50 name their tensors: torchvision's way."""

from functools import cache

import torch

from clipmill.extractors.resnet50.network import NUM_FEATURES, ResNet50
from clipmill.extractors.weights import Layout, Shape

CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
"""The network's parts by their place among torchvision's children (ReLU and pooling have no tensors)."""


def _keys() -> dict[str, tuple[str, Shape]]:
    with torch.device("meta"):
        state = ResNet50().state_dict()
    shapes: dict[str, Shape] = {key: tuple(value.shape) for key, value in state.items()}
    shapes |= {"fc.weight": (None, NUM_FEATURES), "fc.bias": (None,)}
    return {key: (key, shape) for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}


@cache
def layouts() -> tuple[Layout, ...]:
    """Returns the layout of every published file: torchvision's keys, and those of its children in a row."""
    keys = _keys()
    features = {}
    for key, found in keys.items():
        module, rest = key.split(".", 1)
        if module in CHILDREN:
            features[f"{CHILDREN[module]}.{rest}"] = found
    return (
        Layout("resnet50_torchvision", "imagenet-v1", keys, others=("imagenet-v2",)),
        Layout(
            "resnet50_features",
            "imagenet-v1",
            features,
            lacks=("logits", "probabilities"),
            others=("imagenet-v2", "imagenet-cnnimageretrieval"),
        ),
    )
