"""How close a build comes to the bare decoder with all cores, and what a tiny video costs beyond its decoding.

    python benchmarks/bench_build_speed.py [FOLDER] [--repeats 3] [--tiny 500 2000]

Prints ratios, each the median over repeats that take turns with the bare decoder in one run, and the least and most.
Where other work is on the machine, processor time is the steadier column.

* The bare decoder is decord (``get_batch``, 32 frames at a time, one thread) in one process for each core; they take
  the files from one list. Opening a file counts, starting a process does not.
* A build is `clipmill.pipelines.features.build.build` into an empty store, all of it: probing, planning, children that
  start, shards, the report's figures. Every frame is wanted, at 64 x 64. `cheap` takes the mean colour of a few
  pixels; `elsewhere` sleeps for half of the time that the bare decoder takes for a batch, without holding the
  interpreter, as one that waits for a device does.
* Tiny videos are 12 frames of 128 x 96 in files of their own, so many at a time; what the bare decoder takes for them
  is taken off.
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import yaml  # noqa: E402

MEDIA = {".mp4", ".mov", ".mkv", ".avi", ".webm"}
CHUNK_FRAMES = 32
BATCH_WINDOWS = 64
SECONDS_PER_FRAME = "CLIPMILL_BENCH_SECONDS_PER_FRAME"
DISTINCT_TINY = 50
STAND_IN = '''
"""Mean colours of every eighth pixel of every eighth row, and the time that another device would take."""
import os, time
import numpy as np
from clipmill.extractors.base import EachWindow, ExtractorCard, Layer, Registration, WeightsCard
from clipmill.schemas.recipe import Preprocess, Sampling

frames = WeightsCard("frames", (), "computed", "Apache-2.0", Preprocess(resize="exact", size=(64, 64)))

class MeanColour:
    def __init__(self, recipe, seconds_per_frame):
        self.recipe, self.seconds_per_frame = recipe, seconds_per_frame

    def forward(self, frames):
        time.sleep(self.seconds_per_frame * len(frames))
        return {"values": frames[:, :, ::8, ::8].mean(axis=(1, 2, 3), dtype=np.float32)}

    def reducer(self, clip):
        return EachWindow(clip, self.recipe.dtype)

def registration(name, seconds_per_frame):
    card = ExtractorCard(
        name=name, version=1, summary="mean colour", layers=(Layer("mean", 3),), sampling=Sampling(frames=1),
        frames_fixed=True, weights=(frames,), gmac_per_window=0.001, batch_windows=64,
    )
    return Registration(card, lambda recipe, device: MeanColour(recipe, seconds_per_frame()))

CHEAP = registration("bench_cheap", lambda: 0.0)
ELSEWHERE = registration("bench_elsewhere", lambda: float(os.environ["CLIPMILL_BENCH_SECONDS_PER_FRAME"]))
'''
PROJECT = """
[project]
name = "clipmill-bench-build-speed"
version = "1.0"
[project.entry-points."clipmill.extractors"]
bench_cheap = "bench_stand_in:CHEAP"
bench_elsewhere = "bench_stand_in:ELSEWHERE"
"""


def decode_bare(path: str) -> int:
    """Decodes every frame with decord alone; returns how many there are."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    reader = decord.VideoReader(path, num_threads=1)
    for start in range(0, len(reader), CHUNK_FRAMES):
        reader.get_batch(range(start, min(start + CHUNK_FRAMES, len(reader)))).asnumpy()
    return len(reader)


@dataclass(frozen=True, slots=True)
class Taken:
    """What something took, wall and processor seconds, and how many it made."""

    seconds: float
    processor_seconds: float
    count: int


def timed(work: Callable[[], int]) -> Taken:
    """Returns what `work` takes, here and in child processes, and the number it returns."""
    started, before = time.perf_counter(), processor_seconds()
    count = work()
    return Taken(time.perf_counter() - started, processor_seconds() - before, count)


def processor_seconds() -> float:
    """Returns what this process, its children that have ended, and those that live have spent on processors."""
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            with contextlib.suppress(OSError):
                ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]))
    return sum(os.times()[:4]) + ticks / os.sysconf("SC_CLK_TCK")


