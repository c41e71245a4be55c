"""The VGG-16 network, with torchvision's key names."""

import torch
from torch import Tensor, nn

from extractors.torch_extractor import TorchExtractor, seeded
from extractors.weights import Layout, Shape, load_network
from schemas.recipe import Recipe

WIDTHS = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512, None)
"""Widths of the 3 x 3 convolutions; None is a 2 x 2 max-pool."""
CLASSES = 1000
# How much of the classifier each layer needs: fc6 and fc7 are read after their ReLU.
CLASSIFIER_STOP = {"pool5": 0, "fc6": 2, "fc7": 5, "logits": 7}


class VGG16(nn.Module):
    """VGG-16 up to `layer`; ``float[N, 3, 224, 224]`` to ``float[N, D]``."""

    def __init__(self, layer: str = "fc7", num_classes: int = CLASSES) -> None:
        super().__init__()
        self._layer = layer
        layers: list[nn.Module] = []
        channels = 3
        for width in WIDTHS:
            if width is None:
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(25088, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, num_classes),
        )

    def resize_classes(self, num_classes: int) -> None:
        """Replaces the last layer."""
        self.classifier[6] = nn.Linear(4096, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.flatten(self.avgpool(self.features(images)), 1)
        for module in self.classifier[: CLASSIFIER_STOP[self._layer]]:
            x = module(x)
        return x


def _keys() -> dict[str, tuple[str, Shape]]:
    with torch.device("meta"):
        state = VGG16().state_dict()
    shapes: dict[str, Shape] = {key: tuple(value.shape) for key, value in state.items()}
    shapes |= {"classifier.6.weight": (None, 4096), "classifier.6.bias": (None,)}
    return {key: (key, shape) for key, shape in shapes.items()}


LAYOUTS = (Layout("vgg16_torchvision", "imagenet-torchvision", _keys()),)


def build(recipe: Recipe, device: str) -> TorchExtractor:
    """Returns the extractor with the recipe's weights."""
    if recipe.weights.file is not None:
        network: nn.Module = VGG16(recipe.layer)
        load_network(network, recipe.weights.file, LAYOUTS)
    else:
        network = seeded(recipe.weights.seed or 0, lambda: VGG16(recipe.layer))
    return TorchExtractor(network, recipe, device, network.features[0], single_frames=True)
