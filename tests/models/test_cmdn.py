"""CMDN: what its parts are trained on and moved by, its losses by a second reading, and that it learns by heart."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.models.base import Batch, Sizes, Values
from clipmill.models.cmdn import Cmdn, CmdnOptions
from clipmill.models.registry import registration, resolve_options
from clipmill.pipelines.training.loop import train_epoch
from clipmill.pipelines.training.phases import planned_phases
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.errors import ConfigError, UsageError
from tests.models.small_batches import learned, made, mean_average_precision, pairs, unrelated_items, values_of
from tests.pipelines.training.test_training_loop import training_of

SMALL: dict[str, Any] = {
    "intra_dims": [10, 8],
    "inter_dims": [9, 7],
    "joint_dim": 11,
    "media_dim": 8,
    "semantic_dims": [8, 6],
    "bimodal_dims": [5, 4],
}
PHASES = {
    "layer_1": {"encoders_1", "decoders_1", "inter_1"},
    "layer_2": {"encoders_1", "decoders_1", "encoders_2", "decoders_2", "inter_2"},
    "joint": {"joint"},
    "media": {"media"},
    "semantic": {"semantic", "classifiers"},
    "bimodal_1": {"bimodal.0"},
    "bimodal_2": {"bimodal.1", "means", "log_deviations"},
}


def part_of(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "bimodal" else parts[0]


def test_each_phase_moves_its_own_part_by_its_own_loss() -> None:
    items = unrelated_items("cmdn")
    model = made("cmdn", **SMALL)
    config = LoopConfig(epochs=16, batch=10, learning_rate=0.01)
    training = training_of(model, items, config)
    assert {phase.name: phase.stop for phase in training.phases} == {
        name: 16 if number == 7 else 2 * number for number, name in enumerate(PHASES, start=1)
    }
    for phase in training.phases:
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        train_epoch(training, phase.stop - 1)
        moved = {part_of(name) for name, value in model.named_parameters() if not torch.equal(value, before[name])}
        assert moved == PHASES[phase.name], phase.name


def test_parts_pass_no_gradient_to_those_before_them() -> None:
    model, batch = made("cmdn", **SMALL), pairs()
    losses = model.losses(batch)
    assert list(losses) == [*PHASES, "statistics", "total"]
    for name, parts in PHASES.items():
        model.zero_grad()
        model.losses(batch)[name].sum().backward()
        reached = {part_of(key) for key, value in model.named_parameters() if value.grad is not None}
        assert reached == parts - {"means", "log_deviations"}, name
    torch.testing.assert_close(losses["total"], sum(losses[name] for name in (*PHASES, "statistics")))


def test_fewer_epochs_than_parts_are_refused_unless_all_are_trained_at_once() -> None:
    with pytest.raises(UsageError, match=r"epochs 6: expected epochs for the model's phases \(layer_1 1, layer_2 1"):
        planned_phases(made("cmdn", **SMALL), LoopConfig(epochs=6))
    (phase,) = planned_phases(made("cmdn", greedy=False, **SMALL), LoopConfig(epochs=1))
    assert phase.stop == 1


def test_losses_and_embeddings_agree_with_a_second_reading() -> None:
    """Item by item in NumPy and double precision, from the parameters, and by the published scheme."""
    model, batch = made("cmdn", mean_field_steps=3, **SMALL).double(), pairs(4)
    batch = Batch({name: Values(given.values.double()) for name, given in batch.inputs.items()}, batch.label)
    w = {name: value.numpy() for name, value in model.state_dict().items()}
    found = {name: value.detach().numpy() for name, value in model.losses(batch).items()}
    embedded = {
        name: model.embed(side, batch.inputs)["shared"].detach().numpy()
        for side, name in (("query", "image"), ("gallery", "video"))
    }

    def s(values: Any) -> Any:
        return 1 / (1 + np.exp(-values))

    def linear(name: str, row: Any) -> Any:
        return w[f"{name}.weight"] @ row + w[f"{name}.bias"]

    def relu(values: Any) -> Any:
        return np.maximum(values, 0)

    def up(name: str, *groups: Any) -> Any:
        sums = sum(w[f"{name}.weights.{i}"] @ group for i, group in enumerate(groups) if group is not None)
        return s(sums + w[f"{name}.hidden_bias"])

    def down(name: str, hidden: Any, group: int = 0) -> Any:
        return w[f"{name}.weights.{group}"].T @ hidden + w[f"{name}.visible_biases.{group}"]

    def gap(left: Any, right: Any) -> float:
        return float(np.mean((left - right) ** 2))

    def cross_entropy(logits: Any, label: int) -> float:
        return math.log(np.exp(logits - logits[label]).sum())

    for item in range(4):
        label = int(batch.labels[item])
        losses = dict.fromkeys((*PHASES, "statistics"), 0.0)
        highs, pair = {}, {}
        for place, name in enumerate(("image", "video")):
            row = batch[name][item].numpy()
            hidden = relu(linear(f"encoders_1.{name}", row))
            code = relu(linear(f"encoders_2.{name}", hidden))
            back = relu(linear(f"decoders_2.{name}", code))
            low = up(f"inter_1.{name}", row)
            high = highs[name] = up(f"inter_2.{name}", low)
            losses["layer_1"] += gap(linear(f"decoders_1.{name}", hidden), row) + gap(down(f"inter_1.{name}", low), row)
            losses["layer_2"] += gap(linear(f"decoders_1.{name}", back), row)
            losses["layer_2"] += gap(s(down(f"inter_2.{name}", high)), low)
            known = [None, None]
            known[place] = high
            for _ in range(3):
                known[1 - place] = s(down("joint", up("joint", *known), 1 - place))
            joint = up("joint", *known)
            media = up(f"media.{name}", code, joint)
            losses["media"] += gap(down(f"media.{name}", media, 0), code)
            losses["media"] += gap(s(down(f"media.{name}", media, 1)), joint)
            pair[name] = relu(linear(f"semantic.{name}.2", relu(linear(f"semantic.{name}.0", media))))
            losses["semantic"] += cross_entropy(linear(f"classifiers.{name}", pair[name]), label)
            pair[name] = pair[name] / np.sqrt(np.mean(pair[name] ** 2))
        for known in ((highs["image"], highs["video"]), (highs["image"], None), (None, highs["video"])):
            hidden = up("joint", *known)
            losses["joint"] += sum(gap(s(down("joint", hidden, i)), high) for i, high in enumerate(highs.values())) / 3
        for number in (0, 1):
            name = f"bimodal.{number}"
            alone = [w[f"{name}.encoders.{i}.weight"] @ row for i, row in enumerate(pair.values())]
            for sums in (*alone, sum(alone)):
                units = s(sums + w[f"{name}.bias"])
                term = cross_entropy(linear(f"{name}.classifier", units), label)
                for i, row in enumerate(pair.values()):
                    decoded = linear(f"{name}.decoders.{i}", units)
                    term += gap(s(decoded) if number else decoded, row)
                losses[f"bimodal_{number + 1}"] += term / 3
            pair = {key: s(row + w[f"{name}.bias"]) for key, row in zip(pair, alone, strict=True)}
        for place, (name, units) in enumerate(pair.items()):
            normal = (units - w["means"][place]) / np.exp(w["log_deviations"][place])
            np.testing.assert_allclose(embedded[name][item], normal)
            losses["statistics"] += float(np.mean(normal**2 / 2 + w["log_deviations"][place]))
        assert {name: found[name][item] for name in losses} == pytest.approx(losses)


def test_the_statistics_are_least_at_the_training_items_means_and_deviations() -> None:
    model, batch = made("cmdn", **SMALL).double(), pairs(16)
    batch = Batch({name: Values(given.values.double()) for name, given in batch.inputs.items()}, batch.label)
    units = torch.stack([model.represent(name, batch[name]) for name in ("image", "video")])
    with torch.no_grad():
        model.means.copy_(units.mean(dim=1))
        model.log_deviations.copy_(units.std(dim=1, correction=0).log())
    least = model.losses(batch)["statistics"].mean()
    least.backward()
    for value in (model.means, model.log_deviations):
        torch.testing.assert_close(value.grad * units.std(), torch.zeros_like(value), atol=1e-9, rtol=0)
        with torch.no_grad():
            value += 0.3 * units.std()
        assert model.losses(batch)["statistics"].mean() > least
    (statistics,) = (step for step in model.phases(LoopConfig())[-1].steps if step.loss == "statistics")
    assert statistics.rates == {"means": 10, "log_deviations": 10}


def test_a_phase_computes_no_part_after_its_own() -> None:
    model = made("cmdn", **SMALL)
    names = [*PHASES, "statistics"]
    for number, phase in enumerate(PHASES, start=1):
        expected = [*names[: len(names) if number == len(PHASES) else number], "total"]
        assert list(model.losses(pairs(phase=phase))) == expected


def test_the_layers_are_the_releases() -> None:
    model = Cmdn(CmdnOptions(), Sizes({"image": 2296, "video": 3000}, 10))
    shapes = {name: list(value.shape) for name, value in model.named_parameters()}
    assert [shapes[f"{name}.image.weight"] for name in ("encoders_1", "encoders_2", "decoders_2", "decoders_1")] == [
        [1024, 2296],
        [512, 1024],
        [1024, 512],
        [2296, 1024],
    ]
    assert [shapes[f"inter_{n}.{name}.weights.0"] for name in ("image", "video") for n in (1, 2)] == [
        [2048, 2296],
        [1024, 2048],
        [2048, 3000],
        [1024, 2048],
    ]
    assert [shapes[f"joint.weights.{group}"] for group in (0, 1)] == [[2048, 1024]] * 2
    assert [shapes[f"media.image.weights.{group}"] for group in (0, 1)] == [[1024, 512], [1024, 2048]]
    assert [shapes[f"semantic.image.{n}.weight"] for n in (0, 2, 4)] == [[1024, 1024]] * 3
    assert [shapes[f"bimodal.{n}.encoders.0.weight"] for n in range(4)] == [
        [512, 1024],
        [256, 512],
        [128, 256],
        [64, 128],
    ]
    assert dict(registration("cmdn").card.loop) == {"epochs": 450, "batch": 115, "learning_rate": 1e-3}


@pytest.mark.parametrize("greedy", [True, False])
def test_it_learns_a_small_batch_by_heart(greedy: bool) -> None:
    items = unrelated_items("cmdn")
    sizes = {"intra_dims": [24, 16], "inter_dims": [24, 16], "joint_dim": 24, "media_dim": 24}
    sizes |= {"semantic_dims": [24, 16], "bimodal_dims": [12, 8]}
    model, losses = learned("cmdn", items, 420 if greedy else 200, 0.02, greedy=greedy, **sizes)
    first = next(epoch["semantic"] for epoch in losses if "semantic" in epoch)
    assert losses[-1]["semantic"] < 0.2 * first
    assert mean_average_precision(model, items, "shared") > 0.9
    shared = model.embed("query", {"image": values_of(items.inputs["image"])})["shared"].detach()
    assert shared.mean(dim=0).abs().max() < 0.3
    assert 0.7 < shared.std(dim=0).min() <= shared.std(dim=0).max() < 1.4


@pytest.mark.parametrize(
    ("given", "message"), [({"bimodal_dims": []}, "bimodal_dims"), ({"mean_field_steps": 0}, "mean_field_steps")]
)
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_options("cmdn", given)
