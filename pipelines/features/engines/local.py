"""The default engine: tasks one after another on this machine; no cluster, no daemon."""

import time
from collections.abc import Sequence

from clipmill.pipelines.features.engines.base import EngineCard, Observer
from clipmill.pipelines.features.engines.worker_process import RestartedWorker
from clipmill.pipelines.features.extraction import check_device
from clipmill.pipelines.features.machine_faults import FORWARD_DEADLINE, WORKER_DIED
from clipmill.pipelines.features.run_records import END, START, run_file
from clipmill.pipelines.features.worker import Worker
from clipmill.schemas.config import EngineConfig
from clipmill.schemas.task import RunReport, ShardTask, TaskResult, WorkerSpec
from clipmill.stores.storage_faults import Retries
from clipmill.stores.store import Store


class LocalEngine:
    """Runs every task in this process; decoding overlaps with the networks because it has a process of its own.

    Where there is reason to fear that a video kills its worker, tasks run in a process of their own, which may.

    Args:
        isolated: whether they do; None: where there is reason (`is_feared`).
    """

    def __init__(self, isolated: bool | None = None) -> None:
        self._isolated = isolated

    def run(self, tasks: Sequence[ShardTask], worker: WorkerSpec, observers: Sequence[Observer]) -> RunReport:
        """Returns the report once every task has run; Ctrl-C abandons the task under way and leaves the others.

        Raises:
            EngineError: workers die of no video in particular.
            MachineFaultError: too many videos killed their worker.
        """
        started = time.monotonic()
        isolated = is_feared(worker, tasks) if self._isolated is None else self._isolated
        for observer in observers:
            observer.on_start(tasks)
        with RestartedWorker(worker) if isolated else Worker(worker) as running:
            results = _run(running, tasks, observers)
        return RunReport("local", len(tasks), tuple(results), time.monotonic() - started)


def is_feared(spec: WorkerSpec, tasks: Sequence[ShardTask]) -> bool:
    """Returns whether a video may kill its worker: the last run was killed, or a video of the tasks did so before."""
    store = Store.open(spec.store_url, Retries(spec.storage_attempts))
    before = (run for run in reversed(store.runs()) if run < spec.run_id)
    earlier = next((run for run in before if run_file(store, run, START)), None)
    if earlier is not None and not run_file(store, earlier, END):
        return True
    table = store.quarantine().select(["video_id", "reason"]).to_pylist()
    fatal = {row["video_id"] for row in table if row["reason"] in (WORKER_DIED, FORWARD_DEADLINE)}
    return bool(fatal) and any(video.id in fatal for task in tasks for video in task.videos)


def _run(
    running: Worker | RestartedWorker, tasks: Sequence[ShardTask], observers: Sequence[Observer]
) -> list[TaskResult]:
    results = []
    for task in tasks:

        def on_video(video_id: str, task: ShardTask = task) -> None:
            for observer in observers:
                observer.on_video(task, video_id)

        results.append(_told(running.run(task, on_video), observers))
    return results


def _told(result: TaskResult, observers: Sequence[Observer]) -> TaskResult:
    for observer in observers:
        observer.on_task(result)
    return result


ENGINE = EngineCard("local", EngineConfig, lambda config: LocalEngine(), lambda config: check_device(config.device))
