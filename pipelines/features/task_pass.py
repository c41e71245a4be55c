"""One pass over the videos of a task: decoded once for every recipe, in parts that are ready to be committed."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from clipmill.pipelines.decode.inspection import InspectionLimits
from clipmill.pipelines.decode.session import (
    DecodedFrame,
    DecodeRequest,
    DecodeSession,
    Event,
    Failed,
    Finished,
    Restarted,
)
from clipmill.pipelines.features.extraction import RecipeExtraction
from clipmill.pipelines.features.heartbeat import TaskNotes
from clipmill.pipelines.features.prepare import PreparedVideo, prepare
from clipmill.pipelines.features.prepared_ahead import PreparedAhead
from clipmill.pipelines.features.sources import DEFAULT_CALLS
from clipmill.pipelines.features.stopping import StopRule
from clipmill.pipelines.features.tally import Tally
from clipmill.schemas.errors import VideoError
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows
from clipmill.schemas.task import ShardTask, TaskProgress, WorkerSpec
from clipmill.stores.storage_faults import RetriedCalls

logger = logging.getLogger("clipmill.worker")


@dataclass(frozen=True, slots=True)
class Part:
    """Videos of a task that are done, one way or the other, and are committed together.

    Attributes:
        videos: in the order of the task.
        items: those of them that were decoded, by their number in the pass.
        rows: by recipe fingerprint and that number.
    """

    videos: tuple[Video, ...]
    items: Mapping[int, PreparedVideo]
    rows: Mapping[str, Mapping[int, Rows]]
    tally: Tally


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told of a pass, under the key of the whole task, and who may end it.

    Attributes:
        one_by_one: each video is a part of its own.
    """

    stop: StopRule
    notes: TaskNotes
    task_key: str
    on_video: Callable[[str], None] | None = None
    one_by_one: bool = False


