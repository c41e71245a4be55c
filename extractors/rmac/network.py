"""The maps R-MAC pools, of VGG-16, ResNet-50 or SqueezeNet, and vectors of unit length."""

import torch
from torch import Tensor, nn

from clipmill.extractors.resnet50.network import ResNet50
from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.vgg16.network import VGG16

SMALLEST_NORM = 1e-12
"""Of a vector that is divided by its norm (ours): a region where no channel fires stays zero."""


class Maps(nn.Module):
    """The last maps of a network, after their ReLU: ``float[N, 3, H, W]`` to ``float[N, C, H // 32, W // 32]``,
    of SqueezeNet about twice as many cells along each side.

    Args:
        last_pool: False: VGG-16's maps before their last pooling, ``[N, 512, H // 16, W // 16]``.
    """

    def __init__(self, network: VGG16 | ResNet50 | SqueezeNet, last_pool: bool) -> None:
        super().__init__()
        self.network = network
        self._last_pool = last_pool

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(self.network, VGG16):
            return self.network.maps(images, self._last_pool)
        return self.network.maps(images)


def unit(vectors: Tensor) -> Tensor:
    """Returns vectors ``[..., D]`` of unit length; zero stays zero."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norms.clamp(min=SMALLEST_NORM)
