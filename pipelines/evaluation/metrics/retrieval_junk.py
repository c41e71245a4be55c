"""Average precision with junk items, as in the Oxford and Paris landmark benchmarks, old and revisited.

Junk items are neither right nor wrong: they are deleted from the list before anything is counted. With 0-based ranks
``r_0 < r_1 < ...`` of the retrieved positives *after* that and n positives in the ground truth, found or not::

    trapezoid = sum_j [ j / r_j  +  (j + 1) / (r_j + 1) ] / (2 n)          (the first fraction is 1 where r_j = 0)
    rectangle = sum_j (j + 1) / (r_j + 1) / n
    mp@k      = mean over queries of  |{j : r_j < k'}| / k',   k' = min(k, 1 + rank of the last retrieved positive)

Trapezoid <= rectangle always, equal only where all retrieved positives stand at the top. Queries without positives are
skipped (NaN), not scored 0.

Ties: the list decides; rank it with `retrieval_rank`.
Sources: the Oxford Buildings tool compute_ap (trapezoid); Stanford I2V and trec_eval (rectangle); Radenovic et al.,
Revisiting Oxford and Paris, CVPR 2018 (protocols, mP@k).
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Ints


def positive_ranks(ranked: Sequence[str], positives: Collection[str], junk: Collection[str] = ()) -> Ints:
    """Returns the 0-based ranks of the positives of a ranked list of ids after deleting its junk, ascending.

    Raises:
        ValueError: an id is both positive and junk, or stands in the list twice.
    """
    both = set(positives) & set(junk)
    if both:
        raise ValueError(f"item {min(both)!r}: expected positive or junk, got both; correct the ground truth")
    if len(set(ranked)) != len(ranked):
        raise ValueError("ranked list: expected each id once, got one twice; remove the duplicate")
    wanted, ignored = set(positives), set(junk)
    kept = [item for item in ranked if item not in ignored]
    return np.array([rank for rank, item in enumerate(kept) if item in wanted], np.int64)


def trapezoid_ap(ranks: npt.ArrayLike, num_positives: int) -> float:
    """Returns the trapezoid AP of 0-based junk-free `ranks`; NaN where there is no positive in the ground truth."""
    if num_positives == 0:
        return math.nan
    r = np.sort(np.asarray(ranks, np.float64))
    j = np.arange(len(r), dtype=np.float64)
    before = np.where(r == 0, 1.0, j / np.maximum(r, 1.0))
    return math.fsum((before + (j + 1) / (r + 1)).tolist()) / (2 * num_positives)


def rectangle_ap(ranks: npt.ArrayLike, num_positives: int) -> float:
    """Returns the rectangle AP of 0-based junk-free `ranks`; NaN where there is no positive in the ground truth."""
    if num_positives == 0:
        return math.nan
    r = np.sort(np.asarray(ranks, np.float64))
    j = np.arange(len(r), dtype=np.float64)
    return math.fsum(((j + 1) / (r + 1)).tolist()) / num_positives


def revisited_precision_at(ranks: npt.ArrayLike, num_positives: int, k: int) -> float:
    """Returns the revisited benchmarks' P@k: the list ends at its last retrieved positive if that comes before k.

    NaN where there is no positive in the ground truth; 0 where none was retrieved.
    """
    if num_positives == 0:
        return math.nan
    r = np.asarray(ranks, np.int64)
    if len(r) == 0:
        return 0.0
    stop = min(k, int(r.max()) + 1)
    return int((r < stop).sum()) / stop


@dataclass(frozen=True, slots=True)
class RevisitedTruth:
    """Ground truth of one revisited Oxford or Paris query: ids of its easy, hard and junk images."""

    easy: frozenset[str]
    hard: frozenset[str]
    junk: frozenset[str]

    def protocol(self, name: str) -> tuple[frozenset[str], frozenset[str]]:
        """Returns (positives, junk) of ``easy``, ``medium`` or ``hard``.

        Raises:
            ValueError: there is no such protocol.
        """
        if name == "easy":
            return self.easy, self.junk | self.hard
        if name == "medium":
            return self.easy | self.hard, self.junk
        if name == "hard":
            return self.hard, self.junk | self.easy
        raise ValueError(f"protocol {name!r}: expected easy, medium or hard; name one of them")
