"""The correspondence proposal (CP) module of CPNet (Liu, Lee and Jin, CVPR 2019), as a torch module.

For every point of a clip's feature maps it looks up the k points of *other* frames with the nearest features, shows
each pair (displacement, both features) to a small shared network, and keeps the maximum. It is the only path between
the frames of CPNet. What is stated here as published follows the authors' poster and released code.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

BATCH_NORM_EPS = 1e-3
"""TensorFlow's default, which the released code leaves as it is."""
SCORES_BYTES = 64 << 20
"""Of one block of the score matrix, where `chunk_queries` is None (ours): 32 frames of 14 x 14 would need 157 MB."""
NUM_COORDINATES = 3


class Dense(nn.Module):
    """A 1x1 convolution with bias, then batch norm over all points: ``[..., inputs]`` to ``[..., outputs]``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.bn: nn.Module = nn.BatchNorm1d(outputs, eps=BATCH_NORM_EPS)

    def forward(self, points: Tensor) -> Tensor:
        """Returns the normalised points, without ReLU."""
        return self.norm(self.linear(points))

    def norm(self, points: Tensor) -> Tensor:
        """Returns the points after batch norm over all axes but the last."""
        normed: Tensor = self.bn(points.flatten(0, -2))
        return normed.view_as(points)

    def fold(self) -> None:
        """Moves batch norm into the weights: the same function at inference, up to rounding."""
        fold_norm(self.linear, self.bn)
        self.bn = nn.Identity()


def fold_norm(linear: nn.Linear | nn.Conv2d, norm: nn.Module) -> None:
    """Multiplies batch norm's running statistics and scale into a layer with bias, in double precision.

    Raises:
        ValueError: the batch norm keeps no running statistics, or the layer has no bias.
    """
    if isinstance(norm, nn.Identity):
        return
    if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        raise ValueError(f"fold: expected batch norm with running statistics, got {type(norm).__name__}")
    if linear.bias is None:
        raise ValueError("fold: expected a layer with bias, got none")
    with torch.no_grad():
        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        shift = (linear.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
        linear.weight.copy_(linear.weight.double() * scale.reshape(-1, *([1] * (linear.weight.dim() - 1))))
        linear.bias.copy_(shift)


def resize_legacy(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Returns ``[N, C, rows, columns]`` of ``[N, C, H, W]`` as TensorFlow 1 resizes: bilinear, no half-pixel centres.

    Output index i lies at ``i * H / rows`` of the input, and the last row and column repeat beyond the border. So half
    the size is every second row, and twice the size copies into even rows and averages neighbours into odd ones.
    """
    return _resize_axis(_resize_axis(maps, 2, rows), 3, columns)


def _resize_axis(maps: Tensor, axis: int, size: int) -> Tensor:
    given = maps.shape[axis]
    if size == given:
        return maps
    # In whole numbers, so that no rounding decides which rows a position lies between.
    positions = torch.arange(size, device=maps.device) * given
    lower = positions // size
    below = maps.index_select(axis, lower)
    if given % size == 0:
        # Every position is a whole one.
        return below
    share = (positions % size).to(maps.dtype) / size
    above = maps.index_select(axis, (lower + 1).clamp(max=given - 1))
    return below + (above - below) * share.reshape(-1, *([1] * (maps.dim() - 1 - axis)))


