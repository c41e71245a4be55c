"""The scores of one query block against one gallery block in all spaces: quickly and roughly, or as they are defined.

    scores = BlockScores(queries, gallery, scorers)
    scores.rough("combined")                    # float32[Q, G] and how far off they can be
    scores.pairs("combined", rows, columns)     # float32[n], as defined
    scores.all("combined")                      # float32[Q, G], as defined

What is defined depends on a pair alone, never on the block (`scorers`). Many pairs are taken from a float64
product, in which only those are computed one by one that lie too near a rounding border to be sure.
"""

import math
from collections.abc import Mapping

import numpy as np

from clipmill.pipelines.evaluation.retrieval.scorers import GRID, Combined, PairScorer, Scorer, Scores, Side, on_grid
from clipmill.schemas.arrays import Floats, Ints, Singles
from clipmill.schemas.errors import UsageError, describe, near

_DENSE_SHARE = 1 / 24
"""ours: from this share of a block's pairs on, a float64 product is quicker than single pairs."""


class BlockScores:
    """Scores of `queries` ``[Q]`` and `gallery` ``[G]`` in the spaces of `scorers`.

    Raises (all methods):
        UsageError: a combined space names an unknown one, or scores hold NaN.
        ValueError: a scorer returned another shape.
    """

    def __init__(
        self, queries: Side, gallery: Side, scorers: Mapping[str, Scorer | Combined], shape: tuple[int, int]
    ) -> None:
        self._queries, self._gallery, self._scorers, self.shape = queries, gallery, scorers, shape
        self._rough: dict[str, tuple[Singles, float]] = {}
        self._whole: dict[str, Floats] = {}
        self._taken: dict[str, Scores] = {}

    def rough(self, space: str) -> tuple[Singles, float]:
        """Returns float32 scores ``[Q, G]`` and a bound on their distance from the defined ones."""
        if space not in self._rough:
            scorer = self._scorers[space]
            if isinstance(scorer, Combined):
                self._rough[space] = self._rough_sum(space, scorer)
            elif isinstance(scorer, PairScorer):
                scores, bound = scorer.approximate(self._queries, self._gallery, single=True)
                self._rough[space] = np.asarray(self._checked(space, scores, bound), np.float32), bound
            else:
                # + 0.0: -0.0 and 0.0 are one score.
                self._rough[space] = self._given(space).astype(np.float32) + np.float32(0.0), 0.0
        return self._rough[space]

    def pairs(self, space: str, rows: Ints, columns: Ints) -> Singles:
        """Returns the defined scores of the pairs (`rows`, `columns`) ``[n]``, ``float32[n]``."""
        return self._pairs(space, rows, columns).astype(np.float32) + np.float32(0.0)

    def all(self, space: str) -> Singles:
        """Returns the defined scores of all pairs, ``float32[Q, G]``."""
        return self._all(space).astype(np.float32) + np.float32(0.0)

    def _parts(self, space: str, scorer: Combined) -> list[str]:
        known = [name for name, other in self._scorers.items() if not isinstance(other, Combined)]
        missing = sorted(set(scorer.weights) - set(known))
        if missing:
            got = f"'{missing[0]}'"
            raise UsageError(describe("space", space, "spaces that are scored", got, near(missing[0], known)))
        return sorted(scorer.weights)

    def _rough_sum(self, space: str, scorer: Combined) -> tuple[Singles, float]:
        total: Singles = np.zeros(self.shape, np.float32)
        bound = size = 0.0
        for name in self._parts(space, scorer):
            scores, off = self.rough(name)
            weight = scorer.weights[name]
            total += np.float32(weight) * scores
            bound += abs(weight) * off
            size += abs(weight) * float(np.abs(scores).max(initial=0))
        # Each weight, product and sum rounds by at most 2^-24 of what is added up, and so does the defined score.
        return total, bound + (2 * len(scorer.weights) + 3) * 2.0**-24 * size

    def _pairs(self, space: str, rows: Ints, columns: Ints) -> Floats:
        scorer = self._scorers[space]
        if isinstance(scorer, Combined):
            return scorer.combine({name: self._pairs(name, rows, columns) for name in self._parts(space, scorer)})
        if space not in self._whole and isinstance(scorer, PairScorer):
            if len(rows) < _DENSE_SHARE * self.shape[0] * self.shape[1]:
                return scorer.exact(self._queries, self._gallery, rows, columns)
        return self._all(space)[rows, columns]

    def _all(self, space: str) -> Floats:
        if space not in self._whole:
            scorer = self._scorers[space]
            if isinstance(scorer, Combined):
                self._whole[space] = scorer.combine({name: self._all(name) for name in self._parts(space, scorer)})
            elif isinstance(scorer, PairScorer):
                self._whole[space] = self._decided(space, scorer)
            else:
                self._whole[space] = self._given(space).astype(np.float64)
        return self._whole[space]

    def _decided(self, space: str, scorer: PairScorer) -> Floats:
        approximate, bound = scorer.approximate(self._queries, self._gallery, single=False)
        scores = np.asarray(self._checked(space, approximate, bound), np.float64)
        steps = scores / GRID
        unsure = np.abs(steps - np.floor(steps) - 0.5) <= bound / GRID
        scores = on_grid(scores)
        rows, columns = np.nonzero(unsure)
        scores[rows, columns] = scorer.exact(self._queries, self._gallery, rows, columns)
        return scores

    def _given(self, space: str) -> Scores:
        if space not in self._taken:
            scorer = self._scorers[space]
            if isinstance(scorer, Combined):
                raise TypeError(f"space {space}: expected a scorer, got a combination")
            scores = np.asarray(scorer(self._queries, self._gallery))
            self._taken[space] = self._checked(space, scores, math.nan if np.isnan(scores).any() else 0.0)
        return self._taken[space]

    def _checked(self, space: str, scores: Scores, bound: float) -> Scores:
        if scores.shape != self.shape:
            expected, got = list(self.shape), list(scores.shape)
            raise ValueError(f"space {space}: expected scores {expected}, got {got}; correct its scorer")
        if math.isnan(bound):
            remedy = "check the features and the model for values that are not finite"
            raise UsageError(describe("space", space, "scores that are numbers", "NaN", remedy))
        return scores
