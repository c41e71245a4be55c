"""SDML's fixed space and losses by hand and by a second reading, and that its modalities know nothing of each other."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.models.base import Batch, Sizes, Values
from clipmill.models.registry import registration, resolve_options
from clipmill.models.sdml import Sdml, SdmlOptions, row_distance
from clipmill.pipelines.training.optimiser import rate_of
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.errors import ConfigError, UsageError
from tests.models.small_batches import learned, made, mean_average_precision, pairs, unrelated_items

SMALL: dict[str, Any] = {"subspace_dim": 6, "hidden": [16]}


def test_the_directions_of_the_labels_are_orthogonal_and_a_function_of_the_seed() -> None:
    first, again, other = (made("sdml", seed).directions for seed in (0, 0, 1))
    torch.testing.assert_close(first.T @ first, torch.eye(4))
    assert first.shape == (512, 4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not any(name == "directions" for name, _ in made("sdml", **SMALL).named_parameters())


def test_row_distance_by_hand_and_its_slope_where_rows_are_the_same() -> None:
    left = torch.tensor([[3.0, 4.0], [1.0, 1.0]], requires_grad=True)
    distance = row_distance(left, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert distance.tolist() == [5.0, 0.0]
    distance.sum().backward()
    torch.testing.assert_close(left.grad, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_an_item_on_the_direction_of_its_label_costs_nothing_and_on_anothers_the_root_of_two() -> None:
    model = made("sdml", alpha=0, **SMALL)
    model.networks = torch.nn.ModuleDict({name: torch.nn.Identity() for name in ("image", "video")})
    on_first, on_second = model.directions.T[:2]
    inputs = {"image": Values(torch.stack([on_first, on_second])), "video": Values(torch.stack([on_first, on_first]))}
    losses = model.losses(Batch(inputs, torch.tensor([0, 0])))
    torch.testing.assert_close(losses["subspace"], torch.tensor([0.0, math.sqrt(2)]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("output", ["unit", "linear"])
def test_losses_agree_with_a_second_reading(output: str) -> None:
    """Item by item in NumPy and double precision, from the layers' weights."""
    model, batch = made("sdml", decoder_output=output, alpha=0.3, **SMALL).double(), pairs(5)
    batch = Batch({name: Values(given.values.double()) for name, given in batch.inputs.items()}, batch.label)
    found = model.losses(batch)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}

    def network(name: str, row: Any) -> Any:
        row = np.maximum(weights[f"{name}.0.weight"] @ row + weights[f"{name}.0.bias"], 0)
        return weights[f"{name}.2.weight"] @ row + weights[f"{name}.2.bias"]

    for item in range(5):
        subspace = reconstruction = 0.0
        for name in ("image", "video"):
            row = batch[name][item].numpy()
            encoded = network(f"networks.{name}", row)
            encoded = encoded / math.sqrt(encoded @ encoded)
            decoded = network(f"decoders.{name}", encoded)
            if output == "unit":
                decoded = decoded / math.sqrt(decoded @ decoded)
            reconstruction += math.dist(decoded, row)
            label = batch.labels[item]
            subspace += math.dist(encoded @ weights["directions"], [float(code == label) for code in range(4)])
        expected = {"subspace": subspace, "reconstruction": reconstruction}
        expected["total"] = 0.3 * reconstruction + 0.7 * subspace
        assert {name: value[item].item() for name, value in found.items()} == pytest.approx(expected)


def test_neither_modality_moves_the_other() -> None:
    model, batch = made("sdml", **SMALL), pairs()
    for name, other in (("image", "video"), ("video", "image")):
        encoded = model.encode(name, batch[name])
        (encoded.sum() + model.decode(name, encoded).sum()).backward()
        reached = {key for key, value in model.named_parameters() if value.grad is not None}
        assert reached
        assert not [key for key in reached if f".{other}." in key]
        model.zero_grad()


def test_each_modality_has_the_releases_learning_rate() -> None:
    model = made("sdml", **SMALL)
    (phase,) = model.phases(LoopConfig())
    rates = {name: rate_of(phase.steps[0], name) for name, _ in model.named_parameters()}
    assert {rate for name, rate in rates.items() if ".image." in name} == {1.0}
    assert {rate for name, rate in rates.items() if ".video." in name} == {2.0}
    assert len(rates) == 16


def test_the_layers_and_the_loop_are_the_releases() -> None:
    model = Sdml(SdmlOptions(), Sizes({"image": 4096, "video": 300}, 10))
    shapes = {name: list(value.shape) for name, value in model.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "networks.image.0.weight": [1024, 4096],
        "networks.image.2.weight": [1024, 1024],
        "networks.image.4.weight": [512, 1024],
        "networks.video.0.weight": [1024, 300],
        "networks.video.2.weight": [1024, 1024],
        "networks.video.4.weight": [512, 1024],
        "decoders.image.0.weight": [1024, 512],
        "decoders.image.2.weight": [1024, 1024],
        "decoders.image.4.weight": [4096, 1024],
        "decoders.video.0.weight": [1024, 512],
        "decoders.video.2.weight": [1024, 1024],
        "decoders.video.4.weight": [300, 1024],
    }
    loop = dict(registration("sdml").card.loop)
    assert loop == {"epochs": 200, "batch": 100, "learning_rate": 1e-4, "beta1": 0.5}


def test_it_learns_a_small_batch_by_heart() -> None:
    items = unrelated_items("sdml")
    model, losses = learned("sdml", items, 150, 0.01, hidden=[64], subspace_dim=8)
    assert losses[-1]["subspace"] < 0.1 * losses[0]["subspace"]
    assert mean_average_precision(model, items, "subspace") > 0.99


def test_more_labels_than_directions_are_refused() -> None:
    with pytest.raises(UsageError, match="subspace_dim: expected at least the number of labels, 4, got 3; raise it"):
        made("sdml", subspace_dim=3)


@pytest.mark.parametrize(("given", "message"), [({"hidden": [0]}, "hidden"), ({"alpha": 1}, "alpha")])
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_options("sdml", given)
