"""Which gallery items a query does not rank: its own clip, or all clips of its own video.

They are left out as if they were not in the gallery of that query: they take no rank, and are neither right nor missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.evaluation.retrieval.relevance import Codes, Relevance
from clipmill.schemas.arrays import Ints

Exclude = Literal["none", "own_clip", "own_video"]


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A query does not rank the items of its own group.

    Attributes:
        queries, gallery: ``int32[Q]`` and ``int32[N]``, the group of each as a number shared by both sides.
    """

    queries: Codes
    gallery: Codes

    @staticmethod
    def of(query_groups: Sequence[str], gallery_groups: Sequence[str]) -> "Exclusion":
        """Returns the exclusion of items whose group has the name of the query's."""
        codes = {name: code for code, name in enumerate(sorted({*query_groups, *gallery_groups}))}
        sides = (
            np.fromiter(map(codes.__getitem__, side), np.int32, len(side)) for side in (query_groups, gallery_groups)
        )
        return Exclusion(*sides)

    def part(self, queries: slice, items: slice) -> "Exclusion":
        """Returns the exclusion of some queries and items, whose positions then count from 0."""
        return Exclusion(self.queries[queries], self.gallery[items])

    def of_queries(self, chosen: Ints) -> "Exclusion":
        """Returns the exclusion of the queries at the positions `chosen`."""
        return Exclusion(self.queries[chosen], self.gallery)

    def pairs(self, start: int = 0, stop: int | None = None) -> tuple[Ints, Ints]:
        """Returns (query, item - start) of what is not ranked of items ``[start, stop)``, by query, then by item."""
        gallery = self.gallery[start:stop]
        order = np.argsort(gallery, kind="stable")
        first = np.searchsorted(gallery[order], self.queries, side="left")
        counts = np.searchsorted(gallery[order], self.queries, side="right") - first
        rows = np.repeat(np.arange(len(self.queries)), counts)
        place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, order[np.repeat(first, counts) + place].astype(np.int64)

    def has(self, rows: Ints, columns: Ints) -> npt.NDArray[np.bool_]:
        """Returns whether the pairs (`rows`, `columns`) are left out, ``bool[n]``."""
        return np.asarray(self.queries[rows] == self.gallery[columns], np.bool_)

    def num_left(self) -> Ints:
        """Returns ``int64[Q]``, how many items each query ranks."""
        rows, _ = self.pairs()
        return len(self.gallery) - np.bincount(rows, minlength=len(self.queries)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class RankedRelevance:
    """What is relevant among the items that a query ranks."""

    relevance: Relevance
    exclusion: Exclusion

    @property
    def num_relevant(self) -> Ints:
        """``int64[Q]``."""
        rows, columns = self.exclusion.pairs()
        lost = rows[self.relevance.has(rows, columns)]
        every = self.relevance.num_relevant
        return every - np.bincount(lost, minlength=len(every)).astype(np.int64)

    @property
    def num_pairs(self) -> int:
        """Relevant items of all queries that are in the gallery and ranked."""
        rows, columns = self.exclusion.pairs()
        return self.relevance.num_pairs - int(self.relevance.has(rows, columns).sum())

    def has(self, rows: Ints, columns: Ints) -> npt.NDArray[np.bool_]:
        """Returns whether the items `columns` are relevant to the queries `rows` and ranked."""
        return self.relevance.has(rows, columns) & ~self.exclusion.has(rows, columns)

    def hits(self, top: Ints) -> npt.NDArray[np.bool_]:
        """Returns whether the items `top` are relevant; what is not ranked stands in no top list."""
        return self.relevance.hits(top)

    def part(self, queries: slice, items: slice) -> "RankedRelevance":
        """Returns the relevance of some queries and items."""
        return RankedRelevance(self.relevance.part(queries, items), self.exclusion.part(queries, items))

    def pairs(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Returns the relevant pairs with items ``[start, stop)``."""
        rows, columns = self.relevance.pairs(start, stop)
        ranked = ~self.exclusion.has(rows, columns + start)
        return rows[ranked], columns[ranked]
