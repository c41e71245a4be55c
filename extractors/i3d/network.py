"""I3D: Inception-v1 inflated to 3D (Carreira and Zisserman, CVPR 2017), as a torch module.

Every convolution is followed by batch norm (eps 1e-3) and ReLU, but for the last; every convolution and max-pool pads
as TensorFlow's ``SAME`` does, on all three axes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from clipmill.extractors.i3d.layouts import INPUT_CHANNELS, MIXED, NUM_CLASSES, NUM_FEATURES, STEM

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.01
MIN_FRAMES = 9
"""Fewer leave less than the two steps that the last average pool needs."""

Triple = tuple[int, int, int]

POOLS: dict[str, tuple[Triple, Triple]] = {
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}

TIME_STRIDES = {"Conv3d_1a_7x7": 2, "MaxPool3d_4a_3x3": 2, "MaxPool3d_5a_2x2": 2}

ENDPOINTS = (
    "Conv3d_1a_7x7",
    "MaxPool3d_2a_3x3",
    "Conv3d_2b_1x1",
    "Conv3d_2c_3x3",
    "MaxPool3d_3a_3x3",
    "Mixed_3b",
    "Mixed_3c",
    "MaxPool3d_4a_3x3",
    "Mixed_4b",
    "Mixed_4c",
    "Mixed_4d",
    "Mixed_4e",
    "Mixed_4f",
    "MaxPool3d_5a_2x2",
    "Mixed_5b",
    "Mixed_5c",
)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns the cells TensorFlow's ``SAME`` adds before and after an axis: the odd one goes to the end."""
    total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
    return total // 2, total - total // 2


def _paddings(size: Sequence[int], kernel: Triple, stride: Triple) -> list[tuple[int, int]]:
    # Whole numbers in a trace too, where sizes are tensors: a compiled network is of one size.
    return [same_padding(int(length), *axis) for length, *axis in zip(size, kernel, stride, strict=True)]


