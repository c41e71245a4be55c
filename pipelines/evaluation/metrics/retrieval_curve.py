"""Precision against recall of whole rankings, interpolated and averaged over queries.

With R relevant items at 0-based ranks ``p_1 < p_2 < ...``, recall after the j-th is j / R and precision ``j / (p_j +
1)``. The precision at recall level l is the greatest precision at any recall >= l, and 0 where nothing is relevant.

Ties: the ranking decides. Source: trec_eval's iprec_at_recall, at 101 levels instead of 11.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RECALL_LEVELS: Floats = np.arange(101) / 100.0


def interpolated_precision(ranks: npt.ArrayLike) -> Floats:
    """Returns interpolated precision at `RECALL_LEVELS`, ``float64[101]``.

    Args:
        ranks: ``int[R]``, ascending 0-based ranks of all relevant items of one query.
    """
    positions = np.asarray(ranks, np.int64)
    num = len(positions)
    if num == 0:
        return np.zeros(len(RECALL_LEVELS))
    precision = np.arange(1, num + 1) / (positions + 1.0)
    best_from = np.maximum.accumulate(precision[::-1])[::-1]
    # ceil(level x R) in whole numbers: 0.07 x 100 is more than 7 in floating point.
    needed = -(-np.arange(101) * num // 100)
    levels: Floats = best_from[np.maximum(needed, 1) - 1]
    return levels
