"""Running one shard task: scan, decode once for every recipe, extract, write, commit.

The same function of (task, spec) on every engine.
"""

import itertools
import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from functools import partial
from types import TracebackType

import pyarrow as pa

from clipmill.extractors import registry
from clipmill.extractors.base import Extractor
from clipmill.pipelines.decode.inspection import idle_children
from clipmill.pipelines.decode.session import DecodeSession
from clipmill.pipelines.features.attempts import write_last_words
from clipmill.pipelines.features.device_memory import BatchTooLargeError, is_out_of_memory
from clipmill.pipelines.features.extraction import Loading, RecipeExtraction, resolve_device
from clipmill.pipelines.features.forward_deadline import ForwardDeadline, longest_seconds
from clipmill.pipelines.features.heartbeat import TaskNotes
from clipmill.pipelines.features.machine_faults import check_share, is_machine_fault
from clipmill.pipelines.features.passports import commit_table, passport
from clipmill.pipelines.features.stopping import StopRule
from clipmill.pipelines.features.task_pass import Part, TaskPass, Watch
from clipmill.pipelines.features.task_progress import Progress, progress_of
from clipmill.pipelines.features.visibility import open_seen_store
from clipmill.schemas.errors import EXIT_RETRYABLE, MachineFaultError, VideoError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.rows import concatenate
from clipmill.schemas.task import ShardTask, TaskPart, TaskResult, WorkerSpec, merged
from clipmill.stores.storage_faults import RetriedCalls, Retries
from clipmill.stores.store import Store

logger = logging.getLogger("clipmill.worker")

LAST_WORDS_SECONDS = 10.0
"""ours: so long a worker that ends itself waits for storage to take its last words."""


