"""Shard tasks, what runs them, and what they report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from clipmill.schemas.fingerprint import fingerprint
from clipmill.schemas.recipe import IMPORTED, Recipe
from clipmill.schemas.records import Quarantined, Video


@dataclass(frozen=True)
class ShardTask:
    """Some videos x the recipes they lack: the unit of scheduling, retry and commit.

    A function of its description: it reads storage, writes storage, and can be run twice, anywhere, with one result.
    It has no slots: `key` is kept once it is known, as every video that is done asks for it.
    """

    videos: tuple[Video, ...]
    recipes: tuple[Recipe, ...]
    num_windows_estimated: int = 0
    cost_estimated: float = 0.0

    @cached_property
    def key(self) -> str:
        """16 hex digits over the videos (id, bytes, clips) and the recipes."""
        return fingerprint(
            {
                "videos": [
                    [video.id, video.fingerprint, clips_fingerprint(video), *self._file_digests(video)]
                    for video in self.videos
                ],
                "recipes": sorted(recipe.fingerprint for recipe in self.recipes),
            }
        )[:16]

    def _file_digests(self, video: Video) -> list[str]:
        digests = dict(video.file_digests)
        return [digests[recipe.fingerprint] for recipe in self.recipes if recipe.fingerprint in digests]


def clips_fingerprint(video: Video) -> str:
    """Returns a fingerprint of the annotated segments' times: labels do not change a number."""
    if not video.segments:
        return ""
    return fingerprint([[segment.start_seconds, segment.stop_seconds] for segment in video.segments])


def imported_fingerprint(video_id: str) -> str:
    """Returns the fingerprint of an item whose bytes no build has read: it follows from the id."""
    return fingerprint({IMPORTED: video_id})


def is_imported_fingerprint(video_id: str, video_fingerprint: str) -> bool:
    """Returns whether only an import has brought the item: no build has read its bytes."""
    return video_fingerprint == imported_fingerprint(video_id)


def with_file_digest(clips: str, digest: str) -> str:
    """Returns the clips' fingerprint as commits have it: with the digest of further files, where a recipe reads any."""
    return fingerprint({"clips": clips, "files": digest}) if digest else clips