class TaskPass:
    """Decodes the videos of `task` one after another and feeds every recipe.

    Args:
        extractions: by recipe fingerprint; fresh ones.
        sessions: to decode in, and to find shots in; videos are prepared on a thread for each of the latter.
        num_done: videos of the task that were done before, for the notes.
        clock: seconds; it never goes back.
        calls: to the servers of remote videos.
    """

    def __init__(
        self,
        task: ShardTask,
        extractions: Mapping[str, RecipeExtraction],
        sessions: tuple[DecodeSession, Sequence[DecodeSession]],
        spec: WorkerSpec,
        watch: Watch,
        num_done: int = 0,
        clock: Callable[[], float] = time.monotonic,
        calls: RetriedCalls = DEFAULT_CALLS,
    ) -> None:
        self._calls = calls
        self._task, self._extractions, self._spec, self._watch = task, extractions, spec, watch
        self._session, shot_sessions = sessions
        self._shot_sessions: SimpleQueue[DecodeSession] = SimpleQueue()
        for session in shot_sessions:
            self._shot_sessions.put(session)
        self._clock = clock
        self._num_done = num_done
        self._num_windows = self._num_quarantined = 0
        self._prepared: list[PreparedVideo] = []
        self._under_way: set[int] = set()
        self._ended: list[int] = []
        self._refused: list[str] = []
        self._tally = Tally()
        self._since = clock()
        self._batches_before = self._session.num_batches, self._session.num_batches_ahead

    def parts(self) -> Generator[Part]:
        """Yields what is done whenever the time to commit has come, and at the end; videos left out are in no part.

        Raises:
            BatchTooLargeError: the device has no memory for a batch; `settled` is what is done all the same.
        """
        self._watch.stop.begin_task()
        self._watch.notes.begin_task()
        self._since = self._clock()
        requests = self._requests()
        events = self._session.run(requests, at_a_time=1 if self._watch.one_by_one else None)
        try:
            yield from self._consume(events)
            # Those under way when the time was up are forgotten.
            for position in self._under_way:
                for fingerprint in self._prepared[position].windows:
                    self._extractions[fingerprint].drop_video(position)
            yield self._flushed()
        finally:
            events.close()
            requests.close()
            for item in self._prepared:
                item.release()

    def _consume(self, events: Iterator[Event]) -> Iterator[Part]:
        while True:
            waiting = self._clock()
            event = next(events, None)
            self._tally.seconds["decode_wait"] += self._clock() - waiting
            if event is None or self._watch.stop.gives_up():
                return
            item = self._prepared[event.request]
            if isinstance(event, DecodedFrame):
                for fingerprint in item.view_recipes[event.view]:
                    self._extractions[fingerprint].add_frame(event.request, event.frame, event.pixels)
            elif isinstance(event, Restarted):
                logger.info("video %s: restarted with the second decoder: %s", item.video.id, event.reason)
                for fingerprint in item.windows:
                    self._extractions[fingerprint].restart_video(event.request)
            else:
                self._end_video(item, event)
            self._note()
            if self._is_due():
                yield self._flushed()
                self._since = self._clock()

    def _is_due(self) -> bool:
        """Tells whether to commit what is done: before one more video of the same length would take too long."""
        if not self._ended:
            return False
        elapsed = self._clock() - self._since
        return self._watch.one_by_one or elapsed * (1 + 1 / len(self._ended)) >= self._spec.commit_seconds

    def _flushed(self) -> Part:
        """Returns, and forgets, the videos that have ended; what waits for a full batch goes through first."""
        for extraction in self._extractions.values():
            extraction.flush()
        return self._part(self._ended)

    def _requests(self) -> Generator[DecodeRequest | None]:
        """Positions one video after another, as the decoder asks for them; None while the next one is not ready yet."""
        recipes = [extraction.recipe for extraction in self._extractions.values()]
        ahead = PreparedAhead(self._task.videos, self._prepare, self._shot_sessions.qsize())
        try:
            for video, found in ahead:
                while self._under_way and not found.done():
                    yield None
                if self._watch.stop.refuses_video(video, recipes):
                    return
                started = self._clock()
                item = found.result()
                self._tally.seconds["scan"] += self._clock() - started
                self._tally.count_shots(item)
                if item.request is None:
                    item.release()
                    self._refused.append(video.id)
                    self._book_failures(item)
                    self._told_of_end(video.id)
                    continue
                for fingerprint, windows in item.windows.items():
                    self._extractions[fingerprint].start_video(
                        len(self._prepared), item.clips[fingerprint], windows, item.files.get(fingerprint), video.id
                    )
                self._under_way.add(len(self._prepared))
                self._prepared.append(item)
                yield item.request
        finally:
            ahead.close()

    def _prepare(self, video: Video) -> PreparedVideo:
        """Positions a video, on a thread."""
        spec = self._spec
        recipes = [extraction.recipe for extraction in self._extractions.values()]
        limits = InspectionLimits(spec.decode_deadline_seconds, spec.decode_memory_bytes, spec.max_attempts)
        session = self._shot_sessions.get()
        try:
            return prepare(video, recipes, session, spec.keep_truncated, spec.max_outside_share, limits, self._calls)
        finally:
            self._shot_sessions.put(session)

    def _end_video(self, item: PreparedVideo, event: Failed | Finished) -> None:
        item.release()
        self._book_failures(item)
        if isinstance(event, Failed):
            for fingerprint in item.windows:
                self._extractions[fingerprint].drop_video(event.request)
            recipes = [self._extractions[key].recipe for key in item.windows]
            self._quarantine(item, recipes, event.error, event.attempts)
        else:
            item.summary = event.summary
            self._tally.count_decoded(event.summary)
        self._under_way.discard(event.request)
        self._ended.append(event.request)
        self._told_of_end(item.video.id)
        if self._watch.on_video is not None:
            self._watch.on_video(item.video.id)

    def _book_failures(self, item: PreparedVideo) -> None:
        for recipe, error in item.failures:
            self._quarantine(item, [recipe], error, item.num_attempts)

    def _quarantine(self, item: PreparedVideo, recipes: Sequence[Recipe], error: VideoError, attempts: int) -> None:
        self._tally.quarantine(item, recipes, error, attempts)
        self._watch.stop.book([item.video.id])

    def _told_of_end(self, video_id: str) -> None:
        self._num_done += 1
        self._watch.stop.end_video(video_id)

    def _note(self) -> None:
        if self._watch.notes.is_due:
            num_windows = self._num_windows + sum(item.num_windows for item in self._extractions.values())
            num_quarantined = self._num_quarantined + len({key[0] for key in self._tally.quarantined})
            self._watch.notes.write(TaskProgress(self._watch.task_key, self._num_done, num_quarantined, num_windows))

    def settled(self) -> Part:
        """Returns, and forgets, the videos that have their rows, or a reason, under every recipe."""
        return self._part(
            [
                position
                for position in self._ended
                if all(self._extractions[key].is_settled(position) for key in self._prepared[position].windows)
            ]
        )

    def _part(self, ended: Sequence[int]) -> Part:
        # Whatever order they ended in, rows are in the order of the task.
        done = sorted(ended)
        rows: dict[str, dict[int, Rows]] = {}
        for fingerprint, extraction in self._extractions.items():
            rows[fingerprint] = {}
            for position in done:
                found = extraction.take(position)
                if isinstance(found, Rows):
                    rows[fingerprint][position] = found
                elif isinstance(found, VideoError):
                    self._quarantine(self._prepared[position], [extraction.recipe], found, attempts=1)
            seconds, load_seconds, num_windows = extraction.take_counts()
            self._tally.seconds["load"] += load_seconds
            self._tally.seconds["forward"] += seconds
            self._tally.seconds[f"forward/{extraction.recipe.key}"] += seconds
            self._tally.num_windows[extraction.recipe.key] += num_windows
            self._num_windows += num_windows
        ids = {*self._refused, *(self._prepared[position].video.id for position in done)}
        part = Part(
            tuple(video for video in self._task.videos if video.id in ids),
            {position: self._prepared[position] for position in done},
            rows,
            self._tally,
        )
        session, before = self._session, self._batches_before
        self._tally.num_batches = session.num_batches - before[0]
        self._tally.num_batches_ahead = session.num_batches_ahead - before[1]
        self._batches_before = session.num_batches, session.num_batches_ahead
        now = self._clock()
        self._tally.seconds["total"] += now - self._since
        self._since = now
        self._num_quarantined += len({key[0] for key in self._tally.quarantined})
        self._ended = [position for position in self._ended if position not in part.items]
        self._refused, self._tally = [], Tally()
        return part
