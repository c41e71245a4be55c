"""A sweep: points, each trained and evaluated with every seed, and the best of them.

Of two points as good, the earlier one is the best.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipmill.pipelines.sweeps.planning import Planner
from clipmill.pipelines.sweeps.points import Point, points_of, with_settings
from clipmill.pipelines.sweeps.summary import PointSummary, Spread, baselines_of, summaries
from clipmill.pipelines.sweeps.trials import LOSS, VALIDATION, Runner, Tell, TrialResult, run_all
from clipmill.schemas.config_sweep import SweepConfig
from clipmill.schemas.errors import UsageError, describe, near

SOURCE = "sweep"
"""What messages about a point begin with."""


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep found.

    Attributes:
        train_keys: of the train config that points change.
        points: in the order of the config.
        metric: what they are compared by.
        best: position in `points`; None: all failed.
        baselines: ``chance/map@10`` and so on, the same for all points.
    """

    config: SweepConfig
    train_keys: Mapping[str, Any]
    points: tuple[PointSummary, ...]
    results: tuple[TrialResult, ...]
    metric: str
    best: int | None
    baselines: Mapping[str, Spread]

    @property
    def goal(self) -> Literal["max", "min"]:
        """Whether the best is the greatest or the least."""
        return goal_of(self.config, self.metric)

    @property
    def num_failed(self) -> int:
        """Trials that failed."""
        return sum(len(point.errors) for point in self.points)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys that points set, in their order."""
        return tuple(dict.fromkeys(key for point in self.points for key in point.point.settings))

    @property
    def spaces(self) -> tuple[str, ...]:
        """The metric that points are compared by, the same one of every other space, and what is shown besides."""
        name = self.metric.rpartition("/")[2]
        found = dict.fromkeys(
            metric for point in self.points for metric in point.metrics if metric.endswith(f"/{name}")
        )
        return (self.metric, *(metric for metric in found if metric != self.metric), *self.config.also)


def sweep(config: SweepConfig, train_keys: Mapping[str, Any], run: Runner, tell: Tell) -> SweepResult:
    """Trains and evaluates every point with every seed, those aside that are done already.

    Args:
        train_keys: what `config.train` holds.

    Raises:
        UsageError: a point's config does not validate, its clips cannot be used, or there is no such metric.
        StorageUnavailableError: the folder cannot be written.
        EngineError: Ray broke down; what is finished is kept.
    """
    points = points_of(config)
    keys = with_settings(train_keys, config.set, f"{SOURCE} set")
    trials = Planner().trials(keys, points, config, SOURCE)
    results = run_all(trials, Path(config.out), run, tell)
    found = summaries(points, results)
    metric = config.metric or next((point.headline for point in found if point.headline), "")
    for name in (metric, *config.also):
        _check_metric(name, found)
    return SweepResult(
        config, keys, tuple(found), tuple(results), metric, _best(found, metric, config), baselines_of(found)
    )


def _check_metric(metric: str, found: list[PointSummary]) -> None:
    known = dict.fromkeys(name for point in found for name in point.metrics)
    if known and metric not in known:
        remedy = near(metric, list(known))
        raise UsageError(describe(SOURCE, "metric", "one that the trials have", metric, remedy))


def goal_of(config: SweepConfig, metric: str) -> Literal["max", "min"]:
    """Returns what the best has of `metric`: of losses the least, unless the config says otherwise."""
    return config.goal or ("min" if metric.partition("/")[0] in (LOSS, VALIDATION) else "max")


def _best(found: list[PointSummary], metric: str, config: SweepConfig) -> int | None:
    sign = 1 if goal_of(config, metric) == "max" else -1
    # A point of which seeds failed has a mean over fewer, which may be luck: only where there is no other.
    ranked = [
        (len(point.errors) == 0, sign * point.metrics[metric].mean, -number)
        for number, point in enumerate(found)
        if metric in point.metrics
    ]
    return -max(ranked)[2] if ranked else None


def best_train_keys(result: SweepResult) -> dict[str, Any] | None:
    """Returns the train config of the best point with the first seed; None where all failed."""
    if result.best is None:
        return None
    point: Point = result.points[result.best].point
    seed = result.config.seeds[0]
    settings = {**point.settings, **dict.fromkeys(result.config.seed_keys, seed)}
    return with_settings(result.train_keys, settings, SOURCE) | {"out": f"{result.config.out}/best"}


def to_plain(result: SweepResult) -> dict[str, Any]:
    """Returns the result as plain types, for JSON."""
    best = None if result.best is None else result.points[result.best].to_plain()
    return {
        "version": 1,
        "metric": result.metric,
        "goal": result.goal,
        "seeds": list(result.config.seeds),
        "seed_keys": list(result.config.seed_keys),
        "spread": "sample standard deviation over seeds",
        "source": result.config.source,
        "points": [point.to_plain() for point in result.points],
        "baselines": {name: {"mean": round(item.mean, 10)} for name, item in result.baselines.items()},
        "best": best and {"name": best["name"], "settings": best["settings"], **best["metrics"][result.metric]},
        "num_trials": len(result.results),
        "num_failed": result.num_failed,
        "config": result.config.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
