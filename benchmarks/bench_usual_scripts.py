"""Prints how much faster one build is than a script for each network, in the manner of the popular extractors.

    python -m benchmarks.bench_usual_scripts FOLDER_OF_VIDEOS [--networks c3d i3d squeezenet vgg16] [--threads 2]
                                             [--repeat 1] [--runtimes torch openvino]

A usual script reads a video with OpenCV into memory, prepares every window, and runs eager PyTorch on one window at a
time; there is one for each network, in a process of its own, which decodes the videos again. The build makes the same
features of the same videos in one pass, once for each of the runtimes. Both have the same weights, windows and
geometry, and both times are of whole processes, start and decoding included; they take turns and the median counts.

Two ceilings stand beside them: what the networks alone take for as many windows, on ready inputs at their best batch,
and what one decoding takes. Rows are compared: OpenCV and decord convert colours alike but for rounding, so the error
(length of the difference over that of the script's rows) is that of a grey level here and there.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from clipmill.extractors.c3d.network import C3D
from clipmill.extractors.i3d.network import InceptionI3D
from clipmill.extractors.preprocess import apply_geometry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.torch_extractor import affine, reverse_input_channels, seeded
from clipmill.extractors.vgg16.network import VGG16
from clipmill.pipelines.decode.rate import raw_decode_rate
from clipmill.pipelines.features.bare_model import measure
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.recipe import ClipRule, Recipe
from clipmill.stores import FeatureStore

WINDOWS = {
    "c3d": {"frames": 16, "step": 16},
    "i3d": {"fps": None, "frames": 64, "step": 64, "tail": "drop"},
    "squeezenet": {"fps": None, "frames": 1, "step": 25},
    "vgg16": {"fps": None, "frames": 1, "step": 25},
}
"""Of every frame, without resampling, so that a script of a few lines has the same ones."""
BARE_SECONDS = 5.0


def recipe_of(name: str, runtime: str = "torch") -> Recipe:
    feature = FeatureConfig.model_validate({"weights": {"random": 0}, "sampling": WINDOWS[name], "runtime": runtime})
    return resolve_recipe(name, feature, ClipRule(), DecodeConfig())


def usual_script(name: str, videos: Sequence[str], out: str, threads: int) -> None:
    """Writes ``<video>.npy`` of each video's rows."""
    torch.set_num_threads(threads)
    recipe = recipe_of(name)
    makers: dict[str, Any] = {
        "c3d": lambda: C3D("fc6"),
        "i3d": lambda: InceptionI3D("rgb"),
        "squeezenet": lambda: SqueezeNet("features"),
        "vgg16": lambda: VGG16("fc7"),
    }
    network = seeded(0, makers[name]).eval()
    if recipe.preprocess.colour == "bgr":
        reverse_input_channels(network.conv1a if name == "c3d" else network.features[0])
    scale, shift = affine(recipe.preprocess, 5)
    size, step = recipe.sampling.frames or 1, recipe.sampling.step or 1
    for video in videos:
        capture, frames = cv2.VideoCapture(video), []
        while True:
            more, frame = capture.read()
            if not more:
                break
            frames.append(apply_geometry(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), recipe.preprocess))
        rows = []
        for start in range(0, len(frames) - size + 1, step):
            window = torch.from_numpy(np.stack(frames[start : start + size])).permute(3, 0, 1, 2)[None].float()
            window = window * scale + shift
            with torch.no_grad():
                found = (
                    network.features(window).mean(2)
                    if name == "i3d"
                    else network(window if size > 1 else window[:, :, 0])
                )
            rows.append(found[0].numpy())
        np.save(f"{out}/{Path(video).name}.npy", np.stack(rows) if rows else np.zeros((0, recipe.dim)))


