"""The loop: one step by hand, shares of a batch, determinism, learning, and the published ablation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.models.base import Sizes
from clipmill.models.checkpoints import TrainedModel, find_checkpoint, load
from clipmill.models.embedding import embed
from clipmill.models.registry import build, resolve_options
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.training.loop import Training, TrainingItems, train_epoch
from clipmill.pipelines.training.optimiser import Optimiser
from clipmill.pipelines.training.parallel import OneProcess, share
from clipmill.pipelines.training.phases import planned_phases
from clipmill.pipelines.training.train import train_items
from clipmill.schemas.config import LoopConfig, TrainConfig
from tests.models.plain_scores import plain_scores
from tests.pipelines.training.conftest import SMALL, MakeConfig, MakePairs, with_values

SIZES = Sizes({"image": 12, "video": 20}, 2)


def weights(out: str | Path) -> dict[str, Any]:
    return load(find_checkpoint(out)).model.state_dict()


def mean_average_precision_at_10(trained: TrainedModel, pairs: Items, space: str) -> float:
    tested = pairs.of("test")
    embedded = [embed(trained, side, tested.inputs) for side in ("query", "gallery")]
    found = -plain_scores(trained.model.spaces(), space, *embedded)
    precisions = []
    for row, label in zip(found, tested.label, strict=True):
        hits = tested.label[np.argsort(row, kind="stable")[:10]] == label
        at_hits = (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits]
        precisions.append(at_hits.mean() if len(at_hits) else 0.0)
    return float(np.mean(precisions))


def training_of(model: Any, items: Items, config: LoopConfig, parallel: Any = None) -> Training:
    """What an epoch needs, of the items as they are."""
    phases = planned_phases(model, config)
    placed = TrainingItems.on_device(items.inputs, items.label, torch.device("cpu"), items.targets)
    return Training(model, Optimiser(model, config, phases), placed, config, phases, parallel or OneProcess())


@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
@pytest.mark.parametrize("num_items", [0, 1, 2, 10, 70])
def test_shares_cut_a_batch_whole_and_evenly(num_items: int, num_workers: int) -> None:
    parts = [list(range(num_items))[share(num_items, rank, num_workers)] for rank in range(num_workers)]
    assert sum(parts, []) == list(range(num_items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


class _Recorder(OneProcess):
    """Worker `rank` of `num_workers`, alone: it keeps its gradients instead of adding them up."""

    def __init__(self, rank: int, num_workers: int) -> None:
        self.rank, self.num_workers = rank, num_workers
        self.gradients: list[list[torch.Tensor]] = []

    def add_up_gradients(self, parameters: Any) -> None:
        self.gradients.append([parameter.grad.clone() for parameter in parameters])


@pytest.mark.parametrize("num_workers", [2, 3])
def test_workers_gradients_add_up_to_the_global_batchs(make_pairs: MakePairs, num_workers: int) -> None:
    pairs = make_pairs(num_labels=2, videos_per_label=5)
    # 10 pairs in batches of 9: the last batch has one pair, so all workers but one have none of it.
    config = LoopConfig(epochs=1, batch=9, learning_rate=1e-30)

    def gradients(rank: int, workers: int) -> list[list[torch.Tensor]]:
        model = build("map_ivr", resolve_options("map_ivr", SMALL), SIZES).double()  # type: ignore[attr-defined]
        double = with_values(pairs, **{name: rows.values.astype(np.float64) for name, rows in pairs.inputs.items()})
        recorder = _Recorder(rank, workers)
        train_epoch(training_of(model, double, config, recorder), epoch=0)
        return recorder.gradients

    whole, parts = gradients(0, 1), [gradients(rank, num_workers) for rank in range(num_workers)]
    assert len(whole) == 2
    for step, expected in enumerate(whole):
        for number, gradient in enumerate(expected):
            # Double precision: what is left is the order of the sums.
            torch.testing.assert_close(sum(part[step][number] for part in parts), gradient, rtol=1e-9, atol=1e-11)


def test_one_epoch_on_one_batch_is_one_adam_step_on_the_mean_loss(make_pairs: MakePairs) -> None:
    pairs, options = make_pairs(num_labels=2, videos_per_label=3), resolve_options("map_ivr", SMALL | {"kl_weight": 0})
    config = LoopConfig(batch=6, learning_rate=1e-2)
    ours, expected = (build("map_ivr", options, SIZES) for _ in range(2))
    # Without noise in z the step can be taken here without knowing the loop's draw.
    for model in (ours, expected):
        torch.nn.init.constant_(model.posterior_log_variance.bias, -200.0)  # type: ignore[attr-defined]
        torch.nn.init.zeros_(model.posterior_log_variance.weight)  # type: ignore[attr-defined]
    training = training_of(ours, pairs, config)
    means = train_epoch(training, epoch=0)
    batch = training.items.batch(torch.arange(6), {"image": 1, "video": 1}, draws={"eps": torch.zeros(6, 8)})
    losses: Any = expected.losses(batch)  # type: ignore[operator]
    losses["total"].mean().backward()
    with torch.no_grad():
        for parameter in expected.parameters():
            # The first step of Adam moves by the learning rate against the sign of the gradient.
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            parameter -= 1e-2 * gradient / (gradient.abs() + 1e-8)
    for (name, value), other in zip(ours.state_dict().items(), expected.state_dict().values(), strict=True):
        # Where a gradient is rounding noise its sign is arbitrary; none of these is.
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-4, msg=name)
    assert means == pytest.approx({name: value.mean().item() for name, value in losses.items()}, rel=1e-5)


def test_every_pair_is_seen_once_per_epoch_in_another_order(make_pairs: MakePairs) -> None:
    pairs, seen = make_pairs(num_labels=2, videos_per_label=10), []
    model = build("map_ivr", resolve_options("map_ivr", SMALL), SIZES)
    original, noises = model.losses, []

    def watched(batch: Any) -> Any:
        seen.extend(batch["image"][:, 0].tolist())
        noises.append(batch.draws["eps"])
        return original(batch)

    model.losses = watched  # type: ignore[method-assign]
    config = LoopConfig(batch=7)
    for epoch in range(2):
        train_epoch(training_of(model, pairs, config), epoch)
    first, second, expected = seen[:20], seen[20:], pairs.inputs["image"].values[:, 0].tolist()
    assert sorted(first) == sorted(second) == sorted(expected)
    assert len({tuple(order) for order in (first, second, expected)}) == 3
    assert not any(torch.equal(a, b) for i, a in enumerate(noises) for b in noises[:i])


def test_training_is_deterministic_and_a_function_of_the_seed(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    pairs = make_pairs()
    first, again, other = (
        train_items(make_config(out, seed=seed), pairs) for out, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.losses == again.losses
    one, two, three = (weights(report.out) for report in (first, again, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["classifier.weight"], three["classifier.weight"])


def test_the_test_clips_decide_nothing(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    pairs = make_pairs()
    tested = (pairs.part == "test")[:, None]
    spoilt = np.where(tested, 1e3, pairs.inputs["video"].values).astype(np.float32)
    for out, given in (("a", pairs), ("b", with_values(pairs, video=spoilt))):
        train_items(make_config(out), given)
    one, two = (load(find_checkpoint(make_config(out).out)) for out in ("a", "b"))
    assert one.scalings == two.scalings
    assert all(torch.equal(value, two.model.state_dict()[name]) for name, value in one.model.state_dict().items())


def test_it_can_overfit_a_few_pairs(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    pairs = make_pairs(num_labels=3, videos_per_label=4, test_per_label=2)
    options = {"kl_weight": 0.0, "orth_weight": 0.0}
    report = train_items(
        make_config(options=options, epochs=400, batch=6, learning_rate=5e-3, checkpoint_every_epochs=400), pairs
    )
    first, last = report.losses[0], report.losses[-1]
    assert last["class"] < 0.01 * first["class"]
    assert last["reconstruction"] < 0.05 * first["reconstruction"]


def ablated(pairs: Items, config: TrainConfig) -> dict[str, float]:
    trained = load(find_checkpoint(train_items(config, pairs).out))
    return {space: mean_average_precision_at_10(trained, pairs, space) for space in trained.model.spaces()}


def test_without_kl_video_space_retrieval_collapses(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    """The published ablation (ActivityNet: video .323 to .047, appearance .304 to .297, combined .357 to .221)."""
    pairs = make_pairs(
        num_labels=16, videos_per_label=16, image_dim=24, video_dim=48, noise=0.2, test_per_label=5, motion=1.0
    )
    loop: dict[str, Any] = {"epochs": 100, "batch": 32, "learning_rate": 3e-3, "checkpoint_every_epochs": 100}
    with_kl = ablated(pairs, make_config("with", **loop))
    without = ablated(pairs, make_config("without", options={"kl_weight": 0.0}, **loop))
    chance = 5 / 80
    assert with_kl["video"] > 0.7
    assert without["video"] < 0.5 * with_kl["video"]
    assert without["combined"] < 0.75 * with_kl["combined"]
    # The appearance space does not pass through the latent: it stays.
    assert min(with_kl["appearance"], without["appearance"]) > 0.5 > chance
