"""Who watches a build: the console, and Prometheus where it is asked for."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from clipmill.jobs.progress import Progress
from clipmill.jobs.prometheus_metrics import BuildMetrics
from clipmill.pipelines.features.engines.base import Observer
from clipmill.pipelines.features.heartbeat import HEARTBEAT_SECONDS
from clipmill.pipelines.features.run_progress import Beat
from clipmill.schemas.config import BuildConfig


@dataclass(frozen=True, slots=True)
class Observation:
    """How a build is watched.

    Attributes:
        heartbeat_seconds: between two lines that say how far it is; 0: none.
        prometheus: ``[HOST:]PORT`` that metrics are served at; None: none are.
        prometheus_file: the file they are written to.
    """

    heartbeat_seconds: float = HEARTBEAT_SECONDS
    prometheus: str | None = None
    prometheus_file: str | None = None


@dataclass(slots=True)
class Watchers:
    """Who watches one build; `ended` is to be called with its exit code."""

    observers: list[Observer]
    listeners: list[Callable[[Beat], None]]
    ended: Callable[[int], None] = field(default=lambda exit_code: None)


@contextlib.contextmanager
def watching(observation: Observation, config: BuildConfig, progress: Progress) -> Iterator[Watchers]:
    """Gives who is to watch a build of `config`.

    Raises:
        UsageError: metrics cannot be served as asked for.
    """
    watchers = Watchers([progress], [progress.on_beat])
    if observation.prometheus is None and observation.prometheus_file is None:
        yield watchers
        return
    metrics = BuildMetrics(config.store.url, config.engine.name, observation.prometheus_file)
    with metrics.served(observation.prometheus) as port, metrics.ending():
        if port:
            print(f"note: metrics are served at port {port} (/metrics)", file=sys.stderr)
        watchers.observers.append(metrics)
        watchers.listeners.append(metrics.on_beat)
        watchers.ended = metrics.end
        yield watchers
