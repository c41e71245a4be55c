"""Exact retrieval evaluation: queries against a gallery, in any number of spaces, from vectors to metrics and curves.

    result = evaluate_retrieval(
        Queries(ids, labels, {"image": u}), Gallery(ids, labels, {"video": v}), {"cosine": Cosine("image", "video")}
    )
    result.space("cosine").metrics["map@10"]

An item is relevant to a query when their labels are equal, or when judgements (qrels) say so. A query's own clip, where
it is in the gallery, counts like any other (as in the released APIVR evaluator), unless `exclude` leaves it out. Ties:
descending score, then ascending gallery id (`metrics.retrieval_rank`).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.evaluation.bootstrap import Interval, bootstrap_mean
from clipmill.pipelines.evaluation.metrics.retrieval import measure
from clipmill.pipelines.evaluation.metrics.retrieval_average_precision import average_precision_curve, cumulative_k
from clipmill.pipelines.evaluation.metrics.retrieval_chance import (
    chance_average_precision,
    chance_precision,
    chance_recall,
    own_clip_first_average_precision,
)
from clipmill.pipelines.evaluation.metrics.retrieval_curve import RECALL_LEVELS, interpolated_precision
from clipmill.pipelines.evaluation.metrics.retrieval_rank import RankedHits, key_scores, tie_order
from clipmill.pipelines.evaluation.metrics.retrieval_state import PerQuery
from clipmill.pipelines.evaluation.retrieval.approximate import Approximate, Measured, find_approximately
from clipmill.pipelines.evaluation.retrieval.blocks import (
    BlockSizes,
    GalleryChunk,
    Matches,
    computing,
    count_before,
    find,
    top_positions,
)
from clipmill.pipelines.evaluation.retrieval.exclusion import Exclude, Exclusion, RankedRelevance
from clipmill.pipelines.evaluation.retrieval.relevance import ByLabel, Relevance, by_judgement
from clipmill.pipelines.evaluation.retrieval.rerank import Reranked, check_reranked, rerank
from clipmill.pipelines.evaluation.retrieval.scorers import Block, Combined, Scorer
from clipmill.schemas.arrays import Floats, Ints
from clipmill.schemas.errors import UsageError, describe, near

CUTOFFS = (10, 20, 50, 100)


@dataclass(frozen=True, slots=True)
class Queries:
    """What is searched with.

    Attributes:
        ids, labels: one per query; ids are unique, a label of None is refused unless relevance comes from judgements.
        vectors: named arrays ``[Q, ...]``, NumPy or Dask: what the scorers (or `prepare`) read.
        videos: the video of each, for ``exclude="own_video"``; empty where it is not known.
    """

    ids: Sequence[str]
    labels: Sequence[str | None]
    vectors: Mapping[str, Any]
    videos: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Gallery:
    """What is searched in.

    Attributes:
        ids, labels: one per item; ids are unique, for they break ties.
        vectors: named arrays ``[N, ...]``, NumPy or Dask (larger than memory).
        videos: as of `Queries`.
    """

    ids: Sequence[str]
    labels: Sequence[str | None]
    vectors: Mapping[str, Any]
    videos: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class LabelScore:
    """The headline metric of the queries of one label; `num_relevant` is the mean over them, rounded."""

    label: str
    num_queries: int
    num_relevant: int
    value: float


@dataclass(frozen=True, slots=True)
class SpaceResult:
    """One space's numbers.

    Attributes:
        metrics: by name, such as ``map@10``; see docs/metrics/retrieval.md.
        intervals: 95 % bootstrap intervals over queries of the ``map@K``.
        per_query: by metric name, ``float64[Q]`` in query order.
        cumulative_k: what the released evaluator with its never-cleared list would print, by K.
        top: ``int64[Q, min(K, N)]``, gallery positions, best first; -1 where no more are ranked, or approximate search
            found no more.
        top_scores: ``float32[Q, min(K, N)]``; minus infinity where `top` is -1.
        relevant: ``bool[Q, min(K, N)]``, whether each of `top` is.
        map_curve: ``float64[K]``, mAP@k for k = 1 .. K.
        precision_curve: ``float64[101]``, mean interpolated precision at recall 0, 0.01, ..., 1; None without full
            ranks.
        per_label: headline metric by label, in label order.
    """

    space: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    per_query: Mapping[str, Floats]
    cumulative_k: Mapping[int, float]
    top: Ints
    top_scores: npt.NDArray[np.float32]
    relevant: npt.NDArray[np.bool_]
    map_curve: Floats
    precision_curve: Floats | None
    per_label: tuple[LabelScore, ...]


@dataclass(frozen=True, slots=True)
class RetrievalResult:
    """What `evaluate_retrieval` found.

    Attributes:
        chance: expected metrics of a random ranking of what each query ranks, exact, averaged over the queries.
        chance_map_curve: ``float64[K]``, expected mAP@k of a random ranking.
        exclude: what each query did not rank.
        own_clip_first: where every query's own clip is ranked and relevant: expected metrics of a ranking that has it
            first and the rest at random; else empty.
        num_relevant_missing: judged relevant, but not in the gallery; they count as never found.
        approximate: how the search was approximated, and its recall measured against exact search; None: it is exact.
        seconds: wall time; never part of ``results.json``.
    """

    query_ids: tuple[str, ...]
    query_labels: tuple[str, ...]
    gallery_ids: tuple[str, ...]
    gallery_labels: tuple[str, ...]
    cutoffs: tuple[int, ...]
    spaces: tuple[SpaceResult, ...]
    chance: Mapping[str, float]
    chance_map_curve: Floats
    block_sizes: BlockSizes
    seconds: float
    num_relevant_missing: int = 0
    approximate: Measured | None = None
    exclude: Exclude = "none"
    own_clip_first: Mapping[str, float] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """The metric that plots and examples go by: mAP at the first cut-off."""
        return f"map@{self.cutoffs[0]}"

    def space(self, name: str) -> SpaceResult:
        """Returns the space called `name`; UsageError where there is none."""
        for space in self.spaces:
            if space.space == name:
                return space
        known = [space.space for space in self.spaces]
        raise UsageError(describe("space", name, "a space of this result", f"'{name}'", near(name, known)))


def evaluate_retrieval(
    queries: Queries,
    gallery: Gallery,
    scorers: Mapping[str, Scorer | Combined | Reranked],
    cutoffs: Sequence[int] = CUTOFFS,
    *,
    prepare: Callable[[Block], Block] | None = None,
    qrels: Mapping[str, Mapping[str, int]] | None = None,
    relevance_level: int = 1,
    full_ranks: bool | None = None,
    approximate: Approximate | None = None,
    block_sizes: BlockSizes | None = None,
    dask_address: str | None = None,
    threads: int | None = None,
    seed: int = 0,
    exclude: Exclude = "none",
) -> RetrievalResult:
    """Returns the metrics of every space, the same bits however the work is cut (`scorers` on rounding).

    Args:
        scorers: by space; a `Combined` space is made of the others' scores, a `Reranked` one of another's best. The
            result keeps their order.
        cutoffs: K of the metrics.
        prepare: turns a block of query vectors into what the scorers read, once per block: encoding, decoding samples.
        qrels: query id to gallery id to judgement; given, they decide what is relevant, not the labels.
        relevance_level: least judgement that counts as relevant.
        full_ranks: also rank every relevant item in the whole gallery, a second pass: precision-recall, hit@K, median
            rank. None: wherever the search is exact.
        approximate: search an index instead of the whole gallery, and measure what that misses; None: exact.
        block_sizes: rows of a block; None: the defaults.
        dask_address: of a ``distributed`` scheduler; None: threads of this process.
        seed: of the bootstrap.
        exclude: what a query does not rank: the item of its own id, or all items of its own video.

    Raises:
        UsageError: nothing to search with or in, a missing label, an id twice, lengths that differ, no space, a bad
            cut-off, judgements of other ids, full ranks or re-ranking of an approximate search, scores that are NaN, or
            videos that are not known and to be excluded.
        EngineError: the Dask scheduler cannot be reached.
    """
    started = time.perf_counter()
    block_sizes = block_sizes or BlockSizes()
    cutoffs = _ascending(cutoffs)
    if not scorers:
        raise UsageError(describe("evaluation", "spaces", "at least one", "none", "name a space"))
    if approximate is not None and full_ranks:
        remedy = "leave full_ranks out, or search exactly"
        raise UsageError(describe("evaluation", "full_ranks", "an exact search", "an approximate one", remedy))
    plain, reranked = _with_reranked(scorers, approximate)
    items = _gallery_chunk(queries, gallery)
    labels = _labels("queries", queries, qrels is None), _labels("gallery", gallery, qrels is None)
    relevance: Relevance
    if qrels is None:
        relevance = _by_label(*labels)
    else:
        relevance = by_judgement(qrels, queries.ids, gallery.ids, relevance_level)
    exclusion = _exclusion(queries, gallery, exclude)
    if exclusion is not None:
        relevance = RankedRelevance(relevance, exclusion)
    with_ranks = approximate is None and full_ranks is not False
    counts = measured = None
    with computing(dask_address, threads) as workers:
        if approximate is None:
            wanted = relevance if with_ranks else None
            most = max([cutoffs[-1], *(space.k for space in reranked.values())])
            matches = find(queries.vectors, items, wanted, plain, most, block_sizes, workers, prepare, exclusion)
            if with_ranks:
                limits = {space: [_limits(keys) for keys in item.relevant] for space, item in matches.items()}
                counts = count_before(queries.vectors, items, plain, limits, block_sizes, workers, prepare, exclusion)
            for name, space in reranked.items():
                before = None if counts is None else counts[space.first]
                again, after = rerank(
                    space, queries.vectors, items, matches[space.first], before, block_sizes, workers, prepare
                )
                matches[name] = again
                if counts is not None and after is not None:
                    counts[name] = after
            matches = {name: Matches(item.top[:, : cutoffs[-1]], item.relevant) for name, item in matches.items()}
        else:
            matches, measured = find_approximately(
                queries.vectors, items, plain, cutoffs, block_sizes, workers, approximate, prepare, exclusion
            )
    by_tie = np.argsort(items.tie)
    spaces = tuple(
        _space_result(
            name, matches[name], None if counts is None else counts[name], by_tie, relevance, labels[0], cutoffs, seed
        )
        for name in scorers
    )
    num_relevant = relevance.num_relevant
    num_ranked = np.full(len(queries.ids), len(gallery.ids)) if exclusion is None else exclusion.num_left()
    chance, chance_curve = _chance(num_ranked, num_relevant, cutoffs)
    own_first = exclude == "none" and _all_find_themselves(queries.ids, gallery.ids, relevance)
    return RetrievalResult(
        query_ids=tuple(queries.ids),
        query_labels=labels[0],
        gallery_ids=tuple(gallery.ids),
        gallery_labels=labels[1],
        cutoffs=cutoffs,
        spaces=spaces,
        chance=chance,
        chance_map_curve=chance_curve,
        block_sizes=block_sizes,
        seconds=time.perf_counter() - started,
        num_relevant_missing=0 if qrels is None else int(num_relevant.sum()) - relevance.num_pairs,
        approximate=measured,
        exclude=exclude,
        own_clip_first=_own_clip_first(num_ranked, num_relevant, cutoffs) if own_first else {},
    )


def _with_reranked(
    scorers: Mapping[str, Scorer | Combined | Reranked], approximate: Approximate | None
) -> tuple[dict[str, Scorer | Combined], dict[str, Reranked]]:
    """Returns the spaces that are scored pair by pair, and those that re-rank the best of one of them."""
    plain: dict[str, Scorer | Combined] = {}
    reranked: dict[str, Reranked] = {}
    for name, scorer in scorers.items():
        if isinstance(scorer, Reranked):
            reranked[name] = scorer
        else:
            plain[name] = scorer
    check_reranked(reranked, plain)
    if reranked and approximate is not None:
        got = f"{next(iter(reranked))} with an index"
        raise UsageError(describe("evaluation", "spaces", "an exact search to re-rank", got, "search exactly"))
    return plain, reranked


def _exclusion(queries: Queries, gallery: Gallery, exclude: Exclude) -> Exclusion | None:
    if exclude == "none":
        return None
    if exclude == "own_clip":
        found = Exclusion.of(queries.ids, gallery.ids)
    else:
        for thing, side in (("queries", queries), ("gallery", gallery)):
            if len(side.videos) != len(side.ids):
                expected, remedy = f"{len(side.ids)} (one per id)", "give the videos, or exclude own_clip"
                raise UsageError(describe(thing, "videos", expected, str(len(side.videos)), remedy))
        found = Exclusion.of(queries.videos, gallery.videos)
    alone = np.flatnonzero(found.num_left() == 0).tolist()
    if alone:
        expected, remedy = f"other items than the {exclude}", "test clips of more videos, or exclude less"
        got = f"nothing else for {len(alone)} of {len(queries.ids)} queries, such as '{queries.ids[alone[0]]}'"
        raise UsageError(describe("gallery", "of each query", expected, got, remedy))
    return found


def _all_find_themselves(query_ids: Sequence[str], gallery_ids: Sequence[str], relevance: Relevance) -> bool:
    place = {name: position for position, name in enumerate(gallery_ids)}
    own = np.array([place.get(name, -1) for name in query_ids], np.int64)
    return bool((own >= 0).all() and relevance.has(np.arange(len(own)), own).all())


def _ascending(cutoffs: Sequence[int]) -> tuple[int, ...]:
    ascending = tuple(sorted(set(cutoffs)))
    if not ascending or ascending[0] < 1:
        raise UsageError(
            describe("evaluation", "cutoffs", "numbers from 1 up", str(list(ascending)), "such as [10, 20, 50, 100]")
        )
    return ascending


def _gallery_chunk(queries: Queries, gallery: Gallery) -> GalleryChunk:
    """Returns the gallery as blocks need it; UsageError for sides that cannot be evaluated."""
    ties = []
    for thing, side in (("queries", queries), ("gallery", gallery)):
        if len(side.ids) == 0:
            raise UsageError(describe(thing, "items", "at least one", "none", "check the split and the store"))
        lengths = {"labels": len(side.labels)} | {name: int(array.shape[0]) for name, array in side.vectors.items()}
        for name, length in lengths.items():
            if length != len(side.ids):
                raise UsageError(describe(thing, name, f"{len(side.ids)} (one per id)", str(length), "pass one per id"))
        try:
            ties.append(tie_order(side.ids))
        except ValueError as error:
            raise UsageError(f"{thing} {error}") from None
    return GalleryChunk(gallery.vectors, ties[1])


def _by_label(left: Sequence[str], right: Sequence[str]) -> ByLabel:
    codes = {label: code for code, label in enumerate(sorted({*left, *right}))}
    sides = (np.fromiter(map(codes.__getitem__, labels), np.int32, len(labels)) for labels in (left, right))
    return ByLabel(*sides)


def _labels(thing: str, side: Queries | Gallery, needed: bool) -> tuple[str, ...]:
    """Returns the labels, empty where there is none; UsageError where one is missing that is `needed`."""
    if needed and None in side.labels:
        item = next(item for item, label in zip(side.ids, side.labels, strict=True) if label is None)
        remedy = "label the videos or clips, or leave those without a label out"
        raise UsageError(describe(thing, f"'{item}'", "a label", "none", remedy))
    return tuple(label or "" for label in side.labels)


def _limits(relevant: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Returns the keys to count items before: each relevant item's, and the end of the best one's score.

    Everything before that end scores at least as high as the best relevant item: its pessimistic rank.
    """
    if len(relevant) == 0:
        return relevant
    end = ((relevant[0] >> np.uint64(32)) + np.uint64(1)) << np.uint64(32)
    return np.append(relevant, end)


