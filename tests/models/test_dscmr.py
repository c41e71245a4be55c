"""DSCMR's losses by hand and by a second reading in NumPy, its released shapes, and that it learns a batch by heart."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.models.base import Batch, Sizes, Values
from clipmill.models.dscmr import Dscmr, DscmrOptions, label_loss, pair_losses
from clipmill.models.registry import registration, resolve_options
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.errors import ConfigError
from tests.models.small_batches import learned, made, mean_average_precision, pairs, unrelated_items

SMALL = {"hidden_dim": 16, "common_dim": 8}


def test_label_loss_is_the_mean_distance_from_one_hot_labels() -> None:
    prediction = torch.tensor([[1.0, 0.0], [3.0, 5.0]])
    # (1, 0) is label 0 itself; (3, 5) is 3 and 4 away from (0, 1).
    assert label_loss(prediction, torch.tensor([0, 1])).item() == pytest.approx((0 + 5) / 2)


def test_label_loss_of_a_perfect_prediction_has_no_slope() -> None:
    prediction = torch.eye(2, requires_grad=True)
    label_loss(prediction, torch.tensor([0, 1])).backward()
    assert torch.equal(prediction.grad, torch.zeros(2, 2))


def test_similarity_loss_is_the_likelihood_of_sharing_a_label() -> None:
    left, right = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[5.0, 0.0], [4.0, 0.0]])
    # Cosines: 1 1 / 0 0; halves of them; only the pairs on the diagonal share a label.
    expected = [math.log(1 + math.e**0.5) - 0.5, math.log(1 + math.e**0.5), math.log(2), math.log(2)]
    label = torch.tensor([0, 1])
    assert pair_losses(left, right, label, label).mean().item() == pytest.approx(sum(expected) / 4)


def test_losses_agree_with_a_second_reading() -> None:
    """Pair by pair in NumPy and double precision, from the layers' weights."""
    model, batch = made("dscmr", **SMALL).double(), pairs(7)
    batch = Batch({name: Values(given.values.double()) for name, given in batch.inputs.items()}, batch.label)
    found = model.losses(batch)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}

    def layer(name: str, rows: Any) -> Any:
        return rows @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    u, v = (layer("common", np.maximum(layer(name, batch[name].numpy()), 0)) for name in ("image", "video"))
    label = batch.labels.tolist()
    j1 = j2 = j3 = 0.0
    for i in range(7):
        one_hot = np.array([float(code == label[i]) for code in range(4)])
        j1 += sum(math.dist(layer("classifier", side[i]), one_hot) for side in (u, v)) / 7
        j3 += math.dist(u[i], v[i]) / 7
        for j in range(7):
            for a, b in ((u[i], v[j]), (u[i], u[j]), (v[i], v[j])):
                t = a @ b / math.sqrt(a @ a) / math.sqrt(b @ b) / 2
                j2 += (math.log1p(math.exp(t)) - (label[i] == label[j]) * t) / 49
    expected = {"label": j1, "similarity": j2, "invariance": j3, "total": j1 + 1e-3 * j2 + 0.1 * j3}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)


def test_the_layers_are_the_releases() -> None:
    published = Path(__file__).resolve().parents[3] / "shared/reference/checkpoints/dscmr_image4096_video4096_200.json"
    if not published.exists():
        pytest.skip("the reference of ../shared is not here")
    model = Dscmr(DscmrOptions(), Sizes({"image": 4096, "video": 4096}, 200))
    ours = {
        "image": "img_net.denseL1",
        "video": "text_net.denseL1",
        "common": "linearLayer",
        "classifier": "linearLayer2",
    }
    shapes = {}
    for name, value in model.state_dict().items():
        layer, kind = name.split(".")
        shapes[f"{ours[layer]}.{kind}"] = list(value.shape)
    assert shapes == json.loads(published.read_text())["keys"]


def test_the_loop_is_the_releases() -> None:
    loop = dict(registration("dscmr").card.loop)
    assert loop == {"epochs": 500, "batch": 100, "learning_rate": 1e-4, "beta1": 0.5}
    assert LoopConfig(**loop).beta2 == 0.999


def test_a_batch_of_one_item_or_one_label_has_finite_gradients() -> None:
    for num, num_labels in ((1, 4), (5, 1)):
        model = made("dscmr", **SMALL)
        model.losses(pairs(num, num_labels))["total"].backward()
        assert all(torch.isfinite(value.grad).all() for value in model.parameters())


def test_it_learns_a_small_batch_by_heart() -> None:
    items = unrelated_items("dscmr")
    model, losses = learned("dscmr", items, 150, 0.01, **SMALL)
    assert losses[-1]["label"] < 0.1 * losses[0]["label"]
    assert mean_average_precision(model, items, "common") > 0.99


@pytest.mark.parametrize(("given", "message"), [({"common_dim": 0}, "common_dim"), ({"lambda": 1}, "lambda: unknown")])
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_options("dscmr", given)