def nearest_in_other_frames(
    points: Tensor, num_frames: int, k: int, chunk_queries: int | None = None, queries: slice | None = None
) -> Tensor:
    """Returns, for every point, the k points of other frames with the smallest squared distance, nearest first.

    Exact, in float32 (or wider, as given) and without gradient; memory is bounded by one block of `chunk_queries` rows
    of the score matrix. The order of equal distances is not defined.

    Args:
        points: ``float[N, n, C]``, with n = T * H * W in this order of axes.
        num_frames: T.
        chunk_queries: rows of a block; None: as many as `SCORES_BYTES` hold.
        queries: only these points; None: all.

    Returns:
        ``int64[N, n, k]``, indices along n.

    Raises:
        ValueError: there are fewer than k points in the other frames; with one frame there are none.
    """
    num_clips, num_points, _ = points.shape
    num_others = num_points - num_points // num_frames
    if k > num_others:
        raise ValueError(
            f"CP module: expected at least k = {k} points in other frames, got {num_others} ({num_frames} frames of "
            f"{num_points // num_frames} points); give more frames or larger ones, or lower k"
        )
    start, stop, _ = (queries or slice(None)).indices(num_points)
    size = chunk_queries or max(1, SCORES_BYTES // (4 * num_points))
    with torch.no_grad():
        points = points.detach().to(torch.promote_types(points.dtype, torch.float32))
        # Distances stay what they are, and their rounding errors no longer grow with what all points have in common.
        points = points - points.mean(dim=1, keepdim=True)
        found = torch.empty((num_clips, stop - start, k), dtype=torch.int64, device=points.device)
        for clip, of_clip in enumerate(points):
            for first in range(start, stop, size):
                last = min(first + size, stop)
                found[clip, first - start : last - start] = _nearest(of_clip, num_frames, k, first, last)
    return found


def _nearest(points: Tensor, num_frames: int, k: int, first: int, last: int) -> Tensor:
    """Returns ``int64[last - first, k]`` for the queries [first, last) of one clip, ``float32[n, C]``."""
    # -|f_i - f_j|^2 but for |f_i|^2, which moves no neighbour of i before another.
    scores = torch.addmm(-points.square().sum(1), points[first:last], points.T, alpha=2.0)
    points_per_frame = len(points) // num_frames
    frames = torch.arange(num_frames, device=points.device)
    query_frames = torch.arange(first, last, device=points.device) // points_per_frame
    same = query_frames[:, None] == frames
    blocks = scores.view(last - first, num_frames, points_per_frame)
    blocks.masked_fill_(same[:, :, None], float("-inf"))
    return scores.topk(k, dim=1).indices


def coordinates(num_frames: int, height: int, width: int, like: Tensor) -> Tensor:
    """Returns ``[T * H * W, 3]``: index / T, index / H and index / W of every point, from 0 to 1 - 1 / size."""
    axes = [torch.arange(size, device=like.device, dtype=torch.float32) / size for size in (num_frames, height, width)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2).to(like.dtype)


class CorrespondenceProposal(nn.Module):
    """One CP module: maps to maps plus what their correspondences say. At its start it is the identity.

    A pair is ``[dt, dh, dw, f_i, f_j]``, displacements being neighbour minus centre as in the released code. Its first
    layer is linear in three parts, of which each is computed once per point rather than once per pair.

    Args:
        channels: of the maps, C.
        k: neighbours of a point.
        widths: of the shared network's layers (1x1 convolutions, each with batch norm and ReLU).
        bottleneck: search and pairs see so many channels, after a 1x1 convolution and batch norm (no ReLU); None: C.
        shrink: search on maps of half the height and width, and enlarge what comes out.
        chunk_queries: see `nearest_in_other_frames`; at inference the shared network too runs in these chunks. It
            bounds memory and changes nothing else.
    """

    def __init__(
        self,
        channels: int,
        k: int,
        widths: Sequence[int],
        bottleneck: int | None = None,
        shrink: bool = False,
        chunk_queries: int | None = None,
    ) -> None:
        super().__init__()
        self.k, self.shrink, self.chunk_queries = k, shrink, chunk_queries
        self.conv_bottle0 = Dense(channels, bottleneck) if bottleneck is not None else None
        searched = bottleneck if bottleneck is not None else channels
        self.num_layers = len(widths)
        for index, width in enumerate(widths):
            inputs = widths[index - 1] if index else NUM_COORDINATES + 2 * searched
            self.add_module(f"conv{index}", Dense(inputs, width))
        self.conv_final = Dense(widths[-1], channels)
        nn.init.zeros_(self.conv_final.bn.weight)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> Tensor:
        """Returns ``[N, T, C, H, W]``: the maps with the module's output added, before any ReLU.

        Raises:
            ValueError: there are fewer than k points in other frames.
        """
        points, (height, width) = self.searched(maps)
        num_clips, num_points, _ = points.shape
        centres, neighbours = self._projections(points, coordinates(maps.shape[1], height, width, points))
        # Batch statistics need all pairs at once.
        size = num_points if self.training else self.chunk_queries or max(1, SCORES_BYTES // (4 * num_points))
        pooled = torch.cat(
            [
                self._pooled(points, centres, neighbours, maps.shape[1], slice(start, start + size))
                for start in range(0, num_points, size)
            ],
            dim=1,
        )
        update: Tensor = self.conv_final(pooled).reshape(num_clips * maps.shape[1], height, width, -1)
        update = update.permute(0, 3, 1, 2)
        if self.shrink:
            update = resize_legacy(update, maps.shape[3], maps.shape[4])
        return maps + update.reshape(maps.shape)

    def searched(self, maps: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Returns the points that are compared, ``[N, T * h * w, C']``, and the size ``h, w`` of their grid."""
        frames = maps.flatten(0, 1)
        if self.conv_bottle0 is not None:
            frames = self.conv_bottle0(frames.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.shrink:
            # An odd side, which the published sizes never have, is rounded up (ours).
            frames = resize_legacy(frames, -(-frames.shape[2] // 2), -(-frames.shape[3] // 2))
        points = frames.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, frames.shape[1])
        return points, (frames.shape[2], frames.shape[3])

    def neighbours(self, maps: Tensor) -> Tensor:
        """Returns ``int64[N, T * h * w, k]``: the proposals the module would make of these maps."""
        points, _ = self.searched(maps)
        return nearest_in_other_frames(points, maps.shape[1], self.k, self.chunk_queries)

    def _projections(self, points: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the first layer's sums for a point as centre and as neighbour: a pair's is one plus the other."""
        first: Dense = self.get_submodule("conv0")  # type: ignore[assignment]
        weight = first.linear.weight
        of_displacement, of_centre, of_neighbour = weight.tensor_split(
            (NUM_COORDINATES, NUM_COORDINATES + points.shape[2]), dim=1
        )
        place = functional.linear(where, of_displacement)
        centres = functional.linear(points, of_centre, first.linear.bias) - place
        return centres, functional.linear(points, of_neighbour) + place

    def _pooled(self, points: Tensor, centres: Tensor, neighbours: Tensor, num_frames: int, queries: slice) -> Tensor:
        """Returns ``[N, q, width]``: the maximum over each query's pairs."""
        chosen = nearest_in_other_frames(points, num_frames, self.k, self.chunk_queries, queries)
        num_clips, num_points, width = neighbours.shape
        flat = chosen + num_points * torch.arange(num_clips, device=chosen.device)[:, None, None]
        of_pairs = neighbours.flatten(0, 1).index_select(0, flat.flatten()).view(*chosen.shape, width)
        first: Dense = self.get_submodule("conv0")  # type: ignore[assignment]
        hidden = functional.relu(first.norm(centres[:, queries, None] + of_pairs))
        for index in range(1, self.num_layers):
            hidden = functional.relu(self.get_submodule(f"conv{index}")(hidden))
        return hidden.amax(dim=2)

    def fold_batch_norm(self) -> None:
        """Folds every batch norm into the layer before it."""
        for module in self.children():
            if isinstance(module, Dense):
                module.fold()
