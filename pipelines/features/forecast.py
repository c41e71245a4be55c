"""What a build will cost: its work as planning estimates it, times what such work took before."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from clipmill.extractors.base import NUM_CROPS
from clipmill.extractors.registry import card_of
from clipmill.pipelines.features.limits import worker_seconds
from clipmill.pipelines.features.plan import COMPUTE_GMAC_PER_SECOND, DECODE_FRAMES_PER_SECOND, estimate
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.task import ShardTask, TaskResult

ROUGH_WRITES, ROUGH_READS = 12.0, 6.0
"""ours: storage calls of one task for one feature in a Zarr store, as counted; other formats make fewer."""

UNITS = {
    "cpu_hour": "an hour of one core",
    "gpu_hour": "an hour of one GPU",
    "gb_month": "10^9 bytes stored for a month",
    "write_1000": "1,000 writes or listings",
    "read_1000": "1,000 reads",
}
"""What prices are for."""


@dataclass(frozen=True, slots=True)
class Work:
    """Work as planning estimates it from headers; windows and rows by recipe key."""

    num_videos: float = 0.0
    video_seconds: float = 0.0
    num_frames: float = 0.0
    windows: Mapping[str, float] = field(default_factory=dict)
    row_bytes: Mapping[str, float] = field(default_factory=dict)
    num_parts: float = 0.0
    """Tasks times their features: what storage calls go by."""

    @property
    def num_bytes(self) -> float:
        """Bytes of all rows, before compression."""
        return sum(self.row_bytes.values())


def work_of(tasks: Iterable[ShardTask], share_done: Mapping[str, float] | None = None) -> Work:
    """Returns the estimated work of `tasks`, or, with the share that was done of each by its key, of that."""
    videos = seconds = frames = parts = 0.0
    windows: defaultdict[str, float] = defaultdict(float)
    row_bytes: defaultdict[str, float] = defaultdict(float)
    for task in tasks:
        share = 1.0 if share_done is None else share_done.get(task.key, 0.0)
        if not share:
            continue
        videos += share * len(task.videos)
        parts += len(task.recipes)
        for video in task.videos:
            found = [(recipe.key, estimate(video, [recipe])) for recipe in task.recipes]
            seconds += share * ((video.header.duration_seconds if video.header else None) or 0.0)
            frames += share * max((item.num_frames for _, item in found), default=0)
            for key, item in found:
                windows[key] += share * item.num_windows
                row_bytes[key] += share * item.row_bytes
    return Work(videos, seconds, frames, dict(windows), dict(row_bytes), parts)


@dataclass(frozen=True, slots=True)
class Rates:
    """What a unit of estimated work took.

    Seconds are those of a worker: its networks by window of each recipe, scans by video, waits for the decoder and all
    else by frame, shards and commits by byte of rows.

    Attributes:
        source: where the rates come from, in words.
        windows: windows made of one estimated, by recipe key; `bytes_stored` likewise of one byte of rows.
        reads, writes: storage calls of one part (a task and a feature).
        start_seconds: of a run, beside the time of its tasks: start of the engine, models, the end.
        driver_reads, driver_writes: storage calls of a run beside those of its tasks.
    """

    source: str
    device: str
    seconds_per_window: Mapping[str, float]
    seconds_per_frame: float
    seconds_per_video: float
    seconds_per_byte: float
    windows: Mapping[str, float]
    bytes_stored: float
    reads: float
    writes: float
    start_seconds: float = 0.0
    driver_reads: float = 0.0
    driver_writes: float = 0.0


def rough_rates(recipes: Sequence[Recipe], device: str) -> Rates:
    """Returns what planning takes for granted of a small machine."""
    seconds = {}
    for recipe in recipes:
        crops = NUM_CROPS.get(recipe.preprocess.crops or "", 1)
        seconds[recipe.key] = card_of(recipe).gmac_of(recipe.sampling) * crops / COMPUTE_GMAC_PER_SECOND
    return Rates(
        "rough figures for a small machine",
        device,
        seconds,
        1 / DECODE_FRAMES_PER_SECOND,
        0.0,
        0.0,
        {},
        1.0,
        ROUGH_READS,
        ROUGH_WRITES,
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run, or a sample, took for which estimated work; `report.json` keeps it.

    Attributes:
        seconds: of the workers, by stage (`clipmill.pipelines.features.limits`), and in the networks by recipe key.
        windows: by recipe key.
        wall_seconds: of the run; `num_workers` had part in it.
    """

    device: str
    num_threads: int
    num_workers: int
    work: Work
    seconds: Mapping[str, float]
    forward_seconds: Mapping[str, float]
    windows: Mapping[str, float]
    num_bytes_written: float
    num_reads: float
    num_writes: float
    wall_seconds: float
    driver_reads: float = 0.0
    driver_writes: float = 0.0


