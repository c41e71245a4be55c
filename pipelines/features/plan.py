"""Planning: from headers and hashes alone, which videos lack which recipes, cut into tasks of balanced size.

Decodes nothing. A plan is a function of the manifest, the recipes and what the store already holds (with what earlier
runs measured, which sizes the tasks); it does not depend
on the engine or on how many workers there are, so every engine runs the same tasks.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

from clipmill.extractors.base import NUM_CROPS
from clipmill.extractors.registry import card_of
from clipmill.pipelines.features.pooling import KEEPS_ROWS
from clipmill.pipelines.features.windows import max_ticks
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.task import ShardTask, row_clips_fingerprint
from clipmill.stores.key_rows import KeySet

DECODE_FRAMES_PER_SECOND = 400.0
COMPUTE_GMAC_PER_SECOND = 60.0
MAX_TASK_ROW_BYTES = 256 << 20
"""Ours: rough speeds of a small machine. They only decide how long a task is, never a number in a row."""

MIN_FRAME_BYTES = 8
"""Ours: no codec spends less on a frame."""

ESTIMATED_SHOT_SECONDS = 5.0
"""Ours: how long shots are taken to be where their number is guessed."""

SHOT_GMAC_PER_FRAME = {"histogram": 0.0, "tracks": 0.5}
"""By shot detector; ours, as rough as the speeds: looking for key features takes as long as so many GMAC."""

VIDEOS_AT_A_TIME = 1 << 16
"""ours: so many are looked up among the commits together."""

UNKNOWN_DURATION_SECONDS = 60.0
UNKNOWN_FPS = 25.0


@dataclass(frozen=True, slots=True)
class Done:
    """What the store already knows of one recipe: keys are (video id, video fingerprint, clips fingerprint)."""

    committed: Container[tuple[str, str, str]] = frozenset()
    quarantined: Container[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build would do.

    Attributes:
        num_complete: (video, recipe) pairs that are committed already.
        num_quarantined: pairs left out because an earlier run quarantined them; `clipmill requeue` puts them back.
    """

    tasks: tuple[ShardTask, ...]
    num_videos: int
    num_complete: int
    num_quarantined: int

    @property
    def num_pairs(self) -> int:
        """(video, recipe) pairs the tasks will make."""
        return sum(len(task.videos) * len(task.recipes) for task in self.tasks)


def video_key(video: Video, recipe: Recipe) -> tuple[str, str, str]:
    """Returns what identifies a video's rows under `recipe`: its id, its bytes, annotated clips and further files."""
    return video.id, video.fingerprint, row_clips_fingerprint(video, recipe)


def are_committed(
    videos: Sequence[Video], recipe: Recipe, committed: Container[tuple[str, str, str]]
) -> Sequence[bool]:
    """Returns whether each video's `video_key` under `recipe` is in `committed`."""
    keys = [video_key(video, recipe) for video in videos]
    if isinstance(committed, KeySet):
        return list(map(bool, committed.holds(keys)))
    return [key in committed for key in keys]


SecondsOf = Callable[[Video, Sequence[Recipe]], float]
"""What a video takes under some recipes, in seconds of a worker."""


def make_plan(
    videos: Sequence[Video],
    recipes: Sequence[Recipe],
    done: Mapping[str, Done],
    task_seconds: float,
    seconds_of: SecondsOf | None = None,
) -> Plan:
    """Returns the tasks that make every missing (video, recipe) pair.

    Args:
        videos: probed (fingerprint and header), in manifest order.
        done: by recipe fingerprint.
        task_seconds: estimated length of a task; all tasks of one kind come out about equally long.
        seconds_of: what videos take, as earlier runs measured it; None: by the rough speeds of a small machine.
    """
    groups: dict[tuple[int, ...], list[Video]] = {}
    num_complete = num_quarantined = 0
    known = [done.get(recipe.fingerprint, Done()) for recipe in recipes]
    for start in range(0, len(videos), VIDEOS_AT_A_TIME):
        part = videos[start : start + VIDEOS_AT_A_TIME]
        complete = [are_committed(part, recipe, item.committed) for recipe, item in zip(recipes, known, strict=True)]
        for video, of_recipes in zip(part, zip(*complete, strict=True), strict=True):
            missing = []
            for index, is_complete in enumerate(of_recipes):
                if is_complete:
                    num_complete += 1
                elif (video.id, video.fingerprint) in known[index].quarantined:
                    num_quarantined += 1
                else:
                    missing.append(index)
            if missing:
                groups.setdefault(tuple(missing), []).append(video)
    tasks: list[ShardTask] = []
    for missing_indexes, members in groups.items():
        tasks += cut([recipes[index] for index in missing_indexes], members, task_seconds, seconds_of)
    return Plan(tuple(tasks), len(videos), num_complete, num_quarantined)


