"""Recall, hits and precision within the first K results, and the rank of the first relevant item.

With h(K) relevant items among the first K and R in the gallery::

    recall@K     = mean over queries of  h(K) / R                     (0 if R = 0)
    hit@K        = share of queries whose first relevant rank <= K    (the R@K of text-to-video papers, where R = 1)
    p@K          = mean over queries of  h(K) / K                     (K also where the list is shorter)
    median_rank  = median over queries of the first relevant rank, 1-based

Ties: recall@K and p@K read the ranking (descending score, then ascending id). hit@K and median_rank use the pessimistic
rank: every irrelevant item with the same score comes first, so equal scores for all items can never look perfect.
Source: trec_eval (recall, P, success); first ranks as in the cross-modal retrieval literature.
"""

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Floats


def recall_at(relevant: npt.ArrayLike, num_relevant: npt.ArrayLike, k: int) -> Floats:
    """Returns the share of the relevant items that are among the first K, ``float64[Q]``."""
    found: Floats = np.asarray(relevant, bool)[:, :k].sum(axis=1, dtype=np.float64)
    return found / np.maximum(np.asarray(num_relevant, np.int64), 1)


def precision_at(relevant: npt.ArrayLike, k: int) -> Floats:
    """Returns the share of the first K that is relevant, ``float64[Q]``; the denominator is always K."""
    found: Floats = np.asarray(relevant, bool)[:, :k].sum(axis=1, dtype=np.float64)
    return found / k


def hit_at(first_rank: npt.ArrayLike, k: int) -> Floats:
    """Returns 1.0 where the first relevant item stands within the first K, else 0.0, ``float64[Q]``.

    Args:
        first_rank: ``int[Q]``, 1-based, 0 where a query has no relevant item.
    """
    rank = np.asarray(first_rank, np.int64)
    return ((rank >= 1) & (rank <= k)).astype(np.float64)


def rank_value(first_rank: npt.ArrayLike) -> Floats:
    """Returns the first relevant ranks as values to take the median of; infinity where a query has no relevant item."""
    rank = np.asarray(first_rank, np.int64)
    return np.where(rank >= 1, rank.astype(np.float64), np.inf)
