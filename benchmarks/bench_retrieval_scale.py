"""Prints what exact search over a large gallery costs: peak memory of a fresh process, seconds, and the ratio to the
bare float32 matrix product over the same blocks.

    python -m benchmarks.bench_retrieval_scale [--rows 1000000] [--dim 512] [--queries 1000] [--k 100] [--threads 1]

A store of that size is really written (Zarr, float32; 2 GB by default, in a temporary folder) and searched by another
process, whose peak memory counts interpreter and libraries. Two ratios: over rows in the store, where both sides read
and decompress the same blocks, and over rows in memory, where nothing hides the cost of choosing the K best. Each is
taken alternately in one process; processor seconds are what compares on a machine that others use as well.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_store import seconds
from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe, Sampling, Weights
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows
from clipmill.schemas.tables import COMMITS

ROWS_PER_VIDEO = 500
VIDEOS_PER_SHARD = 100
NUM_LABELS = 100
IN_MEMORY = 100_000


def write(url: str, num_rows: int, dim: int, num_queries: int) -> None:
    """Writes a store of `num_rows` rows around one centre per label, and the queries beside it."""
    import pyarrow as pa

    from clipmill.stores import Store
    from clipmill.stores.verify import values_sha256

    random = np.random.default_rng(0)
    centres = random.standard_normal((NUM_LABELS, dim), dtype=np.float32)
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
    store = Store.create(url, "zarr", "benchmark")
    store.write_recipe(recipe)
    videos: list[Video] = []
    per_shard = ROWS_PER_VIDEO * VIDEOS_PER_SHARD
    for start in range(0, num_rows, per_shard):
        num = min(per_shard, num_rows - start)
        video = (start + np.arange(num)) // ROWS_PER_VIDEO
        values = 0.3 * centres[video % NUM_LABELS] + random.standard_normal((num, dim), dtype=np.float32)
        times = np.arange(num, dtype=np.float64)
        rows = Rows(values, np.zeros(num, np.int32), times, times + 1, np.ones(num, np.bool_))
        names = [f"v{number:06d}" for number in np.unique(video)]
        edges = [*range(0, num, ROWS_PER_VIDEO), num]
        spans = list(zip(names, edges, edges[1:], strict=False))
        key = f"{start:016x}"
        shard = store.write_shard(recipe, key, rows, spans)
        commits = [
            {
                "video_id": name,
                "video_fingerprint": name,
                "clips_fingerprint": "",
                "recipe_fingerprint": recipe.fingerprint,
                "shard": shard,
                "row_start": first,
                "row_stop": last,
                "clips": [{"start_seconds": 0.0, "stop_seconds": 1.0, "label": None}],
                "passport": {"values_sha256": values_sha256(values[first:last])},
            }
            for name, first, last in spans
        ]
        store.write_commit(recipe, key, pa.Table.from_pylist(commits, schema=COMMITS))
        videos += [Video(name, f"/{name}", name, label=f"{int(name[1:]) % NUM_LABELS:03d}") for name in names]
    store.write_manifest("run", videos)
    labels = np.arange(num_queries) % NUM_LABELS
    np.save(f"{url}.queries.npy", 0.3 * centres[labels] + random.standard_normal((num_queries, dim), dtype=np.float32))


def search(url: str, k: int, threads: int) -> dict[str, Any]:
    """Returns seconds, metrics and peak memory of this process after one exact search from the store."""
    from clipmill.pipelines.evaluation.retrieval.evaluate import Queries, evaluate_retrieval
    from clipmill.pipelines.evaluation.retrieval.gallery import gallery_of_rows
    from clipmill.pipelines.evaluation.retrieval.scorers import Cosine
    from clipmill.stores import FeatureStore

    start = time.perf_counter()
    vectors = np.load(f"{url}.queries.npy")
    queries = Queries(
        [f"q{n:05d}" for n in range(len(vectors))],
        [f"{n % NUM_LABELS:03d}" for n in range(len(vectors))],
        {"image": vectors},
    )
    gallery = gallery_of_rows(FeatureStore(url)["c3d"])
    scorers = {"cosine": Cosine("image", "video")}
    result = evaluate_retrieval(queries, gallery, scorers, (10, k), full_ranks=False, threads=threads)
    return {
        "seconds": time.perf_counter() - start,
        "num_gallery": len(gallery.ids),
        "metrics": dict(result.space("cosine").metrics),
        "chance": dict(result.chance),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def ratios(url: str, k: int, threads: int, repeats: int) -> dict[str, Any]:
    """Returns (wall, processor) seconds of the bare product and of exact search: from the store, and in memory."""
    from clipmill.pipelines.evaluation.retrieval.blocks import BlockSizes, GalleryChunk, computing, find
    from clipmill.pipelines.evaluation.retrieval.scorers import Cosine
    from clipmill.stores import FeatureStore

    queries = np.load(f"{url}.queries.npy")
    lazy = FeatureStore(url)["c3d"].dask()
    in_memory = np.ascontiguousarray(lazy[:IN_MEMORY].compute(scheduler="synchronous"))
    sizes = BlockSizes()

    def bare(array: Any) -> None:
        """Multiplies each block as it comes, on as many threads, and keeps nothing."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=threads, user_api="blas"):
            for _, side, tie in GalleryChunk({"video": array}, np.zeros(len(array), np.uint32)).blocks(
                sizes.gallery_rows
            ):
                np.matmul(queries, side["video"].T, out=product[:, : len(tie)])

    def ours(array: Any) -> None:
        chunk = GalleryChunk({"video": array}, np.arange(len(array), dtype=np.uint32))
        with computing(None, threads) as workers:
            find({"image": queries}, chunk, None, {"cosine": Cosine("image", "video")}, k, sizes, workers)

    product = np.empty((len(queries), sizes.gallery_rows), np.float32)
    measured = {}
    for name, array, num in (("store", lazy, repeats), ("memory", in_memory, 3 * repeats)):
        times: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
        for _ in range(num):
            times["bare"].append(_seconds(bare, array))
            times["ours"].append(_seconds(ours, array))
        measured[name] = {side: [min(column) for column in zip(*rows, strict=True)] for side, rows in times.items()}
    return measured


