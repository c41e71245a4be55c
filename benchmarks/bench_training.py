"""Prints what the training loop costs, as ratios in one run: against a bare loop, and two workers against one.

    python -m benchmarks.bench_training [--pairs 1400] [--dim 4096] [--repeat 7] [--batch 2048]

An epoch of the loop (batches, noise, losses, metrics.jsonl, a checkpoint in ten) is set against the same steps over
tensors that lie ready. Two workers on a core each are set against one on one core. Both sides of a ratio take turns,
and medians are compared. A worker's processor time is printed too: on a machine that others use, its ratio is what
that by the clock would be if they did not.
"""

import argparse
import datetime
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipmill.models import registry
from clipmill.models.base import Batch, Sizes, Values, resolved_loop
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.training.loop import Training, TrainingItems, train_epoch
from clipmill.pipelines.training.optimiser import Optimiser
from clipmill.pipelines.training.parallel import OneProcess, Parallel, ProcessGroup
from clipmill.pipelines.training.phases import planned_phases
from clipmill.pipelines.training.train import train_items
from clipmill.schemas.config import LoopConfig, TrainConfig
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.inputs import InputRows
from clipmill.schemas.model import validate

SYSTEMS = ("map_ivr", "dscmr")
DIM, NUM_LABELS = 4096, 20
Measured = list[tuple[float, float]]
"""Seconds by the clock and of the processor, of each turn."""

EPOCHS = 10
"""Of a run that is timed; its last has the checkpoint."""


def pairs(number: int, dim: int) -> Items:
    """Returns pairs of vectors of `dim` numbers, half of them zeros, as a ReLU layer leaves them."""
    random = np.random.default_rng(0)
    image, video = (np.maximum(random.standard_normal((number, dim), dtype=np.float32), 0) for _ in range(2))
    video_ids = tuple(f"{i}.mp4" for i in range(number))
    return Items(
        inputs={"image": InputRows(image), "video": InputRows(video)},
        label=np.arange(number) % NUM_LABELS,
        label_names=tuple(f"class {i:02d}" for i in range(NUM_LABELS)),
        clip_ids=tuple(f"{video_id}#0" for video_id in video_ids),
        video_ids=video_ids,
        clips=np.zeros(number, np.int32),
        clip_seconds=np.tile([0.0, 10.0], (number, 1)),
        part=np.full(number, "train"),
        sources={name: FeatureSource(name, "0" * 32, dim) for name in ("image", "video")},
        store_url="nowhere",
        dataset="made",
    )


def model_of(name: str, dim: int) -> Any:
    """Returns a fresh model with the options of its publication."""
    return registry.build(name, registry.resolve_options(name, {}), Sizes({"image": dim, "video": dim}, NUM_LABELS))


def loop_of(name: str, **given: Any) -> LoopConfig:
    """Returns the loop of a model's publication, with some keys given."""
    return resolved_loop(registry.registration(name).card, LoopConfig(epochs=EPOCHS, **given))


def bare_run(name: str, items: Items) -> None:
    """Trains `EPOCHS` epochs without the loop: what anybody would write down first."""
    model, config = model_of(name, items.inputs["image"].dim), loop_of(name)
    image, video = (torch.from_numpy(items.inputs[key].values) for key in ("image", "video"))
    label, number = torch.from_numpy(items.label), len(items)
    shapes = model.draws() if hasattr(model, "draws") else {}
    adam = torch.optim.Adam(model.parameters(), lr=config.learning_rate, betas=(config.beta1, 0.999), fused=True)
    model.train()
    for _ in range(EPOCHS):
        order = torch.randperm(number)
        for start in range(0, number, config.batch):
            taken = order[start : start + config.batch]
            draws = {key: torch.randn(len(taken), *shape) for key, shape in shapes.items()}
            inputs = {"image": Values(image[taken]), "video": Values(video[taken])}
            adam.zero_grad(set_to_none=True)
            model.losses(Batch(inputs, label[taken], draws))["total"].mean().backward()
            adam.step()


def whole_run(name: str, items: Items) -> None:
    """Trains `EPOCHS` epochs as ``clipmill train`` does, from items in memory."""
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "data": {"store": "nowhere", "image": "image", "video": "video"},
            "model": {"name": name},
            "loop": {"epochs": EPOCHS, "device": "cpu", "threads": torch.get_num_threads()},
            "out": folder,
        }
        train_items(validate(TrainConfig, config, "benchmark"), items)