def row_clips_fingerprint(video: Video, recipe: Recipe) -> str:
    """Returns what, with the video's fingerprint, identifies its rows: annotated clips, and files beside the video."""
    clips = clips_fingerprint(video) if recipe.clips.from_ == "annotations" else ""
    return with_file_digest(clips, dict(video.file_digests).get(recipe.fingerprint, ""))


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything a worker needs to know; it reads no config.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:1``; ``auto`` is resolved on the worker.
        num_threads: compute threads of the forward pass: part of what decides the last bit, so part of the spec.
        num_decoders: videos that a worker decodes at a time. No row depends on it.
        batch_windows: windows in one forward pass, short ones being filled up; None: by the extractor's own hint. It
            decides the last bit too.
        decode_deadline_seconds: longest wait for a video's decoder beyond `deadline_factor` times its duration.
        decode_memory_bytes: ceiling of the decode child's address space.
        decode_videos_per_child: the child is recycled after this many videos.
        max_attempts: tries for one video before it is quarantined.
        max_outside_share: of a video's segments, or their time, that may lie outside it.
        keep_truncated: make rows of what there is of a video that breaks off, instead of putting it in quarantine.
        run_id: names the run's records in the store.
        storage_attempts: tries of a storage call whose fault may pass.
        max_fault_share: of a worker's videos; where more fail by faults of the machine, it ends.
        stop_at: Unix seconds; no video is begun that would not be done by then, and none goes on after it.
        max_quarantined: once the run has put more videos into quarantine, no further one is begun; None: any number.
        note_seconds: between two notes of how far a task is; None: none.
        commit_seconds: a task that takes longer is committed in parts, each of about that length.
        forward_deadline_seconds: a forward pass that takes longer, beyond ten times its estimated cost, has hung, and
            ends the process.
        run_file: of the store, written by this run: where a worker's own view of the store lacks it, it sees another.
        weights: local files and folders that the recipes read; a worker needs them at the same paths.
        videos: some of the local videos; a worker that sees none of them has not their folder.
    """

    store_url: str
    store_format: str
    run_id: str
    device: str = "auto"
    num_threads: int = 2
    num_decoders: int = 1
    batch_windows: int | None = None
    decode_deadline_seconds: float = 60.0
    deadline_factor: float = 4.0
    decode_memory_bytes: int = 4 << 30
    decode_videos_per_child: int = 1000
    max_attempts: int = 2
    max_outside_share: float = 1.0
    keep_truncated: bool = False
    storage_attempts: int = 5
    max_fault_share: float = 0.2
    stop_at: float | None = None
    max_quarantined: int | None = None
    note_seconds: float | None = None
    commit_seconds: float = 300.0
    forward_deadline_seconds: float = 600.0
    run_file: str | None = None
    weights: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far a running task is: videos done, those in quarantine among them, windows through the networks."""

    key: str
    num_videos: int = 0
    num_quarantined: int = 0
    num_windows: int = 0


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What one executed task did. Stored as JSON by the worker, so every engine reports alike.

    Attributes:
        executed: False when every commit already stood and nothing was done.
        num_rows: per recipe key.
        seconds: time per stage (scan, decode_wait, forward, write) and the total.
        num_frames_decoded: frames that left the decoder.
        num_segments_clamped, num_segments_emptied: annotated segments that lie partly, or wholly, outside their video.
        forward: per recipe key, windows that went through the network and the seconds it took.
        num_storage_retries: storage calls that had to be made again.
        num_videos_left: videos that were not begun, or not finished, because a budget of the run was spent.
        lowered_batch_windows: per recipe key, the batch size it came to, the device having no memory for the one set.
        num_batches_decoded, num_batches_ahead: batches of frames from the decoder, and over them the sum of those that
            were decoded already and waited.
        num_reads, num_writes, num_bytes_written: storage calls (listings count as writes, as stores bill them), and
            the size of what was written.
        device: what the networks ran on.
    """

    key: str
    executed: bool
    num_videos: int
    num_rows: Mapping[str, int] = field(default_factory=dict)
    quarantined: tuple[Quarantined, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    num_frames_decoded: int = 0
    num_frames_substituted: int = 0
    num_tail_windows_dropped: int = 0
    num_tail_windows_padded: int = 0
    num_windows: Mapping[str, int] = field(default_factory=dict)
    num_segments_clamped: int = 0
    num_segments_emptied: int = 0
    peak_memory_bytes: int = 0
    num_storage_retries: int = 0
    num_videos_left: int = 0
    lowered_batch_windows: Mapping[str, int] = field(default_factory=dict)
    num_batches_decoded: int = 0
    num_batches_ahead: int = 0
    num_reads: int = 0
    num_writes: int = 0
    num_bytes_written: int = 0
    device: str = ""


@dataclass(frozen=True, slots=True)
class TaskPart:
    """Videos of a task that were committed before the rest of it, for a second try of the task in the same run.

    Written before the commits that it speaks of: what counts is still whether those are there.

    Attributes:
        key: of the task of these videos; the name of the commits.
        recipes: fingerprints of those that have a commit of this part; the others have no rows of these videos.
    """

    task_key: str
    key: str
    video_ids: tuple[str, ...]
    recipes: tuple[str, ...]
    result: TaskResult


def merged(key: str, results: Sequence[TaskResult]) -> TaskResult:
    """Returns what the task of that key did, given what its parts did."""
    sums: dict[str, Any] = {
        name: sum(getattr(result, name) for result in results)
        for name in TaskResult.__dataclass_fields__
        if name.startswith("num_") and name not in ("num_rows", "num_windows")
    }
    return TaskResult(
        key=key,
        executed=True,
        num_rows=_summed([result.num_rows for result in results]),
        num_windows=_summed([result.num_windows for result in results]),
        seconds=_summed([result.seconds for result in results]),
        quarantined=tuple(item for result in results for item in result.quarantined),
        device=next((result.device for result in results if result.device), ""),
        peak_memory_bytes=max((result.peak_memory_bytes for result in results), default=0),
        lowered_batch_windows={name: size for result in results for name, size in result.lowered_batch_windows.items()},
        **sums,
    )


def _summed(counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for count in counts:
        for name, value in count.items():
            found[name] = found.get(name, 0) + value
    return found


@dataclass(frozen=True, slots=True)
class RunReport:
    """What one run of an engine did."""

    engine: str
    num_tasks: int
    results: tuple[TaskResult, ...]
    seconds: float

    @property
    def num_executed(self) -> int:
        """Tasks that did work (the others were already committed)."""
        return sum(result.executed for result in self.results)