def _first_ranks(matches: Matches, counts: tuple[Ints, ...]) -> Ints:
    ranks = np.zeros(len(counts), np.int64)
    for i, (keys, before) in enumerate(zip(matches.relevant, counts, strict=True)):
        if len(keys):
            same_score = int(np.sum(keys >> np.uint64(32) == keys[0] >> np.uint64(32)))
            ranks[i] = before[-1] - same_score + 1
    return ranks


def _space_result(
    space: str,
    matches: Matches,
    counts: tuple[Ints, ...] | None,
    by_tie: Ints,
    relevance: Relevance,
    labels: Sequence[str],
    cutoffs: tuple[int, ...],
    seed: int,
) -> SpaceResult:
    top = top_positions(matches.top, by_tie)
    num_relevant = relevance.num_relevant
    hits = RankedHits(relevance.hits(top), num_relevant, None if counts is None else _first_ranks(matches, counts))
    names = [f"{name}@{k}" for name in ("map", "map_min", "recall", "p", "ndcg") for k in cutoffs]
    names += [] if counts is None else [*(f"hit@{k}" for k in cutoffs), "median_rank"]
    everyone = np.arange(len(top))
    states = {name: PerQuery().update(everyone, measure(name).values(hits)) for name in names}
    curve = average_precision_curve(hits.relevant, cutoffs[-1])
    precision = None
    if counts is not None:
        pairs = zip(counts, num_relevant.tolist(), strict=True)
        rows = [interpolated_precision(before[:-1], num) for before, num in pairs]
        precision = _column_means(np.stack(rows))
    headline = states[f"map@{cutoffs[0]}"].values
    return SpaceResult(
        space=space,
        metrics={name: measure(name).reduce(state) for name, state in states.items()},
        intervals={f"map@{k}": bootstrap_mean(states[f"map@{k}"].values, seed) for k in cutoffs},
        per_query={name: state.values for name, state in states.items()},
        cumulative_k=cumulative_k({k: states[f"map@{k}"].values for k in cutoffs}),
        top=top,
        top_scores=np.where(top >= 0, key_scores(matches.top), np.float32(-np.inf)),
        relevant=hits.relevant,
        map_curve=_column_means(curve),
        precision_curve=precision,
        per_label=_per_label(labels, headline, num_relevant),
    )


