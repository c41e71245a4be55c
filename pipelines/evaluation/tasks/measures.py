"""Further metrics of the tasks: computed where a config's `metrics` names them, beside those that define the task.

To add one: a file with a `Measure`, and one line in `BUILT_IN`; one from outside registers its `Measure` under the
entry point group ``clipmill.metrics``, as ``<task>.<metric>``. Its values stand in the table, on the page, in
``results.json`` and before gates like any others; with values per unit they get intervals and paired tests too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clipmill.pipelines.evaluation.tasks.base import Evaluation
from clipmill.pipelines.evaluation.tasks.result import RunScore, Units, mean_intervals
from clipmill.schemas.config_evaluate import TaskConfig
from clipmill.schemas.errors import UsageError, describe, near
from clipmill.schemas.registry import Registry

_TASKS = "clipmill.pipelines.evaluation.tasks"
BUILT_IN = {
    "detection.recall": f"{_TASKS}.detection.recall:MEASURE",
}
"""``<task>.<metric>`` to module and attribute."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The values of a measure for one run.

    Attributes:
        metrics: name to value, such as ``recall@0.5``.
        units: the same per query, video or item, where a value is a mean over them; their ids ascend.
    """

    metrics: Mapping[str, float]
    units: Units | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric of one task, or a family of them (one per threshold).

    Attributes:
        task, name: what a config calls them.
        summary: what it measures, in a few words.
        compute: the task's own record of one scored run (`Evaluation.evaluated`), the run's score and the config to
            the values.
        titles: metric to what a reader of the page calls it; default: its name.
    """

    task: str
    name: str
    summary: str
    compute: Callable[[Any, RunScore, Any], Measured]
    titles: Mapping[str, str] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """``<task>.<metric>``."""
        return f"{self.task}.{self.name}"


_REGISTRY: Registry[Measure] = Registry("metric", "clipmill.metrics", Measure, BUILT_IN, "full_name")


def names(task: str) -> tuple[str, ...]:
    """Returns the names of the further metrics of a task."""
    prefix = f"{task}."
    return tuple(name.removeprefix(prefix) for name in _REGISTRY.names if name.startswith(prefix))


def measure(task: str, name: str) -> Measure:
    """Returns the measure called `name` of a task.

    Raises:
        UsageError: there is no such measure (near names are listed), or the package that brings it is broken.
    """
    known = names(task)
    if name not in known:
        remedy = near(name, known) if known else "leave the key out: there are none for this task"
        raise UsageError(describe("evaluation", "metrics", f"further metrics of task {task}", repr(name), remedy))
    return _REGISTRY.get(f"{task}.{name}")


def measures_of(config: TaskConfig) -> tuple[Measure, ...]:
    """Returns the measures that a config names.

    Raises:
        UsageError: there is no such measure, or the package that brings it is broken.
    """
    return tuple(measure(config.task, name) for name in dict.fromkeys(config.metrics))


def with_measures(evaluation: Evaluation[Any], config: TaskConfig, measures: Sequence[Measure]) -> Evaluation[Any]:
    """Returns the evaluation with the values of `measures` added to those of each run.

    Raises:
        UsageError: a measure gives a metric that the task has already, or values of other units than the task's.
    """
    if not measures:
        return evaluation
    runs = []
    for number, run in enumerate(evaluation.score.runs):
        # The spaces of retrieval are runs that share one record.
        evaluated = evaluation.evaluated[number if len(evaluation.evaluated) > 1 else 0]
        for item in measures:
            run = _added(run, item, item.compute(evaluated, run, config), config)
        runs.append(run)
    return replace(evaluation, score=replace(evaluation.score, runs=tuple(runs)))


def _added(run: RunScore, item: Measure, found: Measured, config: TaskConfig) -> RunScore:
    twice = next((name for name in found.metrics if name in run.metrics), None)
    if twice is not None:
        expected, remedy = f"names that task {item.task} does not have", "rename the metric"
        raise UsageError(describe("metric", item.full_name, expected, twice, remedy))
    units, intervals = run.units, dict(run.intervals)
    if found.units is not None:
        intervals |= mean_intervals(found.units.values, config.seed, config.resamples, config.confidence)
        units = found.units
        if run.units is not None:
            if run.units.ids != units.ids:
                expected = f"values of the {len(run.units.ids)} units of the task"
                got, remedy = f"those of {len(units.ids)} others", "give one value per unit, in their order"
                raise UsageError(describe("metric", item.full_name, expected, got, remedy))
            units = replace(run.units, values={**run.units.values, **units.values})
    return replace(
        run,
        metrics={**run.metrics, **found.metrics},
        shown=(*run.shown, *found.metrics),
        intervals=intervals,
        units=units,
    )