def build_once(folder: Path, extractor: str, decoders: int | str) -> int:
    """Builds features of the videos in `folder` into a store that is deleted; returns the number of rows."""
    from clipmill.pipelines.features.build import build
    from clipmill.pipelines.features.build_config import parse_build_config

    with tempfile.TemporaryDirectory(prefix="clipmill-bench-") as place:
        config = {
            "store": {"url": f"{place}/store"},
            "videos": {"folder": str(folder)},
            "features": {"rows": {"extractor": extractor, "sampling": {"fps": None, "frames": 1}}},
            "engine": {"device": "cpu", "decoders": decoders, "task_seconds": 1e6, "batch_windows": BATCH_WINDOWS},
        }
        report = build(parse_build_config(yaml.safe_dump(config)))
        if report.num_quarantined:
            raise SystemExit(f"{report.num_quarantined} videos of {folder} went into quarantine")
        return sum(report.num_rows.values())


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Returns the median, and the least and most, as text."""
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def compare_rates(folder: Path, bare: Callable[[Iterable[str]], int], repeats: int) -> None:
    """Prints the rates of builds over that of the bare decoder."""
    paths = sorted((str(path) for path in folder.rglob("*") if path.suffix in MEDIA), key=os.path.getsize, reverse=True)
    ratios: dict[str, list[tuple[float, float]]] = {}
    rates = []
    for _ in range(repeats):
        raw = timed(partial(bare, paths))
        rates.append(raw.count / raw.seconds)
        os.environ[SECONDS_PER_FRAME] = str(0.5 * raw.seconds / raw.count)
        for name, extractor, decoders in (
            ("cheap, decoders: auto", "bench_cheap", "auto"),
            ("cheap, decoders: 1", "bench_cheap", 1),
            ("elsewhere, decoders: auto", "bench_elsewhere", "auto"),
        ):
            made = timed(partial(build_once, folder, extractor, decoders))
            if made.count != raw.count:
                raise SystemExit(f"{name}: expected {raw.count} rows, one for each frame, got {made.count}")
            pair = raw.seconds / made.seconds, made.processor_seconds / raw.processor_seconds
            ratios.setdefault(name, []).append(pair)
    print(
        f"{len(paths)} videos, load {os.getloadavg()[0]:.0f}, bare decoder in {cores()} processes: {spread(rates, 0)} "
        "frames/s\nbuilds:                       of its rate           of its processor time"
    )
    for name, found in ratios.items():
        rate, processor = zip(*found, strict=True)
        print(f"  {name:27} {spread(rate):21} {spread(processor)}")


def compare_tiny(counts: Sequence[int], bare: Callable[[Iterable[str]], int], repeats: int, place: Path) -> None:
    """Prints what one of so many tiny videos takes beyond its decoding."""
    from encoded_videos import encode_video

    sources = [encode_video(place / f"source/{i}.mp4", 12, 10 + i / 100, 128, 96) for i in range(DISTINCT_TINY)]
    folders = {}
    for count in counts:
        folders[count] = place / str(count)
        folders[count].mkdir()
        for number in range(count):
            os.link(sources[number % DISTINCT_TINY], folders[count] / f"{number:06d}.mp4")
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    decoding = []
    for _ in range(repeats):
        for count, folder in folders.items():
            raw = timed(partial(bare, map(str, folder.iterdir())))
            made = timed(partial(build_once, folder, "bench_cheap", "auto"))
            beyond = made.seconds - raw.seconds, made.processor_seconds - raw.processor_seconds
            found[count].append((1000 * beyond[0] / count, 1000 * beyond[1] / count))
            decoding.append(1000 * raw.seconds / count)
    print(
        f"tiny videos, load {os.getloadavg()[0]:.0f}, ms each beyond their decoding, which takes {spread(decoding, 1)} "
        "with all cores\n                 wall                  processor, all processes"
    )
    for count, pairs in found.items():
        wall, processor = zip(*pairs, strict=True)
        print(f"  {count:6} videos  {spread(wall, 1):21} {spread(processor, 1)}")
    first, last = ([processor for _, processor in found[count]] for count in (counts[0], counts[-1]))
    ratios = [large / small for small, large in zip(first, last, strict=True)]
    print(f"  processor time of one of {counts[-1]} over that of one of {counts[0]}: {spread(ratios)}")


def cores() -> int:
    """Returns how many cores there are for this process."""
    return len(os.sched_getaffinity(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=str(ROOT.parent / "shared" / "data" / "clips" / "topics70"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", type=int, nargs="*", default=[500, 2000])
    arguments = parser.parse_args()
    from outside_packages import install

    with (
        tempfile.TemporaryDirectory(prefix="clipmill-bench-") as place,
        multiprocessing.get_context("spawn").Pool(cores()) as pool,
    ):
        package = Path(place) / "package"
        package.mkdir()
        (package / "bench_stand_in.py").write_text(STAND_IN)
        (package / "pyproject.toml").write_text(PROJECT)
        sys.path.insert(0, str(install(package, Path(place) / "site")))

        def bare(paths: Iterable[str]) -> int:
            return sum(pool.imap_unordered(decode_bare, paths))

        warm = Path(place) / "warm"
        from encoded_videos import encode_video

        bare([str(encode_video(warm / f"{number}.mp4", 12, width=128, height=96)) for number in range(2 * cores())])
        build_once(warm, "bench_cheap", "auto")
        folder = Path(arguments.folder)
        if not folder.is_dir():
            folder = Path(place) / "clips"
            for number in range(4 * cores()):
                encode_video(folder / f"{number}.mp4", 600, width=426, height=240)
        compare_rates(folder, bare, arguments.repeats)
        if arguments.tiny:
            compare_tiny(arguments.tiny, bare, arguments.repeats, Path(place))


if __name__ == "__main__":
    main()
