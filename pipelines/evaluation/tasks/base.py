"""What an evaluation task is: a config model, a function that scores, and one that says what its page shows.

A task is a folder here with a module that has `TASK`, and a line in `registry`; one from outside registers its `Task`
under the entry point group ``clipmill.tasks``. Everything else is the same for all of them: the command line, the
table, ``results.json``, the page's frame, gates, and `clipmill.evaluate`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.schemas.config_evaluate import PredictionsConfig, TaskConfig
from clipmill.schemas.recipe import Recipe

if TYPE_CHECKING:
    from clipmill.pipelines.evaluation.tasks.clip_views import ClipViews
    from clipmill.pipelines.evaluation.tasks.page import TaskReport
    from clipmill.pipelines.evaluation.tasks.published import PublishedScore

C = TypeVar("C", bound=TaskConfig)
E = TypeVar("E")


def _no_class_names(recipe: Recipe) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Sources:
    """What an evaluation is given beside its config: data in memory, and what it may not import itself.

    Attributes:
        arrays: the name that stands in place of a file in the config, to the data in memory it stands for.
        class_names: recipe of a stored feature to the names of its classes 1, 2, ...; empty where they are not known.
        predict: reads ``predictions: {run: ...}``: the task's `predict` under the config at hand.
        clip_views: who makes images and lineage of stored clips, asked when a page needs them; None: pages have none.
    """

    arrays: Mapping[str, Any] = field(default_factory=dict)
    class_names: Callable[[Recipe], tuple[str, ...]] = _no_class_names
    predict: Callable[[PredictionsConfig], Any] | None = None
    clip_views: "Callable[[], ClipViews] | None" = None


@dataclass(frozen=True, slots=True)
class Evaluation(Generic[E]):
    """What a task found.

    Attributes:
        score: the numbers: for tables, ``results.json``, gates and Python callers.
        evaluated: for each run of `score` what its page is made of, the task's own records; or one that all share.
    """

    score: TaskScore
    evaluated: tuple[E, ...]


@dataclass(frozen=True, slots=True)
class Task(Generic[C, E]):
    """One kind of evaluation.

    Attributes:
        name: value of `task:` in the config.
        summary: what it measures, in a few words.
        config: the model of its config file.
        evaluate: reads what the config names and scores it. Raises UsageError for what a user can correct.
        report: what the page shows; `published` and `lineage` are filled in where it leaves them empty. None: there is
            no page.
        predict: reads ``predictions: {run: ...}``: returns what a trained run answers, in the record that the task
            reads from a file. None: this task refuses runs.
        published: published rows of this task, beside those of `tasks.published`.
    """

    name: str
    summary: str
    config: type[C]
    evaluate: Callable[[C, Sources], Evaluation[E]]
    report: "Callable[[Evaluation[E], C, Sources], TaskReport] | None" = None
    predict: Callable[[PredictionsConfig, C], Any] | None = None
    published: "tuple[PublishedScore, ...]" = ()