def cut(
    recipes: Sequence[Recipe], videos: Sequence[Video], task_seconds: float, seconds_of: SecondsOf | None = None
) -> list[ShardTask]:
    """Returns `videos` cut, in order, into tasks of about equal estimated cost and bounded size of shard."""
    estimates = [estimate(video, recipes) for video in videos]
    if seconds_of is not None:
        pairs = zip(videos, estimates, strict=True)
        estimates = [replace(item, seconds=seconds_of(video, recipes)) for video, item in pairs]
    total_seconds = sum(item.seconds for item in estimates)
    total_bytes = sum(item.row_bytes for item in estimates)
    wanted = max(round(min(total_seconds / task_seconds, len(videos))), -(-total_bytes // MAX_TASK_ROW_BYTES), 1)
    num_tasks = min(int(wanted), len(videos))
    shares = [max(item.seconds / total_seconds if total_seconds else 0, 1e-12) for item in estimates]
    scale = sum(shares)
    bounds = [0]
    position = 0.0
    for index, share in enumerate(shares):
        # A video starts a new task where the running share crosses the next border.
        if index and len(bounds) < num_tasks and position / scale * num_tasks >= len(bounds) - 1e-9:
            bounds.append(index)
        position += share
    bounds.append(len(videos))
    return [
        ShardTask(
            videos=tuple(videos[start:stop]),
            recipes=tuple(recipes),
            num_windows_estimated=sum(item.num_windows for item in estimates[start:stop]),
            cost_estimated=sum(item.seconds for item in estimates[start:stop]),
        )
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one video is expected to cost, from its header."""

    num_frames: int
    num_windows: int
    row_bytes: int
    seconds: float


def estimate(video: Video, recipes: Sequence[Recipe]) -> Estimate:
    """Returns the expected cost of `video` under `recipes`."""
    header = video.header
    fps = (header.average_fps if header else None) or UNKNOWN_FPS
    duration = (header.duration_seconds if header else None) or UNKNOWN_DURATION_SECONDS
    num_frames = (header.num_frames if header else None) or round(duration * fps)
    if video.num_bytes:
        # A damaged header may claim years; what the file can hold bounds both.
        num_frames = min(num_frames, max(video.num_bytes // MIN_FRAME_BYTES, 1))
        duration = min(duration, num_frames / fps)
    num_windows, row_bytes, gmac = 0, 0, 0.0
    for recipe in recipes:
        windows = _num_windows(recipe, video, duration, num_frames)
        card, num_clips = card_of(recipe), _num_clips(recipe, video, duration, num_frames)
        rows = num_clips
        if recipe.pooling in KEEPS_ROWS:
            rows = card.layer(recipe.layer).expected_rows(recipe.sampling, windows, num_clips)
        num_windows += windows
        row_bytes += rows * recipe.dim * {"float32": 4, "float16": 2, "uint8": 1}[recipe.dtype]
        gmac += windows * card.gmac_of(recipe.sampling) * NUM_CROPS.get(recipe.preprocess.crops or "", 1)
    # Finding shots is a decode pass of its own, with some work on every frame of it.
    detectors = {options.detector for recipe in recipes if (options := recipe.clips.options) is not None}
    gmac += num_frames * sum(SHOT_GMAC_PER_FRAME[detector] for detector in detectors)
    seconds = num_frames / DECODE_FRAMES_PER_SECOND * (1 + len(detectors)) + gmac / COMPUTE_GMAC_PER_SECOND
    return Estimate(num_frames, num_windows, row_bytes, seconds)


def _num_clips(recipe: Recipe, video: Video, duration_seconds: float, num_frames: int) -> int:
    rule = recipe.clips
    if rule.from_ == "shots":
        return max(round(duration_seconds / ESTIMATED_SHOT_SECONDS), 1)
    if rule.from_ == "annotations":
        return max(len(video.segments), 1)
    if rule.from_ != "windows" or rule.length_seconds is None:
        return 1
    step = rule.step_seconds or rule.length_seconds
    return min(max(int((duration_seconds - rule.length_seconds) // step) + 1, 1), max_ticks(num_frames))


def _num_windows(recipe: Recipe, video: Video, duration_seconds: float, num_frames: int) -> int:
    sampling = recipe.sampling
    if sampling.random_frames is not None:
        return sampling.random_frames * _num_clips(recipe, video, duration_seconds, num_frames)
    if sampling.uniform_windows is not None:
        return sampling.uniform_windows * _num_clips(recipe, video, duration_seconds, num_frames)
    length = round(duration_seconds * sampling.fps) if sampling.fps else num_frames
    # What frames do not justify will not be made: `pipelines.features.prepare` refuses it at work.
    length = min(length, max_ticks(num_frames))
    frames = sampling.frames or 1
    if sampling.centred or sampling.tail == "before_last":
        return max(-(-length // (sampling.step or frames)), 1)
    span = (frames - 1) * sampling.every + 1
    return max((length - span) // (sampling.step or frames) + 1, 1)
