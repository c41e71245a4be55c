"""The toy experiment of CPNet (Liu, Lee and Jin, CVPR 2019): which networks can tell where a block moves.

The claim: convolutions whose field is smaller than a step, and attention that knows no places, stay at chance; the CP
module learns it. Every number is a function of the config: each run has its seed and one compute thread.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, util
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as functional
from pydantic import Field, model_validator
from torch import Tensor

from clipmill.pipelines.process_guard import guarded
from clipmill.pipelines.reproductions.cpnet_toy.data import CLASSES, VARIANTS, Clips, border_leak, draw
from clipmill.pipelines.reproductions.cpnet_toy.networks import NETS, NetName, ToyNet, make_net
from clipmill.schemas.model import LocalPath, Model

CHANCE = 1 / len(CLASSES)
LEARNED = 0.95
"""Test accuracy from which a network counts as having learned the task (ours)."""
NUM_STANDARD_ERRORS = 3
"""A network is at chance where no seed's test accuracy lies further from it (ours)."""
SOURCE = "CPNet poster, CVPR 2019 (arXiv 1905.07853)"
CLAIM = "earlier methods stay at chance (25 %), the network with correspondence proposals learns it"
CLAIMED: dict[NetName, Literal["chance", "learned"]] = {
    "C2D": "chance",
    "C3D": "chance",
    "C2D+NL": "chance",
    "C2D+CP": "learned",
}
ASSERTED_ON = "leak-free"
"""Only there is nothing but motion to learn from."""
TEST_BATCH = 50

VariantName = Literal["published", "leak-free"]


class CPNetToyConfig(Model):
    """``clipmill reproduce cpnet-toy --set key=value``.

    What is published: block, canvas, steps, classes, two 3 x 3 convolutions. All values below are ours.

    Attributes:
        out: folder of results.json.
        num_train, num_test: clips per seed, multiples of four; no test clip is a training clip.
        learning_rate: highest of one cycle (up in a tenth of the steps, then down to nothing), with Adam.
        k: neighbours of a point in the CP module.
        workers: runs at the same time, each in a process; 0: one per core. Changes no number.
    """

    out: LocalPath = "out/reproduce/cpnet-toy"
    variants: tuple[VariantName, ...] = Field(default=("published", "leak-free"), min_length=1)
    nets: tuple[NetName, ...] = Field(default=NETS, min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    num_train: int = Field(default=1000, ge=100, multiple_of=len(CLASSES))
    num_test: int = Field(default=1000, ge=100, multiple_of=len(CLASSES))
    epochs: int = Field(default=8, ge=1)
    batch: int = Field(default=25, ge=2)
    learning_rate: float = Field(default=3e-3, gt=0)
    k: int = Field(default=4, ge=1, le=128)
    workers: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _once(self) -> "CPNetToyConfig":
        for key in ("variants", "nets", "seeds"):
            given = getattr(self, key)
            if len(set(given)) != len(given):
                raise ValueError(f"{key}: expected each once, got {list(given)}")
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"seeds: expected zero or more, got {list(self.seeds)}")
        if self.num_train % self.batch == 1:
            raise ValueError(f"batch: expected no last batch of a single clip, got {self.batch} of {self.num_train}")
        return self


@dataclass(frozen=True, slots=True)
class ToyRun:
    """One trained network: accuracy on its training clips in the last epoch, and on the test clips."""

    variant: VariantName
    net: NetName
    seed: int
    train_accuracy: float
    test_accuracy: float
    seconds: float


Progress = Callable[[int, int, ToyRun], None]
"""Called after each run with the number done, the number of all, and the run."""


def reproduce(config: CPNetToyConfig, num_workers: int, progress: Progress) -> dict[str, Any]:
    """Trains every network on every variant with every seed and returns the result, plain and in a fixed order."""
    runs: list[ToyRun] = []
    # The slow ones first, so that the workers end together.
    wanted = [(config, v, n, s) for n in reversed(config.nets) for s in config.seeds for v in config.variants]

    def tell(run: ToyRun) -> None:
        runs.append(run)
        progress(len(runs), len(wanted), run)

    if num_workers == 1:
        with _one_thread():
            for each in wanted:
                tell(_run(each))
    else:
        # Leaving the pool kills its processes, so that an interrupted user does not wait for runs that are at work.
        try:
            with guarded(), get_context("spawn").Pool(min(num_workers, len(wanted)), initializer=_start) as pool:
                for run in pool.imap_unordered(_run, wanted):
                    tell(run)
        except KeyboardInterrupt:
            # The command ends without Python's own clean-up, and multiprocessing would complain of lost semaphores.
            util._run_finalizers()  # type: ignore[attr-defined]
            raise
    leaks = {}
    for variant in config.variants:
        for seed in config.seeds:
            train, test = _clips(config, variant, seed)
            leaks[variant, seed] = (border_leak(train, test, ordered=True), border_leak(train, test, ordered=False))
    return _result(config, runs, leaks)