def _column_means(rows: Floats) -> Floats:
    everyone = np.arange(len(rows))
    return np.array([PerQuery().update(everyone, rows[:, i]).result() for i in range(rows.shape[1])])


def _per_label(labels: Sequence[str], values: Floats, num_relevant: Ints) -> tuple[LabelScore, ...]:
    scores = []
    names = np.asarray(labels, dtype=object)
    for label in sorted(set(labels)):
        rows = np.flatnonzero(names == label)
        mean = PerQuery().update(rows, values[rows]).result()
        scores.append(LabelScore(label, len(rows), round(float(num_relevant[rows].mean())), mean))
    return tuple(scores)


def _chance(num_ranked: Ints, num_relevant: Ints, cutoffs: tuple[int, ...]) -> tuple[dict[str, float], Floats]:
    """Returns the expected metrics of a random ranking and the expected mAP@k for k = 1 .. max(cutoffs).

    Args:
        num_ranked: ``int64[Q]``, items that each query ranks.
        num_relevant: ``int64[Q]``. Those that are not in the gallery are taken as if they were.
    """
    kinds, weights = _kinds(num_ranked, num_relevant)
    metrics: dict[str, float] = {}
    curve = np.zeros(cutoffs[-1])
    for k in range(1, cutoffs[-1] + 1):
        pairs = [chance_average_precision(num_items, num, k) for num_items, num in kinds]
        curve[k - 1] = float(np.dot(weights, [plain for plain, _ in pairs]))
        if k in cutoffs:
            metrics[f"map@{k}"] = float(curve[k - 1])
            metrics[f"map_min@{k}"] = float(np.dot(weights, [normalised for _, normalised in pairs]))
            metrics[f"recall@{k}"] = math.fsum(
                weight * chance_recall(num_items, k) for weight, (num_items, _) in zip(weights, kinds, strict=True)
            )
            shares = [chance_precision(num_items, num, k) for num_items, num in kinds]
            metrics[f"p@{k}"] = float(np.dot(weights, shares))
    return metrics, curve


