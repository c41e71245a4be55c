"""ACMR's losses by hand and by a second reading, whom each step moves, and that its adversary does what it is for."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.models.acmr import Acmr, AcmrOptions, triplet_loss
from clipmill.models.base import Batch, Sizes, Step, Values
from clipmill.models.hard_negatives import HardNegatives
from clipmill.models.registry import registration, resolve_options
from clipmill.pipelines.training.loop import train_epoch
from clipmill.pipelines.training.optimiser import rate_of
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.errors import ConfigError
from tests.models.small_batches import learned, made, mean_average_precision, pairs, unrelated_items
from tests.pipelines.training.test_training_loop import training_of

SMALL: dict[str, Any] = {"common_dim": 6, "image_hidden": [16], "video_hidden": [16], "modality_hidden": [5]}


def negatives(*index: int) -> HardNegatives:
    places = torch.tensor(index)
    return HardNegatives(places.clamp(min=0), places >= 0)


ANCHOR = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
POSITIVE = torch.tensor([[1.0, 0.0], [2.0, 2.0], [5.0, 5.0]], dtype=torch.float64)


def test_triplet_loss_by_hand() -> None:
    # Half squared distances to the positives: .5 2 0; to the negatives (1, 0, none): 4 .5.
    per_anchor = [max(0.0, 0.1 + 5 * 0.5 - 4), max(0.0, 0.1 + 5 * 2 - 0.5), 0.0]
    assert per_anchor == [0.0, 9.6, 0.0]
    assert triplet_loss(ANCHOR, POSITIVE, negatives(1, 0, -1), 0.1, 5).item() == pytest.approx(9.6)


def test_the_released_hinge_is_one_for_the_batch() -> None:
    found = triplet_loss(ANCHOR, POSITIVE, negatives(1, 0, -1), 0.1, 5, "batch")
    assert found.item() == pytest.approx(0.1 + (5 * 0.5 - 4) + (5 * 2 - 0.5))


@pytest.mark.parametrize("hinge", ["item", "batch"])
def test_triplet_loss_has_the_slope_of_finite_differences(hinge: str) -> None:
    anchor, positive = ANCHOR.clone().requires_grad_(), POSITIVE.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, p: triplet_loss(a, p, negatives(1, 0, -1), 0.1, 5, hinge), (anchor, positive)
    )


def test_losses_agree_with_a_second_reading() -> None:
    """Pair by pair in NumPy and double precision, from the layers' weights."""
    model, batch = made("acmr", **SMALL).double(), pairs(7, progress=0.3)
    batch = Batch({name: Values(given.values.double()) for name, given in batch.inputs.items()}, batch.label)
    found = model.losses(batch)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}

    def layer(name: str, row: Any) -> Any:
        return weights[f"{name}.weight"] @ row + weights[f"{name}.bias"]

    def minus_log_softmax(logits: Any, place: int) -> float:
        return math.log(sum(math.exp(value - logits[place]) for value in logits))

    given = {name: batch[name].numpy() for name in ("image", "video")}
    common = {
        name: [np.tanh(layer(f"{name}.2", np.tanh(layer(f"{name}.0", row)))) for row in rows]
        for name, rows in given.items()
    }
    label = batch.labels.tolist()
    classes = triplet = adversary = 0.0
    for place, (name, other) in enumerate((("image", "video"), ("video", "image"))):
        for i in range(7):
            anchor = common[name][i]
            classes += minus_log_softmax(layer("classifier", anchor), label[i]) / 7
            hidden = layer("modality.layers.0", anchor)
            adversary += minus_log_softmax(layer("modality.layers.2", hidden), place) / 7
            of_others = [j for j in range(7) if label[j] != label[i]]
            row = given[name][i]
            cosines = {j: row @ given[name][j] / math.sqrt(given[name][j] @ given[name][j]) for j in of_others}
            nearest = max(cosines, key=cosines.__getitem__)
            near, far = (math.dist(anchor, common[other][j]) ** 2 / 2 for j in (i, nearest))
            triplet += max(0.0, 0.1 + 5 * near - far)
    expected = {"class": classes, "triplet": triplet, "adversary": adversary}
    expected["total"] = 100 * classes + triplet + adversary
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)