def _seconds(function: Callable[[Any], None], array: Any) -> tuple[float, float]:
    processor = time.process_time()
    wall = seconds(lambda: function(array), repeat=1)
    return wall, time.process_time() - processor


def _in_fresh_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bench_retrieval_scale", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root, env=environment)
    found: dict[str, Any] = json.loads(done.stdout or "{}")
    return found


def main() -> None:
    """Prints the numbers; with ``--step`` does one step as a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--step", choices=("write", "search", "ratios"), help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.step == "write":
        write(o.store, o.rows, o.dim, o.queries)
    elif o.step == "search":
        print(json.dumps(search(o.store, o.k, o.threads)))
    elif o.step == "ratios":
        print(json.dumps(ratios(o.store, o.k, o.threads, o.repeats)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            print("\n".join(report(str(Path(folder) / "store"), o)), flush=True)


def report(url: str, options: argparse.Namespace) -> list[str]:
    """Returns the lines of all steps."""
    names = ("rows", "dim", "queries", "k", "threads", "repeats")
    common = [part for name in names for part in (f"--{name}", str(getattr(options, name)))]
    _in_fresh_process("--step", "write", "--store", url, *common)
    found = _in_fresh_process("--step", "search", "--store", url, *common)
    lines = [
        f"{found['num_gallery']:,} x {options.dim} float32 in Zarr, {options.queries:,} queries, K = {options.k}, "
        f"{options.threads} threads: {found['seconds']:.1f} s, peak memory {found['peak_memory_mib']:.0f} MiB, "
        f"map@10 {found['metrics']['map@10']:.4f} (chance {found['chance']['map@10']:.4f})"
    ]
    for name, sides in _in_fresh_process("--step", "ratios", "--store", url, *common).items():
        (bare_wall, bare_cpu), (wall, cpu) = sides["bare"], sides["ours"]
        lines.append(
            f"  rows in {name}: bare product {bare_wall:.2f} s ({bare_cpu:.2f} s of processor), exact top-K {wall:.2f} "
            f"s ({cpu:.2f} s): {wall / bare_wall:.2f}x wall, {cpu / bare_cpu:.2f}x processor"
        )
    return lines


if __name__ == "__main__":
    main()
