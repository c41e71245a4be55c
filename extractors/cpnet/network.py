"""The C2D backbone of CPNet with its CP modules (Liu, Lee and Jin, CVPR 2019), as a torch module.

A ResNet of 18, 34 or 101 layers is applied to every frame by itself; there is no temporal convolution or pooling. Every
convolution has a bias although batch norm follows, and pads as TensorFlow's ``SAME`` does. Names follow the released
code: group0 to group3 are res2 to res5.
"""

from collections.abc import Sequence

import torch.nn.functional as functional
from torch import Tensor, nn

from clipmill.extractors.cpnet.correspondence import BATCH_NORM_EPS, CorrespondenceProposal, fold_norm
from clipmill.extractors.cpnet.releases import RELEASES
from clipmill.extractors.i3d.network import same_padding

STEM_WIDTH = 64
EXPANSION = 4
"""A bottleneck block's output over its inner width."""
BOTTLENECK_DIVISOR = 8
"""ResNet-101's CP modules search on an eighth of the channels."""
SHRUNK_GROUP = 1
"""res3 searches on maps of half the size, so that both published stages search on 14 x 14."""


class Unit(nn.Module):
    """Convolution with bias and ``SAME`` padding, then batch norm; no ReLU."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, side, stride)
        self.bn: nn.Module = nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns ``[N, outputs, ceil(H / stride), ceil(W / stride)]``."""
        (side, _), (stride, _) = self.conv.kernel_size, self.conv.stride
        (top, bottom), (left, right) = (same_padding(size, side, stride) for size in maps.shape[2:])
        if (top, left) != (bottom, right):
            maps = functional.pad(maps, (0, right - left, 0, bottom - top))
        maps = functional.conv2d(maps, self.conv.weight, self.conv.bias, stride, (top, left))
        normed: Tensor = self.bn(maps)
        return normed

    def fold(self) -> None:
        """Moves batch norm into the convolution."""
        fold_norm(self.conv, self.bn)
        self.bn = nn.Identity()


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3 and 1x1. The stride is the first convolution's.

    Args:
        cp: the CP module, which sees the signed sum of branch and shortcut, before the block's last ReLU.
    """

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, bottleneck: bool, cp: CorrespondenceProposal | None
    ) -> None:
        super().__init__()
        shapes = [(inputs, width, 1), (width, width, 3), (width, outputs, 1)]
        if not bottleneck:
            shapes = [(inputs, width, 3), (width, outputs, 3)]
        self.num_convolutions = len(shapes)
        for index, (into, out, side) in enumerate(shapes):
            self.add_module(f"conv{index + 1}", Unit(into, out, side, stride if index == 0 else 1))
        self.convshortcut = Unit(inputs, outputs, 1, stride) if inputs != outputs else None
        self.pointnet = cp

    def forward(self, maps: Tensor, num_frames: int) -> Tensor:
        """Returns ``[N * T, outputs, H', W']`` for ``[N * T, inputs, H, W]``."""
        branch = self.get_submodule("conv1")(maps)
        for index in range(1, self.num_convolutions):
            branch = self.get_submodule(f"conv{index + 1}")(functional.relu(branch))
        total: Tensor = branch + (maps if self.convshortcut is None else self.convshortcut(maps))
        if self.pointnet is not None:
            total = self.pointnet(total.view(-1, num_frames, *total.shape[1:])).flatten(0, 1)
        return functional.relu(total)


class CPNet(nn.Module):
    """C2D ResNet with CP modules; ``float[N, T, 3, H, W]`` to ``[N, features]`` or ``[N, classes]``.

    Args:
        depth: 18, 34 or 101.
        layer: ``features``, the mean over frames and places before dropout, or ``logits``.
        num_classes: None: no last layer, for features alone.
        stem_stride: 2 for 224 pixels, 1 for 112.
        k: neighbours of a point.
        cp_blocks: of res3, res4 and res5, how many of the last blocks have a CP module; None: as published.
        mlp_divisors: widths of a CP module's layers, as divisors of the map's channels; None: the released code's.
        chunk_queries: rows of the score matrix held at a time.
    """

    fc: nn.Linear

    def __init__(
        self,
        depth: int = 18,
        layer: str = "features",
        num_classes: int | None = 400,
        stem_stride: int = 1,
        k: int | None = None,
        cp_blocks: Sequence[int] | None = None,
        mlp_divisors: Sequence[int] | None = None,
        chunk_queries: int | None = None,
    ) -> None:
        super().__init__()
        release = RELEASES[depth]
        self._layer = layer
        self.conv0 = Unit(3, STEM_WIDTH, 7, stem_stride)
        placed = (0, *(release.cp_blocks if cp_blocks is None else cp_blocks))
        inputs = STEM_WIDTH
        for group, num_blocks in enumerate(release.blocks):
            width = STEM_WIDTH * 2**group
            outputs = width * EXPANSION if release.bottleneck else width
            blocks = nn.ModuleDict()
            for index in range(num_blocks):
                cp = None
                if index >= num_blocks - placed[group]:
                    cp = CorrespondenceProposal(
                        outputs,
                        k or release.k,
                        [outputs // divisor for divisor in mlp_divisors or release.mlp_divisors],
                        outputs // BOTTLENECK_DIVISOR if release.bottleneck else None,
                        group == SHRUNK_GROUP,
                        chunk_queries,
                    )
                stride = 2 if group > 0 and index == 0 else 1
                blocks[f"block{index}"] = Block(inputs, width, outputs, stride, release.bottleneck, cp)
                inputs = outputs
            self.add_module(f"group{group}", blocks)
        if num_classes is not None:
            self.fc = nn.Linear(inputs, num_classes)

    def maps(self, clips: Tensor) -> Tensor:
        """Returns the last maps, ``[N, T, C, H / 32, W / 32]`` (an eighth of that stride less for 112 pixels).

        Raises:
            ValueError: a CP module has fewer than k points in other frames.
        """
        num_clips, num_frames = clips.shape[:2]
        maps = functional.relu(self.conv0(clips.flatten(0, 1)))
        front = [same_padding(size, 3, 2)[0] for size in maps.shape[2:]]
        # Where SAME pads one cell more at the end, rounding up supplies it; padded cells never win.
        maps = functional.max_pool2d(maps, 3, 2, padding=front, ceil_mode=True)
        for group in range(4):
            for block in self.get_submodule(f"group{group}").values():  # type: ignore[operator]
                maps = block(maps, num_frames)
        return maps.view(num_clips, num_frames, *maps.shape[1:])

    def forward(self, clips: Tensor) -> Tensor:
        features = self.maps(clips).mean(dim=(1, 3, 4))
        if self._layer == "features":
            return features
        logits: Tensor = self.fc(features)
        return logits

    def fold_batch_norm(self) -> None:
        """Folds every batch norm into the layer before it: the same function at inference, up to rounding."""
        for module in self.modules():
            if isinstance(module, Unit):
                module.fold()
            elif isinstance(module, CorrespondenceProposal):
                module.fold_batch_norm()
