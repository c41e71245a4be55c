"""Prints how well a GPU is used: each network alone on ready frames, then whole builds, alone and in one pass.

    python -m benchmarks.gpu [NAME...] [--batches 8 32 128] [--seconds 5] [--trace FILE] [--builds FOLDER_OF_VIDEOS]
                             [--device cuda] [--precision float32 bfloat16]

Alone, for each precision: windows and frames a second at the best of the batch sizes, the share of the card's matrix
peak (`--peak`, in TFLOPS; by default what a matrix product of 8192 x 8192 reaches here in that precision), and
how much of the time the device was busy, of `submit` after `submit` as a build does it (kernel time by
`torch.profiler` over wall time). `--trace` keeps a Chrome trace of the last network: copies must lie beside kernels.

`--builds` builds each network and then all of them in one pass over the folder's videos with `clipmill build`, dense,
and those of single frames at 8 frames of each 15 s clip, and prints video-hours per hour of the device, the latter
beside the best published figure: 429 video-hours per H100-hour at 8 frames a clip.

Everything runs on a CPU too (`--device cpu`), which shows that it does, and measures nothing of a GPU.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from clipmill.extractors import registry
from clipmill.extractors.base import Extractor, QueueingExtractor
from clipmill.extractors.compiled_network import sample_frames
from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.features.device_memory import is_out_of_memory
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.recipe import ClipRule, Recipe

PUBLISHED_VIDEO_HOURS = 429
"""Video-hours per H100-hour at 8 frames a clip, the best figure published."""
FEATURES: dict[str, dict[str, Any]] = {
    "c3d": {},
    "i3d": {},
    "vgg16": {"sampling": {"fps": 1}},
    "rc3d": {"options": {"form": "pytorch-thumos14"}},
}
SINGLE_FRAMES = ("vgg16",)
SPARSE = {"random_frames": 8}
PEAK_SIDE = 8192


def recipe_of(name: str, precision: str) -> Recipe:
    """Returns the recipe of a feature of `FEATURES` under random weights."""
    feature = FeatureConfig.model_validate({"weights": {"random": 0}, "precision": precision} | FEATURES[name])
    return resolve_recipe(name, feature, ClipRule(), DecodeConfig())


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_peak(device: str, precision: str) -> float:
    """Returns the TFLOPS of a large matrix product."""
    side = PEAK_SIDE if device == "cuda" else 1024
    matrix = torch.ones(side, side, device=device, dtype=getattr(torch, precision))
    least = float("inf")
    for _ in range(5):
        synchronise(device)
        started = time.perf_counter()
        matrix @ matrix
        synchronise(device)
        least = min(least, time.perf_counter() - started)
    return 2 * side**3 / least / 1e12


def submitting(extractor: Extractor, frames: np.ndarray) -> Callable[[], Callable[[], object]]:
    """Returns what begins a forward pass, as a build does."""
    if isinstance(extractor, QueueingExtractor) and extractor.queues:
        return lambda: extractor.submit(frames)

    def at_once() -> Callable[[], object]:
        found = extractor.forward(frames)
        return lambda: found

    return at_once


def steady(begin: Callable[[], Callable[[], object]], seconds: float) -> tuple[int, float]:
    """Returns passes and seconds, one pass under way while the next is begun."""
    count, waiting, started = 0, begin(), time.perf_counter()
    while time.perf_counter() - started < seconds or not count:
        following = begin()
        waiting()
        waiting = following
        count += 1
    waiting()
    return count + 1, time.perf_counter() - started


def busy_share(begin: Callable[[], Callable[[], object]], device: str, trace: str | None) -> float | None:
    """Returns kernel time over wall time; None on a CPU, where the profiler has no device."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        _, seconds = steady(begin, 1.0)
        synchronise(device)
    if trace is not None:
        profiler.export_chrome_trace(trace)
    if device != "cuda":
        return None
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6 / seconds


