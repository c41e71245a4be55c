"""Prints the peak memory of a build over a short video and over one several times as long, for every extractor.

    python -m benchmarks.bench_memory [NAME...] [--seconds 64] [--times 4]

Each build is a process of its own with the extractor's defaults, but for windows further apart (and, for R-C3D,
shorter) so that the long video is done in minutes on a CPU; the short one fills a batch. `parent` holds the networks,
`child` decodes. What grows with the length are the rows themselves, and nothing else should.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from clipmill.extractors import registry
from tests.encoded_videos import encode_video

FPS = 25
MEASURED = """
import json, resource, sys
from clipmill.jobs.cli import app
try:
    app(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
peak = [resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([code, *peak]), file=sys.stderr)
"""


def feature_of(name: str) -> dict[str, Any]:
    """Returns a feature of a build config: the defaults, with a window every 8 seconds or a frame every 4."""
    card = registry.card(name)
    feature: dict[str, Any] = {"weights": {"random": 0}}
    if name == "tracks":
        return feature
    if name == "rc3d":
        return feature | {"options": {"buffer_frames": 128}, "sampling": {"step": 8 * FPS}}
    if card.sampling.frames == 1:
        return feature | {"sampling": {"fps": 0.25}}
    return feature | {"sampling": {"step": 8 * FPS}}


def peak_bytes(name: str, video: Path, folder: Path) -> tuple[int, int]:
    """Returns the most memory that the parent and its decode child held at once."""
    config = folder / f"{name}-{video.stem}.yaml"
    store = folder / f"{name}-{video.stem}"
    data = {
        "store": {"url": str(store)},
        "videos": {"folder": str(video.parent)},
        "features": {name: feature_of(name)},
        "engine": {"device": "cpu"},
    }
    config.write_text(yaml.safe_dump(data))
    command = [sys.executable, "-c", MEASURED, "build", "--config", str(config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    code, parent, child = json.loads(done.stderr.splitlines()[-1])
    if code:
        raise SystemExit(f"{name}: expected a build that ends well, got code {code}\n{done.stderr}")
    return parent, child


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory against the length of the video.")
    parser.add_argument("names", nargs="*", default=[], help="registered names; default: all")
    parser.add_argument("--seconds", type=int, default=64)
    parser.add_argument("--times", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        videos = []
        for seconds in (arguments.seconds, arguments.seconds * arguments.times):
            video = Path(folder) / f"videos-{seconds}" / f"{seconds}.mp4"
            video.parent.mkdir()
            encode_video(video, seconds * FPS, FPS, width=320, height=240, pattern="noise")
            videos.append(video)
        print(f"{'':12}{'parent':>21}{'':8}{'child':>17}")
        for name in arguments.names or registry.names():
            short, long = (peak_bytes(name, video, Path(folder)) for video in videos)
            columns = [
                f"{before / 2**20:8.0f} {after / 2**20:6.0f} MiB {after / before:6.3f}"
                for before, after in zip(short, long, strict=True)
            ]
            print(f"{name:12}{columns[0]}{columns[1]}", flush=True)


if __name__ == "__main__":
    main()
