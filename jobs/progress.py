"""Progress of a build: one rewritten line with rate and ETA on a terminal, one JSON line per event elsewhere."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from clipmill.pipelines.features.heartbeat import HEARTBEAT_SECONDS
from clipmill.pipelines.features.run_progress import Beat, RunProgress, progress_line
from clipmill.schemas.task import ShardTask, TaskResult

REDRAW_SECONDS = 0.2


class Progress:
    """Observes an engine and listens to a run's heartbeat; writes to standard error only.

    Args:
        every_seconds: off a terminal, between two lines about probing; 0: none.
        clock: seconds; it never goes back.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        every_seconds: float = HEARTBEAT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._every_seconds, self._clock = every_seconds, clock
        self._progress = RunProgress(clock)
        self._told = clock()
        self._drawn = float("-inf")
        self._width = 0
        self._num_rows = 0

    def on_probed(self, done: int, total: int) -> None:
        """`done` of `total` videos have been probed."""
        if self._terminal:
            self._draw(f"probing {done}/{total} videos", final=done == total)
        elif done == total:
            self._event("probed", num_videos=total)
        elif self._every_seconds and self._clock() - self._told >= self._every_seconds:
            self._told = self._clock()
            self._event("probing", videos_done=done, num_videos=total)

    def on_start(self, tasks: Sequence[ShardTask]) -> None:
        """All tasks are known."""
        self._progress.on_start(tasks)
        if not self._terminal:
            self._event("start", num_tasks=len(tasks), num_videos=sum(len(task.videos) for task in tasks))

    def on_video(self, task: ShardTask, video_id: str) -> None:
        """A video is done."""
        self._progress.on_video(task, video_id)
        # To count all tasks for each video would take longer the more there are.
        if self._terminal and self._clock() - self._drawn >= REDRAW_SECONDS:
            self._draw(progress_line(self._progress.beat()))

    def on_task(self, result: TaskResult) -> None:
        """A task is done."""
        self._progress.on_task(result)
        self._num_rows += sum(result.num_rows.values())
        beat = self._progress.beat()
        for item in result.quarantined:
            if self._terminal:
                self._print(f"quarantined {item.reason}: {item.message}")
            else:
                self._event(
                    "quarantined", video_id=item.video_id, stage=item.stage, reason=item.reason, message=item.message
                )
        if self._terminal:
            self._draw(progress_line(beat), final=beat.tasks_done == beat.num_tasks)
            return
        data = beat.as_json()
        names = ("tasks_done", "num_tasks", "videos_done", "num_videos", "videos_per_second", "eta_seconds")
        self._event("task", key=result.key, num_rows=self._num_rows, **{name: data[name] for name in names})

    def on_beat(self, beat: Beat) -> None:
        """So much time has passed; something may have happened within a task that no engine tells."""
        if self._terminal:
            self._draw(progress_line(beat))
        else:
            self._event("heartbeat", **beat.as_json())

    def _draw(self, line: str, final: bool = False) -> None:
        now = self._clock()
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
