"""How sure a mean over queries is: the percentile bootstrap, seeded, over per-query values.

Resampling is over queries, the unit that was sampled; the gallery stays as it is. Source: Efron and Tibshirani, An
Introduction to the Bootstrap, 1993; for rankings Sakai, SIGIR 2006.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the range that holds it with the stated confidence."""

    value: float
    low: float
    high: float
    confidence: float


def bootstrap_mean(
    values: npt.ArrayLike, seed: int = 0, num_resamples: int = RESAMPLES, confidence: float = 0.95
) -> Interval:
    """Returns the mean of `values` with its percentile bootstrap interval; the same seed gives the same bits.

    Args:
        values: ``float[n]``, one per query, in query order; NaN (the query does not count) is left out. With no value
            left
            everything is NaN.
        num_resamples: draws of n queries with replacement.
    """
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    if len(array) == 0:
        return Interval(math.nan, math.nan, math.nan, confidence)
    rng = np.random.default_rng(seed)
    means = np.empty(num_resamples)
    for start in range(0, num_resamples, _CHUNK):
        stop = min(start + _CHUNK, num_resamples)
        drawn = rng.integers(0, len(array), (stop - start, len(array)))
        means[start:stop] = np.cumsum(array[drawn], axis=1)[:, -1] / len(array)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(math.fsum(array.tolist()) / len(array), float(low), float(high), confidence)


def bootstrap_difference(
    ours: npt.ArrayLike, theirs: npt.ArrayLike, seed: int = 0, num_resamples: int = RESAMPLES, confidence: float = 0.95
) -> Interval:
    """Returns the mean of ``ours - theirs`` over the same queries (paired) with its bootstrap interval.

    Raises:
        ValueError: the two have different numbers of queries.
    """
    left, right = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if left.shape != right.shape:
        raise ValueError(f"paired values: expected the same queries on both sides, got {len(left)} and {len(right)}")
    return bootstrap_mean(left - right, seed, num_resamples, confidence)
