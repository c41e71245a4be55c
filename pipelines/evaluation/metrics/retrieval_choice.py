"""Choosing an item's counterpart among a few: SemArt's comparison with people (Garcia, Vogiatzis, ECCV workshops 2018).

Of a text, its own painting and c - 1 others are shown; the answer is the one of the greatest score. The others are
drawn from all paintings (*easy*) or from those of the same type (*difficult*). Here nothing is drawn: of P paintings to
draw from, b of which score no less than the own one, the answer is right with the probability C(P - b, c - 1) /
C(P, c - 1).
"""

from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Floats


def choice_accuracy(scores: npt.ArrayLike, num_candidates: int, groups: Sequence[object] | None = None) -> Floats:
    """Returns the probability ``float64[n]`` that each query chooses its own item; NaN where too few are there to draw.

    Args:
        scores: ``[n, n]``, of query i and item j; own pairs are the diagonal. An equal score counts against it.
        num_candidates: c, the own item among them.
        groups: of each item, those of which the others are drawn; None: all.

    Raises:
        ValueError: the scores are not square, or there are not as many groups.
    """
    table = np.asarray(scores, np.float32)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or (groups is not None and len(groups) != len(table)):
        got = f"{list(table.shape)} and {None if groups is None else len(groups)} groups"
        raise ValueError(f"choices: expected scores [n, n] and n groups, got {got}; give one item for each query")
    others = ~np.eye(len(table), dtype=bool)
    if groups is not None:
        codes = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)[1]
        others &= codes[:, None] == codes
    at_least = (others & (table >= table.diagonal()[:, None])).sum(axis=1)
    num_drawn, found = num_candidates - 1, []
    for pool, before in zip(others.sum(axis=1).tolist(), at_least.tolist(), strict=True):
        found.append(comb(pool - before, num_drawn) / comb(pool, num_drawn) if pool >= num_drawn else np.nan)
    return np.array(found, np.float64)
