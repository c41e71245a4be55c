"""Which way round a published PCA's directions lie in its file, asked of features it was made for.

A principal direction explains less of the variance than the one before it. So features projected with the right
orientation have variances that fall as the file's own do; with the wrong one, the directions are mixed up, and the
variances have nothing to do with them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from dask.delayed import delayed

Compute = Callable[[Any], Any]

MOST_BLOCKS = 16
MOST_ROWS = 4096
"""Of the rows that are looked at (ours; the reference says a few thousand)."""


def sample_rows(vectors: Any, compute: Compute) -> npt.NDArray[np.float32]:
    """Returns at most `MOST_ROWS` rows of a Dask array ``[N, D]``, evenly from at most `MOST_BLOCKS` of its blocks."""
    blocks = vectors.to_delayed().ravel().tolist()
    chosen = np.unique(np.linspace(0, len(blocks) - 1, min(len(blocks), MOST_BLOCKS)).round().astype(int))
    each = MOST_ROWS // len(chosen)
    parts = compute(delayed(list)([delayed(_evenly)(blocks[index], each) for index in chosen]))
    found: npt.NDArray[np.float32] = np.concatenate(parts)
    return found


def _evenly(block: npt.NDArray[np.float32], most: int) -> npt.NDArray[np.float32]:
    rows = np.unique(np.linspace(0, len(block) - 1, min(len(block), most)).round().astype(int))
    found: npt.NDArray[np.float32] = block[rows]
    return found


def follows(projected: npt.NDArray[Any], variances: npt.NDArray[Any]) -> float:
    """Returns Spearman's correlation of the variances of ``[N, D]`` projected rows with the file's own ``[D]``."""
    own = projected.astype(np.float64).var(axis=0)
    return float(np.corrcoef(_ranks(own), _ranks(np.asarray(variances)))[0, 1])


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks
