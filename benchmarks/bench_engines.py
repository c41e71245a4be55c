"""Prints what an engine adds to its tasks, in builds of the same videos by each engine in turn.

    python -m benchmarks.bench_engines [--videos 8] [--seconds 40] [--repeat 3]

The wall time of the build, as its report has it, against that of one local worker with one thread; and what of it is
not the tasks' own time, once for all workers: starting the engine, handing tasks out, bookkeeping. Ray and Beam start
processes, which a build pays once: what they add is to be compared with its length. Medians over `--repeat` rounds in
which every engine has its turn, with the least and the greatest. On a busy machine the ratios say little.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from clipmill.stores import Store
from tests.encoded_videos import encode_video

ENGINES: Mapping[str, Mapping[str, Any]] = {
    "local, one worker": {"name": "local", "threads": 1},
    "ray, one worker": {"name": "ray", "workers": 1, "threads": 1},
    "beam, one worker": {"name": "beam", "runner": "multi_processing", "workers": 1, "threads": 1},
    "ray, two workers": {"name": "ray", "workers": 2, "threads": 1},
}


def build(folder: Path, videos: Path, engine: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the wall time of a build into a new store, and the time of its tasks for each worker."""
    url = folder / "store"
    shutil.rmtree(url, ignore_errors=True)
    config = {
        "store": {"url": str(url)},
        "videos": {"folder": str(videos)},
        "features": {"one": {"extractor": "resnet50", "sampling": {"fps": 2}, "weights": {"random": 0}}},
        "engine": {"task_seconds": 1, **engine},
    }
    (folder / "build.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "clipmill", "build", str(folder / "build.yaml"), "--json", "--heartbeat", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench_engines {engine['name']}: expected a complete build, got {done.stderr.strip()}")
    report = json.loads(done.stdout)
    store = Store.open(str(url))
    tasks = sum(result.seconds["total"] for run in store.runs() for result in store.task_results(run))
    return float(report["seconds"]["wall"]), tasks / int(engine.get("workers", 1))


def main() -> None:
    """Prints a line for each engine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=40, help="of each video")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    walls: dict[str, list[float]] = defaultdict(list)
    beside: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder, videos = Path(name), Path(name, "videos")
        videos.mkdir()
        for number in range(options.videos):
            encode_video(videos / f"{number}.mp4", num_frames=25 * options.seconds)
        for _ in range(options.repeat):
            for engine, keys in ENGINES.items():
                wall, tasks = build(folder, videos, keys)
                print(f"  {engine}: {wall:.1f} s", file=sys.stderr, flush=True)
                walls[engine].append(wall)
                beside[engine].append(wall - tasks)
    one = statistics.median(walls["local, one worker"])
    for engine in ENGINES:
        wall, rest = walls[engine], beside[engine]
        middle = statistics.median(wall)
        print(
            f"{engine:<18} {middle:7.1f} s ({min(wall):.1f} to {max(wall):.1f}), {one / middle:.2f} times as fast as "
            f"local; beside its tasks {statistics.median(rest):.1f} s ({min(rest):.1f} to {max(rest):.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
