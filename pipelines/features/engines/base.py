"""The contract of an engine, and of those who watch it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from clipmill.schemas.config import EngineConfig
from clipmill.schemas.task import RunReport, ShardTask, TaskResult, WorkerSpec


class Observer(Protocol):
    """Is notified of what happens; must not raise. Progress lines, JSON events and histories are observers."""

    def on_start(self, tasks: Sequence[ShardTask]) -> None:
        """All tasks are known and none has started."""
        ...

    def on_video(self, task: ShardTask, video_id: str) -> None:
        """A video of a running task is done (engines that cannot see inside a task do not call it)."""
        ...

    def on_task(self, result: TaskResult) -> None:
        """A task is done."""
        ...


class Engine(Protocol):
    """Runs shard tasks on workers made from one spec."""

    def run(self, tasks: Sequence[ShardTask], worker: WorkerSpec, observers: Sequence[Observer]) -> RunReport:
        """Returns when every task has run.

        Raises:
            EngineError: tasks remain that could not be run; what is committed stands.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineCard:
    """An engine before it is started: light, its library comes with `make`.

    Attributes:
        name: what ``engine.name`` says.
        config: the model of its options: `EngineConfig`, or one made from it that adds keys.
        make: returns the engine, not yet started, given its options.
        check: raises a `UsageError` where this machine can tell from the options alone that the engine would fail.
    """

    name: str
    config: type[EngineConfig]
    make: Callable[[Any], Engine]
    check: Callable[[Any], None] = lambda config: None
