"""Normalised discounted cumulative gain of the first K results.

::

    DCG@K  = sum_{r <= K} gain(r) / log2(r + 1)
    nDCG@K = DCG@K / DCG@K of the best possible order of all judged items         (0 if no item has a gain)

Gains are linear (trec_eval, scikit-learn), not ``2^gain - 1``; for relevant / not relevant both are the same.
Ties: the ranking decides (descending score, then ascending id); scikit-learn averages over ties unless told otherwise.
Source: Järvelin and Kekäläinen, TOIS 2002.
"""

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Floats


def discounted_gain_at(gains: npt.ArrayLike, k: int) -> Floats:
    """Returns DCG@K of `gains` ``[Q, K']``, best first, ``float64[Q]``."""
    taken = np.asarray(gains, np.float64)[:, :k]
    if taken.shape[1] == 0:
        return np.zeros(taken.shape[0])
    discount = 1.0 / np.log2(np.arange(2, taken.shape[1] + 2, dtype=np.float64))
    return np.cumsum(taken * discount, axis=1)[:, -1]


def ndcg_at(gains: npt.ArrayLike, all_gains: npt.ArrayLike, k: int) -> Floats:
    """Returns nDCG@K, ``float64[Q]``.

    Args:
        gains: ``[Q, K']``, gain of the item at each rank, best first.
        all_gains: ``[Q, N]``, gains of all judged items of each query, in any order.
    """
    ideal = discounted_gain_at(-np.sort(-np.asarray(all_gains, np.float64), axis=1), k)
    return discounted_gain_at(gains, k) / np.where(ideal > 0, ideal, 1.0)


def binary_ndcg_at(relevant: npt.ArrayLike, num_relevant: npt.ArrayLike, k: int) -> Floats:
    """Returns nDCG@K where every relevant item has gain 1, ``float64[Q]``."""
    found = np.asarray(relevant, bool)[:, :k]
    ranks = np.arange(k)
    ideal = discounted_gain_at(ranks[None, :] < np.asarray(num_relevant, np.int64)[:, None], k)
    return discounted_gain_at(found, k) / np.where(ideal > 0, ideal, 1.0)
