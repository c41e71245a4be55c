"""BPBC: binary codes of images and of videos as subspaces, by bilinear projections, compared by their differing bits.

After Xu et al., Efficient Binary Coding for Subspace-based Query-by-Image Video Retrieval (ACM MM 2017) and Binary
Subspace Coding (arXiv 1612.01657); the projections are learned as in Gong et al., Learning Binary Codes for
High-Dimensional Data Using Bilinear Projections (CVPR 2013). Of the papers only the abstracts were at hand.

A video is the subspace that its rows span, with orthonormal basis V. An image x is as near to it as its orthogonal
projection is long: ``||x - V V' x||^2 = ||x||^2 - <x x', V V'>``, so the nearest video is that of the greatest inner
product of the matrices ``X = x x'`` and ``P = V V'``. Each side has two projections of its own, with orthonormal
columns, and codes ``sgn(W_1' X W_2)`` and ``sgn(Z_1' P Z_2)`` of c_1 c_2 bits. X and P are centred over the training
clips, and never made: all that is needed are products with x and V.

Learned by alternation: codes B that an image and its video share, and projections, that maximise

    sum_i tr(B_i' W_1' X_i W_2) + tr(B_i' Z_1' P_i Z_2).

Given the projections, the best B_i is the sign of the sum of both sides; given all else, the best projection is the
polar factor of a D x c matrix. So every step raises the sum.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from clipmill.models.base import Batch, ModelCard, Registration, Side, Sizes, Values
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import Bag, Input, Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Hamming, Space

_SIDES = ("image", "video")
_ITEMS = 32
"""ours: videos whose rows are in double precision at a time."""


class BpbcOptions(Model):
    """Options of BPBC.

    Attributes:
        rows, columns: c_1 and c_2; a code has their product of bits, a multiple of 8.
        subspace_dim: most dimensions of a video's subspace, its strongest directions.
        max_rows: of a video that are read.
        choose: which, where there are more; see `schemas.inputs.Bag`.
        share: who shares a code while learning: an image and its own video (``pair``), or all clips of a ``label``.
        iterations: most; in each all codes and all four projections are set once.
        tolerance: the alternation ends where an iteration raises the sum by a smaller share.
    """

    rows: int = Field(default=16, ge=1)  # ours: the table does not say how long its codes are
    columns: int = Field(default=16, ge=1)  # ours: as above
    subspace_dim: int = Field(default=4, ge=1)  # ours: not at hand
    max_rows: int = Field(default=64, ge=1)  # ours: as many as a bag of APIVR's release has
    choose: Literal["score", "first"] = "first"  # ours
    share: Literal["pair", "label"] = "pair"  # the abstracts mention no labels
    iterations: int = Field(default=50, ge=1)  # ours
    tolerance: float = Field(default=1e-5, ge=0)  # ours

    @model_validator(mode="after")
    def _whole_bytes(self) -> "BpbcOptions":
        if self.rows * self.columns % 8:
            raise ValueError("expected rows times columns to be a multiple of 8, since codes are whole bytes")
        return self


class Bpbc(nn.Module):
    """Of each side the mean of its rows, both projections and the projected mean of its matrices."""

    def __init__(self, options: BpbcOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        shortest, widest = min(sizes.dims.values()), max(options.rows, options.columns)
        if widest > shortest:
            expected = f"at most {shortest}, the length of the shorter vectors"
            raise UsageError(describe("model.options", "rows and columns", expected, str(widest), "lower them"))
        # ours: the projections start random, a function of the seed, and alike where they can: images and videos of one
        # network lie in one space.
        longest = max(sizes.dims.values())
        noise = {
            place: torch.randn(longest, width, dtype=torch.float64)
            for place, width in (("left", options.rows), ("right", options.columns))
        }
        for name in _SIDES:
            dim = sizes.dims[name]
            self.register_buffer(f"{name}_mean", torch.zeros(dim, dtype=torch.float64))
            self.register_buffer(f"{name}_offset", torch.zeros(options.rows, options.columns, dtype=torch.float64))
            for place, values in noise.items():
                self.register_buffer(f"{name}_{place}", polar(values[:dim]))

    def solve(self, items: Batch) -> Iterator[Mapping[str, float]]:
        """Learns the projections; yields what each iteration reached.

        ``total`` falls: one minus the sum over the greatest value that it could have. ``differing_bits`` is the mean
        share of bits in which an image and its own video differ.
        """
        for name in _SIDES:
            self._buffer(f"{name}_mean").copy_(mean_row(items.inputs[name]))
        bases = {name: self._bases(name, items.inputs[name]) for name in _SIDES}
        num_items = len(bases["image"])
        shared = items.labels if self.options.share == "label" else torch.arange(num_items)
        # Of matrices of norm 1, of which centring only takes away, and codes of norm sqrt(c_1 c_2).
        greatest = 2 * num_items * (self.options.rows * self.options.columns) ** 0.5
        projected = self._projected(bases)
        before = -torch.inf
        for _ in range(self.options.iterations):
            codes = shared_codes(projected["image"] + projected["video"], shared)
            for name in _SIDES:
                left, right = self._buffer(f"{name}_left"), self._buffer(f"{name}_right")
                left.copy_(polar(summed(bases[name], codes, right)))
                right.copy_(polar(summed(bases[name], codes.transpose(1, 2), left)))
            projected = self._projected(bases)
            reached = float((codes * (projected["image"] + projected["video"])).sum())
            differing = ((projected["image"] > 0) != (projected["video"] > 0)).double().mean()
            yield {"total": 1 - reached / greatest, "differing_bits": float(differing)}
            if reached - before < self.options.tolerance * abs(reached):
                return
            before = reached

    def spaces(self) -> Mapping[str, Space]:
        """Returns the one space it ranks in."""
        return {"codes": Hamming("codes", "codes")}

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``codes uint8[B, rows * columns / 8]``, the first bit of a byte its highest."""
        name = "image" if side == "query" else "video"
        raw = project(self._bases(name, inputs[name]), self._buffer(f"{name}_left"), self._buffer(f"{name}_right"))
        return {"codes": packed((raw > self._buffer(f"{name}_offset")).flatten(1))}

    def _projected(self, bases: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the projected matrices of both sides ``[n, c_1, c_2]``, centred, and keeps their means."""
        found = {}
        for name, basis in bases.items():
            raw = project(basis, self._buffer(f"{name}_left"), self._buffer(f"{name}_right"))
            self._buffer(f"{name}_offset").copy_(raw.mean(dim=0))
            found[name] = raw - self._buffer(f"{name}_offset")
        return found

    def _bases(self, name: str, values: Values) -> Tensor:
        """Returns the side's subspaces, see `subspaces`; that of an image has one dimension."""
        mean, mask = self._buffer(f"{name}_mean"), values.mask
        parts = []
        for start in range(0, len(values.values), _ITEMS):
            span = slice(start, start + _ITEMS)
            rows = values.values[span].double() - mean
            rows = rows[:, None] if mask is None else rows * mask[span][..., None]
            parts.append(subspaces(rows, self.options.subspace_dim if name == "video" else 1))
        return torch.cat(parts) if parts else mean.new_zeros(0, 1, len(mean))

    def _buffer(self, name: str) -> Tensor:
        found: Tensor = self.get_buffer(name)
        return found


def mean_row(values: Values) -> Tensor:
    """Returns ``float64[D]``, the mean of all rows."""
    if values.mask is None:
        return values.values.double().mean(dim=0)
    return values.values.sum(dim=(0, 1), dtype=torch.float64) / values.mask.sum()


def subspaces(rows: Tensor, dims: int) -> Tensor:
    """Returns ``[n, r, D]``: S with ``S' S = V V' / sqrt(rank)``, which has norm 1; rows of zeros fill up.

    V are the strongest directions of an item's rows, at most `dims`, without those that single precision does not see.

    Args:
        rows: ``float64[n, R, D]``; rows of zeros do not count.
    """
    # Of the products of rows the eigenvectors say how rows are mixed to a basis.
    eigenvalues, vectors = torch.linalg.eigh(rows @ rows.transpose(1, 2))
    count = min(dims, rows.shape[1])
    eigenvalues, vectors = eigenvalues.flip(1)[:, :count].clamp(min=0), vectors.flip(2)[:, :, :count]
    lengths = eigenvalues.sqrt()
    kept = lengths > lengths[:, :1] * rows.shape[2] * torch.finfo(torch.float32).eps
    basis = torch.where(kept, 1 / lengths.clamp(min=1e-300), 0.0)[..., None] * (vectors.transpose(1, 2) @ rows)
    found: Tensor = basis / kept.sum(dim=1).clamp(min=1)[:, None, None] ** 0.25
    return found


def project(bases: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Returns ``[n, c_1, c_2]``: ``left' S' S right`` of bases S ``[n, r, D]``."""
    return (bases @ left).transpose(1, 2) @ (bases @ right)


def summed(bases: Tensor, codes: Tensor, right: Tensor) -> Tensor:
    """Returns ``[D, c_1]``: the sum over i of ``(S_i' S_i - mean) right B_i'`` of codes B ``[n, c_1, c_2]``."""
    # To centre the codes is the same, and needs no D x D matrix.
    mixed = (bases @ right) @ (codes - codes.mean(dim=0)).transpose(1, 2)
    return bases.flatten(0, 1).T @ mixed.flatten(0, 1)


def shared_codes(projected: Tensor, shared: Tensor) -> Tensor:
    """Returns ``[n, c_1, c_2]`` of -1 and 1: the signs of the sums over items with the same `shared` ``int64[n]``."""
    sums = projected.new_zeros(int(shared.max()) + 1, *projected.shape[1:]).index_add_(0, shared, projected)
    return torch.where(sums > 0, 1.0, -1.0).to(projected.dtype)[shared]


def polar(matrix: Tensor) -> Tensor:
    """Returns the matrix with orthonormal columns that is nearest to `matrix` ``[D, c]``: U V' of its U S V'."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found: Tensor = left @ right
    return found


def packed(bits: Tensor) -> Tensor:
    """Returns ``uint8[n, b / 8]`` of ``bool[n, b]``, the first bit of a byte its highest."""
    weights = 2 ** torch.arange(7, -1, -1, device=bits.device)
    return (bits.reshape(len(bits), bits.shape[1] // 8, 8) * weights).sum(dim=2).to(torch.uint8)


def _card(options: Any) -> ModelCard:
    # One row spans a subspace too, if only a line.
    bag = Bag(options.max_rows, options.choose, allows_single=True)
    inputs: dict[str, Input] = {"image": Vector("first"), "video": bag}
    return replace(REGISTRATION.card, inputs=inputs, needs_labels=options.share == "label")


REGISTRATION = Registration(
    card=ModelCard(
        name="bpbc",
        summary="binary codes of images and of videos as subspaces, by bilinear projections",
        source="Xu et al., ACM MM 2017 and arXiv 1612.01657; Gong et al., CVPR 2013; no code was found",
        inputs={"image": Vector("first"), "video": Bag(64, allows_single=True)},
        options=BpbcOptions,
        needs_labels=False,
        closed_form=True,
        variant=_card,
    ),
    build=Bpbc,
)
