"""Similarity networks: made pairs, partners, losses, stages, the factorised score, and what each stage learns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clipmill.models.base import Batch, Sizes, Values, resolved_loop
from clipmill.models.registry import build, card, resolve_options
from clipmill.models.similarity_network import cosine_pairs, is_worse, pair_loss, random_partners
from clipmill.pipelines.training.loop import train_epoch
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.inputs import InputRows
from tests.models.small_batches import noise_for, pairs
from tests.models.synthetic_items import DIM, synthetic_items
from tests.pipelines.training.test_training_loop import training_of

SMALL = {"hidden_dims": (32, 24), "initial_deviation": 0.3}


def network(dim: int = DIM, **options: Any) -> Any:
    resolved = resolve_options("similarity_network", SMALL | options)
    return build("similarity_network", resolved, Sizes({"image": dim, "video": dim}, 4), seed=2)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_warm_up_pairs_have_the_cosine_they_were_drawn_for() -> None:
    left, right, cosine = cosine_pairs(drawn(5000, 64), drawn(5000, 64, seed=1), drawn(5000, seed=2))
    assert ((left * right).sum(dim=-1) - cosine).abs().max() < 1e-6
    assert (right.norm(dim=-1) - 1).abs().max() < 1e-6
    assert (left.norm(dim=-1) - 1).abs().max() < 1e-6
    # Uniform, where cosines of random unit vectors would all be near 0: the quantiles of 5,000 are within 0.03.
    quantiles = torch.quantile(cosine, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64))
    assert quantiles.tolist() == pytest.approx([-0.8, -0.5, 0.0, 0.5, 0.8], abs=0.04)


def test_the_loss_by_hand() -> None:
    score, cosine = torch.tensor([0.5, 0.5, 1.3]), torch.tensor([0.4, 0.4, 0.9])
    loss = pair_loss(score, cosine, torch.tensor([True, False, True]), 0.2)
    # The third: a target of 1.1 is not clipped to 1.
    assert loss.tolist() == pytest.approx([0.1, 0.3, 0.2])


def test_difficult_are_exactly_the_pairs_on_which_the_network_is_worse_than_the_cosine() -> None:
    score = torch.tensor([0.1, 0.3, 0.2, 0.1, 0.3, 0.2])
    cosine = torch.full((6,), 0.2)
    matches = torch.tensor([True, True, True, False, False, False])
    assert is_worse(score, cosine, matches).tolist() == [True, False, False, False, True, False]


def test_partners_are_of_the_wanted_kind_and_each_as_likely() -> None:
    label = torch.tensor([0, 0, 0, 1, 1, 2])
    # Item 1 of the gallery is query 0 itself.
    cosines = torch.zeros(2, 6)
    cosines[0, 1] = 1
    partner, exists = random_partners(label[:1], label, cosines[:1], drawn(1, 40_000, 2).float(), 0.25)
    assert exists.all()
    shares = torch.bincount(partner[0], minlength=6) / 40_000
    assert shares.tolist() == pytest.approx([0.125, 0, 0.125, 0.25, 0.25, 0.25], abs=0.01)
    # Without another item of its label, or without one of another label: what there is.
    alone, has_one = random_partners(torch.tensor([2]), label[:5], cosines[:1, :5], drawn(1, 100, 2).float(), 1.0)
    assert has_one.all()
    assert set(alone[0].tolist()) == {0, 2, 3, 4}
    same, has_same = random_partners(label[:1], label[:3], cosines[:1, :3], drawn(1, 100, 2).float(), 0.0)
    assert has_same.all()
    assert set(same[0].tolist()) == {0, 2}
    _, nobody = random_partners(label[:1], label[:1], torch.ones(1, 1), drawn(1, 5, 2).float(), 0.5)
    assert not nobody.any()


def test_the_published_network_has_as_many_weights() -> None:
    with torch.device("meta"):
        model = network(512, hidden_dims=(4096, 4096), difficult=0)
    assert sum(weights.numel() for weights in model.parameters()) == 20_983_809


@pytest.mark.parametrize("hidden", [(32, 24), (16,)])
def test_the_factorised_score_is_the_plain_one_and_keeps_the_order_of_its_arguments(hidden: tuple[int, ...]) -> None:
    model = network(hidden_dims=hidden).double()
    query, gallery = drawn(7, DIM), drawn(9, DIM, seed=1)
    expected = torch.tensor(
        [[float(model.network(torch.cat([q, x])).detach()) for x in gallery] for q in query], dtype=torch.float64
    )
    with torch.no_grad():
        found = model.score({"vector": query}, {"vector": gallery})
        turned = model.score({"vector": gallery}, {"vector": query}).T
        both = network(hidden_dims=hidden, symmetric=True).double().score({"vector": query}, {"vector": gallery})
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert (found - turned).abs().min() > 1e-4
    torch.testing.assert_close(both, (found + turned) / 2)


def test_scores_do_not_depend_on_how_pairs_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network().double()
    sides = {"vector": drawn(7, DIM)}, {"vector": drawn(9, DIM, seed=1)}
    with torch.no_grad():
        whole = model.score(*sides)
        monkeypatch.setattr("clipmill.models.similarity_network._PRODUCT_ELEMENTS", 100)
        torch.testing.assert_close(model.score(*sides), whole)
        assert model.score({"vector": drawn(0, DIM)}, sides[1]).shape == (0, 9)


def test_stages_share_the_epochs_and_can_be_left_out() -> None:
    def stages(epochs: int, **options: Any) -> list[tuple[str, int | None]]:
        return [(phase.name, phase.epochs) for phase in network(**options).phases(LoopConfig(epochs=epochs))]

    assert stages(255) == [("warm_up", 55), ("random", 100), ("difficult", None)]
    assert stages(155, difficult=0) == [("warm_up", 55), ("random", None)]
    assert stages(10, random=0, difficult=0) == [("warm_up", None)]
    assert stages(2) == [("random", 1), ("difficult", None)]
    with pytest.raises(UsageError, match="expected a stage, got warm_up, random and difficult of 0"):
        resolve_options("similarity_network", {"warm_up": 0, "random": 0, "difficult": 0})


def test_a_pair_is_difficult_by_the_network_with_which_the_stage_began() -> None:
    model = network(pairs_per_item=3)
    batch = pairs(16, draws=noise_for(model, 16), phase="difficult")
    model.eval()
    before = model.losses(batch)
    assert not model.judge_is_set
    model.train()
    first = model.losses(batch)
    assert model.judge_is_set
    torch.testing.assert_close(first, before)
    with torch.no_grad():
        for weights in model.network.parameters():
            weights.add_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(3)))
    moved = model.losses(batch)
    assert moved["difficult_share"] == first["difficult_share"]
    assert 0 < first["difficult_share"] < 1
    assert moved["difficult"] != first["difficult"]


def test_vectors_of_two_lengths_are_refused() -> None:
    resolved = resolve_options("similarity_network", SMALL)
    with pytest.raises(UsageError, match="expected vectors of one length, got 3 and 4; give data.image and data.video"):
        build("similarity_network", resolved, Sizes({"image": 3, "video": 4}, 2))


def correlation(left: Tensor, right: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_stage_learns_what_it_is_for() -> None:
    """Classes whose items scatter along directions that all classes share; those that are searched were not seen.

    What came out is in docs/results.md.
    """
    dim, epochs = 64, 350
    basis = np.linalg.qr(np.random.default_rng(9).normal(size=(dim, 8)))[0].T
    rows, label = scattered(100, 10, basis, 1)
    options = {"hidden_dims": (256, 256), "pairs_per_item": 2, "warm_up": 150}
    resolved = resolve_options("similarity_network", options)
    own = card("similarity_network", resolved)
    model: Any = build("similarity_network", resolved, Sizes({"image": dim, "video": dim}, 100), seed=0)
    items = synthetic_items(own.inputs, 10, 100)
    vectors = {"image": InputRows(rows), "video": InputRows(rows)}
    items = replace(items, inputs=vectors, label=label)
    loop = resolved_loop(own, LoopConfig(epochs=epochs, batch=200, learning_rate=1e-3))
    training = replace(training_of(model, items, loop), couples_batch=True)
    held, held_label = scattered(40, 6, basis, 2)
    side = {"vector": torch.from_numpy(held)}
    reached = {"cosine": mean_average_precision(held @ held.T, held_label)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for epoch in range(epochs):
            train_epoch(training, epoch)
            stage = {149: "warm_up", 249: "random", 349: "difficult"}.get(epoch)
            if stage is None:
                continue
            with torch.no_grad():
                if stage == "warm_up":
                    left, right, cosine = (
                        part.float()
                        for part in cosine_pairs(drawn(4000, 64), drawn(4000, 64, seed=5), drawn(4000, seed=6))
                    )
                    assert correlation(model.network(torch.cat([left, right], dim=-1))[..., 0], cosine) > 0.98
                reached[stage] = mean_average_precision(model.score(side, side).numpy(), held_label)
    finally:
        torch.set_num_threads(threads)
    print(reached)
    assert abs(reached["warm_up"] - reached["cosine"]) < 0.05
    assert reached["random"] > reached["cosine"] + 0.15
    assert reached["difficult"] >= reached["random"]


def scattered(num_labels: int, per_label: int, basis: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns unit rows and their labels: a centre each, far scatter along `basis`, and a little everywhere."""
    random, dim = np.random.default_rng(seed), basis.shape[1]
    centres = random.normal(size=(num_labels, dim)) / np.sqrt(dim)
    label = np.repeat(np.arange(num_labels), per_label)
    along = 1.2 * random.normal(size=(len(label), len(basis))) / np.sqrt(len(basis))
    rows = centres[label] + along @ basis + 0.3 * random.normal(size=(len(label), dim)) / np.sqrt(dim)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), label


def mean_average_precision(scores: np.ndarray, label: np.ndarray) -> float:
    """Returns the mAP of each item among all others."""
    precisions = []
    for item, row in enumerate(scores):
        order = [other for other in np.argsort(-row, kind="stable") if other != item]
        hits = label[order] == label[item]
        precisions.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    return float(np.mean(precisions))


def test_a_batch_without_pairs_gives_no_loss_and_no_gradient() -> None:
    model = network()
    one = torch.ones(1, DIM)
    batch = Batch({"image": Values(one), "video": Values(one)}, torch.tensor([0]), draws=noise_for(model, 1))
    loss = model.losses(replace(batch, phase="random"))["total"]
    loss.backward()
    assert loss == 0
    assert all(not weights.grad.any() for weights in model.network.parameters())
