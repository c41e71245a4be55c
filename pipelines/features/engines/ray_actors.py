"""Ray: a pool of actors, each holding its models and its own decode child."""

import pickle
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

# First, since it sets what Ray reads when it is imported.
from clipmill.pipelines.ray_cluster import CONNECT_SECONDS, Connection, cluster

# isort: split
import ray
from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError

from clipmill.pipelines.features.attempts import TASK_ATTEMPTS, Attempts
from clipmill.pipelines.features.engines import ray_place
from clipmill.pipelines.features.engines.base import Observer
from clipmill.pipelines.worker_errors import Told, error_of, first_cause, plain
from clipmill.schemas.errors import EngineError
from clipmill.schemas.task import RunReport, ShardTask, TaskResult, WorkerSpec

cloudpickle.register_pickle_by_value(ray_place)


class RayEngine:
    """Runs tasks on `num_workers` actors (`workers_per_gpu` to a GPU); a dead actor's task goes to a fresh one.

    Args:
        address: of a running cluster; None: one is started here, and stopped at the end.
        connect_seconds: how long Ray may take to answer or to start, and how long it may be gone later on.
        runtime_env: what Ray brings to its workers.
    """

    def __init__(
        self,
        num_workers: int = 1,
        workers_per_gpu: int = 1,
        address: str | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        self._num_workers = num_workers
        self._workers_per_gpu = workers_per_gpu
        self._address = address
        self._connect_seconds = connect_seconds
        self._runtime_env = runtime_env

    def run(self, tasks: Sequence[ShardTask], worker: WorkerSpec, observers: Sequence[Observer]) -> RunReport:
        """Returns the report once every task has run.

        Raises:
            EngineError: there is no cluster, or it was lost; actors do not start.
            MachineFaultError: too many videos killed their worker.
            ClipmillError: a worker's own, such as weights that its node lacks.
        """
        started = time.monotonic()
        for observer in observers:
            observer.on_start(tasks)
        seconds, shipped = self._connect_seconds, self._runtime_env
        with cluster("engine", "ray", self._address, connect_seconds=seconds, runtime_env=shipped) as connection:
            results = self._run(tasks, worker, observers, connection)
        return RunReport("ray", len(tasks), tuple(results), time.monotonic() - started)

    def _run(
        self, tasks: Sequence[ShardTask], spec: WorkerSpec, observers: Sequence[Observer], connection: Connection
    ) -> list[TaskResult]:
        waiting = deque(tasks)
        attempts = Attempts(spec)
        idle: list[Any] = []
        # Actors that wait for a place: with more workers than GPUs some may wait for ever, so they are given no task.
        starting = dict(self._start(spec) for _ in range(min(self._num_workers, len(tasks))))
        running: dict[Any, tuple[Any, ShardTask]] = {}
        results: dict[str, TaskResult] = {}
        failed_starts = 0
        while waiting or running:
            while waiting and idle:
                task, actor = waiting.popleft(), idle.pop()
                running[actor.run.remote(pickle.dumps(task), attempts.is_careful(task))] = (actor, task)
            done = connection.wait([*running, *starting])
            if done in starting:
                actor = starting.pop(done)
                try:
                    _answer(done)
                except RayActorError as error:
                    connection.wait_until_answered()
                    failed_starts += 1
                    if failed_starts >= TASK_ATTEMPTS:
                        raise EngineError(
                            f"engine ray: expected workers that start, got {failed_starts} dead ones "
                            f"({_reason(error)}); see the node's memory and Ray's log"
                        ) from None
                    starting |= dict([self._start(spec)])
                else:
                    idle.append(actor)
                continue
            actor, task = running.pop(done)
            try:
                result = _answer(done)
            except RayActorError as error:
                # It may have died with its cluster; a question to a head that is gone would never come back.
                connection.wait_until_answered()
                attempts.died(task, f"a dead worker ({_reason(error)})")
                waiting.append(task)
                starting |= dict([self._start(spec)])
                continue
            idle.append(actor)
            attempts.done(result)
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
        actor: Any = ray.remote(ray_place.Place).options(num_cpus=cpus, num_gpus=gpus).remote()
        return actor.enter.remote(pickle.dumps(spec)), actor


def _answer(done: Any) -> Any:
    """Returns what an actor's call returned.

    Raises:
        RayActorError: the actor died.
        Exception: what the worker failed by, as `error_of` has it.
    """
    try:
        answer = ray.get(done)
    except RayActorError as error:
        # One that could not be made (its environment, say) is as dead as one that was killed, but says why.
        cause = first_cause(error)
        if cause is not None:
            raise cause from None
        raise
    except RayTaskError as error:
        raise first_cause(error) or error from None
    if "error" in answer:
        raise error_of(Told(**answer["error"])) from None
    return pickle.loads(answer["value"])


def _reason(error: Exception) -> str:
    """Returns in one line why an actor died; Ray spreads it over several."""
    lines = [line.strip() for line in plain(str(error)).splitlines() if line.strip()]
    details = [line for line in lines if "exit detail" in line or "root cause" in line]
    return " ".join(dict.fromkeys([*lines[:1], *details]))[:400] or type(error).__name__
