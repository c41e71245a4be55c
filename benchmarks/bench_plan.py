"""Prints what planning costs where nothing has changed: seconds, ms a video and peak memory, for growing datasets.

    python -m benchmarks.bench_plan [--videos 10000 40000] [--new 64]

For a million videos (some minutes, most of them to lay the files out): ``--videos 10000 100000 1000000``.

A dataset of n videos is laid out without encoding or decoding any: n names in folders of 1,000, hard links to a few
files of some KiB, which are no videos. The store beside them is one in which a build has finished: the manifest of
that run, its probes with the sizes and modification times of those names, and commits of rows with whole passports;
shards are not written. Neither a plan nor a rerun opens a video or a shard where nothing has changed, so both do the
same work over this as over real ones; a rerun that did open one would put it into quarantine, which is checked.

Each command runs in a process of its own; its wall and processor time and its peak memory are what the system counts.
``--new`` hashes and probes so many real, new videos, by one thread and by all. ``--limit-seconds`` and ``--limit-mib``
end with exit code 1 where the largest rerun is above them, as does a time a video that grows with their number.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.pipelines.features.planning import plan_build
from clipmill.pipelines.features.probing import probe_videos
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.tables import COMMITS, MANIFEST, PASSPORT, PROBES
from clipmill.stores import Store
from clipmill.stores.store import folder

VIDEOS_PER_FOLDER = 1_000
LINKS_PER_FILE = 30_000
"""Below what ext4 (65,000) and other file systems allow."""
VIDEOS_PER_TASK = 100
ROWS_PER_VIDEO = 60
GROWTH_ALLOWED = 1.5
"""A video may take so many times as long among ten times as many: caches of the processor are finite."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took: wall and processor seconds, and the most memory it held."""

    seconds: float
    processor_seconds: float
    peak_bytes: int
    output: dict[str, Any]


