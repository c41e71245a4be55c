"""Prints what reading a store costs, as ratios in one run, against reading and writing plain files of the same numbers.

    python -m benchmarks.bench_reads [--dim 512] [--repeat 5]

- random reads of 64 rows, of one clip and scattered over a shard, by shard format, against memory-mapping;
- opening a store of a million rows, until the first rows were read;
- `clipmill export`, by format, until it is on the disk, beside one plain file of as many bytes.

Times are of the process (all its threads), so that a busy machine changes little, but for exports; each is the median
of `--repeat` runs, with the least and the greatest beside it. Files that are read are in the page cache.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_training_data import CLIP_ROWS, measured, relu_rows, shown, store_of
from clipmill.stores import Feature, FeatureStore
from clipmill.stores.export import export_feature
from clipmill.stores.shard_formats import SHARD_FORMATS

NUM_READS = 200
NUM_SCATTERED = 10
NUM_BYTES = 128 << 20
EXPORTS = ("npy", "hdf5", "parquet", "arrow", "zarr")


def _copied(array: Any, rows: Sequence[Any]) -> None:
    for wanted in rows:
        np.array(array[wanted])


def _clips(feature: Feature, clips: Sequence[slice]) -> None:
    for clip in clips:
        feature.clip_rows(f"v{clip.start // CLIP_ROWS:06d}", 0)


def _taken(feature: Feature, rows: Sequence[Any]) -> None:
    for wanted in rows:
        feature.take(wanted)


def random_reads(folder: Path, values: Any, repeat: int) -> None:
    """Prints reads of 64 rows by every format."""
    num_clips = len(values) // CLIP_ROWS
    mapped = np.load(folder / "plain.npy", mmap_mode="r")
    rng = np.random.default_rng(1)
    starts = rng.integers(0, num_clips, NUM_READS) * CLIP_ROWS
    clips = [slice(int(start), int(start) + CLIP_ROWS) for start in starts]
    scattered = [np.sort(rng.integers(0, len(values), CLIP_ROWS)) for _ in range(NUM_SCATTERED)]
    print(f"64 rows of float32[{values.shape[1]}], of {len(values):,} ({values.nbytes >> 20} MiB):")
    one = measured(partial(_copied, mapped, clips), repeat, time.process_time)
    shown("a clip, mapped and copied", one, NUM_READS, "a read")
    apart = measured(partial(_copied, mapped, scattered), repeat, time.process_time)
    shown("scattered, mapped and copied", apart, NUM_SCATTERED, "a read")
    for name in SHARD_FORMATS.names:
        feature = FeatureStore(str(folder / name))["c3d"]
        found = measured(partial(_clips, feature, clips), repeat, time.process_time)
        shown(f"a clip, {name}", found, NUM_READS, "a read", one[0])
        found = measured(partial(_taken, feature, scattered), repeat, time.process_time)
        shown(f"scattered, {name}", found, NUM_SCATTERED, "a read", apart[0])


def opening(folder: Path, num_videos: int, repeat: int) -> None:
    """Prints how long a store of a million rows takes to open."""
    url = str(folder / f"many-{num_videos}")
    store_of(url, "npy", np.zeros((1_000_000, 4), np.float32), num_videos)

    def first_rows() -> None:
        FeatureStore(url)["c3d"]["v000007"]

    shown(f"of {num_videos:,} videos", measured(first_rows, repeat, time.process_time), 1, "")


def _to_the_disk(path: Path) -> None:
    """Waits until every file at or below `path` is on the disk."""
    for file in [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def _timed(run: Callable[[], None], path: Path) -> tuple[float, float]:
    """Returns the seconds until what `run` writes to `path` is on the disk, and those of the process."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    started, worked = time.perf_counter(), time.process_time()
    run()
    worked = time.process_time() - worked
    _to_the_disk(path)
    return time.perf_counter() - started, worked


def exports(folder: Path, values: Any, repeat: int) -> None:
    """Prints exports of every format from npy and Zarr, beside one file of as many bytes, in turns with them."""
    plain, out = folder / "plain-copy.npy", folder / "out"
    print("exporting until it is on the disk, and by the seconds of the process alone:")
    for name in ("npy", "zarr"):
        feature = FeatureStore(str(folder / name))["c3d"]
        for format in EXPORTS:
            runs = []
            for _ in range(repeat):
                disk, _ = _timed(lambda: np.save(plain, values), plain)
                seconds, worked = _timed(partial(export_feature, feature, format, str(out)), out)
                runs.append((disk / seconds, values.nbytes / worked / 1e6))
            ratios, rates = zip(*runs, strict=True)
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            rate = f"{statistics.median(rates):,.0f} MB a second of a core"
            print(f"  {name} to {format:<8} {spread} of the disk's rate; {rate}", flush=True)


def main() -> None:
    """Prints all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", choices=("reads", "opening", "exports"), help="of these; default: all")
    options = parser.parse_args()
    num_clips = NUM_BYTES // (4 * options.dim * CLIP_ROWS)
    values = relu_rows(num_clips * CLIP_ROWS, options.dim)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "plain.npy", values)
        for shard_format in SHARD_FORMATS.names:
            store_of(str(folder / shard_format), shard_format, values, num_clips)
        if options.only in (None, "reads"):
            random_reads(folder, values, options.repeat)
        if options.only in (None, "opening"):
            print("opening a store of a million rows, until the rows of one video were read:")
            for num_videos in (10_000, 100_000):
                opening(folder, num_videos, options.repeat)
        if options.only in (None, "exports"):
            exports(folder, values, options.repeat)


if __name__ == "__main__":
    main()
