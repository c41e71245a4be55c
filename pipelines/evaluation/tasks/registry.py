"""Which evaluation tasks there are. To add one: a folder with a `Task`, its config model, and one line in `BUILT_IN`.

One from outside the project registers under the entry point group ``clipmill.tasks``. A task is imported when it is
used, so that scoring detections does not import ranked lists.
"""

from collections.abc import Sequence
from typing import Any

from clipmill.pipelines.evaluation.tasks.base import Task
from clipmill.schemas.config import blamed, parse_config
from clipmill.schemas.config_evaluate import TaskConfig, task_of_config
from clipmill.schemas.errors import ConfigError, near
from clipmill.schemas.registry import Registry

_TASKS = "clipmill.pipelines.evaluation.tasks"
BUILT_IN = {
    "retrieval": f"{_TASKS}.retrieval.task:TASK",
    "detection": f"{_TASKS}.detection.task:TASK",
    "proposals": f"{_TASKS}.proposals.task:TASK",
    "moments": f"{_TASKS}.moments.task:TASK",
    "highlights": f"{_TASKS}.highlights.task:TASK",
    "classification": f"{_TASKS}.classification.task:TASK",
    "ranking": f"{_TASKS}.ranking.task:TASK",
    "landmarks": f"{_TASKS}.landmarks.task:TASK",
    "scene_retrieval": f"{_TASKS}.scene_retrieval.task:TASK",
}
"""Name to module and attribute."""
_REGISTRY: Registry[Task[Any, Any]] = Registry("task", "clipmill.tasks", Task, BUILT_IN)


def names() -> tuple[str, ...]:
    """Returns the names of all tasks: ours in the order of the table, then those from outside."""
    return _REGISTRY.names


def task(name: str) -> Task[Any, Any]:
    """Returns the task called `name`.

    Raises:
        UsageError: there is no such task (near names are listed), or the package that brings it is broken.
    """
    return _REGISTRY.get(name)


def parse_task_config(
    text: str, overrides: Sequence[str] = (), source: str = "config"
) -> tuple[Task[Any, Any], TaskConfig]:
    """Returns the task that YAML `text` asks for, and the text with overrides as its config.

    Raises:
        ConfigError: as `parse_config`, or there is no such task.
        UsageError: the package that brings the task is broken.
    """
    with blamed(overrides, source):
        name = task_of_config(text, overrides, source)
        if not isinstance(name, str) or name not in names():
            raise ConfigError(
                f"{source} task: expected one of {', '.join(names())}, got {name!r}; {near(str(name), names())}"
            )
    found = task(name)
    config: TaskConfig = parse_config(found.config, text, overrides, source)
    return found, config
