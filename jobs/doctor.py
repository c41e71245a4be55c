"""``clipmill doctor``: what this machine can do, checked rather than guessed."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from clipmill.jobs.output import Outcome
from clipmill.pipelines.decode.selfcheck import check_decoders
from clipmill.pipelines.features.engines.cores import num_cores
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_FAILURE

LIBRARIES = (
    "clipmill torch numpy decord av opencv-contrib-python-headless pillow zarr pyarrow ray apache-beam dask "
    "distributed pydantic"
).split()
NEEDED = frozenset("clipmill torch numpy av decord zarr pyarrow pydantic".split())


NETWORKS = ("squeezenet", "resnet50", "vgg16", "c3d", "i3d")
"""Whose ceilings are measured, cheap ones first: each is a part of what most builds make."""
SPEED_SECONDS = 3.0
"""ours: for each network, beyond what it takes to load."""


def run_speed() -> Outcome:
    """Measures the ceilings of this machine: its decoder on a made video, and networks alone on ready inputs."""
    from clipmill.extractors.resolve import resolve_recipe
    from clipmill.pipelines.decode.selfcheck import MADE_VIDEO, made_video_rate
    from clipmill.pipelines.features.bare_model import bare_rate
    from clipmill.schemas.config import DecodeConfig, FeatureConfig
    from clipmill.schemas.recipe import ClipRule

    device = "cuda" if len(_devices()) > 1 else "cpu"
    num_threads = num_cores()
    rates: dict[str, float | None] = {}
    for name in NETWORKS:
        feature = FeatureConfig.model_validate({"weights": {"random": 0}})
        rates[name] = bare_rate(
            resolve_recipe(name, feature, ClipRule(), DecodeConfig()), device, num_threads, SPEED_SECONDS
        )
    decoder = made_video_rate()
    data = {
        "device": _devices()[-1],
        "threads": num_threads,
        "raw_decoder_frames_per_second": round(decoder, 1),
        "bare_model_windows_per_second": {name: rate and round(rate, 3) for name, rate in rates.items()},
    }
    lines = [
        f"ceilings of this machine ({data['device']}, {num_threads} threads)",
        f"  raw decoder: {decoder:.0f} frames/s ({MADE_VIDEO})",
    ]
    for name, rate in rates.items():
        shown = (
            "not measured: a window takes longer than its share of the time" if not rate else f"{rate:.2f} windows/s"
        )
        lines.append(f"  bare {name}: {shown}")
    return Outcome(data, "\n".join(lines), EXIT_COMPLETE)


def run_doctor() -> Outcome:
    """Lists libraries and devices, and decodes a small video with both decoders; exit code 1 when a check fails."""
    versions = {name: _version(name) for name in LIBRARIES}
    # The fork of decord under its import name (docs/decoding.md).
    fork = _version("decord2")
    both = versions["decord"] is not None and fork is not None
    versions["decord"] = fork or versions["decord"]
    problems = ["decord: installed twice; pip uninstall -y decord decord2, then install clipmill again"] if both else []
    problems += [f"{name}: not installed; pip install clipmill again" for name in NEEDED if versions[name] is None]
    checks = check_decoders()
    problems += [f"{check.name}: {check.message}" for check in checks if not check.passed]
    data: dict[str, Any] = {
        "python": platform.python_version(),
        "cores": num_cores(),
        "devices": _devices(),
        "shared_memory_free_bytes": _free("/dev/shm"),
        "libraries": versions,
        "checks": [{"name": check.name, "passed": check.passed, "message": check.message} for check in checks],
        "problems": problems,
    }
    lines = [f"python {data['python']}, {data['cores']} cores, devices: {', '.join(data['devices'])}"]
    lines += [f"  {name} {found or '(not installed)'}" for name, found in versions.items()]
    lines += [f"  {'ok  ' if check.passed else 'FAIL'} {check.name}: {check.message}" for check in checks]
    lines.append("no problem found" if not problems else f"{len(problems)} problems:\n  " + "\n  ".join(problems))
    return Outcome(data, "\n".join(lines), EXIT_FAILURE if problems else EXIT_COMPLETE)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    import torch

    return ["cpu", *(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))]


def _free(path: str) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None
