"""Which evaluation tasks there are. To add one: a folder with a `Task`, its config model, and one line in `BUILT_IN`.

One from outside the project registers under the entry point group ``clipmill.tasks``. A task is imported when it is
used, so that scoring detections does not import ranked lists.
"""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from clipmill.pipelines.evaluation.tasks.base import Task
from clipmill.schemas.config import parse_config
from clipmill.schemas.config_evaluate import TaskConfig, task_of_config
from clipmill.schemas.errors import ConfigError, UsageError, describe, near

ENTRY_POINT_GROUP = "clipmill.tasks"

_TASKS = "clipmill.pipelines.evaluation.tasks"
BUILT_IN = {
    "retrieval": f"{_TASKS}.retrieval.task",
    "detection": f"{_TASKS}.detection.task",
    "proposals": f"{_TASKS}.proposals.task",
    "moments": f"{_TASKS}.moments.task",
    "highlights": f"{_TASKS}.highlights.task",
    "classification": f"{_TASKS}.classification.task",
    "ranking": f"{_TASKS}.ranking.task",
    "landmarks": f"{_TASKS}.landmarks.task",
    "scene_retrieval": f"{_TASKS}.scene_retrieval.task",
}
"""Name to the module that has its `TASK`."""


@cache
def _outside() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def names() -> tuple[str, ...]:
    """Returns the names of all tasks: ours in the order of the table, then those from outside."""
    return (*BUILT_IN, *sorted(set(_outside()) - set(BUILT_IN)))


@cache
def task(name: str) -> Task[Any, Any]:
    """Returns the task called `name`.

    Raises:
        UsageError: there is no such task (near names are listed), or the package that brings it is broken.
    """
    if name in BUILT_IN:
        found: object = import_module(BUILT_IN[name]).TASK
    elif name in _outside():
        try:
            found = _outside()[name].load()
        except Exception as error:
            got = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise UsageError(describe("task", name, "a package that imports", got, "fix or remove it")) from error
    else:
        raise UsageError(
            f"task {name}: expected one of {', '.join(names())}, got an unknown one; {near(name, names())}"
        )
    if not isinstance(found, Task):
        expected = "a clipmill.pipelines.evaluation.tasks.base.Task"
        raise UsageError(describe("task", name, expected, type(found).__name__, "see docs/extending.md"))
    if found.name != name:
        remedy = "give the entry point the name of its task"
        raise UsageError(describe("task", name, "a task of that name", found.name, remedy))
    return found


def parse_task_config(
    text: str, overrides: Sequence[str] = (), source: str = "config"
) -> tuple[Task[Any, Any], TaskConfig]:
    """Returns the task that YAML `text` asks for, and the text with overrides as its config.

    Raises:
        ConfigError: as `parse_config`, or there is no such task.
        UsageError: the package that brings the task is broken.
    """
    name = task_of_config(text, overrides, source)
    if not isinstance(name, str) or name not in names():
        raise ConfigError(
            f"{source} task: expected one of {', '.join(names())}, got {name!r}; {near(str(name), names())}"
        )
    found = task(name)
    config: TaskConfig = parse_config(found.config, text, overrides, source)
    return found, config
