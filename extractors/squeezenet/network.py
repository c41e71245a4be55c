"""The SqueezeNet 1.0 network, with torchvision's key names."""

from collections.abc import Set

import torch
from torch import Tensor, nn

CLASSES = 1000


class Fire(nn.Module):
    """Squeeze to few channels, expand by 1 x 1 and 3 x 3 convolutions side by side."""

    def __init__(self, channels_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels_in, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


class SqueezeNet(nn.Module):
    """SqueezeNet 1.0; ``float[N, 3, 227, 227]`` to ``float[N, D]``.

    ``features`` is the mean over positions of fire9's maps, ``logits`` the mean of the last convolution's.
    """

    def __init__(self, layer: str = "features", num_classes: int = CLASSES) -> None:
        super().__init__()
        self._layer = layer
        # Caffe's pools round up.
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 7, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(96, 16, 64),
            Fire(128, 16, 64),
            Fire(128, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 32, 128),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(512, 64, 256),
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, num_classes, 1), nn.ReLU(inplace=True))

    def resize_classes(self, num_classes: int) -> None:
        """Replaces the last layer."""
        self.classifier[1] = nn.Conv2d(512, num_classes, 1)

    def maps(self, images: Tensor) -> Tensor:
        """Returns fire9's maps, ``[N, 512, H / 16, W / 16]``, about."""
        maps: Tensor = self.features(images)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images, {self._layer})[self._layer]

    def layers(self, images: Tensor, wanted: Set[str]) -> dict[str, Tensor]:
        """Returns the wanted ones of ``features`` and ``logits``."""
        maps = self.maps(images)
        found = {"features": maps.mean(dim=(2, 3))}
        if "logits" in wanted:
            found["logits"] = self.classifier(maps).mean(dim=(2, 3))
        return found
