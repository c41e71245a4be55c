"""The speed-of-light line: how close a build came to the raw decoder and to the bare model on the same machine."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice

from clipmill.extractors import registry
from clipmill.pipelines.decode.rate import raw_decode_rate
from clipmill.pipelines.features.engines.cores import num_cores
from clipmill.pipelines.features.sources import is_local, local_copy
from clipmill.schemas.errors import VideoError
from clipmill.schemas.records import Video
from clipmill.schemas.task import RunReport, ShardTask, TaskResult

SAMPLE_VIDEOS = 3
SAMPLE_SECONDS = (0.1, 1.0)
"""Least and most time of the raw decoder's measurement."""
SAMPLE_SHARE = 0.02
"""Of a run's time, for that: a small nightly build shall not spend its time on it."""
MODEL_SECONDS = 10.0
"""ours: most time of all networks' measurements, beyond what they take to load."""
MODEL_SHARE = 0.1
"""ours: of a run's time, for those; they are made once for a machine and a recipe."""
MODEL_RUN_SECONDS = 60.0
"""ours: a shorter run is held against what is remembered alone, since a network has to be loaded once more for it."""


@dataclass(frozen=True, slots=True)
class SpeedOfLight:
    """Rates of one build, and of what bounds it, each measured by itself: the raw decoder after the run with all cores,
    on a few of its videos; the bare model on ready inputs (`clipmill.pipelines.features.bare_model`), for the mix of
    windows the run had, with all threads of its workers. None where that would take too much of a run's time.
    """

    frames_per_second: float
    raw_decoder_frames_per_second: float | None
    windows_per_second: float
    bare_model_windows_per_second: float | None
    limit: str

    def line(self) -> str:
        """Returns the one line a build ends with."""
        raw = self.raw_decoder_frames_per_second
        decoder = f" = {self.frames_per_second / raw:.2f}x the raw decoder ({raw:.0f})" if raw else ""
        model = self.bare_model_windows_per_second
        share = f" = {self.windows_per_second / model:.2f}x the bare model ({model:.1f})" if model else ""
        return (
            f"speed of light: {self.frames_per_second:.0f} frames/s{decoder}; "
            f"{self.windows_per_second:.1f} windows/s{share}; limit: {self.limit}"
        )


def speed_of_light(report: RunReport, tasks: Sequence[ShardTask], num_threads: int) -> SpeedOfLight | None:
    """Returns the rates of a run, or None when it executed nothing.

    Args:
        num_threads: compute threads of all workers of this machine together.
    """
    done = [result for result in report.results if result.executed]
    num_frames = sum(result.num_frames_decoded for result in done)
    num_windows = sum(sum(result.num_windows.values()) for result in done)
    if not num_windows or report.seconds <= 0:
        return None
    forward_seconds = sum(result.seconds.get("forward", 0.0) for result in done)
    wait_seconds = sum(result.seconds.get("decode_wait", 0.0) for result in done)
    return SpeedOfLight(
        frames_per_second=num_frames / report.seconds,
        raw_decoder_frames_per_second=_raw_rate(tasks, report.seconds),
        windows_per_second=num_windows / report.seconds,
        bare_model_windows_per_second=_bare_model_rate(done, tasks, num_threads, report.seconds),
        limit="model" if forward_seconds >= wait_seconds else "decoder",
    )


def _bare_model_rate(
    results: Sequence[TaskResult], tasks: Sequence[ShardTask], num_threads: int, run_seconds: float
) -> float | None:
    """Returns windows per second, of all recipes in the mix of the run; those that share passes count as one does."""
    # It imports torch, which a build that has nothing to do never needs.
    from clipmill.pipelines.features.bare_model import bare_rate

    counts: Counter[str] = Counter()
    for result in results:
        counts.update(result.num_windows)
    device = next((result.device for result in results if result.device), "cpu")
    recipes = {recipe.fingerprint: recipe for task in tasks for recipe in task.recipes if counts[recipe.key]}
    groups = registry.groups(list(recipes.values()))
    total = min(run_seconds * MODEL_SHARE, MODEL_SECONDS) if run_seconds >= MODEL_RUN_SECONDS else 0.0
    budget = total / max(len(groups), 1)
    seconds = 0.0
    for group in groups:
        rate = bare_rate(group[0], device, min(num_threads, num_cores()), budget)
        if not rate:
            return None
        seconds += max(counts[recipe.key] for recipe in group) / rate
    return sum(counts.values()) / seconds if seconds else None


def _raw_rate(tasks: Sequence[ShardTask], run_seconds: float) -> float | None:
    """Returns the raw decoder's rate with all cores: one thread on each, on a few of the videos at a time."""
    least, most = SAMPLE_SECONDS
    seconds = min(max(run_seconds * SAMPLE_SHARE, least), most)
    local = [video for task in tasks for video in task.videos if is_local(video.uri)]
    samples = local[:: max(len(local) // SAMPLE_VIDEOS, 1)][:SAMPLE_VIDEOS]

    def rate(video: Video) -> float | None:
        try:
            with local_copy(video.uri) as path:
                return raw_decode_rate(path, seconds, video.stream, num_threads=1)
        except VideoError:
            return None

    with ThreadPoolExecutor(num_cores(), thread_name_prefix="sample") as pool:
        rates = [found for found in pool.map(rate, islice(cycle(samples), num_cores())) if found is not None]
    return num_cores() * sum(rates) / len(rates) if rates else None
