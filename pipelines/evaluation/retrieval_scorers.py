"""Scores of query blocks against gallery blocks: what ranks a space. Pure numpy, picklable, greater is better.

Scores are computed in float64 and compared as float32 (`retrieval_rank`). The last bits of a matrix product depend on
the shape of the blocks it is cut into; rounding float64 to float32 removes that difference in all but about one score
of 10^8, so rankings do not depend on the block sizes, and equal rows tie exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]
Block = Mapping[str, Array]
"""Named arrays of the same items, ``[n, ...]`` each: what queries and gallery items are given as."""


class Scorer(Protocol):
    """Scores ``[Q, G]`` of a query block against a gallery block; must be picklable to run on a cluster."""

    def __call__(self, queries: Block, gallery: Block) -> npt.NDArray[np.floating]: ...


def unit_rows(vectors: Array) -> Floats:
    """Returns `vectors` ``[..., D]`` as float64 of norm 1 along the last axis; a zero vector stays zero (cosine 0)."""
    rows = np.asarray(vectors, np.float64)
    norms = np.sqrt(np.sum(rows * rows, axis=-1, keepdims=True))
    return rows / np.where(norms > 0, norms, 1.0)


@dataclass(frozen=True, slots=True)
class Cosine:
    """Cosine of ``queries[query]`` ``[Q, D]`` and ``gallery[gallery]`` ``[G, D]``: 1 minus MAP-IVR's S_A."""

    query: str
    gallery: str

    def __call__(self, queries: Block, gallery: Block) -> Floats:
        return unit_rows(queries[self.query]) @ unit_rows(gallery[self.gallery]).T


@dataclass(frozen=True, slots=True)
class BestOfSamples:
    """The greatest cosine over h decoded samples of a query: 1 minus MAP-IVR's S_V, the minimum over h of 1 - cos.

    ``queries[query]`` is ``[Q, h, D]``, ``gallery[gallery]`` is ``[G, D]``. The samples are taken one after the other,
    so no ``[Q, h, G]`` array ever exists.
    """

    query: str
    gallery: str

    def __call__(self, queries: Block, gallery: Block) -> Floats:
        samples, columns = np.asarray(queries[self.query]), unit_rows(gallery[self.gallery]).T
        best = np.full((samples.shape[0], columns.shape[1]), -np.inf)
        for i in range(samples.shape[1]):
            np.maximum(best, unit_rows(samples[:, i]) @ columns, out=best)
        return best


@dataclass(frozen=True, slots=True)
class Combined:
    """A weighted sum of other spaces' scores, from the scores already computed for the block: nothing is scored twice.

    MAP-IVR's combined space is ``Combined({"appearance": 1 - lambda_v, "video": lambda_v})``.
    """

    weights: Mapping[str, float]

    def combine(self, scores: Mapping[str, npt.NDArray[np.floating]]) -> Floats:
        """Returns the weighted sum of `scores`, each ``[Q, G]``, in the order of the spaces' names."""
        first, *others = sorted(self.weights)
        total: Floats = self.weights[first] * np.asarray(scores[first], np.float64)
        for space in others:
            total = total + self.weights[space] * np.asarray(scores[space], np.float64)
        return total