def turns(left: Callable[[], object], right: Callable[[], object], repeat: int) -> tuple[Measured, Measured]:
    """Returns what both took, taking turns."""
    measured: tuple[Measured, Measured] = ([], [])
    for turn in range(2 * repeat):
        # Each is as often before the other as after it.
        place = (turn + turn // 2) % 2
        clock, processor = time.perf_counter(), time.process_time()
        (left, right)[place]()
        measured[place].append((time.perf_counter() - clock, time.process_time() - processor))
    return measured


def ratios(left: Measured, right: Measured) -> tuple[float, float]:
    """Returns the median over the turns of left over right, by the clock and of the processor."""
    clock, processor = np.median(np.array(left) / np.array(right), axis=0)
    return float(clock), float(processor)


def training_of(name: str, items: Items, batch: int, parallel: Parallel) -> Training:
    """Returns what an epoch of `batch` items a step needs."""
    model, config = model_of(name, items.inputs["image"].dim), loop_of(name, batch=batch)
    card = registry.registration(name).card
    phases = planned_phases(model, config)
    placed = TrainingItems.on_device(items.inputs, items.label, torch.device("cpu"))
    optimiser = Optimiser(model, config, phases)
    return Training(model, optimiser, placed, config, phases, parallel, card.couples_batch, card.gathers)


def timed_epochs(rank: int, num_workers: int, name: str, batch: int, dim: int, repeat: int, folder: str) -> None:
    """Is one of `num_workers` on a core of its own; writes the seconds by the clock and of the processor per epoch."""
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    if num_workers > 1:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/rendezvous",
            rank=rank,
            world_size=num_workers,
            timeout=datetime.timedelta(minutes=5),
        )
    parallel: Parallel = ProcessGroup() if num_workers > 1 else OneProcess()
    training = training_of(name, pairs(2 * batch, dim), batch, parallel)
    train_epoch(training, 0)
    measured = []
    for epoch in range(1, repeat + 1):
        clock, processor = time.perf_counter(), time.process_time()
        train_epoch(training, epoch)
        measured.append((time.perf_counter() - clock, time.process_time() - processor))
    Path(folder, f"{num_workers}-{rank}.txt").write_text(json.dumps(np.median(measured, axis=0).tolist()))
    if num_workers > 1:
        torch.distributed.destroy_process_group()


def workers_seconds(num_workers: int, name: str, batch: int, dim: int, repeat: int) -> tuple[float, float]:
    """Returns the median seconds of an epoch of the slowest worker, by the clock and of the processor."""
    with tempfile.TemporaryDirectory() as folder:
        given = (num_workers, name, batch, dim, repeat, folder)
        torch.multiprocessing.spawn(timed_epochs, given, num_workers)  # type: ignore[no-untyped-call]
        found = [json.loads(path.read_text()) for path in Path(folder).glob(f"{num_workers}-*.txt")]
    clock, processor = np.max(found, axis=0)
    return float(clock), float(processor)


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1400)
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--batch", type=int, default=2048, help="of the comparison of workers")
    parser.add_argument("--systems", nargs="+", default=SYSTEMS)
    parser.add_argument("--only", choices=("loop", "workers"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    items = pairs(arguments.pairs, arguments.dim)
    for name in arguments.systems if arguments.only != "workers" else ():
        ours, bare = turns(lambda: whole_run(name, items), lambda: bare_run(name, items), arguments.repeat)  # noqa: B023
        clock, processor = ratios(ours, bare)
        epoch = statistics.median(seconds for seconds, _ in bare) / EPOCHS
        print(
            f"{name}: {len(items)} pairs of {arguments.dim} numbers, an epoch of a bare loop {epoch:.3f} s; "
            f"the whole run {clock:.2f}x by the clock, {processor:.2f}x in processor time"
        )
    for name in arguments.systems if arguments.only != "loop" else ():
        given = (name, arguments.batch, arguments.dim, 3)
        one, two = [], []
        for _ in range(max(1, arguments.repeat // 2)):
            one.append(workers_seconds(1, *given))
            two.append(workers_seconds(2, *given))
        clock, processor = ratios(one, two)
        print(
            f"{name}: batch {arguments.batch}, two workers on two cores against one on one: {clock:.2f}x by the clock, "
            f"{processor:.2f}x in processor time of a worker"
        )


if __name__ == "__main__":
    main()
