"""Prints what the store costs, as ratios in one run: writing against ``np.save``, random clips against whole shards.

    python -m benchmarks.bench_store [--rows 20000] [--dim 4096]

Both numbers of a ratio come from the same process and the same data, so they compare on any machine.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe, Sampling, Weights
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows
from clipmill.schemas.tables import COMMITS
from clipmill.stores import FeatureStore, Store
from clipmill.stores.verify import values_sha256

ROWS_PER_CLIP = 8
NUM_RANDOM_CLIPS = 100


def features(num_rows: int, dim: int) -> Rows:
    """Returns rows as a ReLU layer leaves them: half of them zeros, the rest without pattern."""
    random = np.random.default_rng(0)
    values = np.maximum(random.standard_normal((num_rows, dim), dtype=np.float32), 0)
    starts = np.arange(num_rows, dtype=np.float64)
    clip = (np.arange(num_rows) // ROWS_PER_CLIP).astype(np.int32)
    return Rows(values, clip, starts, starts + 1, np.ones(num_rows, dtype=np.bool_))


def seconds(function: Callable[[], object], repeat: int = 3) -> float:
    """Returns the best of `repeat` runs."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def commit(store: Store, recipe: Recipe, shard: str, rows: Rows, video: Video) -> None:
    """Commits `shard` as the rows of `video`."""
    clips = [{"start_seconds": 0.0, "stop_seconds": 1.0, "label": None}] * (int(rows.clip[-1]) + 1)
    row = {
        "video_id": video.id,
        "video_fingerprint": video.fingerprint,
        "clips_fingerprint": "",
        "recipe_fingerprint": recipe.fingerprint,
        "shard": shard,
        "row_start": 0,
        "row_stop": len(rows),
        "clips": clips,
        "passport": {"values_sha256": values_sha256(rows.values)},
    }
    store.write_recipe(recipe)
    store.write_commit(recipe, "0" * 16, pa.Table.from_pylist([row], schema=COMMITS))
    store.write_manifest("run", [video])


def measure(shard_format: Literal["zarr", "parquet"], rows: Rows, folder: Path) -> str:
    """Returns one line of the table for `shard_format`."""
    num_rows, dim = rows.values.shape
    recipe = Recipe(
        name="c3d",
        extractor="c3d",
        extractor_version=1,
        layer="fc6",
        dim=dim,
        weights=Weights(source="none", card="none"),
        sampling=Sampling(),
        preprocess=Preprocess(),
        clips=ClipRule(),
    )
    store = Store.create(str(folder / shard_format), shard_format, "benchmark")
    video = Video("v", "/v", "f")
    write = seconds(lambda: store.write_shard(recipe, "0" * 16, rows, [("v", 0, num_rows)]))
    plain = seconds(lambda: np.save(folder / "plain.npy", rows.values))
    shard = f"shards/{recipe.key}/{'0' * 16}.{shard_format}"
    commit(store, recipe, shard, rows, video)
    feature = FeatureStore(store.url)["c3d"]
    whole = seconds(lambda: feature["v"])
    order = np.random.default_rng(1).permutation(int(rows.clip[-1]) + 1)[:NUM_RANDOM_CLIPS]
    clip = seconds(lambda: [feature.clip_rows("v", int(index)) for index in order]) / len(order)
    clips = feature.clips()
    means = seconds(lambda: feature.clip_means(clips), repeat=1)
    stored = sum(item.num_bytes for item in store.objects.find("shards"))
    return (
        f"{shard_format:<8} write {num_rows / write:>9,.0f} rows/s, {write / plain:>5.2f}x np.save   "
        f"clip {clip * 1e3:>6.2f} ms, 1/{whole / clip:.0f} of the whole shard   "
        f"all clip means {means / whole:>5.2f}x one whole read   size {stored / rows.values.nbytes:.2f} of raw"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=4096)
    options = parser.parse_args()
    rows = features(options.rows, options.dim)
    print(
        f"{options.rows} rows of float32[{options.dim}], {rows.values.nbytes >> 20} MiB, clips of {ROWS_PER_CLIP} rows"
    )
    with tempfile.TemporaryDirectory() as folder:
        formats: tuple[Literal["zarr", "parquet"], ...] = ("zarr", "parquet")
        for shard_format in formats:
            print(measure(shard_format, rows, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
