"""Prints what reading a store costs, as ratios in one run, against reading and writing plain files of the same numbers.

    python -m benchmarks.bench_reads [--dim 512] [--repeat 5]

- random reads of 64 rows, of one clip and scattered over a shard, by shard format, against memory-mapping;
- opening a store of a million rows, until the first rows were read;
- `clipmill export`, by format, beside copying the bytes of the shards.

Times are of the process (all its threads), so that a busy machine changes little; each is the median of `--repeat`
runs, with the least and the greatest beside it. Files are in the page cache.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
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
EXPORTS = ("npy", "hdf5", "parquet", "zarr")


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


def exports(folder: Path, num_bytes: int, repeat: int) -> None:
    """Prints exports of every format from every format."""
    shards = folder / "npy" / "shards"
    copied, out = folder / "copied", folder / "out"

    def copy() -> None:
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(shards, copied)

    def export(feature: Feature, format: str) -> None:
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
        export_feature(feature, format, str(out))

    floor = measured(copy, repeat, time.process_time)
    print(f"exporting, by the seconds of a core; copying the shards takes {num_bytes / floor[0] / 1e6:,.0f} MB/s:")
    for name in ("npy", "zarr"):
        feature = FeatureStore(str(folder / name))["c3d"]
        for format in EXPORTS:
            times = measured(partial(export, feature, format), repeat, time.perf_counter)
            rate = num_bytes / times[0] / 1e6
            print(
                f"  {name} to {format:<8}{rate:9,.0f} MB/s   {floor[0] / times[0]:.2f} of the speed of a copy",
                flush=True,
            )


def main() -> None:
    """Prints all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    num_clips = NUM_BYTES // (4 * options.dim * CLIP_ROWS)
    values = relu_rows(num_clips * CLIP_ROWS, options.dim)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "plain.npy", values)
        for shard_format in SHARD_FORMATS.names:
            store_of(str(folder / shard_format), shard_format, values, num_clips)
        random_reads(folder, values, options.repeat)
        print("opening a store of a million rows, until the rows of one video were read:")
        for num_videos in (10_000, 100_000):
            opening(folder, num_videos, options.repeat)
        exports(folder, values.nbytes, max(1, options.repeat // 2))


if __name__ == "__main__":
    main()
