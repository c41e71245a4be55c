"""Average precision of the first K results, as the cross-modal retrieval papers print it, and as it is usually meant.

With ``rel(r)`` in {0, 1} at rank r = 1, 2, ..., ``P(r) = (rel(1) + ... + rel(r)) / r`` and R relevant items in all::

    map@K      = mean over queries of  sum_{r <= K} rel(r) P(r)  /  sum_{r <= K} rel(r)          (0 if nothing is found)
    map_min@K  = mean over queries of  sum_{r <= K} rel(r) P(r)  /  min(K, R)                    (0 if R = 0)

``map@K`` divides by the relevant items *within the top K*: a list whose only hit stands at rank 1 scores 1. That is the
definition in the released evaluators of APIVR, ACMR, DSCMR and SDML, hence of the tables printed with them.

Ties: the ranking decides (`retrieval_rank`: descending score, then ascending id).
Sources: evaluators of APIVR (AAAI 2020), ACMR, DSCMR and SDML; ``map_min`` as in recommender-system practice.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Floats


def precision_sums(relevant: npt.ArrayLike, num_ranks: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Returns running ``sum_{r <= k} rel(r) P(r)`` and running hits, each ``[Q, num_ranks]`` for k = 1 .. num_ranks.

    Args:
        relevant: ``bool[Q, K]``, best first; ranks beyond K count as not relevant.
    """
    given = np.asarray(relevant, bool)[:, :num_ranks]
    rel = np.zeros((given.shape[0], num_ranks), np.int64)
    rel[:, : given.shape[1]] = given
    hits = np.cumsum(rel, axis=1)
    precision = hits / np.arange(1, num_ranks + 1, dtype=np.float64)
    # cumsum adds from left to right, so a row's value does not depend on how many other rows there are.
    return np.cumsum(precision * rel, axis=1), hits


def average_precision_curve(relevant: npt.ArrayLike, num_ranks: int) -> Floats:
    """Returns AP@k of the released definition for every k = 1 .. num_ranks, ``float64[Q, num_ranks]``."""
    sums, hits = precision_sums(relevant, num_ranks)
    return sums / np.maximum(hits, 1)


def average_precision_at(relevant: npt.ArrayLike, k: int) -> Floats:
    """Returns AP@K of the released definition (divided by the hits within the top K), ``float64[Q]``.

    Args:
        relevant: ``bool[Q, K']``, best first.
    """
    return average_precision_curve(relevant, k)[:, -1]


def average_precision_min_at(relevant: npt.ArrayLike, num_relevant: npt.ArrayLike, k: int) -> Floats:
    """Returns AP@K divided by ``min(K, R)``, ``float64[Q]``; with K >= N it is the usual average precision.

    Args:
        relevant: ``bool[Q, K']``, best first.
        num_relevant: ``int[Q]``, R: relevant items in the whole gallery.
    """
    sums, _ = precision_sums(relevant, k)
    return sums[:, -1] / np.maximum(np.minimum(k, np.asarray(num_relevant, np.int64)), 1)


def cumulative_k(values: Mapping[int, Sequence[float] | Floats]) -> dict[int, float]:
    """Returns, per K, what the released APIVR evaluator prints: its list of APs is never cleared between the Ks.

    So the value at the second K is the mean of the APs at the first and the second, and so on. For comparison with
    tables that may have been made with it; never a metric of its own.

    Args:
        values: per-query AP@K by K, each of the same Q queries; the Ks are taken in ascending order.
    """
    pooled: list[float] = []
    printed = {}
    for k in sorted(values):
        pooled.extend(float(value) for value in values[k])
        printed[k] = math.fsum(pooled) / len(pooled) if pooled else math.nan
    return printed


def undo_cumulative_k(printed: Mapping[int, float]) -> dict[int, float]:
    """Returns the true mAP@K behind a table printed with the never-cleared list: ``i m_i - (i-1) m_{i-1}``."""
    ks = sorted(printed)
    return {k: i * printed[k] - (i - 1) * (printed[ks[i - 2]] if i > 1 else 0.0) for i, k in enumerate(ks, start=1)}