def lay_out(root: Path, num_videos: int) -> list[str]:
    """Makes the names of `num_videos` videos below `root` and returns them, relative to it, sorted."""
    names = []
    for start in range(0, num_videos, VIDEOS_PER_FOLDER):
        part = f"part {start // VIDEOS_PER_FOLDER:05d}"
        (root / part).mkdir(parents=True)
        for number in range(start, min(start + VIDEOS_PER_FOLDER, num_videos)):
            names.append(f"{part}/video {number:08d}.mp4")
    sources = root.parent / "sources"
    sources.mkdir()
    for number, name in enumerate(names):
        source = sources / str(number // LINKS_PER_FILE)
        if number % LINKS_PER_FILE == 0:
            source.write_bytes(bytes(4096 + number // LINKS_PER_FILE))
        os.link(source, root / name)
    return names


def config_of(root: Path, store: Path) -> dict[str, Any]:
    """Returns a build config over the videos at `root`."""
    return {
        "store": {"url": str(store), "dataset": "benchmark"},
        "videos": {"folder": str(root)},
        "features": {
            "frames": {"extractor": "squeezenet", "weights": {"random": 1}, "sampling": {"fps": 1}, "pooling": "mean"}
        },
        "engine": {"device": "cpu", "threads": 1},
    }


def fill_store(config: Mapping[str, Any], recipe: Recipe, root: Path, names: Sequence[str]) -> None:
    """Writes the store that a finished build of all `names` would have left, without its shards."""
    store = Store.create(str(config["store"]["url"]), "zarr", "benchmark")
    run_id = store.new_run_id()
    rng = np.random.default_rng(0)
    uris = [f"{root}/{name}" for name in names]
    stats = [os.stat(uri) for uri in uris]
    fingerprints = [rng.bytes(16).hex() for _ in names]
    durations = np.round(rng.uniform(5, 30, len(names)), 3)
    columns: dict[str, Any] = {
        "container": pa.array(["mov,mp4,m4a,3gp,3g2,mj2"] * len(names)),
        "codec": pa.array(["h264"] * len(names)),
        "width": pa.array(np.full(len(names), 320, np.int32)),
        "height": pa.array(np.full(len(names), 240, np.int32)),
        "rotation_degrees": pa.array(np.zeros(len(names), np.int32)),
        "duration_seconds": pa.array(durations),
        "average_fps": pa.array(np.full(len(names), 25.0)),
        "num_frames": pa.array((durations * 25).astype(np.int64)),
    }
    sizes = pa.array([status.st_size for status in stats], pa.int64())
    common = {"uri": uris, "num_bytes": sizes, "video_fingerprint": fingerprints}
    probes = common | {
        "modified_ns": pa.array([status.st_mtime_ns for status in stats], pa.int64()),
        "header": pa.StructArray.from_arrays(list(columns.values()), fields=list(PROBES.field("header").type)),
    }
    _write(store, f"probes/{run_id}.parquet", probes, PROBES)
    segments = pa.array([[]] * len(names), MANIFEST.field("segments").type)
    manifest = common | columns | {"video_id": names, "segments": segments}
    _write(store, f"runs/{run_id}/manifest.parquet", manifest, MANIFEST)
    store.write_run_file(run_id, "build.json", json.dumps({"features": {recipe.name: recipe.fingerprint}}))
    store.write_recipe(recipe)
    for start in range(0, len(names), VIDEOS_PER_TASK):
        part = slice(start, start + VIDEOS_PER_TASK)
        _write_commit(store, recipe, start // VIDEOS_PER_TASK, names[part], fingerprints[part], durations[part])
    # A catalog is older than no commit: written in the same instant, it would not be trusted.
    time.sleep(1.1)
    store.write_catalog()


def _write_commit(
    store: Store, recipe: Recipe, number: int, names: Sequence[str], fingerprints: Sequence[str], durations: Any
) -> None:
    key = f"{number:016x}"
    count = len(names)
    told = {
        "clipmill_version": "1.0.0",
        "weights": "random(1)",
        "decoder": "decord",
        "decoder_version": "3.4.0",
        "device": "cpu",
        "precision": "float32",
        "num_threads": 1,
        "batch_windows": 32,
        "torch_version": "2.7.1",
        "numpy_version": "2.2.6",
        "opencv_version": "4.11.0",
        "num_frames_substituted": 0,
        "num_tail_windows_dropped": 0,
        "num_tail_windows_padded": 0,
        "num_joined_parts": 1,
        "num_repeated_times": 0,
        "first_frame_seconds": 0.0,
        "num_segments_clamped": 0,
        "num_segments_emptied": 0,
    }
    columns: dict[str, pa.Array] = {name: pa.array([value] * count) for name, value in told.items()}
    columns |= {
        "duration_seconds": pa.array(durations),
        "num_frames": pa.array((durations * 25).astype(np.int64)),
        "values_sha256": pa.array([digest * 2 for digest in fingerprints]),
    }
    passports = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(count, field.type)
        for field in PASSPORT
    ]
    clips = [[{"start_seconds": 0.0, "stop_seconds": float(seconds), "label": None}] for seconds in durations]
    starts = np.arange(count, dtype=np.int64) * ROWS_PER_VIDEO
    table = {
        "video_id": pa.array(names),
        "video_fingerprint": pa.array(fingerprints),
        "clips_fingerprint": pa.array([""] * count),
        "recipe_fingerprint": pa.array([recipe.fingerprint] * count),
        "shard": pa.array([f"shards/{folder(recipe)}/{key}-{'0' * 12}.zarr"] * count),
        "row_start": pa.array(starts),
        "row_stop": pa.array(starts + ROWS_PER_VIDEO),
        "clips": pa.array(clips, COMMITS.field("clips").type),
        "passport": pa.StructArray.from_arrays(passports, fields=list(PASSPORT)),
    }
    _write(store, f"commits/{folder(recipe)}/{key}.parquet", table, COMMITS)


def _write(store: Store, path: str, columns: Mapping[str, Any], schema: pa.Schema) -> None:
    num_rows = len(next(iter(columns.values())))
    arrays = [columns.get(field.name, pa.nulls(num_rows, field.type)) for field in schema]
    table = pa.Table.from_arrays([pa.array(item) if isinstance(item, list) else item for item in arrays], schema=schema)
    # Not by the store, whose writes are synced one by one: this is a layout of files, not a measurement.
    target = Path(store.url) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, target, compression="zstd", use_dictionary=False, write_statistics=False)


LAUNCHER = """
import json, os, sys, time
start = time.monotonic()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
used = [time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, os.waitstatus_to_exitcode(status)]
print(json.dumps(used), file=sys.stderr)
"""
"""Starts a command and says what it used: seconds, processor seconds, KiB, exit code. A process as large as this one
would not do: the system counts what the starting process held as held by the started one."""


def run(arguments: Sequence[str]) -> Cost:
    """Runs a verb of clipmill in a process of its own.

    Raises:
        RuntimeError: it did not end with exit code 0.
    """
    command = [sys.executable, "-c", LAUNCHER, sys.executable, "-m", "clipmill", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *said, used = done.stderr.splitlines()
    seconds, processor_seconds, peak_kib, code = json.loads(used)
    if code != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with {code}: {said[-5:]}")
    return Cost(seconds, processor_seconds, peak_kib << 10, json.loads(done.stdout))


def measure(base: Path, num_videos: int, verbs: Sequence[str]) -> dict[str, Cost]:
    """Returns the cost of each of `verbs` over a dataset of `num_videos` unchanged videos, by verb."""
    root, store = base / "videos", base / "store"
    names = lay_out(root, num_videos)
    config = config_of(root, store)
    (base / "build.yaml").write_text(yaml.safe_dump(config))
    # The recipe is that of an empty plan: of one video that nobody can read.
    (base / "one").mkdir()
    (base / "one" / "v.mp4").write_bytes(b"")
    text = yaml.safe_dump(config | {"videos": {"folder": str(base / "one")}})
    recipe = plan_build(parse_build_config(text, [], "benchmark")).recipes[0]
    fill_store(config, recipe, root, names)
    arguments = {
        "plan": ["plan", "--config", str(base / "build.yaml")],
        "rerun": ["build", "--config", str(base / "build.yaml")],
        "status": ["status", str(store)],
    }
    costs = {}
    for verb in verbs:
        costs[verb] = cost = run(arguments[verb])
        done = cost.output["features"][0]["num_complete"] if verb == "status" else cost.output["num_complete"]
        if done != num_videos or cost.output.get("num_tasks"):
            raise RuntimeError(f"{verb}: expected {num_videos} complete videos and no task, got {done}")
        print(
            f"{num_videos:>9,} videos  {verb:<7} {cost.seconds:>7.2f} s wall {cost.processor_seconds:>7.2f} s processor"
            f" {cost.seconds / num_videos * 1e3:>7.4f} ms a video  peak {cost.peak_bytes / 2**20:>7.0f} MiB",
            flush=True,
        )
    return costs


def measure_new(base: Path, num_videos: int) -> None:
    """Prints what hashing and probing of new, real videos costs, by one thread and by as many as planning uses."""
    source = base / "new.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        noise = np.random.default_rng(0)
        for _ in range(250):
            pixels = noise.integers(0, 255, (240, 320, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    data = source.read_bytes()
    videos = []
    for number in range(num_videos):
        path = base / f"new {number}.mp4"
        path.write_bytes(data)
        videos.append(Video(id=path.name, uri=str(path)))
    probe_videos(videos[:4], {})
    for threads in (1, None):
        start = time.perf_counter()
        probed, _ = probe_videos(videos, {}, **({} if threads is None else {"num_threads": threads}))
        seconds = time.perf_counter() - start
        if any(item.error for item in probed):
            raise RuntimeError("new videos: expected to read all of them")
        print(
            f"{num_videos:>9,} new videos of {len(data) / 2**20:.1f} MiB, {threads or 'all'} threads: "
            f"{seconds / num_videos * 1e3:.2f} ms a video, {num_videos * len(data) / seconds / 2**20:,.0f} MiB/s"
        )


def main() -> None:
    """Prints the table; exits with 1 where a bound that was asked for does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--videos", type=int, nargs="+", default=[10_000, 40_000])
    parser.add_argument("--verbs", nargs="+", default=["plan", "rerun", "status"])
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--limit-seconds", type=float)
    parser.add_argument("--limit-mib", type=float)
    options = parser.parse_args()
    failed = []
    costs: dict[int, dict[str, Cost]] = {}
    for num_videos in sorted(options.videos):
        with tempfile.TemporaryDirectory() as base:
            costs[num_videos] = measure(Path(base), num_videos, options.verbs)
    small, large = min(costs), max(costs)
    for verb in options.verbs:
        if small < large:
            fewer, more = costs[small][verb].processor_seconds, costs[large][verb].processor_seconds
            growth = (more / large) / (fewer / small)
            print(f"{verb:<7} {large / small:.0f}x the videos: {growth:.2f}x the processor time a video")
            if growth > GROWTH_ALLOWED:
                failed.append(f"{verb} does not grow linearly")
    worst = costs[large].get("rerun")
    if worst and options.limit_seconds and worst.seconds > options.limit_seconds:
        failed.append(f"rerun took {worst.seconds:.1f} s")
    if worst and options.limit_mib and worst.peak_bytes > options.limit_mib * 2**20:
        failed.append(f"rerun held {worst.peak_bytes >> 20} MiB")
    if options.new:
        with tempfile.TemporaryDirectory() as base:
            measure_new(Path(base), options.new)
    for item in failed:
        print(f"bound broken: {item}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
