"""The R-C3D network: trunk, proposal subnet, 3D region pooling, classification subnet."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from clipmill.extractors.rc3d.releases import FEATURE_STRIDE_FRAMES, OFFSET_STD, TRUNK, Release
from clipmill.extractors.rc3d.resnet import TRUNK_STAGES, WIDTHS, Stage, Trunk, head_features, widened
from clipmill.schemas.arrays import Pixels
from clipmill.schemas.errors import WeightsError, describe

TRUNK_WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
POOL_AFTER: dict[str, tuple[int, int, int]] = {
    "conv1a": (1, 2, 2),
    "conv2a": (2, 2, 2),
    "conv3b": (2, 2, 2),
    "conv4b": (2, 2, 2),
}
SLAB_LAYERS = ("conv1a", "conv2a")
SLAB_FRAMES = 64
"""The widest maps are made this many frames at a time: 2.5 GB would be needed for a whole buffer of 768."""
POOLED_CELLS = 16
"""Cells of a pooled region, whatever its shape: fc6 takes 512 x 16 values."""


class RC3D(nn.Module):
    """R-C3D in one of its public releases.

    Buffers are ``[N, 3, L, H, W]`` with L a multiple of 8; 112 x 112 is what it is trained on, other sizes pool over
    their whole map as well.

    Args:
        pooled: time, rows and columns of a pooled region, in place of the release's.
    """

    def __init__(self, release: Release, pooled: tuple[int, int, int] | None = None) -> None:
        super().__init__()
        self.release = release
        self.pooled = pooled or release.pooled
        self.offsets_normalised = release.offsets_normalised
        channels = 3
        self.base: Trunk | None = None
        self.top: Stage | None = None
        if release.resnet is None:
            for name, width in zip(TRUNK, TRUNK_WIDTHS, strict=True):
                self.add_module(name, nn.Conv3d(channels, width, 3, padding=1))
                channels = width
        else:
            self.base = Trunk(release.resnet)
            self.top = Stage(release.resnet, TRUNK_STAGES, 2)
            channels = widened(release.resnet, WIDTHS[TRUNK_STAGES - 1])
        stride = (1, 2, 2) if release.rpn_strided else (1, 1, 1)
        self.rpn_conv1 = nn.Conv3d(channels, 512, 3, stride, padding=1)
        self.rpn_conv2 = nn.Conv3d(512, 512, 3, stride, padding=1) if release.rpn_strided else None
        self.rpn_cls_score = nn.Conv3d(512, 2 * len(release.scales), 1)
        self.rpn_twin_pred = nn.Conv3d(512, 2 * len(release.scales), 1)
        self.fc6 = nn.Linear(512 * POOLED_CELLS, 4096) if release.resnet is None else None
        self.fc7 = nn.Linear(4096, 4096) if release.has_fc7 else None
        self.cls_score = nn.Linear(release.num_features, release.num_classes)
        self.twin_pred = nn.Linear(release.num_features, 2 * release.num_classes)

    @property
    def first_conv(self) -> nn.Module:
        """The convolution that takes the frames."""
        return self.get_submodule("conv1a") if self.base is None else self.base.conv1

    def trunk(self, clips: Tensor, frames: Pixels | None = None, memory: "LastSlabs | None" = None) -> Tensor:
        """Returns ``[N, C, L / 8, H / 16, W / 16]``: C3D up to conv5b, without pool5 (C = 512), or ResNet's stages.

        Args:
            frames, memory: as in `run_trunk`.
        """
        return run_trunk(self.trunk_parts(), clips, frames=frames, memory=memory)

    def trunk_parts(self) -> list[nn.Module]:
        """Returns the trunk as modules that run one after another (`run_trunk`); those of `Slab` by slabs."""
        if self.base is not None:
            return [self.base]
        return [*(Slab(self, name) for name in SLAB_LAYERS), NarrowTrunk(self)]

    def propose(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scores ``[N, 2, K]`` (background, foreground; no softmax) and offsets ``[N, K, 2]`` of the anchors.

        ``K = L / 8 * A`` in the order of `segments.anchors`. Published channels: the first A scores are
        background, the last A foreground; offsets interleave (centre, length) per anchor.
        """
        hidden = functional.relu(self.rpn_conv1(maps))
        if self.rpn_conv2 is not None:
            hidden = functional.relu(self.rpn_conv2(hidden))
        hidden = hidden.amax(dim=(3, 4), keepdim=True)
        num_batch, num_anchors, num_cells = maps.shape[0], len(self.release.scales), maps.shape[2]
        scores = self.rpn_cls_score(hidden).reshape(num_batch, 2, num_anchors, num_cells)
        offsets = self.rpn_twin_pred(hidden).reshape(num_batch, num_anchors, 2, num_cells)
        return scores.transpose(2, 3).flatten(2), offsets.permute(0, 3, 1, 2).flatten(1, 2)

    def hidden(self, maps: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Returns fc6 and the last hidden layer (fc7, or fc6 again), each ``[n, 4096]`` after its ReLU.

        Of a ResNet both are the mean of its last stage, ``[n, 512]`` or ``[n, 2048]``.

        Args:
            maps: ``[C, L / 8, H, W]`` of one buffer.
            segments: ``[n, 2]`` in frames of the buffer.
        """
        return self.head(pool_regions(maps, segments, self.pooled))

    def head(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what `hidden` does, of regions that are pooled already, ``[n, C, t, h, w]``."""
        if self.top is not None:
            features = head_features(self.top, pooled)
            return features, features
        fc6 = functional.relu(cast(nn.Linear, self.fc6)(pooled.flatten(1)))
        last = functional.dropout(fc6, self.release.dropout, self.training)
        if self.fc7 is not None:
            last = functional.dropout(functional.relu(self.fc7(last)), self.release.dropout, self.training)
        return fc6, last

    def classify(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """Returns class scores ``[n, C]`` (before softmax) and offsets ``[n, C, 2]`` in the units of the weights."""
        return self.cls_score(last), self.twin_pred(last).reshape(len(last), -1, 2)

    def real_offsets(self, offsets: Tensor) -> Tensor:
        """Returns head offsets as `segments.decode` takes them, whichever way the weights were saved."""
        if not self.offsets_normalised:
            return offsets
        # Filled on the device: a tensor that comes from the host would wait for all that is queued there.
        return offsets * torch.stack([offsets.new_full((), deviation) for deviation in OFFSET_STD])

    @torch.no_grad()
    def normalise_offsets(self, normalised: bool) -> None:
        """Rewrites the offset head so that it gives normalised (for training) or real offsets; the function stays."""
        if normalised == self.offsets_normalised:
            return
        std = torch.tensor(OFFSET_STD * self.release.num_classes, dtype=self.twin_pred.weight.dtype)
        std = std.to(self.twin_pred.weight.device)
        factor = 1 / std if normalised else std
        self.twin_pred.weight.mul_(factor[:, None])
        self.twin_pred.bias.mul_(factor)
        self.offsets_normalised = normalised

    def resize_classes(self, num_classes: int) -> None:
        """Refuses weights of another number of classes or anchors than the network has.

        Raises:
            WeightsError: always.
        """
        expected = f"{self.release.num_classes} classes with the background and {len(self.release.scales)} scales"
        remedy = "write the options classes and scales that feature.yaml of the run has"
        raise WeightsError(describe("weights", "R-C3D", expected, f"a layer of {num_classes} outputs", remedy))

    @torch.no_grad()
    def initialise_heads(self, generator: torch.Generator) -> None:
        """Draws what R-C3D adds to C3D as published: N(0, 0.01), the offset head N(0, 0.001), zero biases."""
        added = [self.rpn_conv1, self.rpn_conv2, self.rpn_cls_score, self.rpn_twin_pred, self.cls_score, self.twin_pred]
        for module in added:
            if module is None:
                continue
            deviation = 0.001 if module is self.twin_pred else 0.01
            module.weight.normal_(0.0, deviation, generator=generator)
            if module.bias is not None:
                module.bias.zero_()


class Slab(nn.Module):
    """A wide layer of the trunk: convolution, ReLU and max-pool of a slab that has one frame more on each side."""

    def __init__(self, network: RC3D, name: str) -> None:
        super().__init__()
        self._convolution = cast(nn.Conv3d, network.get_submodule(name))
        self._pool = POOL_AFTER[name]

    def forward(self, slab: Tensor) -> Tensor:
        convolution = self._convolution
        maps = functional.conv3d(slab, convolution.weight, convolution.bias, padding=(0, 1, 1))
        return functional.max_pool3d(functional.relu(maps), self._pool)


class NarrowTrunk(nn.Module):
    """What comes after the wide layers of the trunk."""

    def __init__(self, network: RC3D) -> None:
        super().__init__()
        self._layers = nn.ModuleDict({name: network.get_submodule(name) for name in TRUNK if name not in SLAB_LAYERS})

    def forward(self, maps: Tensor) -> Tensor:
        for name, convolution in self._layers.items():
            maps = functional.relu(convolution(maps))
            if name in POOL_AFTER:
                maps = functional.max_pool3d(maps, POOL_AFTER[name])
        return maps


class LastSlabs:
    """What the wide layers gave of the last buffer, for the next one, which overlaps it by three quarters.

    Slabs begin at multiples of `SLAB_FRAMES` of their buffer and have one shape. Where a buffer begins whole slabs
    after the last one, with the same frames, the input of a slab that is far enough from the ends of both is the same
    bytes in both, and so is what comes of it. Each wide layer lies one slab further from the ends, as it sees a frame
    of the neighbouring slabs.
    """

    def __init__(self) -> None:
        self._frames: Pixels | None = None
        self._slabs: list[Tensor] = []

    def found(self, frames: Pixels, num_layers: int) -> dict[int, Tensor]:
        """Returns, by number, the slabs of the last of `num_layers` wide layers that ``uint8[L, H, W, C]`` shares."""
        last, num_frames = self._frames, len(frames)
        shift = num_frames // 4
        if last is None or last.shape != frames.shape or num_frames % SLAB_FRAMES or shift % SLAB_FRAMES:
            return {}
        # Other frames nearly always differ in the first, which costs nothing to compare.
        if not (np.array_equal(last[shift], frames[0]) and np.array_equal(last[shift:], frames[:-shift])):
            return {}
        before = shift // SLAB_FRAMES
        stop = num_frames // SLAB_FRAMES - before - num_layers
        return {number: self._slabs[number + before] for number in range(num_layers, stop)}

    def keep(self, frames: Pixels, slabs: list[Tensor]) -> None:
        """Remembers the slabs of a buffer."""
        self._frames, self._slabs = frames, slabs


def run_trunk(
    parts: Sequence[nn.Module],
    clips: Tensor,
    runs: Sequence[Callable[[Tensor], Tensor]] | None = None,
    frames: Pixels | None = None,
    memory: LastSlabs | None = None,
) -> Tensor:
    """Returns what the parts of a trunk give, one after another.

    Args:
        runs: what computes each part in its place.
        frames: ``uint8[L, H, W, C]``, what `clips`, one buffer, was made of.
        memory: of the buffer before.
    """
    maps = clips
    steps: Sequence[Callable[[Tensor], Tensor]] = parts if runs is None else runs
    num_wide = sum(isinstance(part, Slab) for part in parts)
    shared = memory.found(frames, num_wide) if memory is not None and frames is not None and num_wide else {}
    for number, (part, run) in enumerate(zip(parts, steps, strict=True)):
        if not isinstance(part, Slab):
            maps = run(maps)
            continue
        above = num_wide - 1 - number
        # Of a layer below the last: slabs that only shared ones see.
        unseen = {slab for slab in shared if all(slab + away in shared for away in range(-above, above + 1))}
        slabs = _slabs(run, maps, shared if not above else dict.fromkeys(unseen))
        if not above and memory is not None and frames is not None:
            memory.keep(frames, slabs)
        maps = torch.cat(slabs, dim=2)
    return maps


def _slabs(of_slab: Callable[[Tensor], Tensor], maps: Tensor, known: Mapping[int, Tensor | None]) -> list[Tensor]:
    """Returns what `of_slab` gives of ``[N, C, L, H, W]``, a slab of frames at a time: the same numbers.

    Args:
        known: slabs that need not be computed; None: what stands in their place is not looked at.
    """
    found: list[Tensor] = []
    for number, start in enumerate(range(0, maps.shape[2], SLAB_FRAMES)):
        there = known.get(number)
        if there is None:
            # The first slab is never known.
            there = found[0] if number in known else of_slab(_slab(maps, start))
        found.append(there)
    return found


def first_slab(maps: Tensor) -> Tensor:
    """Returns what a `Slab` is given first of ``[N, C, L, H, W]``."""
    return _slab(maps, 0)


def _slab(maps: Tensor, start: int) -> Tensor:
    """Returns a slab with one frame more on each side: what the 3-wide kernel sees. At the ends it sees zeros, as with
    padding.
    """
    num_frames = maps.shape[2]
    stop = min(start + SLAB_FRAMES, num_frames)
    slab = maps[:, :, max(start - 1, 0) : min(stop + 1, num_frames)]
    return functional.pad(slab, (0, 0, 0, 0, int(start == 0), int(stop == num_frames)))


def spatial_bins(size: int, num_bins: int) -> list[tuple[int, int]]:
    """Returns the cells of each bin of an axis, bounds rounded outwards: 4 bins over 7 cells overlap."""
    return [(index * size // num_bins, -(-(index + 1) * size // num_bins)) for index in range(num_bins)]


def pool_regions(maps: Tensor, segments: Tensor, pooled: tuple[int, int, int]) -> Tensor:
    """Returns ``[n, C, t, h, w]``: the maximum of each bin of each region (3D RoI pooling); an empty bin is zero.

    A region covers cells ``round(start / 8)`` to ``round(end / 8)`` of the time axis, halves rounded up, and always the
    whole map in space. Bins are bounded by floor and ceiling as in Fast R-CNN, then clipped to the map.

    Args:
        maps: ``[C, T, H, W]``.
        segments: ``[n, 2]`` in frames; both ends belong to the region.
    """
    num_times, num_rows, num_columns = pooled
    maps = _pool_axis(_pool_axis(maps, 2, num_rows), 3, num_columns)
    num_cells = maps.shape[1]
    bounds = torch.floor(segments.double() / FEATURE_STRIDE_FRAMES + 0.5).long()
    start, length = bounds[:, 0], (bounds[:, 1] - bounds[:, 0] + 1).clamp(min=1)
    index = torch.arange(num_times, device=maps.device)
    begin = start[:, None] + index * length[:, None] // num_times
    end = start[:, None] - (-(index + 1) * length[:, None] // num_times)
    begin, end = begin.clamp(0, num_cells), end.clamp(0, num_cells)
    ranges = range_maxima(maps, begin.flatten(), end.flatten())
    ranges = ranges.reshape(len(segments), num_times, *ranges.shape[1:])
    return ranges.transpose(1, 2)


def _pool_axis(maps: Tensor, axis: int, num_bins: int) -> Tensor:
    bins = spatial_bins(maps.shape[axis], num_bins)
    return torch.stack([maps.narrow(axis, start, stop - start).amax(dim=axis) for start, stop in bins], dim=axis)


def range_maxima(maps: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Returns ``[n, C, H, W]``: the maximum of ``maps[:, start:stop]`` for each range, zero where it is empty.

    A table of maxima over powers of two makes each range the maximum of two look-ups, however long it is.
    """
    num_cells = maps.shape[1]
    levels = [maps]
    while 2 ** len(levels) <= num_cells:
        width = 2 ** (len(levels) - 1)
        later = torch.arange(num_cells, device=maps.device).add(width).clamp(max=num_cells - 1)
        levels.append(torch.maximum(levels[-1], levels[-1][:, later]))
    table = torch.stack(levels).transpose(1, 2)
    length = (stop - start).clamp(min=1)
    powers = 2 ** torch.arange(len(levels), device=maps.device)
    level = torch.bucketize(length, powers, right=True) - 1
    first = start.clamp(max=num_cells - 1)
    second = torch.maximum(first + length - powers[level], first).clamp(max=num_cells - 1)
    maxima = torch.maximum(table[level, first], table[level, second])
    return torch.where((stop > start)[:, None, None, None], maxima, torch.zeros_like(maxima))
