"""The default engine: tasks one after another in this process; no cluster, no daemon."""

import time
from collections.abc import Sequence

from clipmill.pipelines.features.engines.base import EngineCard, Observer
from clipmill.pipelines.features.extraction import check_device
from clipmill.pipelines.features.worker import Worker
from clipmill.schemas.config import EngineConfig
from clipmill.schemas.task import RunReport, ShardTask, WorkerSpec


class LocalEngine:
    """Runs every task in this process; decoding overlaps with the networks because it has a process of its own."""

    def run(self, tasks: Sequence[ShardTask], worker: WorkerSpec, observers: Sequence[Observer]) -> RunReport:
        """Returns the report once every task has run; Ctrl-C abandons the task under way and leaves the others."""
        started = time.monotonic()
        for observer in observers:
            observer.on_start(tasks)
        results = []
        with Worker(worker) as running:
            for task in tasks:

                def on_video(video_id: str, task: ShardTask = task) -> None:
                    for observer in observers:
                        observer.on_video(task, video_id)

                result = running.run(task, on_video)
                results.append(result)
                for observer in observers:
                    observer.on_task(result)
        return RunReport("local", len(tasks), tuple(results), time.monotonic() - started)


ENGINE = EngineCard("local", EngineConfig, lambda config: LocalEngine(), lambda config: check_device(config.device))
