"""Every registered model, killed in the middle of an epoch or of a solution: going on ends with the same bits."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from clipmill.jobs.output import _terminate
from clipmill.models import registry
from clipmill.models.checkpoints import checkpoints, find_checkpoint, load
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.training import loop
from clipmill.pipelines.training.train import TrainReport, train_items
from clipmill.pipelines.training.worker import EpochDone
from clipmill.schemas.config import TrainConfig
from clipmill.schemas.model import validate
from tests.models.small_models import SMALL
from tests.models.synthetic_items import synthetic_items

EVERYTHING: dict[str, Any] = {
    "precision": "float16",
    "schedule": "cosine",
    "warmup_epochs": 2,
    "max_gradient_norm": 0.5,
    "select": "total",
    "patience": 5,
}
"""All that a loop keeps account of."""

STEPS = {"acmr": 2, "apivr": 2}
"""Steps of a batch, where there are several."""

Form = tuple[str, dict[str, Any]]
"""A model and options besides those that make it small."""

FORMS: list[Form] = [
    *((name, {}) for name in registry.BUILT_IN),
    ("cmdn", {"greedy": True}),
    ("ccl", {"parts": True, "max_parts": 4, "joint_dim": 12}),
    ("ci_mha", {"fusion": "seq"}),
    ("apivr", {"form": "released", "num_proposals": 6}),
    ("semart", {"form": "amd"}),
    ("shot_embedding", {"encoder": "gru", "start": "random", "embedding_dim": 8}),
]
LEARNING = [form for form in FORMS if not registry.registration(form[0]).card.closed_form]
SOLVED = [form for form in FORMS if registry.registration(form[0]).card.closed_form]


def config_of(form: Form, out: Path, **given: Any) -> TrainConfig:
    name, options = form
    card = registry.card(name, registry.resolve_options(name, SMALL.get(name, {}) | options))
    data: dict[str, Any] = {"image": None, "video": None} | {key: f"{key} feature" for key in card.inputs}
    named = {key: data.pop(key) for key in ("image", "video")}
    return validate(
        TrainConfig,
        {
            "data": {"store": "somewhere/store", **named, "inputs": data},
            "model": {"name": name, "options": SMALL.get(name, {}) | options},
            "loop": given,
            "out": str(out),
        },
        "test",
    )


def items_of(config: TrainConfig) -> Items:
    card = registry.card(config.model.name, registry.resolve_options(config.model.name, config.model.options))
    return synthetic_items(card.inputs)


def killed(config: TrainConfig, with_signal: int, at_step: int | None) -> int:
    """Returns how a process that trains ended, which was sent `with_signal` in a step, or after an iteration."""
    # A fork has everything imported; what trains in it has one thread.
    process = multiprocessing.get_context("fork").Process(target=_train, args=(config, with_signal, at_step))
    process.start()
    process.join(280)
    if process.is_alive():
        process.kill()
    return process.exitcode or 0


def _train(config: TrainConfig, with_signal: int, at_step: int | None) -> None:
    # As the command has it.
    signal.signal(signal.SIGTERM, _terminate)
    step, taken = loop._step, []

    def watched(*arguments: Any) -> Any:
        taken.append(0)
        if len(taken) == at_step:
            os.kill(os.getpid(), with_signal)
        return step(*arguments)

    def after(done: EpochDone) -> None:
        if at_step is None:
            os.kill(os.getpid(), with_signal)

    loop._step = watched
    try:
        train_items(config, items_of(config), [after])
    except KeyboardInterrupt:
        os._exit(4)
    os._exit(0)


def state_of(report: TrainReport) -> dict[str, Any]:
    trained = load(find_checkpoint(report.out, f"epoch-{report.epoch:04d}"))
    flat = dict(trained.model.state_dict())
    for number, state in trained.training.get("optimiser", {}).get("state", {}).items():
        flat |= {f"optimiser {number} {name}": value for name, value in state.items()}
    return flat | {f"scaler {name}": torch.tensor(value) for name, value in trained.training.get("scaler", {}).items()}


def assert_the_same(one: TrainReport, two: TrainReport) -> None:
    assert (one.losses, one.epoch, one.selected_epoch) == (two.losses, two.epoch, two.selected_epoch)
    ours, theirs = state_of(one), state_of(two)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize(
    ("form", "way"),
    [
        # Each form once: as it is, or with all that a loop keeps account of; the other way is slow.
        pytest.param(form, way, id=f"{form}-{way}", marks=pytest.mark.slow if (number + bool(every)) % 2 else ())
        for number, form in enumerate(LEARNING)
        for every, way in enumerate(("plain, SIGKILL", "everything, SIGTERM"))
    ],
)
def test_a_killed_training_goes_on_with_the_same_bits(form: Form, way: str, tmp_path: Path) -> None:
    kept: dict[str, Any] = {"epochs": 8, "batch": 9, "learning_rate": 0.003, "checkpoint_every_epochs": 2}
    kept |= {"keep_checkpoints": 9, "device": "cpu", "threads": 1} | (EVERYTHING if "every" in way else {})
    whole = config_of(form, tmp_path / "whole", **kept)
    expected = train_items(whole, items_of(whole))
    parts = config_of(form, tmp_path / "parts", **kept)
    # 24 clips in three batches: in the second one of epoch 5.
    at_step = (4 * 3 + 1) * STEPS.get(form[0], 1) + 1
    code = killed(parts, signal.SIGKILL if "KILL" in way else signal.SIGTERM, at_step)
    assert code == (-signal.SIGKILL if "KILL" in way else 4)
    newest = max(checkpoints(parts.out))
    assert newest == 4
    resumed = train_items(parts, items_of(parts))
    assert resumed.start_epoch == newest
    assert_the_same(resumed, expected)


@pytest.mark.parametrize("form", SOLVED, ids=str)
def test_a_killed_solution_is_found_again(form: Form, tmp_path: Path) -> None:
    whole, parts = (config_of(form, tmp_path / name, threads=1) for name in ("whole", "parts"))
    expected = train_items(whole, items_of(whole))
    assert killed(parts, signal.SIGKILL, None) == -signal.SIGKILL
    assert not checkpoints(parts.out)
    resumed = train_items(parts, items_of(parts))
    assert resumed.start_epoch == 0
    assert_the_same(resumed, expected)
    again = train_items(parts, items_of(parts))
    assert again.start_epoch == resumed.epoch
    assert_the_same(again, expected)
