"""Fitting a PCA whitening to stored vectors, block by block over Dask, in bounded memory.

Mean and covariance of each block are taken in float64 about its own mean and merged pairwise (Chan, Golub and LeVeque),
which loses nothing where the mean is large against the spread, as with vectors that are never negative. What is held is
a few ``D x D`` matrices and the blocks at work (a block is a shard). Groups of blocks have a fixed size and are merged
in order, so how many threads or machines computed them changes nothing but the last bits of a matrix product.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from dask.delayed import delayed

from clipmill.schemas.arrays import Floats
from clipmill.schemas.errors import UsageError, describe

Compute = Callable[[Any], Any]
"""Computes one Dask object and returns its value."""

GROUP_BLOCKS = 8
"""Blocks computed, then merged, at once."""
SLAB_ROWS = 8192
"""Rows of a block in float64 at a time."""


class Moments(NamedTuple):
    """Number, mean ``float64[D]`` and sum of outer products about the mean ``float64[D, D]`` of some vectors."""

    num: int
    mean: Floats
    scatter: Floats


class Fit(NamedTuple):
    """What was fitted; see `clipmill.schemas.whitening.Whitening`. `num_dead` counts channels that never vary."""

    mean: Floats
    components: Floats
    eigenvalues: Floats
    num_floored: int
    num_vectors: int
    num_dead: int


def fit_whitening(vectors: Any, components: int | None, floor: float, compute: Compute) -> Fit:
    """Returns the PCA whitening of a Dask array ``[N, D]``.

    Args:
        components: to keep; None: all D.
        floor: least eigenvalue, as a share of the greatest.
        compute: runs Dask objects (`retrieval.blocks.computing`).

    Variances are divided by N - 1. Each component's greatest entry (in size) is positive, so that the same vectors give
    the same matrix.

    Raises:
        UsageError: more components than channels, not more vectors than components, or vectors that are all equal.
    """
    num_vectors, dim = vectors.shape
    wanted = dim if components is None else components
    if wanted > dim:
        got = f"{wanted}"
        raise UsageError(describe("whitening", "components", f"at most {dim}, the channels", got, "lower it"))
    if num_vectors <= wanted:
        expected = f"more vectors than the {wanted} components"
        remedy = "build more videos or frames, or set components lower"
        raise UsageError(describe("whitening", "vectors", expected, str(num_vectors), remedy))
    found = moments(vectors, compute)
    variance = found.scatter / (found.num - 1)
    values, directions = np.linalg.eigh(variance)
    values, directions = values[::-1][:wanted], directions.T[::-1][:wanted]
    if values[0] <= 0:
        remedy = "build regions of videos that differ"
        raise UsageError(describe("whitening", "vectors", "vectors that vary", "equal ones only", remedy))
    signs = np.sign(directions[np.arange(wanted), np.abs(directions).argmax(axis=1)])
    least = floor * values[0]
    return Fit(
        mean=found.mean,
        components=np.ascontiguousarray(directions * signs[:, None]),
        eigenvalues=np.maximum(values, least),
        num_floored=int((values < least).sum()),
        num_vectors=found.num,
        num_dead=int((np.diag(variance) == 0).sum()),
    )


def moments(vectors: Any, compute: Compute) -> Moments:
    """Returns the moments of a Dask array ``[N, D]`` whose blocks span all its columns."""
    blocks = vectors.to_delayed().ravel().tolist()
    total: Moments | None = None
    for start in range(0, len(blocks), GROUP_BLOCKS):
        parts = [delayed(block_moments)(block) for block in blocks[start : start + GROUP_BLOCKS]]
        group = compute(delayed(_merged)(parts))
        total = group if total is None else merge(total, group)
    if total is None:
        raise ValueError("moments: expected at least one block, got none")
    return total


def block_moments(block: npt.NDArray[Any]) -> Moments:
    """Returns the moments of ``[n, D]``."""
    found = [_slab_moments(block[start : start + SLAB_ROWS]) for start in range(0, len(block), SLAB_ROWS)]
    return _merged(found) if found else _slab_moments(block)


def _slab_moments(rows: npt.NDArray[Any]) -> Moments:
    values = rows.astype(np.float64)
    mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
    values -= mean
    return Moments(len(values), mean, values.T @ values)


def _merged(parts: Sequence[Moments]) -> Moments:
    total = parts[0]
    for part in parts[1:]:
        total = merge(total, part)
    return total


def merge(one: Moments, other: Moments) -> Moments:
    """Returns the moments of both together."""
    num = one.num + other.num
    if num == 0:
        return one
    apart = other.mean - one.mean
    scatter = one.scatter + other.scatter
    scatter += np.outer(apart, apart) * (one.num * other.num / num)
    return Moments(num, one.mean + apart * (other.num / num), scatter)
