"""Prints what training CI-MHA costs: an epoch against a bare loop on ready tensors, and memory on Charades-STA.

    python -m benchmarks.bench_moments ratio [--items 200] [--dim 512] [--steps 128] [--repeat 3]
    python -m benchmarks.bench_moments memory FOLDER --annotations ../shared/data/annotations/charades_sta

`ratio` sets an epoch of the loop (order, batches of shared rows, noise, losses, metrics.jsonl) against the same steps
over padded tensors that lie ready; both take turns. `memory` writes vectors of 1024 numbers, three a second, for all
videos of the annotations into FOLDER (about 5 GB, half of it a store), and prints the peak of a process that reads
all training queries and takes some steps of the published size (batch 100, 128 steps, D = 512).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bench_training import turns
from clipmill.models import registry
from clipmill.models.base import Batch, Sizes, Values, resolved_loop
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.training.train import items_for, train_items
from clipmill.schemas.config import LoopConfig, TrainConfig
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.inputs import InputRows
from clipmill.schemas.model import validate

VIDEO_DIM, NUM_WORDS, BATCH = 1024, 1138, 100
STEPS_PER_SECOND = 3.0
STEPS_TAKEN = 3
"""Batches behind the peak of memory: all are of one size."""


def queries(number: int, steps: int) -> Items:
    """Returns queries of 10 words, two for each video of `steps` steps."""
    random = np.random.default_rng(0)
    videos = (number + 1) // 2
    values = random.standard_normal((videos * steps, VIDEO_DIM), dtype=np.float32)
    offsets = np.arange(videos + 1) * steps
    spans = np.sort(random.integers(0, steps, (number, 2)), axis=1)
    words = InputRows(random.integers(2, NUM_WORDS, number * 10), np.arange(number + 1) * 10)
    entry = np.arange(number) // 2
    return Items(
        inputs={"video": InputRows(values, offsets, entry=entry), "query": words},
        label=np.full(number, -1),
        label_names=(),
        clip_ids=tuple(f"q{i}" for i in range(number)),
        video_ids=tuple(f"v{i}" for i in entry.tolist()),
        clips=np.zeros(number, np.int32),
        clip_seconds=np.tile([0.0, 1.0], (number, 1)),
        part=np.full(number, "train"),
        sources={
            "video": FeatureSource("steps", "0" * 32, VIDEO_DIM),
            "query": FeatureSource("queries", "1" * 32, NUM_WORDS),
        },
        vocabularies={"query": tuple(f"w{i}" for i in range(NUM_WORDS - 2))},
        store_url="nowhere",
        dataset="made",
        targets={"span": spans},
    )


def ratio(number: int, dim: int, steps: int, repeat: int) -> dict[str, float]:
    """Returns medians of the ratios of an epoch to a bare one, by the clock and by the processor."""
    items = queries(number, steps)
    options = registry.resolve_options("ci_mha", {"dim": dim, "max_words": 10, "max_steps": steps})
    loop = resolved_loop(registry.registration("ci_mha").card, LoopConfig(epochs=1, batch=min(BATCH, number)))
    ready = {key: tuple(torch.from_numpy(part) for part in rows.padded()) for key, rows in items.inputs.items()}
    span = torch.from_numpy(items.targets["span"])

    def bare() -> None:
        sizes = Sizes({"video": VIDEO_DIM, "query": NUM_WORDS})
        model: Any = registry.build("ci_mha", options, sizes)
        adam = torch.optim.Adam(model.parameters(), lr=loop.learning_rate, fused=True)
        model.train()
        order = torch.randperm(number)
        for start in range(0, number, loop.batch):
            taken = order[start : start + loop.batch]
            inputs = {key: Values(values[taken], mask[taken]) for key, (values, mask) in ready.items()}
            draws = {key: torch.randn(len(taken), *shape) for key, shape in model.draws().items()}
            adam.zero_grad(set_to_none=True)
            model.losses(Batch(inputs, None, draws, targets={"span": span[taken]}))["total"].mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            train_items(_config(folder, "nowhere", {}, options.model_dump(), 1, loop.batch), items)

    whole()  # What is imported and laid out the first time is no part of an epoch.
    left, right = turns(whole, bare, repeat)
    clock, processor = (statistics.median(turn[i] for turn in left) for i in (0, 1))
    bare_clock, bare_processor = (statistics.median(turn[i] for turn in right) for i in (0, 1))
    return {
        "epoch_processor_seconds": round(processor, 2),
        "bare_processor_seconds": round(bare_processor, 2),
        "ratio_clock": round(clock / bare_clock, 3),
        "ratio_processor": round(processor / bare_processor, 3),
    }


def _config(
    out: str, store: str, queries: dict[str, Any], options: dict[str, Any], epochs: int, batch: int
) -> TrainConfig:
    return validate(
        TrainConfig,
        {
            "data": {"store": store, "video": "steps", "queries": {"train": "nowhere", **queries}},
            "model": {"name": "ci_mha", "options": options},
            "loop": {"epochs": epochs, "batch": batch, "device": "cpu", "threads": torch.get_num_threads()},
            "out": out,
        },
        "benchmark",
    )


def write_store(folder: Path, annotations: Path) -> None:
    """Writes a store with vectors for all videos, drawn from one block, of which each begins somewhere else."""
    from clipmill.pipelines.features.imported.run import import_features
    from clipmill.schemas.config_import import ImportConfig

    durations = json.loads((annotations / "charades.json").read_text("utf-8"))
    lines = "".join((annotations / f"charades_sta_{part}.txt").read_text("utf-8") for part in ("train", "test"))
    videos = sorted({line.split()[0] for line in lines.splitlines()})
    random = np.random.default_rng(0)
    block = random.standard_normal((4096, VIDEO_DIM), dtype=np.float32)
    (folder / "npy").mkdir(parents=True, exist_ok=True)
    rows = ["id,duration_seconds"]
    for video in videos:
        seconds = float(durations[video]["duration"])
        num = max(1, round(seconds * STEPS_PER_SECOND))
        begin = int(random.integers(0, len(block) - min(num, 4000)))
        np.save(folder / "npy" / f"{video}.npy", block[begin : begin + num])
        rows.append(f"{video},{seconds}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", "utf-8")
    config = {
        "store": {"url": str(folder / "store"), "dataset": "charades_sta", "format": "npy"},
        "manifest": str(folder / "manifest.csv"),
        "features": {"steps": {"file": f"{folder}/npy/{{id}}.npy", "steps": {"evenly": True}}},
    }
    import_features(validate(ImportConfig, config, "benchmark"))


def peak(folder: Path, annotations: Path) -> dict[str, float]:
    """Returns the peak of this process, which reads all training queries and takes `STEPS_TAKEN` steps."""
    train = {"file": str(annotations / "charades_sta_train.txt"), "durations": str(annotations / "charades.json")}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out, _AnonymousMemory() as own:
        config = _config(out, str(folder / "store"), {"train": train}, {"max_words": 10}, 1, BATCH)
        card = registry.card("ci_mha", registry.resolve_options("ci_mha", config.model.options))
        items = items_for(config.data, card)
        read = _peak_gib()
        seconds = time.perf_counter() - began
        # The longest videos, so that no batch is larger; rows are shared, so all of them stay in memory.
        longest = np.argsort(-items.inputs["video"].lengths(), kind="stable")[: STEPS_TAKEN * BATCH]
        train_items(config, items.take(longest))
    return {
        "queries": len(items),
        "rows_gib": round(items.inputs["video"].values.nbytes / 2**30, 2),
        "peak_gib_once_read": round(read, 2),
        "peak_gib": round(_peak_gib(), 2),
        "peak_gib_without_mapped_files": round(own.peak_gib, 2),
        "seconds_to_read": round(seconds, 1),
    }


class _AnonymousMemory:
    """The most memory of this process beside mapped files, whose pages the system takes back when it needs them.

    It is looked at a hundred times a second while this is entered.
    """

    def __init__(self) -> None:
        self.peak_gib = 0.0
        self._is_over = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_AnonymousMemory":
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.01):
            (line,) = (
                line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")
            )
            self.peak_gib = max(self.peak_gib, int(line.split()[1]) / 2**20)


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("ratio", "memory", "peak"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "ratio":
        print(json.dumps(ratio(given.items, given.dim, given.steps, given.repeat)))
    elif given.what == "peak":
        print(json.dumps(peak(given.folder, given.annotations)))
    else:
        if not (given.folder / "store").exists():
            write_store(given.folder, given.annotations)
        # In a process of its own, whose peak has nothing of the writing.
        command = [sys.executable, "-m", "benchmarks.bench_moments", "peak", str(given.folder)]
        subprocess.run([*command, "--annotations", str(given.annotations)], check=True)


if __name__ == "__main__":
    main()
