"""DSPE's losses by hand, by PyTorch's own triplets and by a second reading, and what its branches depend on."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from clipmill.models import registry
from clipmill.models.base import Batch, Sizes, Values
from clipmill.models.dspe import Dspe, DspeOptions, distances, ranking_loss, structure_loss
from clipmill.schemas.errors import ConfigError
from tests.models.small_batches import learned, made, mean_average_precision, noise_for, pairs, unrelated_items

SMALL: dict[str, Any] = {"hidden_dim": 16, "embedding_dim": 6}
DISTANCE = torch.tensor([[1.0, 2.0, 1.5], [3.0, 1.0, 2.5]], dtype=torch.float64)
POSITIVE = torch.tensor([[True, True, False], [False, True, False]])


def test_distances_are_euclidean_and_have_a_slope_where_rows_are_the_same() -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    found = distances(rows, rows)
    torch.testing.assert_close(found, torch.tensor([[0.01, 5.0], [5.0, 0.01]]), atol=1e-4, rtol=0)
    found.sum().backward()
    assert torch.isfinite(rows.grad).all()


def test_ranking_loss_by_hand() -> None:
    # Anchor 0: positives at 1 and 2, a negative at 1.5. Anchor 1: a positive at 1, negatives at 3 and 2.5.
    hinges = [max(0, 0.7 + 1 - 1.5), max(0, 0.7 + 2 - 1.5), max(0, 0.7 + 1 - 3), max(0, 0.7 + 1 - 2.5)]
    assert ranking_loss(DISTANCE, POSITIVE, 0.7, 10).item() == pytest.approx(sum(hinges) / 4)
    nearest = [*hinges[:2], max(0, 0.7 + 1 - 2.5)]
    assert ranking_loss(DISTANCE, POSITIVE, 0.7, 1).item() == pytest.approx(sum(nearest) / 3)


def test_structure_loss_by_hand_takes_the_farthest_neighbour() -> None:
    neighbour = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    among = torch.tensor([[0.0, 2.0, 1.0], [2.0, 0.0, 3.0], [1.0, 3.0, 0.0]])
    hinges = [0.5 + 2 - 1, max(0, 0.5 + 2 - 3), max(0, 0.5 + 0 - 1), max(0, 0.5 + 0 - 3)]
    assert structure_loss(among, neighbour, 0.5, 10).item() == pytest.approx(sum(hinges) / 4)


def test_ranking_loss_of_pairs_agrees_with_pytorchs_triplets() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    across = torch.cdist(left, right)
    triplets = [
        functional.triplet_margin_loss(left[[i]], right[[i]], right[[k]], margin=0.8, eps=0)
        for i in range(6)
        for k in range(6)
        if k != i
    ]
    found = ranking_loss(across, torch.eye(6, dtype=torch.bool), 0.8, 6)
    torch.testing.assert_close(found, torch.stack(triplets).mean())


@pytest.mark.parametrize("loss", [ranking_loss, structure_loss])
def test_losses_have_the_slope_of_finite_differences(loss: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 0, 0, 1, 1, 2])
    same = label[:, None] == label
    assert torch.autograd.gradcheck(lambda x: loss(distances(x, x), same, 0.5, 2), rows)


def test_a_batch_without_negatives_costs_nothing_and_has_finite_gradients() -> None:
    for num, num_labels in ((1, 4), (3, 1)):
        model = made("dspe", **SMALL)
        losses = model.losses(pairs(num, num_labels, draws=noise_for(model, num)))
        assert losses["total"].item() == 0
        losses["total"].backward()
        assert all(torch.isfinite(value.grad).all() for value in model.parameters())


def test_losses_agree_with_a_second_reading() -> None:
    """Triplet by triplet in NumPy and double precision, from weights, the batch's statistics and the noise."""
    weights_of_losses = {"video_query_weight": 1.5, "image_structure_weight": 0.2, "video_structure_weight": 0.3}
    model = made("dspe", margin=0.4, num_negatives=3, **SMALL, **weights_of_losses).double()
    noise, batch = noise_for(model, 8), pairs(8, num_labels=3)
    inputs = {name: Values(given.values.double()) for name, given in batch.inputs.items()}
    found = model.losses(Batch(inputs, batch.label, noise))
    weights = {name: value.numpy() for name, value in model.state_dict().items()}

    def branch(name: str) -> Any:
        rows = inputs[name].values.numpy() @ weights[f"{name}.first.weight"].T + weights[f"{name}.first.bias"]
        rows = (rows - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + 1e-5)
        rows = np.maximum(rows, 0) * (noise[name].numpy() > 0) * 2
        rows = rows @ weights[f"{name}.second.weight"].T + weights[f"{name}.second.bias"]
        return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))

    x, y = branch("image"), branch("video")
    label = batch.labels.tolist()

    def distance(left: Any, right: Any) -> float:
        return math.sqrt(math.dist(left, right) ** 2 + 1e-4)

    def loss(anchors: Any, items: Any, farthest: bool) -> float:
        hinges = []
        for i, anchor in enumerate(anchors):
            near = [distance(anchor, items[j]) for j in range(8) if label[j] == label[i]]
            far = sorted(distance(anchor, items[j]) for j in range(8) if label[j] != label[i])[:3]
            hinges += [max(0, 0.4 + p - n) for p in ([max(near)] if farthest else near) for n in far]
        return float(np.mean(hinges))

    expected = {
        "image_query": loss(x, y, False),
        "video_query": loss(y, x, False),
        "image_structure": loss(x, x, True),
        "video_structure": loss(y, y, True),
    }
    expected["total"] = sum(weight * expected[name] for name, weight in zip(expected, (1, 1.5, 0.2, 0.3), strict=True))
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)