class Worker:
    """Holds what outlives a task: the models and the decode children. Use it as a context manager.

    Args:
        clock: seconds; it never goes back.
    """

    def __init__(self, spec: WorkerSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec = spec
        self._clock = clock
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._device_found: Future[str] = Future()
        self._extractors: dict[str, tuple[Future[list[Extractor]], int]] = {}
        self._batch_windows: dict[str, int] = {}
        self._sessions: tuple[DecodeSession, Sequence[DecodeSession]] | None = None
        self._idle_readers = ExitStack()
        self._store: Store | None = None
        self._stop: StopRule | None = None
        self._notes: TaskNotes | None = None
        self._calls = RetriedCalls(Retries(spec.storage_attempts))
        self._num_tried = 0
        self._faults: list[VideoError] = []
        self._task_key = ""
        self._deadline = ForwardDeadline(self._end_process)

    def __enter__(self) -> "Worker":
        spec = self._spec
        session = self._session(spec.num_decoders)
        session.warm()
        # Networks, and their library, load while the first videos are decoded.
        self._device_found = self._loader.submit(resolve_device, spec.device, spec.num_threads)
        try:
            self._store = open_seen_store(spec)
        except BaseException:
            session.__exit__(None, None, None)
            self._loader.shutdown(wait=False, cancel_futures=True)
            raise
        self._stop = StopRule(spec, self._store)
        self._notes = TaskNotes(self._store, spec.run_id, spec.note_seconds)
        # The others find shots while this one decodes ahead; their children start when there are any to find.
        self._sessions = session, [self._session(1) for _ in range(spec.num_decoders)]
        self._idle_readers.enter_context(idle_children(spec.num_decoders))
        self._deadline.__enter__()
        return self

    def _session(self, num_children: int) -> DecodeSession:
        spec = self._spec
        return DecodeSession(
            deadline_seconds=spec.decode_deadline_seconds,
            deadline_factor=spec.deadline_factor,
            memory_bytes=spec.decode_memory_bytes,
            videos_per_child=spec.decode_videos_per_child,
            max_attempts=spec.max_attempts,
            num_children=num_children,
        ).__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deadline.__exit__(kind, error, traceback)
        if self._sessions is not None:
            for session in (self._sessions[0], *self._sessions[1]):
                session.__exit__(kind, error, traceback)
        self._sessions = None
        self._idle_readers.close()
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._extractors.clear()

    def run(
        self, task: ShardTask, on_video: Callable[[str], None] | None = None, one_by_one: bool = False
    ) -> TaskResult:
        """Returns what was done; when every commit of the task already stands, nothing is done.

        Args:
            one_by_one: commit each video before the next one goes through a network: see `attempts`.

        A task that takes longer than `WorkerSpec.commit_seconds` is committed in parts, each as the task of its videos;
        a second try in the same run goes on after them. Where a budget of the run is spent before the task is done,
        what is done of it is committed in the same way.

        Raises:
            StorageUnavailableError: storage refused a write; the part of the task that it belongs to has no commit.
            MachineFaultError: too many videos of this worker failed for reasons that are none of theirs, or no decoder
                starts.
        """
        store, stop, notes, _ = self._entered()
        if stop.refuses_task():
            # Without a word to the store: thousands of tasks may be left, and the time is up.
            return TaskResult(task.key, executed=False, num_videos=0, num_videos_left=len(task.videos))
        retries_before = store.objects.num_retries + self._calls.num_retries
        calls_before = replace(store.objects.calls)
        recipes = [recipe for recipe in task.recipes if not store.has_commit(recipe, task.key)]
        if not recipes:
            # An earlier try of this run that came so far, and was lost, may have told what it did.
            told = store.task_result(self._spec.run_id, task.key)
            if told is not None:
                return told
            result = TaskResult(task.key, executed=False, num_videos=len(task.videos))
            store.write_task_result(self._spec.run_id, result)
            return result
        watch = Watch(stop, notes, task.key, on_video, one_by_one)
        self._task_key = task.key
        progress = progress_of(store, self._spec.run_id, task)
        for videos, missing in progress.left:
            self._make(task, videos, missing, progress, watch)
        calls = store.objects.calls.since(calls_before)
        result = replace(
            merged(task.key, progress.results),
            num_videos=len(progress.done),
            num_videos_left=len(task.videos) - len(progress.done),
            num_storage_retries=store.objects.num_retries + self._calls.num_retries - retries_before,
            num_reads=calls.num_reads,
            num_writes=calls.num_writes,
            num_bytes_written=calls.num_bytes_written,
        )
        store.write_task_result(self._spec.run_id, result)
        return result

    def _make(
        self,
        task: ShardTask,
        videos: tuple[Video, ...],
        recipes: Sequence[Recipe],
        progress: Progress,
        watch: Watch,
    ) -> None:
        """Makes the rows of `videos`, some of the task's, and commits them."""
        _, _, _, sessions = self._entered()
        while videos:
            extractions = self._extractions(recipes)
            part = replace(task, videos=videos, recipes=tuple(recipes))
            num_done = len(progress.done - _ids(videos))
            running = TaskPass(part, extractions, sessions, self._spec, watch, num_done, self._clock, self._calls)
            made: set[str] = set()
            try:
                with closing(running.parts()) as parts:
                    for found in parts:
                        self._commit(task, found, extractions, progress)
                        made |= _ids(found.videos)
                return
            except BatchTooLargeError as error:
                too_large = error
            # What was made with the larger batch stands; the rest is made again, so that a video's rows have one.
            found = running.settled()
            self._commit(task, found, extractions, progress)
            made |= _ids(found.videos)
            self._lower_batch(too_large)
            videos = tuple(video for video in videos if video.id not in made)

    def _lower_batch(self, error: BatchTooLargeError) -> None:
        lower = error.batch_windows // 2
        logger.warning("%s; from now on %d", error, lower)
        self._batch_windows[error.recipe.fingerprint] = lower

    def _extractions(self, recipes: Sequence[Recipe]) -> dict[str, RecipeExtraction]:
        found = {}
        missing = [recipe for recipe in recipes if self._must_load(recipe)]
        for group in registry.groups(missing):
            loading = self._loader.submit(self._built, group)
            for number, recipe in enumerate(group):
                self._extractors[recipe.fingerprint] = loading, number
        for recipe in recipes:
            key = recipe.fingerprint
            batch_windows = self._batch_windows.get(key, self._spec.batch_windows)
            found[key] = RecipeExtraction(
                recipe,
                Loading(partial(self._loaded, *self._extractors[key])),
                batch_windows,
                self._watching,
                self._spec.num_decoders,
            )
        return found

    def _must_load(self, recipe: Recipe) -> bool:
        if recipe.fingerprint not in self._extractors:
            return True
        loading, _ = self._extractors[recipe.fingerprint]
        return loading.done() and loading.exception() is not None

    def _loaded(self, loading: "Future[list[Extractor]]", number: int) -> Extractor:
        extractor = loading.result()[number]
        # How many threads PyTorch computes with is kept for each thread that asks it to.
        resolve_device(self._spec.device, self._spec.num_threads)
        return extractor

    @property
    def _device(self) -> str:
        return self._device_found.result()

    def _built(self, group: Sequence[Recipe]) -> list[Extractor]:
        try:
            return registry.build_group(group, self._device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            got = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            remedy = "make room on the device, or take fewer workers or features at a time"
            expected = f"memory for the network on {self._device}"
            names = ", ".join(recipe.name for recipe in group)
            raise MachineFaultError(describe("feature", names, expected, got, remedy)) from None

    def _watching(self, recipe: Recipe, batch_windows: int, video_ids: Sequence[str]) -> AbstractContextManager[None]:
        """Watches one forward pass: where it hangs, nothing but the end of this process ends it."""
        names = ", ".join(dict.fromkeys(video_ids))
        what = f"{recipe.name} of {names}: no end of a forward pass"
        seconds = longest_seconds(recipe, batch_windows, self._spec.forward_deadline_seconds)
        return self._deadline.watching(what, seconds)

    def _end_process(self, what: str) -> None:
        """Ends this process; what it wrote last is for whoever tries the task again."""
        words = threading.Thread(
            target=write_last_words, args=(self._store, self._spec.run_id, self._task_key, what), daemon=True
        )
        words.start()
        words.join(LAST_WORDS_SECONDS)
        print(f"worker: expected a forward pass that ends, got {what}; run the same command again", file=sys.stderr)
        sys.stderr.flush()
        os._exit(EXIT_RETRYABLE)

    def _commit(
        self, task: ShardTask, part: Part, extractions: Mapping[str, RecipeExtraction], progress: Progress
    ) -> None:
        """Writes the shards of a part, then its commits: the one step that makes it true."""
        if not part.videos:
            return
        store, _, _, _ = self._entered()
        started = time.monotonic()
        # The name of a commit follows from its videos and all recipes of the task.
        key = replace(task, videos=part.videos).key
        shards = {name: self._write_shard(key, extractions[name], part) for name, rows in part.rows.items() if rows}
        num_rows = {
            extractions[name].recipe.key: sum(len(found) for found in rows.values()) for name, rows in part.rows.items()
        }
        result = self._result(key, part, num_rows, extractions)
        if key != task.key:
            # Before the commits, and read beside them: so a second try knows what stands without reading commits.
            ids = tuple(video.id for video in part.videos)
            store.write_task_part(self._spec.run_id, TaskPart(task.key, key, ids, tuple(shards), result))
        for name, table in shards.items():
            store.write_commit(extractions[name].recipe, key, table)
        self._check_faults(part)
        if part.tally.quarantined:
            store.write_quarantine(self._spec.run_id, key, list(part.tally.quarantined.values()))
        spent = time.monotonic() - started
        seconds = dict(result.seconds) | {"write": spent, "total": result.seconds.get("total", 0.0) + spent}
        progress.results.append(replace(result, seconds=seconds))
        progress.done |= _ids(part.videos)

    def _write_shard(self, key: str, extraction: RecipeExtraction, part: Part) -> pa.Table:
        """Writes the shard of one recipe; returns its commit."""
        store, _, _, _ = self._entered()
        rows = part.rows[extraction.recipe.fingerprint]
        items = [part.items[position] for position in rows]
        stops = list(itertools.accumulate(len(found) for found in rows.values()))
        spans = [(item.video.id, start, stop) for item, start, stop in zip(items, [0, *stops[:-1]], stops, strict=True)]
        store.write_recipe(extraction.recipe)
        shard = store.write_shard(extraction.recipe, key, concatenate(list(rows.values())), spans)
        passports = [
            passport(extraction, self._device, self._spec.num_threads, item, found)
            for item, found in zip(items, rows.values(), strict=True)
        ]
        return commit_table(extraction.recipe, shard, items, spans, passports)

    def _check_faults(self, part: Part) -> None:
        """Ends the run before videos are booked for what they are not to blame for; their rows are committed by now."""
        self._num_tried += len(part.videos)
        failed = {item.video_id: item for item in part.tally.quarantined.values()}
        errors = [(item.uri, VideoError(item.stage, item.reason, item.message)) for item in failed.values()]
        self._faults += [error for uri, error in errors if is_machine_fault(uri, error, is_known=True)]
        check_share(self._faults, self._num_tried, self._spec.max_fault_share)

    def _entered(self) -> tuple[Store, StopRule, TaskNotes, tuple[DecodeSession, Sequence[DecodeSession]]]:
        if self._store is None or self._stop is None or self._notes is None or self._sessions is None:
            raise RuntimeError("Worker must be entered before run")
        return self._store, self._stop, self._notes, self._sessions

    def _result(
        self, key: str, part: Part, num_rows: Mapping[str, int], extractions: Mapping[str, RecipeExtraction]
    ) -> TaskResult:
        # All features of a build have one clip rule, so any of a video's is that of its segments.
        fits = [next(iter(item.segment_fits.values())) for item in part.items.values() if item.segment_fits]
        tails = [group for item in part.items.values() for groups in item.windows.values() for group in groups]
        return TaskResult(
            key=key,
            executed=True,
            num_videos=len(part.videos),
            num_rows=num_rows,
            quarantined=tuple(part.tally.quarantined.values()),
            seconds=dict(part.tally.seconds),
            num_frames_decoded=part.tally.num_frames_decoded,
            num_frames_substituted=part.tally.num_frames_substituted,
            num_tail_windows_dropped=sum(group.num_tail_windows_dropped for group in tails),
            num_tail_windows_padded=sum(group.num_tail_windows_padded for group in tails),
            num_windows=dict(part.tally.num_windows),
            num_segments_clamped=sum(fit.num_clamped for fit in fits),
            num_segments_emptied=sum(fit.num_emptied for fit in fits),
            num_batches_decoded=part.tally.num_batches,
            num_batches_ahead=part.tally.num_batches_ahead,
            device=self._device,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            lowered_batch_windows={
                extraction.recipe.key: extraction.batch_windows
                for name, extraction in extractions.items()
                if name in self._batch_windows
            },
        )


def _ids(videos: Sequence[Video]) -> set[str]:
    return {video.id for video in videos}