def alone(name: str, precision: str, arguments: argparse.Namespace) -> None:
    """Prints one network's line."""
    recipe = recipe_of(name, precision)
    extractor = registry.build(recipe, arguments.device)
    sample = sample_frames(recipe)
    best: tuple[float, int, Callable[[], Callable[[], object]]] | None = None
    for size in arguments.batches:
        begin = submitting(extractor, np.repeat(sample, size, axis=0))
        try:
            begin()()
            count, seconds = steady(begin, arguments.seconds)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            print(f"{name:9}{precision:9} {size} windows: no memory", flush=True)
            break
        if best is None or count * size / seconds > best[0]:
            best = count * size / seconds, size, begin
    if best is None:
        return
    rate, size, begin = best
    gmac = registry.card_of(recipe).gmac_of(recipe.sampling)
    peak = arguments.peak or matrix_peak(arguments.device, precision)
    busy = busy_share(begin, arguments.device, arguments.trace)
    frames = rate * (recipe.sampling.frames or 1)
    print(
        f"{name:9}{precision:9} best of {arguments.batches}: {size} windows, {rate:.2f} windows/s, "
        f"{frames:.0f} frames/s, {2 * gmac * rate / 1e3 / peak:.1%} of the matrix peak ({peak:.1f} TFLOPS), "
        f"busy {'not known on a CPU' if busy is None else f'{busy:.1%}'}",
        flush=True,
    )


def build(names: Sequence[str], sparse: bool, videos: str, device: str) -> None:
    """Prints one build's line."""
    features = {}
    for name in names:
        written = {"weights": {"random": 0}} | FEATURES[name]
        if sparse:
            written["sampling"] = SPARSE
        features[name] = written
    clips = {"from": "windows", "length_seconds": 15, "tail": "keep"} if sparse else {"from": "whole"}
    with tempfile.TemporaryDirectory(prefix="clipmill-gpu-") as folder:
        config = {
            "store": {"url": f"{folder}/store"},
            "videos": {"folder": videos},
            "clips": clips,
            "features": features,
            "engine": {"device": device},
        }
        Path(folder, "build.yaml").write_text(yaml.safe_dump(config), "utf-8")
        command = [sys.executable, "-m", "clipmill", "build", f"{folder}/build.yaml", "--json"]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            print(f"{'+'.join(names)}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            return
        report = json.loads(done.stdout)
        measured = report["measured"] or {"work": {"video_seconds": 0.0}}
    hours = measured["work"].get("video_seconds", 0.0) / seconds
    forward = report["seconds"].get("forward", 0.0) / seconds
    published = f" (best published, at 8 frames a clip: {PUBLISHED_VIDEO_HOURS})" if sparse else ""
    print(
        f"{'+'.join(names):24}{'8 of 15 s' if sparse else 'dense':10} {seconds:.1f} s, {hours:.1f} video-hours per hour"
        f"{published}, in the networks {forward:.0%} of it; {report['speed_of_light']}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="How well a GPU is used.")
    parser.add_argument("names", nargs="*", default=[], help=f"of {', '.join(FEATURES)}; default: all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batches", nargs="*", type=int, default=[8, 32, 128])
    parser.add_argument("--precision", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--peak", type=float, help="TFLOPS of the card; default: measured")
    parser.add_argument("--trace", help="file of a Chrome trace of the last network")
    parser.add_argument("--builds", metavar="FOLDER", help="videos to build features of")
    arguments = parser.parse_args()
    names = arguments.names or list(FEATURES)
    if unknown := sorted(set(names) - set(FEATURES)):
        parser.error(f"names: expected some of {', '.join(FEATURES)}, got {', '.join(unknown)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected a CUDA GPU, got none on this machine; --device cpu shows that the script runs")
    for precision in arguments.precision:
        for name in names:
            alone(name, precision, arguments)
    if arguments.builds:
        for sparse in (False, True):
            # Windows of many frames are no 8 frames.
            wanted = [name for name in names if name in SINGLE_FRAMES] if sparse else names
            for group in [[name] for name in wanted] + ([wanted] if len(wanted) > 1 else []):
                build(group, sparse, arguments.builds, arguments.device)


if __name__ == "__main__":
    main()
