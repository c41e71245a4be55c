"""Mean and spread of trials over seeds."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipmill.pipelines.sweeps.points import Point
from clipmill.pipelines.sweeps.trials import TrialResult


@dataclass(frozen=True, slots=True)
class Spread:
    """A metric over the seeds of a point.

    Attributes:
        mean: of the seeds that were run.
        std: sample standard deviation (n - 1); NaN of a single seed.
        values: one per seed, in the order of the seeds that were run.
    """

    mean: float
    std: float
    values: tuple[float, ...]

    @property
    def text(self) -> str:
        """``0.357 ±0.004``, the spread left out where there is a single seed."""
        return f"{self.mean:.3f}" + ("" if math.isnan(self.std) else f" ±{self.std:.3f}")


def spread_of(values: Sequence[float]) -> Spread:
    """Returns mean and spread of at least one value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Spread(mean, math.nan, tuple(values))
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Spread(mean, math.sqrt(variance), tuple(values))


@dataclass(frozen=True, slots=True)
class PointSummary:
    """A point over its seeds.

    Attributes:
        metrics, baselines, cumulative: as of `TrialResult`, over the trials that did not fail.
        errors: seed to why it failed.
    """

    point: Point
    seeds: tuple[int, ...]
    metrics: Mapping[str, Spread] = field(default_factory=dict)
    baselines: Mapping[str, Spread] = field(default_factory=dict)
    cumulative: Mapping[str, Spread] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)
    headline: str = ""
    seconds: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        """Returns the summary as plain types, for JSON."""
        return {
            "name": self.point.name,
            "settings": dict(self.point.settings),
            "published": dict(self.point.published),
            "seeds": list(self.seeds),
            "metrics": _plain(self.metrics),
            "baselines": _plain(self.baselines),
            "cumulative_k": _plain(self.cumulative),
            "errors": {str(seed): error for seed, error in self.errors.items()},
        }


def summaries(points: Sequence[Point], results: Sequence[TrialResult]) -> list[PointSummary]:
    """Returns each point's trials as one, in the order of `points`."""
    found = []
    for point in points:
        of_point = [result for result in results if result.point == point.name]
        done = [result for result in of_point if result.error is None]
        found.append(
            PointSummary(
                point,
                tuple(result.seed for result in done),
                _spreads([result.metrics for result in done]),
                _spreads([result.baselines for result in done]),
                _spreads([result.cumulative for result in done]),
                {result.seed: result.error for result in of_point if result.error is not None},
                done[0].headline if done else "",
                sum(result.train_seconds + result.evaluate_seconds for result in done),
            )
        )
    return found


def baselines_of(points: Sequence[PointSummary]) -> dict[str, Spread]:
    """Returns the baselines of all points together: they depend on the clips and the split alone.

    Seeds that several points were run with count once, as the first of these points has them.
    """
    found: dict[str, Spread] = {}
    for summary in points:
        for name, spread in summary.baselines.items():
            if name not in found or len(spread.values) > len(found[name].values):
                found[name] = spread
    return found


def _spreads(rows: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: spread_of([row[name] for row in rows if name in row]) for name in names}


def _plain(spreads: Mapping[str, Spread]) -> dict[str, Any]:
    return {
        name: {
            "mean": round(item.mean, 10),
            "std": None if math.isnan(item.std) else round(item.std, 10),
            "values": [round(value, 10) for value in item.values],
        }
        for name, item in spreads.items()
    }


def trials_csv(points: Sequence[Point], results: Sequence[TrialResult]) -> str:
    """Returns a table of trials: point, seed, error, the settings, then every metric and baseline."""
    settings = list(dict.fromkeys(key for point in points for key in point.settings))
    metrics = list(dict.fromkeys(name for result in results for name in result.metrics))
    floors = list(dict.fromkeys(name for result in results for name in result.baselines))
    of = {point.name: point.settings for point in points}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["point", "seed", "error", *settings, *metrics, *floors, "train_seconds", "evaluate_seconds"])
    for result in results:
        table.writerow(
            [
                result.point,
                result.seed,
                result.error or "",
                *(of[result.point].get(key, "") for key in settings),
                *(result.metrics.get(name, "") for name in metrics),
                *(result.baselines.get(name, "") for name in floors),
                result.train_seconds,
                result.evaluate_seconds,
            ]
        )
    return text.getvalue()
