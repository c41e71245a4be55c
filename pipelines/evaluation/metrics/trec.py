"""Measures of ranked lists exactly as trec_eval computes them, over many queries at once.

Ties: documents of equal score rank by document id, **descending** (as byte strings); ranks in a run file are not read.
Counting: queries that have both judgements and results are scored; with ``complete`` also those that have no results,
with zeros (``trec_eval -c``). Summary values are means over queries, sums for ``num_*``, geometric means for ``gm_*``.
Source: NIST trec_eval 9/10 (C. Buckley, E. Voorhees, I. Soboroff); formulas in `trec_measures`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat

import numpy as np

from clipmill.pipelines.evaluation.metrics.trec_measures import (
    MIN_GEOMETRIC,
    NOT_JUDGED,
    OFFICIAL_MEASURES,
    UNJUDGED_IN_POOL,
    Rankings,
    values_of,
)
from clipmill.schemas.arrays import Floats, Ints
from clipmill.schemas.errors import UsageError

Qrels = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class TrecScore:
    """Summary and per-query values of a run.

    Attributes:
        summary: measure to value over all queries.
        query_ids: Q queries, ascending.
        per_query: measure to ``float64[Q]``; geometric means have none.
        num_without_results: judged queries that the run does not have (scored as zeros with ``complete``).
        num_without_judgements: queries of the run that are not judged; left out.
    """

    summary: Mapping[str, float]
    query_ids: tuple[str, ...]
    per_query: Mapping[str, Floats]
    num_without_results: int
    num_without_judgements: int

    @property
    def line(self) -> str:
        """The score line."""
        main = [name for name in ("map", "ndcg", "P_10", "recip_rank") if name in self.summary]
        return (
            f"{', '.join(f'{name} {self.summary[name]:.4f}' for name in main)}; {len(self.query_ids)} queries; "
            f"{self.num_without_results} judged without results; {self.num_without_judgements} not judged"
        )


@dataclass(frozen=True, slots=True)
class TrecMeasures:
    """The state of trec_eval's measures; immutable: `update` and `merge` return the new state.

    Attributes:
        measures: names as trec_eval prints them (``map``, ``P_10``, ``ndcg_cut_10``), or without a cut-off for its
            default cut-offs (``P``, ``ndcg_cut``).
        relevance_level: least judgement that counts as relevant (``-l``).
        max_documents: read at most this many documents of a query (``-M``).
        judged_only: leave out documents without a judgement (``-J``).
        complete: score judged queries without results as zeros (``-c``).
    """

    measures: tuple[str, ...] = OFFICIAL_MEASURES
    relevance_level: int = 1
    max_documents: int | None = None
    judged_only: bool = False
    complete: bool = False
    blocks: tuple[tuple[tuple[str, ...], Mapping[str, Floats], int, int], ...] = field(default=())

    def update(self, qrels: Qrels, run: Run) -> "TrecMeasures":
        """Returns the state with some queries added.

        Args:
            qrels: query to document to judgement; negative: in the pool but unjudged.
            run: query to document to score.

        Raises:
            UsageError: an unknown measure; or a score is NaN.
        """
        shared = tuple(sorted(name for name in qrels if name in run and len(run[name])))
        missing = tuple(sorted(name for name in qrels if name not in shared)) if len(shared) < len(qrels) else ()
        rankings = rank(qrels, run, shared, self.relevance_level, self.max_documents, self.judged_only)
        values = values_of(rankings, self.measures)
        if self.complete and missing:
            empty = rank(qrels, {name: {} for name in missing}, missing, self.relevance_level, None, False)
            zeros = values_of(empty, self.measures)
            values = {name: np.concatenate([values[name], zeros[name]]) for name in values}
        names = shared + missing if self.complete else shared
        block = (names, values, len(missing), sum(name not in qrels for name in run))
        return replace(self, blocks=(*self.blocks, block))

    def merge(self, other: "TrecMeasures") -> "TrecMeasures":
        """Returns the state of both; the settings must be the same.

        Raises:
            ValueError: the settings differ.
        """
        if replace(self, blocks=()) != replace(other, blocks=()):
            raise ValueError("trec measures: expected states of one protocol to merge, got different settings")
        return replace(self, blocks=self.blocks + other.blocks)

    def result(self) -> TrecScore:
        """Returns the score; bit-identical for any cut of the work by query.

        Raises:
            UsageError: a query was given in more than one update, or no query has both judgements and results.
        """
        names = [name for block in self.blocks for name in block[0]]
        order = sorted(range(len(names)), key=names.__getitem__)
        for first, second in zip(order, order[1:], strict=False):
            if names[first] == names[second]:
                raise UsageError(f"query {names[first]}: expected it in one update, got two; cut the work by query")
        if not names:
            raise UsageError(
                "ranking: expected queries with both judgements and results, got none; check the ids of both files"
            )
        every = {name: np.concatenate([block[1][name] for block in self.blocks])[order] for name in self.blocks[0][1]}
        return TrecScore(
            {name: _summary(name, column) for name, column in every.items()},
            tuple(names[row] for row in order),
            {name: column for name, column in every.items() if not name.startswith("gm_") and name != "num_q"},
            sum(block[2] for block in self.blocks),
            sum(block[3] for block in self.blocks),
        )


def evaluate_trec(qrels: Qrels, run: Run, measures: Sequence[str] = OFFICIAL_MEASURES) -> TrecScore:
    """Returns the score of `run`, as ``trec_eval`` without options."""
    return TrecMeasures(tuple(measures)).update(qrels, run).result()


def rank(
    qrels: Qrels,
    run: Run,
    queries: Sequence[str],
    relevance_level: int,
    max_documents: int | None,
    judged_only: bool,
) -> Rankings:
    """Returns the judgements of each query's documents in the order of their rank.

    Raises:
        UsageError: a score is NaN.
    """
    counts = np.array([len(run[name]) for name in queries], np.int64)
    query = np.repeat(np.arange(len(queries)), counts)
    documents = list(chain.from_iterable(run[name] for name in queries))
    score = np.fromiter(chain.from_iterable(run[name].values() for name in queries), np.float64, len(documents))
    if np.isnan(score).any():
        where = int(np.flatnonzero(np.isnan(score))[0])
        which = f"query {queries[query[where]]} document {documents[where]}"
        raise UsageError(f"{which}: expected a number as score, got NaN; correct the run")
    # `map` of two iterables stays in C: this line sees every document.
    found = chain.from_iterable(map(_clipped(qrels[name]).get, run[name], repeat(NOT_JUDGED)) for name in queries)
    judgement = np.fromiter(found, np.int64, len(documents))
    order = _order(query, score, documents)
    query, judgement = query[order], judgement[order]
    keep = np.ones(len(query), np.bool_)
    if max_documents is not None:
        starts = np.cumsum(counts) - counts
        keep = np.arange(len(query)) - starts[query] < max_documents
    if judged_only:
        keep &= judgement >= 0
    judged = [np.array([value for value in qrels[name].values() if value >= 0], np.int64) for name in queries]
    return Rankings(
        query[keep],
        judgement[keep],
        np.bincount(query[keep], minlength=len(queries)),
        np.repeat(np.arange(len(queries)), [len(values) for values in judged]),
        np.concatenate([np.zeros(0, np.int64), *judged]),
        relevance_level,
    )


def _clipped(judgements: Mapping[str, int]) -> Mapping[str, int]:
    # Any negative judgement means the same; most files have none.
    if judgements and min(judgements.values()) < 0:
        return {document: value if value >= 0 else UNJUDGED_IN_POOL for document, value in judgements.items()}
    return judgements


def _order(query: Ints, score: Floats, documents: list[str]) -> Ints:
    # Ties are put in order below, so the sort by score need not be stable; small integers sort by counting.
    order = np.argsort(-score)
    few = np.int16 if len(query) == 0 or query[-1] < 1 << 15 else np.int64
    order = order[np.argsort(query[order].astype(few), kind="stable")]
    same = (score[order][1:] == score[order][:-1]) & (query[order][1:] == query[order][:-1])
    if same.any():
        # Only tied documents are compared by id: comparing text is what makes ranking slow.
        edges = np.diff(np.r_[False, same, False].astype(np.int8))
        rows = order.tolist()
        for start, last in zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True):
            rows[start : last + 1] = sorted(rows[start : last + 1], key=documents.__getitem__, reverse=True)
        order = np.array(rows, np.int64)
    return order


def _summary(name: str, column: Floats) -> float:
    if name.startswith("num_"):
        return float(column.sum())
    if name.startswith("gm_"):
        return math.exp(math.fsum(np.log(np.maximum(column, MIN_GEOMETRIC)).tolist()) / len(column))
    return math.fsum(column.tolist()) / len(column)