def test_positives_by_pair_need_no_labels_and_have_no_structure() -> None:
    assert registry.card("dspe", registry.resolve_options("dspe", {})).needs_labels
    assert not registry.card("dspe", registry.resolve_options("dspe", {"positives": "pair"})).needs_labels
    model = made("dspe", positives="pair", dropout=0, **SMALL)
    batch = pairs(6, num_labels=1)
    losses = model.losses(Batch(batch.inputs, None))
    assert set(losses) == {"image_query", "video_query", "total"}
    assert losses["image_query"] > 0


def test_dropout_and_the_batchs_statistics_are_for_training_alone() -> None:
    model, batch = made("dspe", **SMALL), pairs(8)
    one, other = (model.image(batch["image"], noise_for(model, 8, seed)["image"]) for seed in (0, 1))
    assert not torch.allclose(one, other)
    model.eval()
    alone = model.image(batch["image"][:1], noise_for(model, 1)["image"])
    torch.testing.assert_close(alone, model.image(batch["image"])[:1])
    torch.testing.assert_close(alone.norm(dim=-1), torch.ones(1))
    assert made("dspe", dropout=0, **SMALL).draws() == {}


def test_an_item_alone_in_training_is_normalised_by_what_was_kept() -> None:
    model = made("dspe", dropout=0, **SMALL)
    model.image(pairs(8)["image"])
    kept = model.image.norm.running_mean.clone()
    single = pairs(1)["image"]
    trained = model.image(single)
    assert torch.equal(model.image.norm.running_mean, kept)
    torch.testing.assert_close(trained, model.eval().image(single))


def test_the_layers_and_the_loop_are_the_releases() -> None:
    model = Dspe(DspeOptions(), Sizes({"image": 4096, "video": 6000}, 0))
    shapes = {name: list(value.shape) for name, value in model.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "image.first.weight": [2048, 4096],
        "image.norm.weight": [2048],
        "image.second.weight": [512, 2048],
        "video.first.weight": [2048, 6000],
        "video.norm.weight": [2048],
        "video.second.weight": [512, 2048],
    }
    assert dict(registry.registration("dspe").card.loop) == {"epochs": 20, "batch": 500, "learning_rate": 1e-4}


def test_it_learns_a_small_batch_by_heart() -> None:
    items = unrelated_items("dspe")
    model, losses = learned("dspe", items, 120, 0.01, hidden_dim=64, embedding_dim=8, dropout=0.1, margin=0.2)
    assert losses[-1]["total"] < 0.1 * losses[0]["total"]
    assert mean_average_precision(model, items, "embedding") > 0.95


@pytest.mark.parametrize(("given", "message"), [({"dropout": 1}, "dropout"), ({"num_negatives": 0}, "num_negatives")])
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.resolve_options("dspe", given)