def _start() -> None:
    """Prepares a process of the pool: one compute thread, and Ctrl-C is for the process that started it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(wanted: tuple[CPNetToyConfig, VariantName, NetName, int]) -> ToyRun:
    config, variant, name, seed = wanted
    train, test = _clips(config, variant, seed)
    return _train(config, make_net(name, config.k, seed), train, test, variant, name, seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _clips(config: CPNetToyConfig, variant: str, seed: int) -> tuple[Clips, Clips]:
    rng = np.random.default_rng([seed, list(VARIANTS).index(variant)])
    train = draw(VARIANTS[variant], config.num_train, rng)
    return train, draw(VARIANTS[variant], config.num_test, rng, apart_from=train)


def _train(
    config: CPNetToyConfig, net: ToyNet, train: Clips, test: Clips, variant: VariantName, name: NetName, seed: int
) -> ToyRun:
    started = time.monotonic()
    frames, label = torch.from_numpy(train.frames()), torch.from_numpy(train.label)
    optimiser = torch.optim.Adam(net.parameters(), lr=config.learning_rate)
    num_steps = config.epochs * -(-len(train) // config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=num_steps, pct_start=0.1, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(seed)
    correct = 0
    for _ in range(config.epochs):
        correct = 0
        for batch in torch.split(torch.randperm(len(train), generator=generator), config.batch):
            logits = net(frames[batch])
            loss = functional.cross_entropy(logits, label[batch])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            correct += int((logits.argmax(dim=1) == label[batch]).sum())
    accuracy = accuracy_on(net, torch.from_numpy(test.frames()), torch.from_numpy(test.label))
    return ToyRun(variant, name, seed, correct / len(train), accuracy, time.monotonic() - started)


def accuracy_on(net: ToyNet, frames: Tensor, label: Tensor) -> float:
    """Returns the share of clips whose class is predicted; ``float32[N, T, 32, 32]`` and ``int64[N]``."""
    net.eval()
    with torch.inference_mode():
        predicted = torch.cat([net(batch).argmax(dim=1) for batch in torch.split(frames, TEST_BATCH)])
    return float((predicted == label).double().mean())


def standard_error(num_test: int) -> float:
    """Returns the standard error of the accuracy of guessing on so many clips."""
    return float((CHANCE * (1 - CHANCE) / num_test) ** 0.5)


def _result(
    config: CPNetToyConfig, runs: list[ToyRun], leaks: dict[tuple[VariantName, int], tuple[float, float]]
) -> dict[str, Any]:
    error = standard_error(config.num_test)
    variants: dict[str, Any] = {}
    for variant in config.variants:
        nets = {}
        for name in config.nets:
            of_cell = sorted((run for run in runs if (run.variant, run.net) == (variant, name)), key=_order(config))
            accuracy = [run.test_accuracy for run in of_cell]
            found = _outcome(accuracy, error)
            nets[name] = {
                "test_accuracy": accuracy,
                "mean": float(np.mean(accuracy)),
                "train_accuracy": [run.train_accuracy for run in of_cell],
                "found": found,
                "claimed": CLAIMED[name],
                "holds": found == CLAIMED[name],
            }
        ordered, unordered = zip(*(leaks[variant, seed] for seed in config.seeds), strict=True)
        variants[variant] = {
            "summary": VARIANTS[variant].summary,
            "nets": nets,
            "border_leak": {"in_order": list(ordered), "without_order": list(unordered)},
        }
    asserted = variants.get(ASSERTED_ON)
    complete = asserted is not None and set(config.nets) == set(NETS)
    return {
        "name": "cpnet-toy",
        "claim": CLAIM,
        "source": SOURCE,
        "chance": CHANCE,
        "standard_error": error,
        "variants": variants,
        # None: what was left out is needed to say.
        "reproduced": all(net["holds"] for net in asserted["nets"].values()) if complete and asserted else None,
        "config": config.model_dump(mode="json", exclude={"out", "workers"}),
    }


def _order(config: CPNetToyConfig) -> Callable[[ToyRun], int]:
    return lambda run: config.seeds.index(run.seed)


def _outcome(accuracy: list[float], error: float) -> Literal["learned", "chance", "between"]:
    if min(accuracy) >= LEARNED:
        return "learned"
    if max(abs(value - CHANCE) for value in accuracy) <= NUM_STANDARD_ERRORS * error:
        return "chance"
    return "between"
