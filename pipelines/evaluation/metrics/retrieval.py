"""The retrieval measures by name (``map@10``, ``recall@5``, ``median_rank``), as update / merge / result.

    state = RetrievalMeasures.of(["map@10", "map_min@10", "median_rank"])
    state = state.update(range(0, 70), hits_of_the_first_70).merge(state_of_the_others)
    state.result()                                            # {"map@10": 0.31, ...}

Formulas, tie rules and sources stand in the files of the single metrics. Results do not depend on how the queries
were cut.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.evaluation.metrics.retrieval_average_precision import (
    average_precision_at,
    average_precision_min_at,
)
from clipmill.pipelines.evaluation.metrics.retrieval_ndcg import binary_ndcg_at
from clipmill.pipelines.evaluation.metrics.retrieval_rank import RankedHits
from clipmill.pipelines.evaluation.metrics.retrieval_recall import hit_at, precision_at, rank_value, recall_at
from clipmill.pipelines.evaluation.metrics.retrieval_state import PerQuery
from clipmill.schemas.arrays import Floats
from clipmill.schemas.errors import UsageError, describe, near


def _first_rank(hits: RankedHits) -> npt.NDArray[np.int64]:
    if hits.first_rank is None:
        raise ValueError("first_rank: expected the pessimistic ranks, got none; compute them with the ranking")
    return hits.first_rank


_AT: dict[str, Callable[[RankedHits, int], Floats]] = {
    "map": lambda hits, k: average_precision_at(hits.relevant, k),
    "map_min": lambda hits, k: average_precision_min_at(hits.relevant, hits.num_relevant, k),
    "recall": lambda hits, k: recall_at(hits.relevant, hits.num_relevant, k),
    "hit": lambda hits, k: hit_at(_first_rank(hits), k),
    "p": lambda hits, k: precision_at(hits.relevant, k),
    "ndcg": lambda hits, k: binary_ndcg_at(hits.relevant, hits.num_relevant, k),
}
_WHOLE: dict[str, Callable[[RankedHits], Floats]] = {"median_rank": lambda hits: rank_value(_first_rank(hits))}


@dataclass(frozen=True, slots=True)
class Measure:
    """A named measure: `name` of the table above and its cut-off, None for measures of the whole ranking."""

    name: str
    k: int | None

    def __str__(self) -> str:
        return self.name if self.k is None else f"{self.name}@{self.k}"

    def values(self, hits: RankedHits) -> Floats:
        """Returns the per-query values ``float64[Q]``."""
        return _WHOLE[self.name](hits) if self.k is None else _AT[self.name](hits, self.k)

    def reduce(self, state: PerQuery) -> float:
        """Returns the one number: the median for ``median_rank``, else the mean over queries."""
        return state.median() if self.name == "median_rank" else state.result()


def measure(text: str) -> Measure:
    """Returns the measure called `text`.

    Raises:
        UsageError: there is none of that name, or its cut-off is no positive integer.
    """
    name, separator, cut = text.partition("@")
    known = [f"{item}@K" for item in _AT] + list(_WHOLE)
    if not separator and name in _WHOLE:
        return Measure(name, None)
    if not separator or name not in _AT:
        raise UsageError(describe("measure", text, "a known measure", f"'{text}'", near(f"{name}@K", known)))
    if not cut.isascii() or not cut.isdigit() or int(cut) == 0:
        raise UsageError(describe("measure", text, "a positive cut-off after '@'", f"'{cut}'", f"write {name}@10"))
    return Measure(name, int(cut))


@dataclass(frozen=True, slots=True)
class RetrievalMeasures:
    """Several measures over the same queries: one `PerQuery` state each."""

    states: Mapping[Measure, PerQuery]

    @staticmethod
    def of(names: Iterable[str]) -> "RetrievalMeasures":
        """Returns the empty state of the measures called `names`; UsageError where one is unknown."""
        return RetrievalMeasures({measure(name): PerQuery() for name in names})

    def update(self, queries: npt.ArrayLike, hits: RankedHits) -> "RetrievalMeasures":
        """Returns the state with the hits of the queries at positions `queries` ``[Q]`` added."""
        return RetrievalMeasures(
            {item: state.update(queries, item.values(hits)) for item, state in self.states.items()}
        )

    def merge(self, other: "RetrievalMeasures") -> "RetrievalMeasures":
        """Returns the union of two states of the same measures over different queries.

        Raises:
            ValueError: the measures differ.
        """
        if set(self.states) != set(other.states):
            raise ValueError("measures: expected the same on both sides, got different ones; merge states of one run")
        return RetrievalMeasures({item: state.merge(other.states[item]) for item, state in self.states.items()})

    def result(self) -> dict[str, float]:
        """Returns the measures by name."""
        return {str(item): item.reduce(state) for item, state in self.states.items()}
