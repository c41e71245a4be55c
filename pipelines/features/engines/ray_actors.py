"""Ray: a pool of actors, each holding its models and its own decode child."""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

# First, since it sets what Ray reads when it is imported.
from clipmill.pipelines.ray_cluster import cluster

# isort: split
import ray
from ray.exceptions import RayActorError, RayTaskError

from clipmill.pipelines.features.engines.base import Observer
from clipmill.pipelines.features.worker import Worker
from clipmill.schemas.errors import ClipmillError, EngineError
from clipmill.schemas.task import RunReport, ShardTask, TaskResult, WorkerSpec

TASK_ATTEMPTS = 3


class _Actor:
    """One worker on the cluster; its models are loaded once and serve every task it is given."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._worker = Worker(spec)
        self._worker.__enter__()

    def ready(self) -> None:
        """Returns once the actor has a place on the cluster."""

    def run(self, task: ShardTask) -> TaskResult:
        return self._worker.run(task)


class RayEngine:
    """Runs tasks on `num_workers` actors (`workers_per_gpu` to a GPU); a dead actor's task goes to a fresh one.

    Args:
        address: of a running cluster; None: one is started here, and stopped at the end.
    """

    def __init__(self, num_workers: int = 1, workers_per_gpu: int = 1, address: str | None = None) -> None:
        self._num_workers = num_workers
        self._workers_per_gpu = workers_per_gpu
        self._address = address

    def run(self, tasks: Sequence[ShardTask], worker: WorkerSpec, observers: Sequence[Observer]) -> RunReport:
        """Returns the report once every task has run.

        Raises:
            EngineError: a task's actor died `TASK_ATTEMPTS` times.
        """
        started = time.monotonic()
        for observer in observers:
            observer.on_start(tasks)
        with cluster("engine", "ray", self._address):
            results = self._run(tasks, worker, observers)
        return RunReport("ray", len(tasks), tuple(results), time.monotonic() - started)

    def _run(self, tasks: Sequence[ShardTask], spec: WorkerSpec, observers: Sequence[Observer]) -> list[TaskResult]:
        waiting = deque((task, 1) for task in tasks)
        idle: list[Any] = []
        # Actors that wait for a place: with more workers than GPUs some may wait for ever, so they are given no task.
        starting = dict(self._start(spec) for _ in range(min(self._num_workers, len(tasks))))
        running: dict[Any, tuple[Any, ShardTask, int]] = {}
        results: dict[str, TaskResult] = {}
        failed_starts = 0
        while waiting or running:
            while waiting and idle:
                task, attempt = waiting.popleft()
                actor = idle.pop()
                running[actor.run.remote(task)] = (actor, task, attempt)
            [done], _ = ray.wait([*running, *starting], num_returns=1)
            if done in starting:
                actor = starting.pop(done)
                try:
                    ray.get(done)
                except RayActorError as error:
                    failed_starts += 1
                    if failed_starts >= TASK_ATTEMPTS:
                        raise EngineError(
                            f"engine ray: expected workers that start, got {failed_starts} dead ones "
                            f"({_first_line(error)}); check engine.device and the cluster's log"
                        ) from None
                    starting |= dict([self._start(spec)])
                else:
                    idle.append(actor)
                continue
            actor, task, attempt = running.pop(done)
            try:
                result = ray.get(done)
            except RayActorError as error:
                if attempt >= TASK_ATTEMPTS:
                    raise EngineError(
                        f"task {task.key}: expected a result, got {attempt} dead workers ({_first_line(error)}); "
                        "what is committed stands, run the same command again"
                    ) from None
                waiting.append((task, attempt + 1))
                starting |= dict([self._start(spec)])
                continue
            except RayTaskError as error:
                # Ray wraps what a worker raised; a domain error keeps its own type and exit code.
                if isinstance(error.cause, ClipmillError):
                    raise error.cause from None
                raise
            idle.append(actor)
            results[task.key] = result
            for observer in observers:
                observer.on_task(result)
        return [results[task.key] for task in tasks]

    def _start(self, spec: WorkerSpec) -> tuple[Any, Any]:
        """Returns what becomes ready when the actor has its place, and the actor."""
        resources = ray.cluster_resources()
        wants_gpu = spec.device != "cpu" and resources.get("GPU", 0) > 0
        cpus = min(float(spec.num_threads), resources.get("CPU", 1.0))
        gpus = 1 / self._workers_per_gpu if wants_gpu else 0
        actor: Any = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus).remote(spec)
        return actor.ready.remote(), actor


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0][:200]
