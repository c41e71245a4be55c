"""Re-ranking: the k best of one space in the order of another score, and all others behind them as they were.

So a score that has no index, and costs far more than a cosine, is taken of k items a query and not of the gallery.
What comes after the k best keeps its place, so the ranks of all relevant items are known without a further pass; only
within the k best can a metric change.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipmill.pipelines.evaluation.metrics.retrieval_rank import key_scores, key_ties, rank_keys
from clipmill.pipelines.evaluation.retrieval.best import NO_KEY
from clipmill.pipelines.evaluation.retrieval.blocks import (
    BlockSizes,
    Computing,
    GalleryChunk,
    Matches,
    Prepare,
    query_block,
    query_spans,
)
from clipmill.pipelines.evaluation.retrieval.scorers import Scorer
from clipmill.schemas.arrays import Floats, Ints, Keys
from clipmill.schemas.errors import UsageError, describe

Counts = tuple[Ints, ...]


@dataclass(frozen=True, slots=True)
class Reranked:
    """A space of two scores.

    Attributes:
        first: name of the space whose best are scored again.
        scorer: which orders them.
        k: how many.
    """

    first: str
    scorer: Scorer
    k: int


def check_reranked(spaces: Mapping[str, Reranked], known: Mapping[str, Any]) -> None:
    """Makes sure that the first space of each is one of `known`.

    Raises:
        UsageError: it is not.
    """
    for name, space in spaces.items():
        if space.first not in known:
            got = f"'{space.first}'"
            raise UsageError(describe("space", name, "a first space that is scored", got, "name that, too"))


def rerank(
    space: Reranked,
    queries: Mapping[str, Any],
    gallery: GalleryChunk,
    first: Matches,
    counts: Counts | None,
    block_sizes: BlockSizes,
    workers: Computing,
    prepare: Prepare | None = None,
) -> tuple[Matches, Counts | None]:
    """Returns the keys and counts of a re-ranked space, made of those of its first one.

    Scores of items beyond the k best are the first space's, moved below the least of those that were scored again, so
    that keys stay in the order of the ranking.

    Args:
        first: with at least ``min(k, N)`` of the best.
        counts: as `blocks.count_before` gives them for the relevant keys and the end of the best one's score.
    """
    by_tie = np.argsort(gallery.tie)
    tops: list[Keys] = []
    relevant: list[Keys] = []
    found: list[Ints] = []
    for span in query_spans(len(first.top), block_sizes):
        block = workers.run(query_block(queries, span, prepare))
        for row in range(span.start, span.stop):
            keys = first.top[row]
            best = keys[: space.k][keys[: space.k] != NO_KEY]
            items = by_tie[key_ties(best)]
            query = {name: array[row - span.start : row - span.start + 1] for name, array in block.items()}
            some = {name: np.asarray(array[items]) for name, array in gallery.vectors.items()}
            again = rank_keys(_checked(space.scorer(query, some), len(items))[0], gallery.tie[items])
            moved = _Moved(best, again)
            tops.append(np.concatenate([np.sort(again), moved.behind(keys[len(best) :])]))
            of_query = first.relevant[row]
            inside = np.isin(of_query, best)
            if not inside.any():
                # All that was scored again comes before them, as it did.
                relevant.append(of_query)
                found.extend(() if counts is None else (counts[row],))
                continue
            order = np.sort(again[np.isin(best, of_query)])
            relevant.append(np.concatenate([order, moved.behind(of_query[~inside])]))
            if counts is not None:
                found.append(_counts(np.sort(again), order, counts[row]))
    return Matches(np.stack(tops), tuple(relevant)), None if counts is None else tuple(found)


@dataclass(frozen=True, slots=True)
class _Moved:
    """Keys of one query's items that were scored again, before and after."""

    before: Keys
    after: Keys

    def behind(self, keys: Keys) -> Keys:
        """Returns `keys` of other items behind those, in the order they have; `NO_KEY` stays."""
        if not len(keys) or not len(self.before):
            return keys
        is_item = keys != NO_KEY
        last, least = key_scores(self.before[-1:])[0], key_scores(self.after).min()
        scores = least - (last - key_scores(np.where(is_item, keys, self.before[-1])).astype(np.float64))
        below = np.minimum(scores.astype(np.float32), np.nextafter(least, np.float32(-np.inf)))
        return np.where(is_item, rank_keys(below, key_ties(keys)), NO_KEY)


def _checked(given: Any, num_items: int) -> Floats:
    scores: Floats = np.asarray(given, np.float64)
    if scores.shape != (1, num_items):
        raise ValueError(f"space: expected scores {[1, num_items]}, got {list(scores.shape)}; correct its scorer")
    if np.isnan(scores).any():
        remedy = "check the features and the model for values that are not finite"
        raise UsageError(describe("space", "of the best", "scores that are numbers", "NaN", remedy))
    return scores


def _counts(again: Keys, inside: Keys, before: Ints) -> Ints:
    """Returns how many items stand before each of a query's relevant ones, and before the end of the best one's score.

    Args:
        again: new keys of the items that were scored again, ascending.
        inside: of those of them that are relevant, at least one, ascending.
        before: the counts in the first space, where the same items are the first.
    """
    end = ((inside[0] >> np.uint64(32)) + np.uint64(1)) << np.uint64(32)
    places = np.searchsorted(again, np.append(inside, end))
    return np.concatenate([places[:-1], before[len(inside) : -1], places[-1:]]).astype(np.int64)
