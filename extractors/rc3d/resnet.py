"""The 3D ResNets of sunnyxiaohu/R-C3D.pytorch (Hara et al., CVPR 2018): trunk and head in place of C3D's.

Their batch norms are not trained with R-C3D and keep the statistics of their file.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Depth to the blocks of its four stages."""
EXPANSION = 4
"""Of a bottleneck block, which depth 50 has."""
TRUNK_STAGES = 3
"""The fourth stage is the head's."""


def widened(depth: int, width: int) -> int:
    """Returns the channels of a stage of that width."""
    return width * EXPANSION if depth == 50 else width


class Block(nn.Module):
    """Two 3x3x3 convolutions, or 1x1x1, 3x3x3 and 1x1x1, with a shortcut.

    Where the sizes differ, the shortcut of depth 50 is a convolution; that of 18 and 34 has no tensors: it takes every
    second cell and fills up with channels of zeros (type A).
    """

    def __init__(self, depth: int, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = widened(depth, width)
        self._stride, self._outputs = stride, outputs
        shapes = [(inputs, width, 3, stride), (width, outputs, 3, 1)]
        if depth == 50:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        self._num_convolutions = len(shapes)
        for index, (into, out, side, step) in enumerate(shapes, start=1):
            self.add_module(f"conv{index}", nn.Conv3d(into, out, side, step, padding=side // 2, bias=False))
            self.add_module(f"bn{index}", nn.BatchNorm3d(out))
        self.downsample: nn.Sequential | None = None
        if depth == 50 and (stride != 1 or inputs != outputs):
            self.downsample = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        """Returns ``[N, outputs, T / stride, H / stride, W / stride]``."""
        branch = maps
        for index in range(1, self._num_convolutions + 1):
            branch = self.get_submodule(f"bn{index}")(self.get_submodule(f"conv{index}")(branch))
            if index < self._num_convolutions:
                branch = functional.relu(branch)
        return functional.relu(branch + self._shortcut(maps))

    def _shortcut(self, maps: Tensor) -> Tensor:
        if self.downsample is not None:
            found: Tensor = self.downsample(maps)
            return found
        step = self._stride
        maps = maps[:, :, ::step, ::step, ::step]
        return functional.pad(maps, (0, 0, 0, 0, 0, 0, 0, self._outputs - maps.shape[1]))


class Stage(nn.Sequential):
    """Blocks of one width, of which the first may halve time, rows and columns; batch norms are never trained."""

    def __init__(self, depth: int, index: int, stride: int) -> None:
        width = WIDTHS[index]
        inputs = WIDTHS[0] if index == 0 else widened(depth, WIDTHS[index - 1])
        blocks = [Block(depth, inputs, width, stride)]
        outputs = widened(depth, width)
        blocks += [Block(depth, outputs, width, 1) for _ in range(BLOCKS[depth][index] - 1)]
        super().__init__(*blocks)

    def train(self, mode: bool = True) -> "Stage":
        """Stays as at inference: dropout there is none, and batch norms keep their statistics."""
        return super().train(False)


class Trunk(nn.Module):
    """Up to the third stage: ``[N, 3, L, H, W]`` to ``[N, 256 or 1024, L / 8, H / 16, W / 16]``."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, WIDTHS[0], 7, (1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(WIDTHS[0])
        for index in range(TRUNK_STAGES):
            self.add_module(f"layer{index + 1}", Stage(depth, index, 1 if index == 0 else 2))

    def train(self, mode: bool = True) -> "Trunk":
        """Stays as at inference, as the release trains it."""
        return super().train(False)

    def forward(self, clips: Tensor) -> Tensor:
        maps = functional.relu(self.bn1(self.conv1(clips)))
        maps = functional.max_pool3d(maps, 3, 2, padding=1)
        for index in range(TRUNK_STAGES):
            maps = self.get_submodule(f"layer{index + 1}")(maps)
        return maps


def head_features(stage: Stage, pooled: Tensor) -> Tensor:
    """Returns ``[n, 512 or 2048]``: the mean over cells of the fourth stage over pooled regions ``[n, C, t, h, w]``."""
    return torch.flatten(stage(pooled).mean(dim=(2, 3, 4)), 1)
