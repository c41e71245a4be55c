"""How far a run is: counted from what engines tell, and from what workers note in the store within a task."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clipmill.schemas.task import ShardTask, TaskProgress, TaskResult


@dataclass(frozen=True, slots=True)
class Beat:
    """How far a run is at one time.

    Attributes:
        number: grows by one from beat to beat, so that a reader sees life without trusting clocks.
        seconds: since the first task began.
        share_done: of the estimated work, 0 to 1.
        eta_seconds: expected time to the end, from the work done so far; None where nothing is done.
    """

    number: int
    seconds: float
    num_tasks: int
    tasks_done: int
    num_videos: int
    videos_done: int
    num_quarantined: int
    num_windows: int
    share_done: float
    videos_per_second: float
    eta_seconds: float | None

    def as_json(self) -> dict[str, Any]:
        """Returns the beat as JSON values."""
        data = asdict(self)
        for name, digits in (("seconds", 1), ("share_done", 4), ("videos_per_second", 3), ("eta_seconds", 1)):
            data[name] = None if data[name] is None else round(data[name], digits)
        return data


class RunProgress:
    """Observes an engine and counts. Not for several threads at a time.

    Args:
        clock: seconds; it never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._tasks: dict[str, ShardTask] = {}
        self._cost = 0.0
        self._running: dict[str, TaskProgress] = {}
        self._done: dict[str, TaskResult] = {}
        self._number = 0

    def on_start(self, tasks: Sequence[ShardTask]) -> None:
        """All tasks are known."""
        self._started = self._clock()
        self._tasks = {task.key: task for task in tasks}
        self._cost = sum(task.cost_estimated for task in tasks)

    def on_video(self, task: ShardTask, video_id: str) -> None:
        """A video of a running task is done."""
        known = self._running.get(task.key, TaskProgress(task.key))
        self._running[task.key] = TaskProgress(task.key, known.num_videos + 1, known.num_quarantined, known.num_windows)

    def on_task(self, result: TaskResult) -> None:
        """A task is done."""
        self._running.pop(result.key, None)
        self._done[result.key] = result

    def note(self, progress: TaskProgress) -> None:
        """Takes what a worker noted of a task under way."""
        if progress.key in self._done or progress.key not in self._tasks:
            return
        known = self._running.get(progress.key, TaskProgress(progress.key))
        self._running[progress.key] = TaskProgress(
            progress.key,
            max(known.num_videos, progress.num_videos),
            max(known.num_quarantined, progress.num_quarantined),
            max(known.num_windows, progress.num_windows),
        )

    @property
    def keys_under_way(self) -> list[str]:
        """Keys of the tasks that are not done."""
        return [key for key in self._tasks if key not in self._done]

    def beat(self) -> Beat:
        """Returns how far the run is now."""
        self._number += 1
        elapsed = max(self._clock() - self._started, 1e-9)
        running, done = self._running.values(), self._done.values()
        videos = sum(result.num_videos for result in done) + sum(item.num_videos for item in running)
        cost = sum(self._cost_of(result.key, _share_done(result)) for result in done)
        cost += sum(self._cost_of(item.key, self._share_of(item)) for item in running)
        return Beat(
            number=self._number,
            seconds=elapsed,
            num_tasks=len(self._tasks),
            tasks_done=len(self._done),
            num_videos=sum(len(task.videos) for task in self._tasks.values()),
            videos_done=videos,
            num_quarantined=sum(len({item.video_id for item in result.quarantined}) for result in done)
            + sum(item.num_quarantined for item in running),
            num_windows=sum(sum(result.num_windows.values()) for result in done)
            + sum(item.num_windows for item in running),
            share_done=cost / self._cost if self._cost else 1.0,
            videos_per_second=videos / elapsed,
            eta_seconds=elapsed * (self._cost - cost) / cost if cost > 0 else None,
        )

    def _cost_of(self, key: str, share: float) -> float:
        task = self._tasks.get(key)
        return task.cost_estimated * share if task is not None else 0.0

    def _share_of(self, progress: TaskProgress) -> float:
        """Returns how much of a task under way is done: by its windows, where a worker noted any, as videos differ."""
        task = self._tasks[progress.key]
        if progress.num_windows and task.num_windows_estimated:
            return min(progress.num_windows / task.num_windows_estimated, 1.0)
        return min(progress.num_videos / len(task.videos), 1.0)


def _share_done(result: TaskResult) -> float:
    whole = result.num_videos + result.num_videos_left
    return result.num_videos / whole if whole else 1.0


def progress_line(beat: Beat | Mapping[str, Any]) -> str:
    """Returns a beat, or one that was stored as JSON, as one line."""
    data = beat.as_json() if isinstance(beat, Beat) else beat
    quarantined = f", {data['num_quarantined']} quarantined" if data["num_quarantined"] else ""
    return (
        f"{100 * data['share_done']:3.0f}%  {data['videos_done']}/{data['num_videos']} videos, "
        f"{data['tasks_done']}/{data['num_tasks']} tasks{quarantined}  "
        f"{data['videos_per_second']:.2f} videos/s  ETA {duration(data['eta_seconds'])}"
    )


def duration(seconds: float | None) -> str:
    """Returns ``mm:ss`` or ``h:mm:ss``; ``--:--`` where it is not known."""
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