def max_pool_same(maps: Tensor, kernel: Triple, stride: Triple, num_frames: int | None = None) -> Tensor:
    """Returns the ``SAME`` max-pool of ``[N, C, T, H, W]``.

    The front padding is symmetric padding; where the back gets one cell more, rounding up supplies it. Padded cells
    count as minus infinity, as in TensorFlow. No copy of the map is made.

    Args:
        num_frames: length of the map that `maps` is a part of, which decides how much is padded in front.
    """
    num_steps = -(-int(maps.shape[2]) // stride[0])
    front = [before for before, _ in _paddings((num_frames or maps.shape[2], *maps.shape[3:]), kernel, stride)]
    return functional.max_pool3d(maps, kernel, stride, padding=front, ceil_mode=True)[:, :, :num_steps]


def pooled_steps(maps: Tensor) -> Tensor:
    """Returns ``[N, 1024, T - 1]``: the average of ``[N, 1024, T, H, W]`` over two steps and the whole map."""
    # As two means, because the 3D average pool has no reduced precision on a CPU.
    steps = maps.float().mean(dim=(3, 4))
    return ((steps[:, :, 1:] + steps[:, :, :-1]) / 2).to(maps.dtype)


class Unit3D(nn.Module):
    """Convolution without bias, batch norm, ReLU, with ``SAME`` padding."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, side, stride, bias=False)
        self.bn: nn.Module = nn.BatchNorm3d(outputs, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)
        self._kernel: Triple = (side, side, side)
        self._stride: Triple = (stride, stride, stride)

    def forward(self, maps: Tensor, num_frames: int | None = None) -> Tensor:
        """Returns ``[N, outputs, ceil(T / stride), ceil(H / stride), ceil(W / stride)]``.

        Args:
            num_frames: length of the map that `maps` is a part of, which decides how much is padded in front.
        """
        paddings = _paddings((num_frames or maps.shape[2], *maps.shape[3:]), self._kernel, self._stride)
        extra = [cell for before, after in reversed(paddings) for cell in (0, after - before)]
        if any(extra):
            maps = functional.pad(maps, extra)
        front = [before for before, _ in paddings]
        maps = functional.conv3d(maps, self.conv3d.weight, self.conv3d.bias, self._stride, front)
        return functional.relu(self.bn(maps), inplace=not maps.requires_grad)

    def fold(self) -> None:
        """Moves batch norm into the convolution: the same function at inference, up to rounding, in one step less."""
        if not isinstance(self.bn, nn.BatchNorm3d):
            return
        norm, convolution = self.bn, self.conv3d
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("fold: expected running statistics, got none")
        with torch.no_grad():
            scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
            bias = norm.bias.double() - norm.running_mean.double() * scale
            convolution.weight.copy_(convolution.weight.double() * scale.reshape(-1, 1, 1, 1, 1))
            convolution.bias = nn.Parameter(bias.to(convolution.weight.dtype))
        self.bn = nn.Identity()


class Mixed(nn.Module):
    """An Inception block: four branches side by side. Branch 2's second kernel is 3x3x3, not 5x5x5."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit3D(inputs, b0, 1)
        self.b1a = Unit3D(inputs, b1a, 1)
        self.b1b = Unit3D(b1a, b1b, 3)
        self.b2a = Unit3D(inputs, b2a, 1)
        self.b2b = Unit3D(b2a, b2b, 3)
        self.b3b = Unit3D(inputs, b3b, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns the branches' outputs, one after another, ``[N, b0 + b1b + b2b + b3b, T, H, W]``."""
        pooled = max_pool_same(maps, (3, 3, 3), (1, 1, 1))
        branches = [self.b0(maps), self.b1b(self.b1a(maps)), self.b2b(self.b2a(maps)), self.b3b(pooled)]
        return torch.cat(branches, dim=1)


class Logits(nn.Module):
    """The last layer: a 1x1x1 convolution with bias, nothing after it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(NUM_FEATURES, num_classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Returns ``[N, classes, S]`` for ``[N, 1024, S]``."""
        weight = self.conv3d.weight.flatten(2)
        return functional.conv1d(features, weight, self.conv3d.bias)


class InceptionI3D(nn.Module):
    """One stream of I3D.

    Args:
        stream: ``rgb`` (3 channels) or ``flow`` (2).
        num_classes: 400 for Kinetics, 157 for Charades; None: no last layer, for features alone.
    """

    logits: Logits

    def __init__(self, stream: str, num_classes: int | None = NUM_CLASSES["kinetics"]) -> None:
        super().__init__()
        for name, (channels, width, side) in STEM.items():
            inputs = INPUT_CHANNELS[stream] if channels is None else channels
            self.add_module(name, Unit3D(inputs, width, side, stride=2 if channels is None else 1))
        for block, (inputs, widths) in MIXED.items():
            self.add_module(f"Mixed_{block}", Mixed(inputs, widths))
        if num_classes is not None:
            self.logits = Logits(num_classes)

    def endpoint(self, clips: Tensor, name: str, num_frames: int | None = None) -> Tensor:
        """Returns the map ``[N, C, T', H', W']`` after the layer `name` of `ENDPOINTS`.

        Args:
            num_frames: of the whole clips, where `clips` are parts of longer ones that begin at a multiple of 8 frames.
                ``SAME`` pads the front by what the length leaves, so parts are padded as the whole is; what comes out
                is then the whole's map, but for the steps near a cut.
        """
        maps = clips
        length = num_frames or int(clips.shape[2])
        for layer in ENDPOINTS[: ENDPOINTS.index(name) + 1]:
            if layer in POOLS:
                maps = max_pool_same(maps, *POOLS[layer], length)
            elif layer in STEM:
                maps = self.get_submodule(layer)(maps, length)
            else:
                maps = self.get_submodule(layer)(maps)
            length = -(-length // TIME_STRIDES.get(layer, 1))
        return maps

    def features(self, clips: Tensor, num_frames: int | None = None) -> Tensor:
        """Returns ``[N, 1024, S]``: the average pool over two steps and the whole map.

        ``S = ceil(T / 8) - 1``: 7 for 64 frames, 1 for 16. At 224 x 224 the map is the published 7 x 7; at other sizes
        the pool still covers all of it (ours: the published kernel is 7 x 7).

        Args:
            clips: ``float[N, C, T, H, W]`` in [-1, 1], with ``T >= 9``.
            num_frames: of the whole clips, where `clips` are parts of longer ones (see `endpoint`).
        """
        if clips.shape[2] < MIN_FRAMES:
            raise ValueError(f"I3D: expected at least {MIN_FRAMES} frames, got {clips.shape[2]}; use longer windows")
        return pooled_steps(self.endpoint(clips, ENDPOINTS[-1], num_frames))

    def forward(self, clips: Tensor) -> Tensor:
        """Returns the logits ``[N, classes]``, averaged over the steps (before any softmax)."""
        logits: Tensor = self.logits(self.features(clips))
        return logits.mean(dim=2)

    def fold_batch_norm(self) -> None:
        """Folds every batch norm into its convolution."""
        for module in self.modules():
            if isinstance(module, Unit3D):
                module.fold()


class Endpoint(nn.Module):
    """The network up to the layer `name` of `ENDPOINTS`, as a module of its own."""

    def __init__(self, network: InceptionI3D, name: str) -> None:
        super().__init__()
        self._network, self._name = network, name

    def forward(self, clips: Tensor) -> Tensor:
        return self._network.endpoint(clips, self._name)