def measured_of(
    tasks: Sequence[ShardTask],
    results: Sequence[TaskResult],
    wall_seconds: float,
    num_threads: int,
    num_workers: int,
    driver_calls: tuple[int, int] = (0, 0),
) -> Measured | None:
    """Returns what the executed ones of `tasks` took, or None where none was.

    Args:
        driver_calls: reads and writes of the run beside those of its tasks.
    """
    done = [result for result in results if result.executed]
    if not done:
        return None
    estimated = {task.key: task.num_windows_estimated for task in tasks}
    shares = {item.key: _share_done(item, estimated.get(item.key, 0)) for item in done}
    forward: defaultdict[str, float] = defaultdict(float)
    windows: defaultdict[str, float] = defaultdict(float)
    for result in done:
        for key, count in result.num_windows.items():
            windows[key] += count
            forward[key] += result.seconds.get(f"forward/{key}", 0.0)
    return Measured(
        done[-1].device,
        num_threads,
        min(num_workers, len(done)),
        work_of(tasks, shares),
        worker_seconds(done),
        dict(forward),
        dict(windows),
        sum(result.num_bytes_written for result in done),
        sum(result.num_reads for result in done),
        sum(result.num_writes for result in done),
        wall_seconds,
        *driver_calls,
    )


def _share_done(result: TaskResult, num_windows_estimated: int) -> float:
    """Returns how much of a task was done that a budget ended: by its windows, as videos are of all lengths."""
    if not result.num_videos_left:
        return 1.0
    return min(sum(result.num_windows.values()) / max(num_windows_estimated, 1), 1.0)


def rates_of(runs: Sequence[Measured], source: str) -> Rates:
    """Returns the rates over all of `runs` together; the newest, which comes first, decides the device."""
    total = _summed(runs)
    seconds = {name: sum(run.seconds.get(name, 0.0) for run in runs) for name in runs[0].seconds}
    made = {key: sum(run.windows.get(key, 0.0) for run in runs) for run in runs for key in run.windows}
    spent = {key: sum(run.forward_seconds.get(key, 0.0) for run in runs) for key in made}

    by_frame = seconds["decode"] + seconds["shots"] + seconds["other"]
    at_work = [(sum(run.seconds.values()) - run.seconds["load"]) / run.num_workers for run in runs]
    starts = [max(run.wall_seconds - worked, 0.0) for run, worked in zip(runs, at_work, strict=True)]
    return Rates(
        source,
        runs[0].device,
        {key: spent[key] / max(count, 1.0) for key, count in made.items()},
        by_frame / max(total.num_frames, 1.0),
        seconds["scan"] / max(total.num_videos, 1.0),
        seconds["store"] / max(total.num_bytes, 1.0),
        {key: count / total.windows[key] for key, count in made.items() if total.windows.get(key)},
        sum(run.num_bytes_written for run in runs) / max(total.num_bytes, 1.0),
        sum(run.num_reads for run in runs) / max(total.num_parts, 1.0),
        sum(run.num_writes for run in runs) / max(total.num_parts, 1.0),
        sum(starts) / len(runs),
        sum(run.driver_reads for run in runs) / len(runs),
        sum(run.driver_writes for run in runs) / len(runs),
    )


