"""The four small networks of CPNet's toy experiment: two 3 x 3 convolutions, and one way or none to join frames."""

from typing import Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from clipmill.extractors.cpnet.correspondence import CorrespondenceProposal
from clipmill.pipelines.reproductions.cpnet_toy.data import CLASSES

NetName = Literal["C2D", "C3D", "C2D+NL", "C2D+CP"]
NETS: tuple[NetName, ...] = ("C2D", "C3D", "C2D+NL", "C2D+CP")
WIDTH = 16
"""Channels of both convolutions and of the CP module's layers (ours)."""


class NonLocal(nn.Module):
    """A non-local block (Wang et al., CVPR 2018), dot product form: every point sums over all, knowing no places.

    Of the paper's forms the one whose cost grows with the points, not their square: it can do without a pool before it.
    Its last batch norm starts at zero, so that the block starts as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.query, self.key, self.value = (nn.Linear(channels, inner) for _ in range(3))
        self.out = nn.Linear(inner, channels)
        self.bn = nn.BatchNorm1d(channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns ``[N, T, C, H, W]``: the maps plus the mean of all values, each weighted by query times key."""
        points = maps.permute(0, 1, 3, 4, 2).flatten(1, 3)
        # Keys times values first: the matrix of all pairs is never made.
        summed = self.key(points).transpose(1, 2) @ self.value(points) / points.shape[1]
        update: Tensor = self.bn(self.out(self.query(points) @ summed).flatten(0, 1)).view_as(points)
        grid = update.view(*maps.shape[:2], *maps.shape[3:], -1).permute(0, 1, 4, 2, 3)
        return maps + grid


class ToyNet(nn.Module):
    """conv 3x3, conv 3x3 (each with batch norm and ReLU), module, ReLU, mean over all, batch norm, linear.

    The last batch norm is ours: the block fills a fiftieth of the places, so what is learned of it is small in a mean.
    The CP module, whose cost grows with the square of the points, stands behind a 2x2 average pool. No other network
    may have one before a nonlinear layer: whether a block's phase on the pool's grid changes tells along which axis it
    moves (docs/reproduce.md).

    Args:
        k: neighbours of a point in the CP module.
    """

    def __init__(self, name: NetName, k: int) -> None:
        super().__init__()
        self.pooled = name == "C2D+CP"
        kernel, padding = ((3, 3, 3), (1, 1, 1)) if name == "C3D" else ((1, 3, 3), (0, 1, 1))
        self.conv1 = nn.Conv3d(1, WIDTH, kernel, padding=padding)
        self.bn1 = nn.BatchNorm3d(WIDTH)
        self.conv2 = nn.Conv3d(WIDTH, WIDTH, kernel, padding=padding)
        self.bn2 = nn.BatchNorm3d(WIDTH)
        self.module: nn.Module | None = None
        if name == "C2D+NL":
            self.module = NonLocal(WIDTH)
        elif name == "C2D+CP":
            self.module = CorrespondenceProposal(WIDTH, k, (WIDTH, WIDTH))
        self.bn3 = nn.BatchNorm1d(WIDTH)
        self.fc = nn.Linear(WIDTH, len(CLASSES))

    def forward(self, frames: Tensor) -> Tensor:
        """Returns logits ``[N, 4]`` for ``float32[N, T, 32, 32]``."""
        maps = functional.relu(self.bn1(self.conv1(frames[:, None])))
        maps = functional.relu(self.bn2(self.conv2(maps)))
        if self.pooled:
            maps = functional.avg_pool3d(maps, (1, 2, 2))
        if self.module is not None:
            maps = functional.relu(self.module(maps.transpose(1, 2))).transpose(1, 2)
        logits: Tensor = self.fc(self.bn3(maps.mean(dim=(2, 3, 4))))
        return logits


def make_net(name: NetName, k: int, seed: int) -> ToyNet:
    """Returns a network with PyTorch's initial weights, a function of `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ToyNet(name, k)
