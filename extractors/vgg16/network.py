"""The VGG-16 network, with torchvision's key names."""

from collections.abc import Set

import torch
from torch import Tensor, nn

WIDTHS = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512, None)
"""Widths of the 3 x 3 convolutions; None is a 2 x 2 max-pool."""
CLASSES = 1000
CLASSIFIER_STOP = {
    "conv5_3": 0,
    "pool5": 0,
    "fc6_before_relu": 1,
    "fc6": 2,
    "fc7_before_relu": 4,
    "fc7": 5,
    "logits": 7,
}
"""How much of the classifier each layer needs: fc6 and fc7 are read after their ReLU."""


class VGG16(nn.Module):
    """VGG-16 up to `layer`; ``float[N, 3, H, W]`` to ``float[N, D]``.

    Maps (conv5_3 after its ReLU, pool5) are flattened channel, row, column. Before fc6 they are averaged to 7 x 7, as
    torchvision does, which changes nothing at 224 x 224.
    """

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

    def drop_unused(self) -> None:
        """Frees the linear layers after the wanted one (for pool5, 494 MB of 553)."""
        self.classifier = nn.Sequential(*list(self.classifier)[: CLASSIFIER_STOP[self._layer]])

    def maps(self, images: Tensor, last_pool: bool = True) -> Tensor:
        """Returns pool5 ``[N, 512, H // 32, W // 32]``, or without the last pooling conv5_3, at strides of 16."""
        maps: Tensor = self.features(images) if last_pool else self.features[:-1](images)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images, {self._layer})[self._layer]

    def layers(self, images: Tensor, wanted: Set[str]) -> dict[str, Tensor]:
        """Returns what `forward` does up to each of the wanted layers, of which none lies beyond the network's own."""
        maps = self.maps(images, last_pool=False)
        found = {"conv5_3": maps}
        if not wanted <= found.keys():
            found["pool5"] = maps = self.features[-1](maps)
        stop = max(CLASSIFIER_STOP[layer] for layer in wanted)
        x = torch.flatten(self.avgpool(maps), 1) if stop else maps
        for index, module in enumerate(list(self.classifier)[:stop], start=1):
            # What was asked for before a ReLU must not be written to by it.
            x = module(x.clone() if isinstance(module, nn.ReLU) and len(wanted) > 1 else x)
            found |= {layer: x for layer, end in CLASSIFIER_STOP.items() if end == index}
        return {layer: torch.flatten(found[layer], 1) for layer in wanted}
