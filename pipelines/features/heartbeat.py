"""The heartbeat of a run: told and kept in the store at equal intervals, how far the run is, within tasks too."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType

from clipmill.pipelines.features.run_progress import Beat, RunProgress
from clipmill.schemas.errors import ClipmillError
from clipmill.schemas.task import ShardTask, TaskProgress, TaskResult
from clipmill.stores.storage_faults import Retries
from clipmill.stores.store import Store

HEARTBEAT = "heartbeat.json"
"""Of a run that goes on: its last beat."""

HEARTBEAT_SECONDS = 30.0
"""ours"""

ONCE = Retries(attempts=1)
"""What tells how far a run is must not wait for storage, nor be counted with the work."""

NOTES_PER_BEAT = 2
"""ours: workers note how far they are so often between two beats, so that none is told of twice alike."""


class Heartbeat:
    """Observes an engine, as a context manager around its run: a thread beats while the run goes on.

    Whatever engine runs the tasks, wherever its workers are: they note in the store how far they are.

    Args:
        every_seconds: between two beats; 0: none.
        listeners: are given each beat, in a thread of their own; they must not raise.
        clock: seconds; it never goes back.

    Attributes:
        beats: so far, for who reads them after the run.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        every_seconds: float,
        listeners: Sequence[Callable[[Beat], None]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._run_id, self._every_seconds = store.with_retries(ONCE), run_id, every_seconds
        self._listeners = tuple(listeners)
        self._progress = RunProgress(clock)
        self.beats: list[Beat] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")

    def __enter__(self) -> "Heartbeat":
        if self._every_seconds:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if not self._every_seconds:
            return
        # A beat that waits for storage must not hold up whoever interrupts the run.
        self._thread.join(None if error is None else 5.0)
        if error is None:
            self._clear()

    def on_start(self, tasks: Sequence[ShardTask]) -> None:
        """All tasks are known."""
        with self._lock:
            self._progress.on_start(tasks)

    def on_video(self, task: ShardTask, video_id: str) -> None:
        """A video of a running task is done."""
        with self._lock:
            self._progress.on_video(task, video_id)

    def on_task(self, result: TaskResult) -> None:
        """A task is done."""
        with self._lock:
            self._progress.on_task(result)

    def beat(self) -> Beat:
        """Beats once: reads what workers noted, keeps it in the store and tells all listeners."""
        with self._lock:
            under_way = set(self._progress.keys_under_way)
        try:
            notes = self._store.task_progress(self._run_id, under_way)
        except ClipmillError:  # storage that does not answer now ends no run here; the work itself will notice
            notes = []
        with self._lock:
            for note in notes:
                self._progress.note(note)
            beat = self._progress.beat()
        self.beats.append(beat)
        data = beat.as_json() | {"every_seconds": self._every_seconds}
        data["at"] = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            self._store.write_run_file(self._run_id, HEARTBEAT, json.dumps(data, indent=1, sort_keys=True))
        except ClipmillError:
            pass
        for listener in self._listeners:
            listener(beat)
        return beat

    def _run(self) -> None:
        while not self._ended.wait(self._every_seconds):
            self.beat()

    def _clear(self) -> None:
        try:
            self._store.clear_task_progress(self._run_id)
        except ClipmillError:
            pass


class TaskNotes:
    """Notes in the store how far a worker is with a task.

    Args:
        every_seconds: between two notes; None: none.
        clock: seconds; it never goes back.
    """

    def __init__(
        self, store: Store, run_id: str, every_seconds: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._run_id = store.with_retries(ONCE), run_id
        self._every_seconds, self._clock = every_seconds, clock
        self._last = clock()

    def begin_task(self) -> None:
        """The next note is due a whole interval from now: a short task has none."""
        self._last = self._clock()

    @property
    def is_due(self) -> bool:
        """Whether the interval has passed."""
        return self._every_seconds is not None and self._clock() - self._last >= self._every_seconds

    def write(self, progress: TaskProgress) -> None:
        """Notes it; storage that does not answer ends no task."""
        self._last = self._clock()
        try:
            self._store.write_task_progress(self._run_id, progress)
        except ClipmillError:
            pass
