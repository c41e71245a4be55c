"""Schedules against PyTorch's, clipping and mixed precision against a plain loop as PyTorch documents it."""

import contextlib
from dataclasses import replace
from typing import Any

import pytest
import torch

from clipmill.models import registry
from clipmill.models.base import Sizes, resolved_loop
from clipmill.models.registry import build, resolve_options
from clipmill.pipelines.training.loop import Training, train_epoch
from clipmill.pipelines.training.optimiser import learning_rate_factor
from clipmill.schemas.config import LoopConfig
from tests.models.small_models import SMALL
from tests.models.synthetic_items import synthetic_items
from tests.pipelines.training.conftest import SMALL as SMALL_MAP_IVR
from tests.pipelines.training.conftest import MakePairs
from tests.pipelines.training.test_training_loop import SIZES, training_of

LEARNING = [name for name in registry.BUILT_IN if not registry.registration(name).card.closed_form]


def factors(config: LoopConfig, num_batches: int) -> list[float]:
    return [
        learning_rate_factor(config, epoch, batch, num_batches)
        for epoch in range(config.epochs)
        for batch in range(num_batches)
    ]


def stepped(schedule: Any, num_steps: int) -> list[float]:
    """The rates of one of PyTorch's schedules over an optimiser whose rate is 1."""
    found = []
    for _ in range(num_steps):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def test_cosine_is_pytorchs() -> None:
    expected = stepped(torch.optim.lr_scheduler.CosineAnnealingLR(sgd(), T_max=6 * 5), 30)
    assert factors(LoopConfig(epochs=6, schedule="cosine"), 5) == pytest.approx(expected, abs=1e-12)


def test_milestones_after_a_warm_up_are_pytorchs() -> None:
    config = LoopConfig(epochs=6, milestones=(3, 5), gamma=0.5, warmup_epochs=2)
    optimiser = sgd()
    warm_up = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1 / 8, total_iters=7)
    milestones = torch.optim.lr_scheduler.MultiStepLR(optimiser, [12, 20], gamma=0.5)
    expected = stepped(torch.optim.lr_scheduler.ChainedScheduler([warm_up, milestones]), 24)
    assert factors(config, 4) == pytest.approx(expected, abs=1e-12)


def test_by_default_the_rate_stands_still() -> None:
    assert set(factors(LoopConfig(epochs=3), 4)) == {1.0}


def test_a_cosine_begins_where_the_warm_up_ends() -> None:
    found = factors(LoopConfig(epochs=4, schedule="cosine", warmup_epochs=1), 2)
    assert found == pytest.approx([0.5, 1.0, 1.0, 0.9330127, 0.75, 0.5, 0.25, 0.0669873])


def plain_loop(training: Training, epochs: int, context: Any, scaler: Any, max_norm: float | None) -> dict[str, Any]:
    """The same batches in the loop of PyTorch's manual, over a copy of the model; returns its weights."""
    model, batches = training.model, []
    original = model.losses
    # What the loop gives the model is recorded from the loop itself, the steps are taken here.
    model.losses = lambda batch: batches.append(batch) or original(batch)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for epoch in range(epochs):
        train_epoch(training, epoch)
    model.losses = original
    finished = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(start)
    adam = torch.optim.Adam(model.parameters(), lr=training.config.learning_rate, fused=True)
    for batch in batches:
        adam.zero_grad()
        with context():
            losses = model.losses(batch)
        scaler.scale(losses["total"].float().mean()).backward()
        if max_norm is not None:
            scaler.unscale_(adam)
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        scaler.step(adam)
        scaler.update()
    expected = model.state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in expected.items())
    for name, value in finished.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    return finished


@pytest.mark.parametrize("max_norm", [None, 0.01])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_steps_are_those_of_a_plain_loop(make_pairs: MakePairs, precision: str, max_norm: float | None) -> None:
    pairs = make_pairs(num_labels=2, videos_per_label=10)
    model = build("map_ivr", resolve_options("map_ivr", SMALL_MAP_IVR), SIZES)
    config = LoopConfig(
        epochs=4, batch=8, learning_rate=1e-3, precision=precision, max_gradient_norm=max_norm, beta1=0.9
    )
    kind = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    context = contextlib.nullcontext if kind is None else lambda: torch.autocast("cpu", kind, cache_enabled=False)
    plain_loop(
        training_of(model, pairs, config),
        4,
        context,
        torch.amp.GradScaler("cpu", enabled=precision == "float16"),
        max_norm,
    )


def test_clipping_makes_a_difference(make_pairs: MakePairs) -> None:
    pairs, found = make_pairs(num_labels=2, videos_per_label=10), []
    for max_norm in (None, 0.01):
        model = build("map_ivr", resolve_options("map_ivr", SMALL_MAP_IVR), SIZES)
        training = training_of(model, pairs, LoopConfig(epochs=3, batch=8, max_gradient_norm=max_norm))
        train_epoch(training, 0)
        norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        found.append(float(torch.stack(norms).norm()))
    assert found[0] > 0.1
    assert found[1] == pytest.approx(0.01, rel=1e-3)


def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_is_halved(make_pairs: MakePairs) -> None:
    pairs = make_pairs(num_labels=2, videos_per_label=10)
    model = build("map_ivr", resolve_options("map_ivr", SMALL_MAP_IVR), SIZES)
    training = training_of(model, pairs, LoopConfig(epochs=1, batch=99, precision="float16"))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    state = training.optimiser.state()
    assert state["scaler"]["scale"] == 65536.0
    training.optimiser.load_state(state | {"scaler": state["scaler"] | {"scale": 2.0**40}})
    train_epoch(training, 0)
    assert training.optimiser.state()["scaler"]["scale"] == 2.0**39
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", LEARNING)
def test_half_precision_goes_the_way_of_single(name: str, precision: str) -> None:
    """Of each part of each model: its gradient points where that of single precision does, and is as long."""
    options = resolve_options(name, SMALL.get(name, {}))
    card = registry.card(name, options)
    items = synthetic_items(card.inputs).of("train")

    def gradients(given: str) -> dict[str, torch.Tensor]:
        sizes = Sizes({key: source.dim for key, source in items.sources.items()}, len(items.label_names))
        model: Any = build(name, options, sizes, seed=3)
        loop = resolved_loop(card, LoopConfig(epochs=9, batch=99, learning_rate=1e-4, precision=given))  # type: ignore[arg-type]
        training = replace(training_of(model, items, loop), couples_batch=card.couples_batch)
        found: dict[str, torch.Tensor] = {}
        backward, state, scale = training.optimiser.backward, training.optimiser.state(), 1.0
        if "scaler" in state:  # A scale that a training comes to after some steps.
            scale = 64.0
            training.optimiser.load_state(state | {"scaler": state["scaler"] | {"scale": scale}})

        def watched(loss: torch.Tensor) -> None:
            backward(loss)
            for key, value in model.named_parameters():
                if value.grad is not None and key not in found:
                    found[key] = value.grad.clone() / scale

        training.optimiser.backward = watched  # type: ignore[method-assign]
        train_epoch(training, 8)
        return found

    single, half = gradients("float32"), gradients(precision)
    assert single.keys() == half.keys()
    for key, expected in single.items():
        if expected.norm() > 1e-6:  # Of less, only rounding is left.
            difference = (half[key] - expected).norm() / expected.norm()
            assert difference < 0.25, f"{key}: {difference:.3f}"