def timed(command: Sequence[str], accepted: Sequence[int] = (0,)) -> float:
    """Returns the seconds a process takes."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in accepted:
        raise SystemExit(f"{' '.join(command[:6])}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - started


def build(networks: Sequence[str], runtime: str, videos: str, folder: str, threads: int) -> tuple[float, str]:
    """Returns the seconds of a build, and its store."""
    store = tempfile.mkdtemp(prefix=f"{runtime}-", dir=folder) + "/store"
    features = {name: {"weights": {"random": 0}, "sampling": WINDOWS[name], "runtime": runtime} for name in networks}
    config = {
        "store": {"url": store},
        "videos": {"folder": videos},
        "features": features,
        "engine": {"threads": threads, "device": "cpu"},
    }
    path = Path(store).parent / "build.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return timed([sys.executable, "-m", "clipmill", "build", str(path), "--json"]), store


def main() -> None:
    parser = argparse.ArgumentParser(description="One build against a usual script for each network.")
    parser.add_argument("videos", help="folder of videos")
    parser.add_argument("--networks", nargs="*", choices=sorted(WINDOWS), default=sorted(WINDOWS))
    parser.add_argument(
        "--runtimes", nargs="*", choices=("torch", "openvino", "onnxruntime"), default=["torch", "openvino"]
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--script", nargs=2, metavar=("NAME", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    videos = sorted(str(path) for path in Path(arguments.videos).iterdir() if path.is_file())
    if arguments.script:
        usual_script(arguments.script[0], videos, arguments.script[1], arguments.threads)
        return
    networks, threads = arguments.networks, arguments.threads
    with tempfile.TemporaryDirectory(prefix="clipmill-usual-") as folder:
        # What is measured at a build's end must not depend on earlier ones.
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        scripts: dict[str, list[float]] = {name: [] for name in networks}
        builds: dict[str, list[float]] = {runtime: [] for runtime in arguments.runtimes}
        stores = {}
        for _ in range(arguments.repeat):
            for name in networks:
                Path(folder, name).mkdir(exist_ok=True)
                command = [sys.executable, "-m", "benchmarks.bench_usual_scripts", arguments.videos]
                command += ["--threads", str(threads), "--script", name, f"{folder}/{name}"]
                scripts[name].append(timed(command))
            for runtime in arguments.runtimes:
                seconds, stores[runtime] = build(networks, runtime, arguments.videos, folder, threads)
                builds[runtime].append(seconds)
        usual = sum(statistics.median(found) for found in scripts.values())
        each = ", ".join(f"{name} {statistics.median(found):.1f}" for name, found in scripts.items())
        print(
            f"{len(videos)} videos, {threads} threads; {len(networks)} usual scripts: {usual:.1f} s ({each})",
            flush=True,
        )
        rows = {name: [np.load(f"{folder}/{name}/{Path(video).name}.npy") for video in videos] for name in networks}
        counts = {name: sum(len(found) for found in rows[name]) for name in networks}
        num_frames = [int(cv2.VideoCapture(video).get(cv2.CAP_PROP_FRAME_COUNT)) for video in videos]
        decode = sum(count / raw_decode_rate(video, 0.5) for count, video in zip(num_frames, videos, strict=True))
        for runtime, found in builds.items():
            seconds = statistics.median(found)
            rates = {name: measure(recipe_of(name, runtime), "cpu", threads, BARE_SECONDS) for name in networks}
            bare = sum(counts[name] / rate for name, rate in rates.items() if rate)
            errors = {name: error_of(FeatureStore(stores[runtime])[name], videos, rows[name]) for name in networks}
            shown = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
            print(
                f"one build, runtime {runtime}: {seconds:.1f} s (spread {max(found) - min(found):.1f}), "
                f"{usual / seconds:.2f} times as fast; {seconds / (bare + decode):.2f} times the bare networks "
                f"({bare:.1f} s) and one decoding ({decode:.1f} s); error {shown}",
                flush=True,
            )


def error_of(feature: Any, videos: Sequence[str], expected: Sequence[np.ndarray]) -> float:
    """Returns the relative error of a feature's rows; infinite where their number differs."""
    found = [
        feature[Path(video).name].values if len(rows) else rows for video, rows in zip(videos, expected, strict=True)
    ]
    if [len(rows) for rows in found] != [len(rows) for rows in expected]:
        return float("inf")
    ours, theirs = np.concatenate(found).astype(np.float64), np.concatenate(expected)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


if __name__ == "__main__":
    main()
