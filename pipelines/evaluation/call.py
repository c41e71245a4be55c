"""An evaluation as one call from Python: the config's keys as arguments, and data in memory in place of files."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.pipelines.evaluation.tasks.evaluate import evaluate_task, write_evaluation
from clipmill.pipelines.evaluation.tasks.registry import task as task_named
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.schemas.config_evaluate import PredictionsConfig, TaskConfig, TruthConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.model import validate
from clipmill.schemas.recipe import Recipe

if TYPE_CHECKING:
    from clipmill.pipelines.evaluation.tasks.clip_views import ClipViews

CALLED = "clipmill.evaluate"
"""What messages about an argument begin with."""
_SOURCES = ("file", "store", "run", "fuse", "arrays")
"""Keys of which a mapping has one where it says what to read, and is no data itself."""


def evaluate(
    task: str,
    class_names: Callable[[Recipe], tuple[str, ...]],
    clip_views: "Callable[[], ClipViews] | None" = None,
    out: str | os.PathLike[str] | None = None,
    report: bool = False,
    **keys: Any,
) -> TaskScore:
    """Returns what a task finds: what ``clipmill evaluate`` prints and writes. See `clipmill.evaluate`.

    Args:
        class_names: recipe of a stored feature to the names of its classes.
        clip_views: who makes images and lineage of stored clips for a page; None: it has none.
        out: folder of ``results.json``; None: nothing is written.
        report: write ``report.html`` too.
        keys: of the task's config; ground truth and predictions may be data in memory.

    Raises:
        UsageError: an argument is none of the task's, or what it names cannot be used.
        StorageUnavailableError: the folder cannot be written.
    """
    if report and out is None:
        raise UsageError(describe(CALLED, "report", "out beside it, a folder to write to", "none", "give out"))
    found = task_named(task)
    memory = _Memory()
    data = {key: _value(memory, found.config, key, value) for key, value in keys.items() if value is not None}
    where = {} if out is None else {"out": os.fspath(out)}
    config: TaskConfig = validate(found.config, {"task": task, "report": report, **where, **data}, CALLED)
    sources = Sources(arrays=memory.arrays, class_names=class_names, clip_views=clip_views)
    evaluation = evaluate_task(found, config, sources)
    if out is not None:
        write_evaluation(found, evaluation, config, sources)
    return evaluation.score


@dataclass(frozen=True, slots=True)
class _Memory:
    """The data that the arguments hold, by the name that stands for it in the config."""

    arrays: dict[str, Any] = field(default_factory=dict)

    def keep(self, what: str, value: Any) -> str:
        """Returns the name that stands for `value` from now on."""
        name = f"<{what}>"
        self.arrays[name] = value
        return name


def _value(memory: _Memory, model: type[BaseModel], key: str, value: Any) -> Any:
    """Returns the value of a config's key, with data in memory kept aside."""
    read = model.model_fields[key].annotation if key in model.model_fields else None
    if _mentions(read, PredictionsConfig):
        several = isinstance(value, list | tuple)
        items = list(value) if several else [value]
        return [
            _source(memory, f"{key} {n}" if several else key, item, named=True) for n, item in enumerate(items, start=1)
        ]
    if _mentions(read, TruthConfig):
        return _source(memory, key, value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    is_name = read in (str, str | None) and not isinstance(value, str)
    return memory.keep(key, value) if is_name or not _is_plain(value) else value


def _source(memory: _Memory, what: str, value: Any, named: bool = False) -> Any:
    """Returns what a config says of a file, a store, a run, or data in memory.

    Args:
        named: data in memory is called `what` in tables.
    """
    if isinstance(value, str | os.PathLike):
        return {"file": os.fspath(value)}
    if isinstance(value, BaseModel):
        return value
    if not isinstance(value, Mapping) or not any(key in value for key in _SOURCES):
        value = {"arrays": value}
    settings = {key: os.fspath(item) if isinstance(item, os.PathLike) else item for key, item in value.items()}
    if "arrays" in settings:
        settings["file"] = memory.keep(what, settings.pop("arrays"))
        if named:
            settings.setdefault("name", what)
    if isinstance(settings.get("durations"), Mapping):
        settings["durations"] = memory.keep(f"{what} durations", settings["durations"])
    return settings


def _mentions(annotation: Any, model: type[BaseModel]) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, model):
        return True
    return any(_mentions(argument, model) for argument in getattr(annotation, "__args__", ()))


def _is_plain(value: Any) -> bool:
    """Returns whether a value could stand in a config file."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | bool | int | float | BaseModel)
