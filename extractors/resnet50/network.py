"""The ResNet-50 network, with torchvision's key names."""

from collections.abc import Set
from typing import cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Width, number of blocks and stride of each stage."""
EXPANSION = 4
NUM_FEATURES = 2048
NUM_CLASSES = 1000


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut. The stride is the 3x3's (torchvision), not the first 1x1's (the paper)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3: nn.Module = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        """Returns ``[N, 4 * width, H / stride, W / stride]``."""
        shortcut = maps if self.downsample is None else self.downsample(maps)
        maps = functional.relu(self.bn1(self.conv1(maps)))
        maps = functional.relu(self.bn2(self.conv2(maps)))
        return functional.relu(self.bn3(self.conv3(maps)) + shortcut)


class ResNet50(nn.Module):
    """ResNet-50 up to `layer`; ``float[N, 3, H, W]`` to ``[N, 2048]`` (global average pool) or ``[N, classes]``."""

    def __init__(self, layer: str = "features", num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        self._layer = layer
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(64)
        inputs = 64
        for index, (width, num_blocks, stride) in enumerate(STAGES, start=1):
            blocks = []
            for block in range(num_blocks):
                blocks.append(Bottleneck(inputs, width, stride if block == 0 else 1))
                inputs = width * EXPANSION
            self.add_module(f"layer{index}", nn.Sequential(*blocks))
        self.fc = nn.Linear(NUM_FEATURES, num_classes)

    def resize_classes(self, num_classes: int) -> None:
        """Replaces the last layer."""
        self.fc = nn.Linear(NUM_FEATURES, num_classes)

    def maps(self, images: Tensor) -> Tensor:
        """Returns the last convolutional map, ``[N, 2048, ceil(H / 32), ceil(W / 32)]``."""
        maps = functional.relu(self.bn1(self.conv1(images)))
        maps = functional.max_pool2d(maps, 3, 2, padding=1)
        for index in range(1, len(STAGES) + 1):
            maps = self.get_submodule(f"layer{index}")(maps)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images, {self._layer})[self._layer]

    def layers(self, images: Tensor, wanted: Set[str]) -> dict[str, Tensor]:
        """Returns the wanted ones of ``features`` and ``logits``."""
        found = {"features": self.maps(images).mean(dim=(2, 3))}
        if "logits" in wanted:
            found["logits"] = self.fc(found["features"])
        return found

    def fold_batch_norm(self) -> None:
        """Folds every batch norm into its convolution: the same function at inference, up to rounding."""
        self.conv1, self.bn1 = folded(self.conv1, self.bn1)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                module.conv1, module.bn1 = folded(module.conv1, module.bn1)
                module.conv2, module.bn2 = folded(module.conv2, module.bn2)
                module.conv3, module.bn3 = folded(module.conv3, module.bn3)
                if module.downsample is not None:
                    module.downsample = nn.Sequential(
                        *folded(cast(nn.Conv2d, module.downsample[0]), module.downsample[1])
                    )


def folded(convolution: nn.Conv2d, norm: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    """Returns a convolution with bias that does what both do at inference, and the identity."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        return convolution, norm
    with torch.no_grad():
        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        bias = norm.bias.double() - norm.running_mean.double() * scale
        convolution.weight.copy_(convolution.weight.double() * scale.reshape(-1, 1, 1, 1))
    convolution.bias = nn.Parameter(bias.to(convolution.weight.dtype))
    return convolution, nn.Identity()