def test_each_step_moves_its_own_side() -> None:
    model = made("acmr", projector_steps=3, **SMALL)
    (phase,) = model.phases(LoopConfig())
    assert [step.loss for step in phase.steps] == ["total", "total", "total", "adversary"]
    moved = [
        {name.split(".")[0] for name, _ in model.named_parameters() if rate_of(step, name)} for step in phase.steps
    ]
    assert moved == [{"image", "video", "classifier"}] * 3 + [{"modality"}]
    (alone,) = made("acmr", adversary_weight=0, **SMALL).phases(LoopConfig())
    assert [step.loss for step in alone.steps] == ["total"]


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_the_projectors_gradient_has_the_adversarys_reversed_by_the_schedule(progress: float) -> None:
    """As total = beta L_imd + alpha L_imi - weight lambda(p) L_adv, differentiated without a reversal."""
    model, batch = made("acmr", adversary_weight=3.0, **SMALL).double(), pairs(8, progress=progress)
    inputs = {name: Values(given.values.double()) for name, given in batch.inputs.items()}
    batch = Batch(inputs, batch.label, progress=progress)
    model.losses(batch)["total"].backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    losses = model.losses(batch)
    logits = model.modality.layers(torch.cat([model.image(batch["image"]), model.video(batch["video"])]))
    modality = torch.tensor([0] * 8 + [1] * 8)
    adversary = 2 * torch.nn.functional.cross_entropy(logits, modality)
    torch.testing.assert_close(adversary, losses["adversary"])
    factor = 3.0 * (2 / (1 + math.exp(-10 * progress)) - 1)
    (100 * losses["class"] + losses["triplet"] - factor * adversary).backward()
    for name, value in model.named_parameters():
        if not name.startswith("modality"):
            torch.testing.assert_close(found[name], value.grad, msg=name)


def test_the_adversary_makes_modalities_the_same_while_labels_stay_apart() -> None:
    """The loss of the classifier of modalities against the same one whose gradient reaches no projector."""
    items = unrelated_items("acmr")
    for name, shift in (("image", -1.0), ("video", 1.0)):
        items.inputs[name].values[:] += shift

    def last(weight: float) -> tuple[float, float]:
        given = SMALL | {"class_weight": 1.0, "triplet_weight": 0.0, "adversary_weight": weight}
        _, losses = learned("acmr", items, 150, 0.005, **given)
        return float(np.mean([epoch["adversary"] for epoch in losses[-50:]])), losses[-1]["class"]

    (known, _), (unknown, classes) = last(1e-9), last(1.0)
    assert known < 1.2
    assert unknown == pytest.approx(2 * math.log(2), abs=0.02)
    assert classes < 0.3


def test_the_layers_and_the_loop_are_the_releases() -> None:
    model = Acmr(AcmrOptions(), Sizes({"image": 4096, "video": 4096}, 10))
    shapes = [list(value.shape) for name, value in model.named_parameters() if name.endswith("weight")]
    branch = [[512, 4096], [100, 512], [40, 100]]
    assert shapes == [*branch, *branch, [10, 40], [20, 40], [10, 20], [2, 10]]
    loop = dict(registration("acmr").card.loop)
    assert loop == {"epochs": 50, "batch": 64, "learning_rate": 1e-4, "beta1": 0.5}


def test_a_batch_without_negatives_has_finite_gradients() -> None:
    model = made("acmr", **SMALL)
    losses = model.losses(pairs(3, num_labels=1))
    assert losses["triplet"].item() == 0
    losses["total"].backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters())


def test_it_learns_a_small_batch_by_heart() -> None:
    items = unrelated_items("acmr")
    model, losses = learned("acmr", items, 250, 0.01, **SMALL)
    assert losses[-1]["class"] < 0.05 * losses[0]["class"]
    assert mean_average_precision(model, items, "common") > 0.99


@pytest.mark.parametrize(
    ("given", "message"), [({"hinge": "none"}, "hinge"), ({"projector_steps": 0}, "projector_steps")]
)
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_options("acmr", given)


def test_what_a_step_does_not_move_keeps_its_moments() -> None:
    """Adam takes a gradient into its moments even at a rate of 0: the adversary's would pull the projectors twice."""
    items = unrelated_items("acmr")
    seen: dict[str, set[str]] = {}
    model = made("acmr", image_hidden=[8], video_hidden=[8], common_dim=4)
    training = training_of(model, items, LoopConfig(epochs=1, batch=len(items)))
    update = training.optimiser.update

    def watched(step: Step, factor: float) -> None:
        seen[step.loss] = {name for name, value in model.named_parameters() if value.grad is not None}
        update(step, factor)

    training.optimiser.update = watched  # type: ignore[method-assign]
    train_epoch(replace(training, couples_batch=True, gathers=True), epoch=0)
    assert {name.split(".")[0] for name in seen["total"]} == {"image", "video", "classifier"}
    assert {name.split(".")[0] for name in seen["adversary"]} == {"modality"}
    steps = {int(state["step"]) for state in training.optimiser.adam.state.values()}
    assert steps == {1}
