"""Tries of tasks on workers that may die: who goes again, and which video is to blame.

A task whose worker died is tried again video by video: each is committed before the next one goes through a network,
so where the worker dies again, it died of the first video that is left. One that was twice the first is booked as the
cause, and the task goes on with the others.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from clipmill.pipelines.features.machine_faults import FORWARD_DEADLINE, WORKER_DIED, check_share
from clipmill.pipelines.features.task_progress import progress_of
from clipmill.schemas.errors import EngineError, VideoError
from clipmill.schemas.records import Quarantined, Video
from clipmill.schemas.task import ShardTask, TaskPart, TaskResult, WorkerSpec
from clipmill.stores.storage_faults import Retries
from clipmill.stores.store import Store

TASK_ATTEMPTS = 3
"""ours: so many workers a task kills before any of its videos is blamed."""

DEATHS = "deaths"
"""Of a run: what a worker said last, by task, where it ended itself."""


@dataclass(slots=True)
class _Deaths:
    count: int = 0
    suspect: str = ""


class Attempts:
    """Keeps, for an engine, what became of the tries of each task."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._store: Store | None = None
        self._deaths: dict[str, _Deaths] = {}
        self._faults: list[VideoError] = []
        self._num_tried = 0

    def is_careful(self, task: ShardTask) -> bool:
        """Tells whether the task goes video by video: a worker died of it."""
        return task.key in self._deaths

    def done(self, result: TaskResult) -> None:
        """A task is done."""
        self._num_tried += result.num_videos

    def died(self, task: ShardTask, cause: str) -> None:
        """A worker died while it ran `task`, which is to be tried again: books a video that is to blame, if one is.

        Args:
            cause: how it died, in words.

        Raises:
            EngineError: no video is left that could be to blame.
            MachineFaultError: too many videos killed their worker for it to be theirs.
        """
        if self._store is None:
            self._store = Store.open(self._spec.store_url, Retries(self._spec.storage_attempts))
        deaths = self._deaths.setdefault(task.key, _Deaths())
        deaths.count += 1
        left = progress_of(self._store, self._spec.run_id, task).left
        if not left:
            if deaths.count >= TASK_ATTEMPTS:
                remedy = "what is committed stands, run the same command again"
                raise EngineError(
                    f"task {task.key}: expected a result, got {deaths.count} dead workers ({cause}); {remedy}"
                )
            return
        suspect = left[0][0][0]
        is_again = deaths.suspect == suspect.id
        deaths.suspect = suspect.id
        # The first death says nothing of which video it was.
        if deaths.count >= TASK_ATTEMPTS and is_again:
            self._blame(task, suspect, [recipe.fingerprint for recipe in left[0][1]], cause)
            deaths.suspect = ""

    def _blame(self, task: ShardTask, video: Video, recipes: Sequence[str], cause: str) -> None:
        if self._store is None:
            raise RuntimeError("a worker died before")
        reason, got = WORKER_DIED, cause
        note = last_words(self._store, self._spec.run_id, task.key)
        if note is not None:
            reason, got = FORWARD_DEADLINE, note
        remedy = "see the worker's log and the memory of its machine, or leave the video out"
        message = f"video {video.id}: expected a worker that outlives it, got {got}, {TASK_ATTEMPTS} times; {remedy}"
        fault = VideoError("extract", reason, message)
        self._faults.append(fault)
        check_share(self._faults, max(self._num_tried, len(task.videos)), self._spec.max_fault_share)
        item = Quarantined(
            video.id, video.fingerprint, video.uri, tuple(recipes), "extract", reason, message, TASK_ATTEMPTS
        )
        # As a part of the task: the next try passes over it, and counts it.
        key = replace(task, videos=(video,)).key
        result = TaskResult(key, executed=True, num_videos=1, quarantined=(item,))
        self._store.write_task_part(self._spec.run_id, TaskPart(task.key, key, (video.id,), (), result))
        self._store.write_quarantine(self._spec.run_id, key, [item])


def write_last_words(store: Store, run_id: str, task_key: str, message: str) -> None:
    """Notes why a worker ends itself."""
    store.write_run_file(run_id, f"{DEATHS}/{task_key}.json", json.dumps({"message": message}))


def last_words(store: Store, run_id: str, task_key: str) -> str | None:
    """Returns why a worker of a task ended itself; None where none did."""
    try:
        return str(json.loads(store.read_run_file(run_id, f"{DEATHS}/{task_key}.json"))["message"])
    except FileNotFoundError:
        return None
