"""Precision against recall of whole rankings, interpolated and averaged over queries.

With R relevant items at 0-based ranks ``p_1 < p_2 < ...``, recall after the j-th is j / R and precision ``j / (p_j +
1)``. The precision at recall level l is the greatest precision at any recall >= l, and 0 where nothing is relevant.

Ties: the ranking decides. Source: trec_eval's iprec_at_recall, at 101 levels instead of 11.
"""

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Floats

RECALL_LEVELS: Floats = np.arange(101) / 100.0


def interpolated_precision(ranks: npt.ArrayLike, num_relevant: int | None = None) -> Floats:
    """Returns interpolated precision at `RECALL_LEVELS`, ``float64[101]``.

    Args:
        ranks: ``int[r]``, ascending 0-based ranks of the relevant items of one query that the ranking holds.
        num_relevant: R, where the ranking does not hold all of them.
    """
    positions = np.asarray(ranks, np.int64)
    num = len(positions) if num_relevant is None else num_relevant
    if len(positions) == 0:
        return np.zeros(len(RECALL_LEVELS))
    precision = np.zeros(num)
    precision[: len(positions)] = np.arange(1, len(positions) + 1) / (positions + 1.0)
    best_from = np.maximum.accumulate(precision[::-1])[::-1]
    # ceil(level x R) in whole numbers: 0.07 x 100 is more than 7 in floating point.
    needed = -(-np.arange(101) * num // 100)
    levels: Floats = best_from[np.maximum(needed, 1) - 1]
    return levels
