"""Is one run better than another? Paired tests over the units that were sampled: queries, or videos.

* paired randomisation test: under the null hypothesis the two runs' values of a unit may be swapped; the p-value is the
  share of swaps whose mean difference is at least as large as the observed one, two-sided, with the observed one
  counted in: ``p = (1 + at least as large) / (1 + swaps)``. All 2^n swaps are tried where there are at most `num_swaps`
  of them, and then ``p = at least as large / 2^n`` exactly.
* paired bootstrap: interval of the mean difference over resampled units.
* a score that is no mean over units (detection mAP: a ranking over all videos) is resampled as a whole by video, both
runs
  with the same draw.

Seeded: the same seed gives the same bits. Pairs with NaN on either side are left out of both.
Source: M. Smucker et al., A comparison of statistical significance tests for information retrieval evaluation, CIKM
2007; B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.evaluation.bootstrap import RESAMPLES, Interval, bootstrap_mean

NUM_SWAPS = 10_000
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two runs over the units that both have.

    Attributes:
        difference: mean of ``ours - theirs`` with its bootstrap interval.
        p_value: two-sided, of the paired randomisation test; NaN without units.
        num_units: units (queries, videos) that were compared.
        num_only_ours, num_only_theirs: units of one run alone; left out.
        num_better, num_worse: units in which ours is higher or lower; the others are equal.
    """

    difference: Interval
    p_value: float
    num_units: int
    num_only_ours: int
    num_only_theirs: int
    num_better: int
    num_worse: int

    @property
    def line(self) -> str:
        """The comparison as one line."""
        gap = self.difference
        left_out = self.num_only_ours + self.num_only_theirs
        span = f"{gap.value:+.4f} ({gap.confidence:.0%}: {gap.low:+.4f} to {gap.high:+.4f})"
        units = f"{self.num_units} units, {self.num_better} better, {self.num_worse} worse"
        return f"difference {span}, p = {self.p_value:.4f}; {units}; {left_out} in one run alone"


def compare(
    ours: Mapping[str, float],
    theirs: Mapping[str, float],
    seed: int = 0,
    num_resamples: int = RESAMPLES,
    num_swaps: int = NUM_SWAPS,
    confidence: float = 0.95,
) -> Comparison:
    """Returns how two runs differ, paired by unit; the order of the mappings does not matter.

    Args:
        ours, theirs: unit (query or video id) to value.
        num_resamples: of the bootstrap.
        num_swaps: of the randomisation test.
    """
    shared = sorted(name for name in ours if name in theirs)
    gap = np.array([ours[name] - theirs[name] for name in shared], np.float64)
    gap = gap[~np.isnan(gap)]
    return Comparison(
        bootstrap_mean(gap, seed, num_resamples, confidence),
        randomisation_p_value(gap, seed, num_swaps),
        len(gap),
        len(ours) - len(shared),
        len(theirs) - len(shared),
        int((gap > 0).sum()),
        int((gap < 0).sum()),
    )


def randomisation_p_value(differences: npt.ArrayLike, seed: int = 0, num_swaps: int = NUM_SWAPS) -> float:
    """Returns the two-sided p-value of the paired randomisation test that the mean difference is zero.

    Args:
        differences: ``float[n]``, ours minus theirs per unit.
        num_swaps: random swaps, where trying all 2^n would take more.
    """
    gap = np.asarray(differences, np.float64).reshape(-1)
    # A unit without a difference is the same after a swap: left out, it makes the exact test reach further.
    moving = gap[gap != 0]
    if len(gap) == 0:
        return math.nan
    # Sums of the same terms in another order may differ in the last bit and must count as equal.
    reach = abs(math.fsum(moving.tolist())) - 1e-9 * float(np.abs(moving).sum())
    if len(moving) < 63 and 2 ** len(moving) <= num_swaps:
        patterns = np.arange(2 ** len(moving))
        signs = 1 - 2 * ((patterns[:, None] >> np.arange(len(moving))) & 1)
        return float((np.abs(signs @ moving) >= reach).mean()) if len(moving) else 1.0
    rng = np.random.default_rng(seed)
    num_reaching = 0
    for start in range(0, num_swaps, _CHUNK):
        signs = 1 - 2 * rng.integers(0, 2, (min(_CHUNK, num_swaps - start), len(moving)))
        num_reaching += int((np.abs(signs @ moving) >= reach).sum())
    return (1 + num_reaching) / (1 + num_swaps)


def bootstrap_score(
    num_units: int,
    score: Callable[[npt.NDArray[np.int64]], float],
    seed: int = 0,
    num_resamples: int = 200,
    confidence: float = 0.95,
) -> Interval:
    """Returns a score with its percentile bootstrap interval, for scores that are no mean over units.

    For a paired difference let `score` return the difference of both runs on the same units.

    Args:
        num_units: n videos.
        score: the score of the videos at the given positions ``int64[n]``; a position may stand several times, and
            each time counts as a video of its own.
        num_resamples: ours; fewer than for a mean, because each computes the whole score.
    """
    if num_units == 0:
        return Interval(math.nan, math.nan, math.nan, confidence)
    rng = np.random.default_rng(seed)
    values = [score(rng.integers(0, num_units, num_units)) for _ in range(num_resamples)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(score(np.arange(num_units)), float(low), float(high), confidence)
