"""How fast a recipe's bare network is on this machine: the ceiling that a build's windows are held against."""

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from clipmill.extractors import registry
from clipmill.extractors.base import Extractor, ReadyExtractor
from clipmill.extractors.compiled_network import sample_frames
from clipmill.pipelines.features.device_memory import empty_cache, is_out_of_memory
from clipmill.pipelines.features.passports import device_name
from clipmill.pipelines.features.plan import COMPUTE_GMAC_PER_SECOND
from clipmill.schemas.fingerprint import fingerprint
from clipmill.schemas.recipe import Recipe

FOLDER = "clipmill/bare_models"
"""Below ``$XDG_CACHE_HOME`` or ``~/.cache``: a rate belongs to a machine, not to a store. Without it all is new."""


def bare_rate(recipe: Recipe, device: str, num_threads: int, seconds: float) -> float | None:
    """Returns windows per second of the recipe's network alone, on inputs that are ready, at its best batch.

    Remembered per machine and recipe. Measured where it is not: for about `seconds` beyond what the network takes to
    load, so None where one window may take longer, and where it cannot be run on such inputs.

    Args:
        device: ``cpu`` or ``cuda``.
        num_threads: compute threads on a CPU.
    """
    path = _path(recipe, device, num_threads)
    found = _remembered(path)
    if found is not None or not seconds or _expected_seconds(recipe) > seconds:
        return found
    rate = measure(recipe, device, num_threads, seconds)
    if rate is not None:
        _remember(path, recipe, rate)
    return rate


def measure(recipe: Recipe, device: str, num_threads: int, seconds: float) -> float | None:
    """Returns the rate of `bare_rate`, measured now: the best of batches of the usual size, twice and half of it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        extractor = registry.build(recipe, device)
        usual = registry.card_of(recipe).batch_windows
        if _expected_seconds(recipe) * usual > seconds:
            usual = 1
        stop_at = time.perf_counter() + seconds
        best = 0.0
        for size in (usual, 2 * usual, usual // 2):
            if size and (not best or time.perf_counter() + size / best < stop_at):
                best = max(best, _rate_of_batch(extractor, recipe, size, seconds / 3))
        return best
    except Exception as error:
        # What reads files of each video has no sample; and a ceiling is no reason for a build to fail.
        if is_out_of_memory(error):
            empty_cache()
        return None
    finally:
        torch.set_num_threads(before)


def _rate_of_batch(extractor: Extractor, recipe: Recipe, size: int, seconds: float) -> float:
    frames = np.repeat(sample_frames(recipe), size, axis=0)
    run = extractor.ready(frames) if isinstance(extractor, ReadyExtractor) else lambda: extractor.forward(frames)
    run()
    least, started = float("inf"), time.perf_counter()
    while least == float("inf") or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - before)
    return size / least


def _expected_seconds(recipe: Recipe) -> float:
    return registry.card_of(recipe).gmac_of(recipe.sampling) / COMPUTE_GMAC_PER_SECOND


def _path(recipe: Recipe, device: str, num_threads: int) -> Path:
    machine = {
        "recipe": recipe.fingerprint,
        "device": device_name(device),
        "cpu": _cpu(),
        "num_threads": num_threads if device == "cpu" else None,
        "torch": version("torch"),
        "runtime": version(recipe.runtime) if recipe.runtime is not None else None,
    }
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, FOLDER, f"{fingerprint(machine)}.json")


def _cpu() -> str:
    """Returns the model of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _remembered(path: Path) -> float | None:
    try:
        found = json.loads(path.read_text("utf-8"))["windows_per_second"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(found) if isinstance(found, int | float) and found > 0 else None


def _remember(path: Path, recipe: Recipe, rate: float) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In one step: builds may end beside each other.
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps({"recipe": recipe.key, "windows_per_second": rate}) + "\n", "utf-8")
        draft.replace(path)
    except OSError:
        # Without a folder to write to it is measured each time.
        return
