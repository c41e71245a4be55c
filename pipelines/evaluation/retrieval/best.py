"""The K best items of each query while blocks of rough scores come in: most are dropped by one comparison.

A rough score is within a known bound of the defined one. An item is dropped once K others of its query are certain to
be better: their rough score less the bound, or their defined score, exceeds its rough score plus the bound. What is
left waits, and gets its defined score when the rows it was made of are about to be let go. So the outcome is exact;
only the time depends on the order in which items come, and on how many of them are near the K-th best.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipmill.pipelines.evaluation.metrics.retrieval_rank import key_scores
from clipmill.schemas.arrays import Ints, Keys, Singles

Defined = Callable[[Ints, Ints], Keys]
"""Returns the keys ``uint64[n]`` of the pairs (query, item) ``int64[n]``."""

NO_KEY = np.uint64(0xFFFFFFFFFFFFFFFF)
"""Comes after every key: a place in a top list that no item has taken. (Its score would be a NaN.)"""

_GROUP = 8
"""ours: columns whose greatest stands for them where the K-th best of a whole block is estimated."""
_WAITING = 1 << 20
"""ours: pairs that may wait, or 8 K per query if that is more."""


@dataclass(slots=True)
class Best:
    """The state of one space.

    Attributes:
        keys: ``uint64[Q, K]``, ascending, of items whose defined score is known; `NO_KEY` where there are fewer.
        floor: ``float32[Q]``: an item whose defined score is less is not among the K best.
        waiting: (query, item, least score, greatest score) of items whose defined score is not known yet.
    """

    keys: Keys
    floor: Singles
    waiting: list[tuple[Ints, Ints, Singles, Singles]]
    num_new: int = 0

    @staticmethod
    def of(num_queries: int, k: int) -> "Best":
        """Returns the state that has seen nothing."""
        return Best(np.full((num_queries, k), NO_KEY), np.full(num_queries, -np.inf, np.float32), [])

    def update(
        self, rough: Singles, bound: float, start: int, defined: Defined, skipped: tuple[Ints, Ints] | None = None
    ) -> None:
        """Adds a block: rough scores ``[Q, G]`` of the items from `start` on, within `bound` of the defined ones.

        Args:
            skipped: (query, item of the block) of pairs that are not ranked.
        """
        num_queries, k = self.keys.shape
        width = rough.shape[1]
        off = np.float32(bound * 1.000001)
        if skipped is not None and len(skipped[0]):
            # A copy: other spaces are made of the same scores.
            rough = rough.copy()
            rough[skipped] = -np.inf
        places = np.flatnonzero(rough >= _down(self.floor - off)[:, None])
        if skipped is not None and len(skipped[0]):
            # While fewer than K items are known, every score passes.
            places = places[~np.isin(places, skipped[0] * width + skipped[1], assume_unique=True)]
        query = places // width
        full = np.flatnonzero(np.bincount(query, minlength=num_queries) > 2 * k)
        if full.size:
            self.floor[full] = np.maximum(self.floor[full], _down(_kth_at_least(rough, full, k) - off))
            keep = rough.reshape(-1)[places] >= _down(self.floor - off)[query]
            places, query = places[keep], query[keep]
        scores = rough.reshape(-1)[places]
        self.waiting.append((query, places - query * width + start, _down(scores - off), -_down(-(scores + off))))
        self.num_new += len(query)
        if self.num_new > num_queries * k:
            self._tighten()
            if self.num_new > max(8 * num_queries * k, _WAITING):
                self.resolve(defined)

    def resolve(self, defined: Defined) -> None:
        """Gives all items that wait their defined score."""
        self._tighten()
        for query, item, _, _ in self.waiting:
            if len(query):
                self.add(query, defined(query, item))
        self.waiting, self.num_new = [], 0

    def add(self, query: Ints, keys: Keys) -> None:
        """Adds `keys` ``[n]`` of items of the queries `query` ``[n]``, ascending."""
        wide, found = _beside(self.keys, query, keys, NO_KEY)
        wide.sort(axis=1)
        self.keys[found] = wide[:, : self.keys.shape[1]]
        self.floor[found] = np.maximum(self.floor[found], _scores(self.keys[found, -1]))

    def _tighten(self) -> None:
        """Raises the floor by what waits, and drops what is below it; what is left waits in the order of queries."""
        if not self.waiting:
            return
        query, item, least, greatest = (np.concatenate(column) for column in zip(*self.waiting, strict=True))
        # Small integers sort by counting.
        order = np.argsort(query.astype(np.uint16) if len(self.keys) < 1 << 16 else query, kind="stable")
        query, item, least, greatest = query[order], item[order], least[order], greatest[order]
        if len(query):
            k = self.keys.shape[1]
            wide, found = _beside(_scores(self.keys), query, least, np.float32(-np.inf))
            last = wide.shape[1] - k
            self.floor[found] = np.maximum(self.floor[found], np.partition(wide, last, axis=1)[:, last])
        keep = greatest >= self.floor[query]
        self.waiting = [(query[keep], item[keep], least[keep], greatest[keep])]
        # Those that stay are no reason to look again before as many more have come.
        self.num_new = 0 if int(keep.sum()) <= max(8 * self.keys.size, _WAITING) else int(keep.sum())


def _down(scores: Singles) -> Singles:
    # One step down, because a sum of float32 numbers is rounded as well.
    return np.asarray(np.nextafter(scores, np.float32(-np.inf)), np.float32)


def _scores(keys: Keys) -> Singles:
    return np.where(keys == NO_KEY, np.float32(-np.inf), key_scores(keys))


def _kth_at_least(rough: Singles, rows: Ints, k: int) -> Singles:
    """Returns, for some rows, a score that K items of the row reach: the K-th greatest, or nearly."""
    chosen = rough if len(rows) == len(rough) else rough[rows]
    num_groups = chosen.shape[1] // _GROUP
    if num_groups >= 2 * k:
        # The K-th greatest of the groups' greatest is reached by K items, at a fraction of the cost.
        chosen = chosen[:, : num_groups * _GROUP].reshape(len(chosen), num_groups, _GROUP).max(axis=2)
    last = chosen.shape[1] - k
    return np.asarray(np.partition(chosen, last, axis=1)[:, last], np.float32)


def _beside(table: Any, row: Ints, values: Any, empty: np.generic) -> tuple[Any, Ints]:
    """Returns rows of `table` ``[Q, K]`` with `values` ``[n]`` of rows `row` (ascending) beside them, and which."""
    counts = np.bincount(row, minlength=len(table))
    found = np.flatnonzero(counts)
    k = table.shape[1]
    wide = np.full((len(found), k + int(counts.max(initial=0))), empty)
    wide[:, :k] = table[found]
    place = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    wide[(np.cumsum(counts > 0) - 1)[row], k + place] = values
    return wide, found
