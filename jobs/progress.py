"""Progress of a build: one rewritten line with rate and ETA on a terminal, one JSON line per event elsewhere."""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from clipmill.schemas.task import ShardTask, TaskResult

REDRAW_SECONDS = 0.2


class Progress:
    """Observes an engine; writes to standard error only."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._started = time.monotonic()
        self._drawn = 0.0
        self._width = 0
        self._num_tasks = self._num_videos = self._tasks_done = self._num_rows = self._num_quarantined = 0
        self._cost = self._cost_done = 0.0
        self._videos_done: dict[str, int] = {}
        self._costs: dict[str, tuple[float, int]] = {}

    def on_probed(self, done: int, total: int) -> None:
        """`done` of `total` videos have been probed."""
        if self._terminal:
            self._draw(f"probing {done}/{total} videos", final=done == total)
        elif done == total:
            self._event("probed", num_videos=total)

    def on_start(self, tasks: Sequence[ShardTask]) -> None:
        """All tasks are known."""
        self._started = time.monotonic()
        self._num_tasks, self._num_videos = len(tasks), sum(len(task.videos) for task in tasks)
        self._costs = {task.key: (task.cost_estimated, len(task.videos)) for task in tasks}
        self._cost = sum(cost for cost, _ in self._costs.values())
        if not self._terminal:
            self._event("start", num_tasks=self._num_tasks, num_videos=self._num_videos)

    def on_video(self, task: ShardTask, video_id: str) -> None:
        """A video is done."""
        self._videos_done[task.key] = self._videos_done.get(task.key, 0) + 1
        if self._terminal:
            self._draw(self._line())

    def on_task(self, result: TaskResult) -> None:
        """A task is done."""
        self._tasks_done += 1
        self._num_rows += sum(result.num_rows.values())
        self._num_quarantined += len(result.quarantined)
        self._videos_done[result.key] = result.num_videos
        done = self._tasks_done == self._num_tasks
        if self._terminal:
            for item in result.quarantined:
                self._print(f"quarantined {item.reason}: {item.message}")
            self._draw(self._line(), final=done)
            return
        for item in result.quarantined:
            self._event(
                "quarantined", video_id=item.video_id, stage=item.stage, reason=item.reason, message=item.message
            )
        rate, eta = self._rate_and_eta()
        self._event(
            "task",
            key=result.key,
            tasks_done=self._tasks_done,
            num_tasks=self._num_tasks,
            videos_done=sum(self._videos_done.values()),
            num_videos=self._num_videos,
            num_rows=self._num_rows,
            videos_per_second=round(rate, 3),
            eta_seconds=None if eta is None else round(eta, 1),
        )

    def _rate_and_eta(self) -> tuple[float, float | None]:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        videos = sum(self._videos_done.values())
        cost = sum(
            self._costs[key][0] * done / self._costs[key][1]
            for key, done in self._videos_done.items()
            if key in self._costs
        )
        eta = elapsed * (self._cost - cost) / cost if cost > 0 else None
        return videos / elapsed, eta

    def _line(self) -> str:
        rate, eta = self._rate_and_eta()
        videos = sum(self._videos_done.values())
        percent = 100 * videos / self._num_videos if self._num_videos else 100
        quarantined = f", {self._num_quarantined} quarantined" if self._num_quarantined else ""
        return (
            f"{percent:3.0f}%  {videos}/{self._num_videos} videos, {self._tasks_done}/{self._num_tasks} tasks"
            f"{quarantined}  {rate:.2f} videos/s  ETA {duration(eta)}"
        )

    def _draw(self, line: str, final: bool = False) -> None:
        now = time.monotonic()
        if not final and now - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = now
        self._stream.write("\r" + line.ljust(self._width) + ("\n" if final else ""))
        self._width = 0 if final else len(line)
        self._stream.flush()

    def _print(self, line: str) -> None:
        self._stream.write("\r" + line.ljust(self._width) + "\n")
        self._width = 0

    def _event(self, event: str, **values: Any) -> None:
        print(json.dumps({"event": event} | values, ensure_ascii=False), file=self._stream, flush=True)


def duration(seconds: float | None) -> str:
    """Returns ``mm:ss`` or ``h:mm:ss``; ``--:--`` where it is not known."""
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
