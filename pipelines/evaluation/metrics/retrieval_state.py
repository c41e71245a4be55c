"""The state every per-query metric is summed up with: kept per query, reduced once, in query order."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Floats, Ints


def _no_queries() -> Ints:
    return np.zeros(0, np.int64)


def _no_values() -> Floats:
    return np.zeros(0, np.float64)


@dataclass(frozen=True, slots=True)
class PerQuery:
    """Values of one metric, one per query; any cut of the work, merged in any order, gives a bit-identical result.

    Nothing is added up before `result`: a running sum would depend on the order in which parts arrive. A value of NaN
    says that the query does not count (it has no relevant item under a protocol that skips such queries).

    Attributes:
        queries: ``int64[n]``, ascending positions of the queries in the whole list of queries.
        values: ``float64[n]``.
    """

    queries: Ints = field(default_factory=_no_queries)
    values: Floats = field(default_factory=_no_values)

    def update(self, queries: npt.ArrayLike, values: npt.ArrayLike) -> "PerQuery":
        """Returns the state with `values` ``[n]`` of the queries at positions `queries` ``[n]`` added.

        Raises:
            ValueError: the lengths differ, or a query is given twice.
        """
        positions = np.asarray(queries, np.int64).reshape(-1)
        numbers = np.asarray(values, np.float64).reshape(-1)
        if positions.shape != numbers.shape:
            raise ValueError(
                f"per-query values: expected one per query, got {len(numbers)} for {len(positions)} queries"
            )
        positions = np.concatenate([self.queries, positions])
        numbers = np.concatenate([self.values, numbers])
        order = np.argsort(positions, kind="stable")
        positions, numbers = positions[order], numbers[order]
        twice = np.flatnonzero(positions[1:] == positions[:-1])
        if twice.size:
            raise ValueError(
                f"query {positions[twice[0]]}: expected one value, got two; cut the queries without overlap"
            )
        return PerQuery(positions, numbers)

    def merge(self, other: "PerQuery") -> "PerQuery":
        """Returns the union of two states over different queries."""
        return self.update(other.queries, other.values)

    def result(self) -> float:
        """Returns the mean over queries (the macro average), exactly rounded by `math.fsum`; NaN where none counts."""
        counted = self.values[~np.isnan(self.values)]
        return math.fsum(counted.tolist()) / len(counted) if len(counted) else math.nan

    def median(self) -> float:
        """Returns the median over queries: the mean of the two middle values where their number is even."""
        counted = self.values[~np.isnan(self.values)]
        return float(np.median(counted)) if len(counted) else math.nan