def _summed(runs: Sequence[Measured]) -> Work:
    works = [run.work for run in runs]
    windows: defaultdict[str, float] = defaultdict(float)
    row_bytes: defaultdict[str, float] = defaultdict(float)
    for work in works:
        for key, count in work.windows.items():
            windows[key] += count
        for key, count in work.row_bytes.items():
            row_bytes[key] += count
    return Work(
        sum(work.num_videos for work in works),
        sum(work.video_seconds for work in works),
        sum(work.num_frames for work in works),
        dict(windows),
        dict(row_bytes),
        sum(work.num_parts for work in works),
    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a build is expected to cost, or, under the same names, what it did cost.

    Attributes:
        source: where its rates come from.
        cpu_hours: cores that workers hold (workers times threads) times hours; `gpu_hours` likewise of GPUs.
        num_bytes: to be stored.
    """

    source: str
    num_videos: int
    video_hours: float
    num_windows: int
    num_bytes: int
    wall_hours: float
    cpu_hours: float
    gpu_hours: float
    num_reads: int
    num_writes: int

    def price(self, prices: Mapping[str, float]) -> dict[str, float]:
        """Returns what each priced unit comes to, ``total`` of all but storage, and ``month`` for what is stored."""
        amounts = {
            "cpu_hour": self.cpu_hours,
            "gpu_hour": self.gpu_hours,
            "write_1000": self.num_writes / 1000,
            "read_1000": self.num_reads / 1000,
        }
        found = {unit: round(amounts[unit] * prices[unit], 6) for unit in amounts if unit in prices}
        found["total"] = round(sum(found.values()), 6)
        if "gb_month" in prices:
            found["month"] = round(self.num_bytes / 1e9 * prices["gb_month"], 6)
        return found


@dataclass(frozen=True, slots=True)
class Machines:
    """What a run is given: workers, the compute threads of each, and GPUs held by all, if the device is one."""

    num_workers: int
    num_threads: int
    num_gpus: float = 0.0


def seconds_by(rates: Rates) -> Callable[[Video, Sequence[Recipe]], float]:
    """Returns what tells the seconds of a worker that a video takes under some recipes, by `rates`."""

    def seconds_of(video: Video, recipes: Sequence[Recipe]) -> float:
        found = {recipe.key: estimate(video, [recipe]) for recipe in recipes}
        seconds = sum(
            item.num_windows * rates.windows.get(key, 1.0) * rates.seconds_per_window.get(key, 0.0)
            + item.row_bytes * rates.seconds_per_byte
            for key, item in found.items()
        )
        num_frames = max((item.num_frames for item in found.values()), default=0)
        return seconds + num_frames * rates.seconds_per_frame + rates.seconds_per_video

    return seconds_of


def forecast(work: Work, rates: Rates, machines: Machines, num_tasks: int) -> Forecast:
    """Returns what `work` will cost by `rates`, in `num_tasks` tasks."""
    windows = {key: count * rates.windows.get(key, 1.0) for key, count in work.windows.items()}
    seconds = sum(count * rates.seconds_per_window.get(key, 0.0) for key, count in windows.items())
    seconds += work.num_frames * rates.seconds_per_frame + work.num_videos * rates.seconds_per_video
    seconds += work.num_bytes * rates.seconds_per_byte
    wall = seconds / max(min(machines.num_workers, num_tasks), 1) + (rates.start_seconds if num_tasks else 0.0)
    return Forecast(
        rates.source,
        round(work.num_videos),
        work.video_seconds / 3600,
        round(sum(windows.values())),
        round(work.num_bytes * rates.bytes_stored),
        wall / 3600,
        wall / 3600 * machines.num_workers * machines.num_threads,
        wall / 3600 * machines.num_gpus if rates.device.startswith("cuda") else 0.0,
        round(work.num_parts * rates.reads + rates.driver_reads),
        round(work.num_parts * rates.writes + rates.driver_writes),
    )


def actual(measured: Measured, machines: Machines, source: str = "this run") -> Forecast:
    """Returns what a run did cost."""
    hours = measured.wall_seconds / 3600
    return Forecast(
        source,
        round(measured.work.num_videos),
        measured.work.video_seconds / 3600,
        round(sum(measured.windows.values())),
        round(measured.num_bytes_written),
        hours,
        hours * machines.num_workers * machines.num_threads,
        hours * machines.num_gpus if measured.device.startswith("cuda") else 0.0,
        round(measured.num_reads + measured.driver_reads),
        round(measured.num_writes + measured.driver_writes),
    )


def forecast_lines(item: Forecast, prices: Mapping[str, float] | None = None) -> list[str]:
    """Returns a forecast as a person reads it."""
    gpus = f", {item.gpu_hours:.3g} GPU-hours" if item.gpu_hours else ""
    lines = [
        f"forecast ({item.source}): {item.video_hours:.3g} hours of video, {item.num_windows:,} windows, "
        f"{bytes_text(item.num_bytes)} to store",
        f"  {hours_text(item.wall_hours)}, {item.cpu_hours:.3g} CPU-hours{gpus}, "
        f"{item.num_reads:,} storage reads, {item.num_writes:,} writes",
    ]
    if prices:
        money = item.price(prices)
        parts = ", ".join(f"{unit} {money[unit]:.4g}" for unit in UNITS if unit in money)
        month = f"; stored, {money['month']:.4g} a month" if "month" in money else ""
        lines.append(f"  price: {money['total']:.4g} ({parts}){month}")
    return lines


def bytes_text(count: float) -> str:
    """Returns a size with three digits, in powers of 1,000."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = min(int(math.log10(count) // 3), len(units) - 1) if count >= 1 else 0
    return f"{count / 1000**power:.3g} {units[power]}"


def hours_text(hours: float) -> str:
    """Returns a time with three digits, in seconds, minutes or hours."""
    if hours < 1 / 60:
        return f"{hours * 3600:.3g} s"
    return f"{hours * 60:.3g} min" if hours < 1 else f"{hours:.3g} h"


def parse_prices(text: str) -> dict[str, float]:
    """Returns prices by unit, of text such as ``cpu_hour=0.04,gpu_hour=2.5``, in whatever currency.

    Raises:
        UsageError: a unit is none of `UNITS` or is there twice, or a price is no number.
    """
    prices: dict[str, float] = {}
    for part in text.split(","):
        unit, _, number = part.strip().partition("=")
        try:
            price = float(number)
        except ValueError:
            price = math.nan
        if unit not in UNITS or unit in prices or not 0 <= price < math.inf:
            remedy = f"units: {', '.join(UNITS)}; write --price cpu_hour=0.04,gpu_hour=2.5"
            raise UsageError(describe("option", "--price", "each unit once with its price", repr(part), remedy))
        prices[unit] = price
    return prices
