"""Which gallery items are right for which query: those of its label, or those that judgements (qrels) name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Ints
from clipmill.schemas.errors import UsageError, describe

Codes = npt.NDArray[np.int32]


class Relevance(Protocol):
    """What is relevant of Q queries and N gallery items, by position."""

    @property
    def num_relevant(self) -> Ints:
        """``int64[Q]``, R: relevant items of each query, those that are not in the gallery included."""
        ...

    @property
    def num_pairs(self) -> int:
        """Relevant items of all queries that are in the gallery."""
        ...

    def hits(self, top: Ints) -> npt.NDArray[np.bool_]:
        """Returns whether the gallery items `top` ``int64[Q, K]`` are relevant, ``bool[Q, K]``; -1 is none."""
        ...

    def has(self, rows: Ints, columns: Ints) -> npt.NDArray[np.bool_]:
        """Returns whether the gallery items `columns` are relevant to the queries `rows`, shapes that broadcast."""
        ...

    def part(self, queries: slice, items: slice) -> "Relevance":
        """Returns the relevance of some queries and items, whose positions then count from 0."""
        ...

    def pairs(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Returns (query, item - start) of all relevant items in ``[start, stop)``, by query, then by item."""
        ...


@dataclass(frozen=True, slots=True)
class ByLabel:
    """Relevant is what has the query's label.

    Attributes:
        queries, gallery: ``int32[Q]`` and ``int32[N]``, the label of each item as a number shared by both sides.
    """

    queries: Codes
    gallery: Codes

    @property
    def num_relevant(self) -> Ints:
        """``int64[Q]``."""
        most = int(max(self.queries.max(initial=-1), self.gallery.max(initial=-1))) + 1
        return np.bincount(self.gallery, minlength=most).astype(np.int64)[self.queries]

    @property
    def num_pairs(self) -> int:
        """Relevant items of all queries."""
        return int(self.num_relevant.sum())

    def hits(self, top: Ints) -> npt.NDArray[np.bool_]:
        """Returns whether the gallery items `top` have their query's label."""
        return self.has(np.arange(len(top))[:, None], top) & (top >= 0)

    def has(self, rows: Ints, columns: Ints) -> npt.NDArray[np.bool_]:
        """Returns whether the gallery items `columns` have the label of the queries `rows`."""
        return np.asarray(self.gallery[columns] == self.queries[rows], np.bool_)

    def part(self, queries: slice, items: slice) -> "ByLabel":
        """Returns the labels of some queries and items."""
        return ByLabel(self.queries[queries], self.gallery[items])

    def pairs(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Returns the pairs of one label with items ``[start, stop)``."""
        rows, columns = np.nonzero(self.queries[:, None] == self.gallery[None, start:stop])
        return rows, columns


@dataclass(frozen=True, slots=True)
class ByJudgement:
    """Relevant is what was judged so.

    Attributes:
        num_relevant: ``int64[Q]``, those that are not in the gallery included: they count as never found.
        num_items: N.
        keys: ``int64[R]``, ascending: ``query x N + item`` of each relevant item in the gallery.
    """

    num_relevant: Ints
    num_items: int
    keys: Ints

    @property
    def num_pairs(self) -> int:
        """Relevant items of all queries that are in the gallery."""
        return len(self.keys)

    def hits(self, top: Ints) -> npt.NDArray[np.bool_]:
        """Returns whether the gallery items `top` were judged relevant to their query."""
        return self.has(np.arange(len(top))[:, None], top) & (top >= 0)

    def has(self, rows: Ints, columns: Ints) -> npt.NDArray[np.bool_]:
        """Returns whether the gallery items `columns` were judged relevant to the queries `rows`."""
        wanted = rows * self.num_items + columns
        if not len(self.keys):
            return np.zeros(wanted.shape, np.bool_)
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.asarray(self.keys[at] == wanted, np.bool_)

    def part(self, queries: slice, items: slice) -> "ByJudgement":
        """Returns the judgements of some queries and items."""
        first, last, _ = queries.indices(len(self.num_relevant))
        start, stop, _ = items.indices(self.num_items)
        found = self.keys[slice(*np.searchsorted(self.keys, [first * self.num_items, last * self.num_items]))]
        query, item = found // self.num_items - first, found % self.num_items
        inside = (item >= start) & (item < stop)
        num = max(0, stop - start)
        return ByJudgement(self.num_relevant[queries], num, query[inside] * num + item[inside] - start)

    def pairs(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Returns the relevant pairs with items ``[start, stop)``."""
        query, item = self.keys // max(1, self.num_items), self.keys % max(1, self.num_items)
        inside = (item >= start) & (item < stop)
        return query[inside], item[inside] - start


def by_judgement(
    qrels: Mapping[str, Mapping[str, int]], query_ids: Sequence[str], gallery_ids: Sequence[str], level: int = 1
) -> ByJudgement:
    """Returns the relevance that `qrels` state: query id to item id to judgement, relevant from `level` up.

    Judged items that are not in the gallery count as relevant and never found (as in trec_eval); queries without a
    relevant item score 0.

    Raises:
        UsageError: no query, or no judged item, is one of ours: the ids are others.
    """
    place = {name: position for position, name in enumerate(gallery_ids)}
    keys: list[int] = []
    num_relevant = np.zeros(len(query_ids), np.int64)
    for position, query in enumerate(query_ids):
        wanted = [item for item, judgement in qrels.get(query, {}).items() if judgement >= level]
        num_relevant[position] = len(wanted)
        keys.extend(position * len(gallery_ids) + place[item] for item in wanted if item in place)
    if not any(query in qrels for query in query_ids):
        remedy = "use the ids the queries have"
        raise UsageError(describe("qrels", "queries", *_sides(query_ids, list(qrels)), remedy))
    if num_relevant.any() and not keys:
        judged = [item for query in query_ids for item in qrels.get(query, {})]
        raise UsageError(
            describe("qrels", "items", *_sides(gallery_ids, judged), "use the ids the items of the gallery have")
        )
    return ByJudgement(num_relevant, len(gallery_ids), np.sort(np.array(keys, np.int64)))


def _sides(ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, str]:
    expected = f"some of our {len(ours)} ids, such as '{ours[0]}'"
    return expected, f"{len(set(theirs))} others" + (f", such as '{theirs[0]}'" if theirs else "")
