"""An engine from outside the project: each task in a process of its own, some at a time on this machine."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from typing import Literal

from pydantic import Field

from clipmill.pipelines.features.engines.base import EngineCard, Observer
from clipmill.pipelines.features.worker import Worker
from clipmill.schemas.config import EngineConfig
from clipmill.schemas.errors import EngineError
from clipmill.schemas.task import RunReport, ShardTask, TaskResult, WorkerSpec


class ProcessPoolConfig(EngineConfig):
    """``engine: {name: process_pool}``: the keys every engine takes, and how many processes run at a time."""

    name: Literal["process_pool"] = "process_pool"
    processes: int = Field(default=2, ge=1)

    @property
    def num_workers(self) -> int:
        """How many workers share the cores of a machine."""
        return self.processes


def run_task(task: ShardTask, spec: WorkerSpec) -> TaskResult:
    """Runs one task; the worker writes its shards and commits."""
    with Worker(spec) as worker:
        return worker.run(task)


class ProcessPoolEngine:
    """Runs `num_processes` tasks at a time."""

    def __init__(self, num_processes: int) -> None:
        self._num_processes = num_processes

    def run(self, tasks: Sequence[ShardTask], worker: WorkerSpec, observers: Sequence[Observer]) -> RunReport:
        """Returns the report once every task has run.

        Raises:
            EngineError: a process died; what is committed stands.
        """
        started = time.monotonic()
        for observer in observers:
            observer.on_start(tasks)
        results = []
        # Not forked: threads of this process would hold their locks in the children for ever.
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(self._num_processes, context) as pool:
                for result in pool.map(run_task, tasks, repeat(worker)):
                    results.append(result)
                    for observer in observers:
                        observer.on_task(result)
        except BrokenProcessPool:
            raise EngineError(
                "engine process_pool: expected results, got a process that died; run the same command again"
            ) from None
        return RunReport("process_pool", len(tasks), tuple(results), time.monotonic() - started)


ENGINE = EngineCard("process_pool", ProcessPoolConfig, lambda config: ProcessPoolEngine(config.processes))
