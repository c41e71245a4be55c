"""Means over the rows of clips, in bounded memory, each chunk of a shard decompressed once."""

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Ints
from clipmill.stores.shards import Shard, take_values


def add_means(shard: Shard, wanted: list[tuple[int, Ints]], slab_rows: int, means: npt.NDArray[np.float32]) -> None:
    """Writes into `means` ``float32[n, D]`` the mean of each clip's rows.

    Args:
        wanted: (position in `means`, rows of the shard ``int64[m]``, ascending), by the first row.
        slab_rows: how many rows are read at a time, at most.
    """
    position, dim = 0, means.shape[1]
    while position < len(wanted):
        first = int(wanted[position][1][0])
        # Clips of one slab are read in one go, so that a chunk is not decompressed once per clip.
        until = position + 1
        stop = int(wanted[position][1][-1]) + 1
        if stop - first > slab_rows and dim > 1:
            number, rows = wanted[position]
            means[number] = _long_mean(shard, rows, slab_rows, dim)
            position = until
            continue
        while until < len(wanted) and int(wanted[until][1][-1]) + 1 - first <= slab_rows:
            stop = max(stop, int(wanted[until][1][-1]) + 1)
            until += 1
        values = shard.values(first, stop)
        for number, rows in wanted[position:until]:
            means[number] = values[rows - first].astype(np.float64).mean(axis=0)
        position = until


def _long_mean(shard: Shard, rows: Ints, most: int, dim: int) -> npt.NDArray[np.float64]:
    """Returns the mean of more rows than are held at a time; added up one after the other, as `mean` does.

    (Of vectors of one number NumPy would add pairwise, so those are never cut.)
    """
    parts = (rows[start : start + most] for start in range(0, len(rows), most))
    total = np.zeros((0, dim))
    for part in parts:
        values = take_values(shard, part).astype(np.float64)
        total = np.add.reduce(np.concatenate([total, values]), axis=0, keepdims=True)
    return np.asarray(total[0] / len(rows))
