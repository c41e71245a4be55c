"""Prints what data cost a training, as ratios taken in one run.

    python -m benchmarks.bench_training_data [--items 1000] [--dim 1024] [--repeat 5]

- random reads of 64-row clips, by shard format and by Zarr's own reader, against memory-mapping the same rows;
- the data layer's share of an epoch of ``clipmill train``, and of a loop of one's own over `clipmill.torch`;
- opening a store of many videos: until the first clip was read.

Times are of the process (all its threads) where it alone computes, so that a busy machine changes little; each is the
median of `--repeat` runs, with the least and the greatest beside it. Files are in the page cache.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import zarr
from torch.utils.data import DataLoader

from clipmill.models import registry
from clipmill.models.base import Sizes
from clipmill.pipelines.training.loop import Optimiser, Training, TrainingItems, train_epoch
from clipmill.pipelines.training.parallel import OneProcess
from clipmill.pipelines.training.phases import planned_phases
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.inputs import InputRows
from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe, Sampling, Weights
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows
from clipmill.schemas.tables import COMMITS
from clipmill.stores import Feature, FeatureStore, Store
from clipmill.stores.shard_formats import SHARD_FORMATS
from clipmill.torch import FeatureDataset, FeatureStream

CLIP_ROWS = 64
NUM_READS = 100


def measured(function: Callable[[], object], repeat: int, clock: Callable[[], float]) -> tuple[float, float, float]:
    """Returns the median, least and greatest time of `function`, after one run that is not counted."""
    function()
    times = []
    for _ in range(repeat):
        start = clock()
        function()
        times.append(clock() - start)
    return statistics.median(times), min(times), max(times)


def shown(name: str, times: tuple[float, float, float], unit: float, per: str, against: float | None = None) -> None:
    """Prints one line."""
    median, least, greatest = (1e3 * each / unit for each in times)
    ratio = "" if against is None else f"   {against / times[0]:.2f} of the speed of memory-mapping"
    print(f"  {name:<34}{median:9.4f} ms {per} ({least:.4f} to {greatest:.4f}){ratio}", flush=True)


def store_of(url: str, shard_format: str, values: Any, num_videos: int) -> Recipe:
    """Writes a store of whole-video clips of equally many rows."""
    recipe = Recipe(
        name="c3d",
        extractor="c3d",
        extractor_version=1,
        layer="fc6",
        dim=values.shape[1],
        weights=Weights(source="none", card="none"),
        sampling=Sampling(),
        preprocess=Preprocess(),
        clips=ClipRule(),
    )
    store, num = Store.create(url, shard_format, "benchmark"), len(values) // num_videos
    starts = np.arange(len(values), dtype=np.float64)
    rows = Rows(values, np.zeros(len(values), np.int32), starts, starts + 1, np.ones(len(values), np.bool_))
    videos = [Video(f"v{number:06d}", "/", f"{number:032x}", label=f"l{number % 10}") for number in range(num_videos)]
    spans = [(video.id, number * num, (number + 1) * num) for number, video in enumerate(videos)]
    shard = store.write_shard(recipe, "0" * 16, rows, spans)
    table = [
        {
            "video_id": name,
            "video_fingerprint": f"{start // num:032x}",
            "clips_fingerprint": "",
            "recipe_fingerprint": recipe.fingerprint,
            "shard": shard,
            "row_start": start,
            "row_stop": stop,
            "clips": [{"start_seconds": 0.0, "stop_seconds": float(num), "label": None}],
            "passport": {"values_sha256": "0" * 64},
        }
        for name, start, stop in spans
    ]
    store.write_recipe(recipe)
    store.write_commit(recipe, "0" * 16, pa.Table.from_pylist(table, schema=COMMITS))
    store.write_manifest("run", videos)
    return recipe


def relu_rows(num_rows: int, dim: int) -> Any:
    """Returns rows as a ReLU layer leaves them: half of them zeros."""
    return np.maximum(np.random.default_rng(0).standard_normal((num_rows, dim), dtype=np.float32), 0)


def _copied(array: Any, clips: Sequence[int]) -> None:
    for clip in clips:
        np.array(array[clip * CLIP_ROWS : (clip + 1) * CLIP_ROWS])


def _clip_rows(feature: Feature, clips: Sequence[int]) -> None:
    for clip in clips:
        feature.clip_rows(f"v{clip:06d}", 0)


def reads(folder: Path, dim: int, repeat: int) -> None:
    """Prints random 64-row clip reads of every format."""
    num_clips = max(64, (256 << 20) // (4 * dim * CLIP_ROWS))
    values = relu_rows(num_clips * CLIP_ROWS, dim)
    print(f"random clips of {CLIP_ROWS} rows of float32[{dim}], of {num_clips} ({values.nbytes >> 20} MiB):")
    np.save(folder / "plain.npy", values)
    mapped = np.load(folder / "plain.npy", mmap_mode="r")
    order = np.random.default_rng(1).integers(0, num_clips, NUM_READS).tolist()

    floor = measured(partial(_copied, mapped, order), repeat, time.process_time)
    shown("np.load(mmap_mode='r'), copied", floor, NUM_READS, "a clip")
    for shard_format in SHARD_FORMATS.names:
        url = str(folder / f"{shard_format}-{dim}")
        store_of(url, shard_format, values, num_clips)
        times = measured(partial(_clip_rows, FeatureStore(url)["c3d"], order), repeat, time.process_time)
        shown(f"clip_rows, {shard_format}", times, NUM_READS, "a clip", floor[0])
        if shard_format == "zarr":
            (path,) = (folder / f"zarr-{dim}" / "shards").glob("*/*.zarr")
            array = zarr.open_group(str(path), mode="r")["values"]
            times = measured(partial(_copied, array, order), repeat, time.process_time)
            shown("zarr's own reader", times, NUM_READS, "a clip", floor[0])


def epoch_share(num_items: int, dim: int, repeat: int) -> None:
    """Prints what drawing batches takes of an epoch of MAP-IVR by ``clipmill train``."""
    rng = np.random.default_rng(0)
    inputs = {
        "image": InputRows(rng.standard_normal((num_items, dim), dtype=np.float32)),
        "video": InputRows(rng.standard_normal((num_items, 2 * dim), dtype=np.float32)),
    }
    label = rng.integers(0, 20, num_items)
    config = LoopConfig(epochs=1, batch=70)
    options = registry.resolve_options("map_ivr", {})
    model = registry.build("map_ivr", options, Sizes({"image": dim, "video": 2 * dim}, 20), 0)
    items = TrainingItems.on_device(inputs, label, torch.device("cpu"))
    phases = planned_phases(model, config)
    training = Training(model, Optimiser(model, config, phases), items, config, phases, OneProcess())

    def batches() -> None:
        order = torch.randperm(num_items)
        for start in range(0, num_items, config.batch):
            taken = order[start : start + config.batch]
            items.batch(taken, items.lengths(taken))

    whole = measured(lambda: train_epoch(training, 0), repeat, time.process_time)
    data = measured(batches, repeat, time.process_time)
    print(f"an epoch of MAP-IVR over {num_items} pairs of {dim} and {2 * dim} numbers, batch {config.batch}:")
    shown("clipmill train", whole, 1, "an epoch")
    shown("of it, drawing batches", data, 1, "an epoch")
    print(f"  the data layer takes {100 * data[0] / whole[0]:.1f} % of an epoch")


def _each(batches: Iterable[Any], function: Callable[[Any], None]) -> None:
    for batch in batches:
        function(batch)


def loop_share(folder: Path, num_items: int, dim: int, repeat: int) -> None:
    """Prints what drawing clips from a store takes of an epoch of a small loop of one's own."""
    rows = 8
    values = relu_rows(num_items * rows, dim)
    network = torch.nn.Sequential(torch.nn.Linear(dim, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512))
    optimiser = torch.optim.Adam(network.parameters(), fused=True)

    def step(batch: Any) -> None:
        out = (network(batch["values"]) * batch["mask"][..., None]).mean(dim=1)
        optimiser.zero_grad()
        out.square().mean().backward()
        optimiser.step()

    print(f"an epoch over {num_items} clips of {rows} rows, {dim}-512-512 on every row, batch 70, clipmill.torch:")
    for shard_format in ("npy", "zarr"):
        url = str(folder / f"torch-{shard_format}")
        store_of(url, shard_format, values, num_items)
        stream = FeatureStream(FeatureDataset(url, "c3d"), 70)
        held = [{key: batch[key] for key in ("values", "mask")} for batch in stream]

        loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
        compute = measured(partial(_each, held, step), repeat, time.process_time)
        data = measured(partial(_each, stream, lambda batch: None), repeat, time.process_time)
        shown("steps over ready tensors", compute, 1, "an epoch")
        shown(f"drawing batches, {shard_format}", data, 1, "an epoch")
        share = 100 * data[0] / (data[0] + compute[0])
        walls = [measured(partial(_each, each, step), repeat, time.perf_counter)[0] for each in (held, loader)]
        print(
            f"  {shard_format}: {share:.1f} % of an epoch in one process; with a worker beside it an epoch takes "
            f"{walls[1] / walls[0]:.2f} times that of ready tensors"
        )


def opening(folder: Path, num_videos: int, repeat: int) -> None:
    """Prints how long it takes until a store's first clip was read."""
    url = str(folder / "many")
    store_of(url, "npy", np.zeros((num_videos, 4), np.float32), num_videos)

    def first_clip() -> None:
        FeatureStore(url)["c3d"].clip_rows("v000007", 0)

    def all_clips() -> None:
        FeatureStore(url)["c3d"].clips()

    print(f"a store of {num_videos:,} videos, one clip each:")
    shown("open, first clip read", measured(first_clip, repeat, time.process_time), 1, "")
    shown("open, all clips listed", measured(all_clips, repeat, time.process_time), 1, "")


def main() -> None:
    """Prints all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dim in (512, 4096):
            reads(folder, dim, options.repeat)
        epoch_share(options.items, options.dim, options.repeat)
        loop_share(folder, options.items, options.dim, options.repeat)
        opening(folder, options.videos, options.repeat)


if __name__ == "__main__":
    main()