def _own_clip_first(num_ranked: Ints, num_relevant: Ints, cutoffs: tuple[int, ...]) -> dict[str, float]:
    """Returns the expected metrics of rankings that have the own clip first, and the others at random."""
    kinds, weights = _kinds(num_ranked, num_relevant)
    metrics: dict[str, float] = {}
    for k in cutoffs:
        pairs = [own_clip_first_average_precision(num_items, num, k) for num_items, num in kinds]
        # Of the other N - 1 items min(K, N) - 1 are among the first K.
        hits = [1 + (min(k, items) - 1) * (num - 1) / max(1, items - 1) for items, num in kinds]
        metrics[f"map@{k}"] = float(np.dot(weights, [plain for plain, _ in pairs]))
        metrics[f"map_min@{k}"] = float(np.dot(weights, [normalised for _, normalised in pairs]))
        metrics[f"recall@{k}"] = float(np.dot(weights, [hit / num for hit, (_, num) in zip(hits, kinds, strict=True)]))
        metrics[f"p@{k}"] = float(np.dot(weights, hits)) / k
    return metrics


def _kinds(num_ranked: Ints, num_relevant: Ints) -> tuple[list[tuple[int, int]], Floats]:
    """Returns the different (items, relevant items) of queries, and the share of the queries of each."""
    pairs = np.stack([num_ranked, np.minimum(num_relevant, num_ranked)], axis=1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    return [(int(items), int(num)) for items, num in kinds], counts / len(num_relevant)


__all__ = [
    "CUTOFFS",
    "Approximate",
    "RECALL_LEVELS",
    "Combined",
    "BlockSizes",
    "Gallery",
    "LabelScore",
    "Queries",
    "RetrievalResult",
    "SpaceResult",
    "evaluate_retrieval",
]
