"""Running one shard task: scan, decode once for every recipe, extract, write, commit.

The same function of (task, spec) on every engine.
"""

import itertools
import logging
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from clipmill.extractors import registry
from clipmill.extractors.base import Extractor
from clipmill.pipelines.decode.inspection import InspectionLimits
from clipmill.pipelines.decode.session import (
    DecodedFrame,
    DecodeRequest,
    DecodeSession,
    Failed,
    Finished,
    Restarted,
)
from clipmill.pipelines.features.extraction import RecipeExtraction, resolve_device
from clipmill.pipelines.features.heartbeat import TaskNotes
from clipmill.pipelines.features.machine_faults import check_share, is_machine_fault
from clipmill.pipelines.features.passports import commit_table, passport
from clipmill.pipelines.features.prepare import PreparedVideo, prepare
from clipmill.pipelines.features.stopping import StopRule
from clipmill.schemas.errors import VideoError
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Quarantined
from clipmill.schemas.rows import concatenate
from clipmill.schemas.task import ShardTask, TaskProgress, TaskResult, WorkerSpec
from clipmill.stores.objects import Calls
from clipmill.stores.storage_faults import Retries
from clipmill.stores.store import Store

logger = logging.getLogger("clipmill.worker")


@dataclass(slots=True)
class _Tally:
    """What a running task counts."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    num_frames_decoded: int = 0
    num_frames_substituted: int = 0
    num_storage_retries: int = 0
    quarantined: dict[tuple[str, str, str], Quarantined] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    num_batches: int = 0
    num_batches_ahead: int = 0
    calls: Calls = field(default_factory=Calls)

    def quarantine(self, prepared: PreparedVideo, recipes: Sequence[Recipe], error: VideoError, attempts: int) -> None:
        video = prepared.video
        key = (video.id, error.stage, error.reason)
        before = self.quarantined[key].recipes if key in self.quarantined else ()
        named = tuple(dict.fromkeys([*before, *(recipe.fingerprint for recipe in recipes)]))
        self.quarantined[key] = Quarantined(
            video.id, video.fingerprint, video.uri, named, error.stage, error.reason, error.message, attempts
        )

    def count_shots(self, item: PreparedVideo) -> None:
        if item.shot_seconds:
            self.seconds["shots"] += item.shot_seconds
        for found in item.shot_passes.values():
            self.num_frames_decoded += found.summary.num_frames_decoded
            self.seconds["decode"] += found.summary.seconds


class Worker:
    """Holds what outlives a task: the models and the decode children. Use it as a context manager."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._device = ""
        self._extractors: dict[str, Extractor] = {}
        self._session: DecodeSession | None = None
        self._shot_session: DecodeSession | None = None
        self._store: Store | None = None
        self._stop: StopRule | None = None
        self._notes: TaskNotes | None = None
        self._num_tried = 0
        self._faults: list[VideoError] = []

    def __enter__(self) -> "Worker":
        spec = self._spec
        self._device = resolve_device(spec.device, spec.num_threads)
        self._store = Store.open(spec.store_url, Retries(spec.storage_attempts))
        self._stop = StopRule(spec, self._store)
        self._notes = TaskNotes(self._store, spec.run_id, spec.note_seconds)
        # The second one finds shots while the first one decodes ahead; its child starts when there are any to find.
        self._session, self._shot_session = (
            DecodeSession(
                deadline_seconds=spec.decode_deadline_seconds,
                deadline_factor=spec.deadline_factor,
                memory_bytes=spec.decode_memory_bytes,
                videos_per_child=spec.decode_videos_per_child,
                max_attempts=spec.max_attempts,
            ).__enter__()
            for _ in range(2)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for session in (self._session, self._shot_session):
            if session is not None:
                session.__exit__(kind, error, traceback)
        self._session = self._shot_session = None
        self._extractors.clear()

    def run(self, task: ShardTask, on_video: Callable[[str], None] | None = None) -> TaskResult:
        """Returns what was done; when every commit of the task already stands, nothing is done.

        Where a budget of the run is spent before the task is done, what is done of it is committed, as the task of
        those videos.

        Raises:
            StorageUnavailableError: storage refused a write; nothing of this task is committed for that recipe.
            MachineFaultError: too many videos of this worker failed for reasons that are none of theirs, or no decoder
                starts.
        """
        store = self._open_store()
        stop = self._stop_rule()
        if stop.refuses_task():
            # Without a word to the store: thousands of tasks may be left, and the time is up.
            return TaskResult(task.key, executed=False, num_videos=0, num_videos_left=len(task.videos))
        retries_before, calls_before = store.objects.num_retries, replace(store.objects.calls)
        recipes = [recipe for recipe in task.recipes if not store.has_commit(recipe, task.key)]
        if not recipes:
            result = TaskResult(task.key, executed=False, num_videos=len(task.videos))
            store.write_task_result(self._spec.run_id, result)
            return result
        started = time.monotonic()
        tally = _Tally()
        extractions = {
            recipe.fingerprint: RecipeExtraction(recipe, self._extractor(recipe), self._spec.batch_windows)
            for recipe in recipes
        }
        tally.seconds["load"] = time.monotonic() - started
        prepared: list[PreparedVideo] = []
        stop.begin_task()
        try:
            self._decode_and_extract(task, prepared, extractions, tally, on_video)
        finally:
            for item in prepared:
                item.release()
        write_started = time.monotonic()
        done = replace(task, videos=tuple(video for video in task.videos if video.id in tally.ended))
        num_rows = {
            extraction.recipe.key: self._write(done, extraction, prepared) for extraction in extractions.values()
        }
        self._check_faults(task, tally)
        if tally.quarantined:
            store.write_quarantine(self._spec.run_id, task.key, list(tally.quarantined.values()))
        tally.seconds["write"] = time.monotonic() - write_started
        tally.seconds["total"] = time.monotonic() - started
        tally.num_storage_retries = store.objects.num_retries - retries_before
        tally.calls = store.objects.calls.since(calls_before)
        result = self._result(task, extractions, prepared, tally, num_rows)
        store.write_task_result(self._spec.run_id, result)
        return result

    def _check_faults(self, task: ShardTask, tally: _Tally) -> None:
        """Ends the run before videos are booked for what they are not to blame for; their rows are committed by now."""
        self._num_tried += len(tally.ended)
        failed = {item.video_id: item for item in tally.quarantined.values()}
        errors = [(item.uri, VideoError(item.stage, item.reason, item.message)) for item in failed.values()]
        self._faults += [error for uri, error in errors if is_machine_fault(uri, error, is_known=True)]
        check_share(self._faults, self._num_tried, self._spec.max_fault_share)

    def _open_store(self) -> Store:
        if self._store is None:
            raise RuntimeError("Worker must be entered before run")
        return self._store

    def _stop_rule(self) -> StopRule:
        if self._stop is None:
            raise RuntimeError("Worker must be entered before run")
        return self._stop

    def _end(self, video_id: str, tally: _Tally) -> None:
        tally.ended.add(video_id)
        self._stop_rule().end_video(video_id)
        self._stop_rule().book(key[0] for key in tally.quarantined)

    def _extractor(self, recipe: Recipe) -> Extractor:
        if recipe.fingerprint not in self._extractors:
            self._extractors[recipe.fingerprint] = registry.build(recipe, self._device)
        return self._extractors[recipe.fingerprint]

    def _requests(
        self, task: ShardTask, prepared: list[PreparedVideo], extractions: dict[str, RecipeExtraction], tally: _Tally
    ) -> Iterator[DecodeRequest]:
        """Positions one video after another, as the decoder asks for them; appends to `prepared` those with work."""
        for video in task.videos:
            started = time.monotonic()
            recipes = [extraction.recipe for extraction in extractions.values()]
            if self._stop_rule().refuses_video(video, recipes):
                return
            spec = self._spec
            limits = InspectionLimits(spec.decode_deadline_seconds, spec.decode_memory_bytes, spec.max_attempts)
            item = prepare(video, recipes, self._shot_session, spec.keep_truncated, spec.max_outside_share, limits)
            for recipe, error in item.failures:
                tally.quarantine(item, [recipe], error, item.num_attempts)
            tally.seconds["scan"] += time.monotonic() - started - item.shot_seconds
            tally.count_shots(item)
            if item.request is None:
                item.release()
                self._end(video.id, tally)
                continue
            for fingerprint, windows in item.windows.items():
                extractions[fingerprint].start_video(
                    len(prepared), item.clips[fingerprint], windows, item.files.get(fingerprint)
                )
            prepared.append(item)
            yield item.request

    def _decode_and_extract(
        self,
        task: ShardTask,
        prepared: list[PreparedVideo],
        extractions: dict[str, RecipeExtraction],
        tally: _Tally,
        on_video: Callable[[str], None] | None,
    ) -> None:
        if self._session is None or self._notes is None:
            raise RuntimeError("Worker must be entered before run")
        self._notes.begin_task()
        session = self._session
        batches_before = session.num_batches, session.num_batches_ahead
        events = session.run(self._requests(task, prepared, extractions, tally))
        while True:
            waiting = time.monotonic()
            event = next(events, None)
            tally.seconds["decode_wait"] += time.monotonic() - waiting
            if event is None:
                break
            if self._stop_rule().gives_up():
                events.close()
                break
            item = prepared[event.request]
            if isinstance(event, DecodedFrame):
                for fingerprint in item.view_recipes[event.view]:
                    extractions[fingerprint].add_frame(event.request, event.frame, event.pixels)
            elif isinstance(event, Restarted):
                logger.info("video %s: restarted with the second decoder: %s", item.video.id, event.reason)
                for fingerprint in item.windows:
                    extractions[fingerprint].restart_video(event.request)
            else:
                self._end_video(item, event, extractions, tally)
                self._end(item.video.id, tally)
                if on_video is not None:
                    on_video(item.video.id)
            if self._notes.is_due:
                num_windows = sum(extraction.num_windows for extraction in extractions.values())
                num_quarantined = len({key[0] for key in tally.quarantined})
                self._notes.write(TaskProgress(task.key, len(tally.ended), num_quarantined, num_windows))
        tally.num_batches = session.num_batches - batches_before[0]
        tally.num_batches_ahead = session.num_batches_ahead - batches_before[1]
        self._drop_unfinished(prepared, extractions, tally)
        for extraction in extractions.values():
            extraction.flush()
            for position, error in extraction.failures():
                tally.quarantine(prepared[position], [extraction.recipe], error, attempts=1)
            tally.seconds["forward"] += extraction.seconds
        self._stop_rule().book(key[0] for key in tally.quarantined)

    def _drop_unfinished(
        self, prepared: Sequence[PreparedVideo], extractions: dict[str, RecipeExtraction], tally: _Tally
    ) -> None:
        """Forgets the videos that were under way when the time was up."""
        for position, item in enumerate(prepared):
            if item.video.id not in tally.ended:
                for fingerprint in item.windows:
                    extractions[fingerprint].drop_video(position)

    def _end_video(
        self, item: PreparedVideo, event: Failed | Finished, extractions: dict[str, RecipeExtraction], tally: _Tally
    ) -> None:
        item.release()
        if isinstance(event, Failed):
            for fingerprint in item.windows:
                extractions[fingerprint].drop_video(event.request)
            tally.quarantine(item, [extractions[key].recipe for key in item.windows], event.error, event.attempts)
            return
        item.summary = event.summary
        tally.num_frames_decoded += event.summary.num_frames_decoded
        tally.num_frames_substituted += len(event.summary.substituted)
        tally.seconds["decode"] += event.summary.seconds

    def _write(self, task: ShardTask, extraction: RecipeExtraction, prepared: Sequence[PreparedVideo]) -> int:
        """Writes the shard, then its commit: the one step that makes it true. Returns the number of rows."""
        finished = extraction.finished()
        if not finished:
            return 0
        store = self._open_store()
        items = [prepared[position] for position in finished]
        stops = list(itertools.accumulate(len(rows) for rows in finished.values()))
        spans = [(item.video.id, start, stop) for item, start, stop in zip(items, [0, *stops[:-1]], stops, strict=True)]
        store.write_recipe(extraction.recipe)
        shard = store.write_shard(extraction.recipe, task.key, concatenate(list(finished.values())), spans)
        passports = [
            passport(extraction, self._device, self._spec.num_threads, item, rows)
            for item, rows in zip(items, finished.values(), strict=True)
        ]
        store.write_commit(extraction.recipe, task.key, commit_table(extraction.recipe, shard, items, spans, passports))
        return stops[-1]

    def _result(
        self,
        task: ShardTask,
        extractions: dict[str, RecipeExtraction],
        prepared: Sequence[PreparedVideo],
        tally: _Tally,
        num_rows: dict[str, int],
    ) -> TaskResult:
        # All features of a build have one clip rule, so any of a video's is that of its segments.
        fits = [next(iter(item.segment_fits.values())) for item in prepared if item.segment_fits]
        tails = [windows for item in prepared for windows in item.windows.values()]
        return TaskResult(
            key=task.key,
            executed=True,
            num_videos=len(tally.ended),
            num_videos_left=len(task.videos) - len(tally.ended),
            num_rows=num_rows,
            quarantined=tuple(tally.quarantined.values()),
            seconds=dict(tally.seconds)
            | {f"forward/{extraction.recipe.key}": extraction.seconds for extraction in extractions.values()},
            num_frames_decoded=tally.num_frames_decoded,
            num_frames_substituted=tally.num_frames_substituted,
            num_tail_windows_dropped=sum(item.num_tail_windows_dropped for group in tails for item in group),
            num_tail_windows_padded=sum(item.num_tail_windows_padded for group in tails for item in group),
            num_windows={extraction.recipe.key: extraction.num_windows for extraction in extractions.values()},
            num_segments_clamped=sum(fit.num_clamped for fit in fits),
            num_segments_emptied=sum(fit.num_emptied for fit in fits),
            num_storage_retries=tally.num_storage_retries,
            num_batches_decoded=tally.num_batches,
            num_batches_ahead=tally.num_batches_ahead,
            num_reads=tally.calls.num_reads,
            num_writes=tally.calls.num_writes,
            num_bytes_written=tally.calls.num_bytes_written,
            device=self._device,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
