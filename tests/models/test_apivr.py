"""APIVR in both forms: losses by a second reading, whom each step moves, the named defects, and that it learns."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.models import registry
from clipmill.models.apivr import Apivr, ApivrOptions
from clipmill.models.base import Batch, Sizes, Values
from clipmill.pipelines.training.optimiser import rate_of
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.errors import ConfigError
from clipmill.schemas.inputs import Bag
from tests.models.small_batches import learned, made, mean_average_precision, unrelated_items
from tests.models.synthetic_items import DIM

SMALL: dict[str, Any] = {
    "num_proposals": 6,
    "num_kept": 3,
    "common_dim": 6,
    "proposal_hidden": [16],
    "image_hidden": [16],
    "attention_hidden": 7,
    "modality_hidden": [5],
}
RELEASED = SMALL | {"form": "released"}
DEFECTS = ["untrained_classifier", "inert_adversary", "proposal_axis_projector"]
AS_IS = RELEASED | {"released_defects": DEFECTS}


def batch_of(num: int = 7, num_labels: int = 3, longest: int = 6, seed: int = 0, **rest: Any) -> Batch:
    """Images, and bags of 1 to 6 proposals, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(num, DIM, generator=generator, dtype=torch.float64)
    rows = torch.randn(num, 6, DIM, generator=generator, dtype=torch.float64)
    filled = torch.zeros(num, longest, DIM, dtype=torch.float64)
    filled[:, :6] = rows
    mask = torch.arange(longest) < (torch.arange(num) % 6 + 1)[:, None]
    inputs = {"image": Values(image), "video": Values(filled * mask[..., None], mask)}
    return Batch(inputs, torch.arange(num) % num_labels, **rest)


class Reading:
    """A second reading in NumPy, item by item, from a model's parameters."""

    def __init__(self, model: Apivr, batch: Batch) -> None:
        self.w = {name: value.numpy() for name, value in model.state_dict().items()}
        self.images = batch["image"].numpy()
        self.bags = [rows[kept].numpy() for rows, kept in zip(batch["video"], batch.inputs["video"].mask, strict=True)]
        self.label = batch.labels.tolist()
        self.num = len(self.label)

    def linear(self, name: str, row: Any) -> Any:
        return row @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def tanh_layers(self, name: str, row: Any) -> Any:
        for place in (0, 2):
            row = np.tanh(self.linear(f"{name}.{place}", row))
        return row

    def attended(self, rows: Any) -> tuple[Any, Any]:
        hidden = np.tanh(self.linear("attention.hidden", rows))
        mass = np.exp(self.linear("attention.scores", hidden)[:, 0])
        return (mass / mass.sum()) @ self.linear("attention.values", hidden), mass

    def cross_entropy(self, vectors: Any) -> float:
        terms = []
        for row, label in zip(vectors, self.label, strict=True):
            logits = self.linear("classifier", row)
            terms.append(math.log(np.exp(logits - logits[label]).sum()))
        return float(np.mean(terms))

    def adversary(self, u: Any, v: Any) -> float:
        loss = 0.0
        for modality, side in enumerate((u, v)):
            for row in side:
                logits = self.linear("modality.layers.2", self.linear("modality.layers.0", row))
                loss += math.log(np.exp(logits - logits[modality]).sum()) / self.num
        return loss

    def negative(self, i: int) -> int:
        others = [j for j in range(self.num) if self.label[j] != self.label[i]]
        cosines = {j: self.images[i] @ self.images[j] / np.linalg.norm(self.images[j]) for j in others}
        return max(cosines, key=cosines.__getitem__)


def test_the_papers_losses_agree_with_a_second_reading() -> None:
    model, batch = made("apivr", ridge=1e-9, margin=0.5, **SMALL).double(), batch_of(progress=0.4)
    found, told = model.losses(batch), Reading(model, batch)
    u = [told.tanh_layers("image", row) for row in told.images]
    v, spans = [], []
    for bag in told.bags:
        h = told.tanh_layers("proposals", bag)
        unit = h / np.linalg.norm(h, axis=1, keepdims=True)
        s = np.exp(unit @ unit.T)
        s = s / s.sum(axis=1, keepdims=True)
        vector, mass = told.attended(s @ h @ told.w["graph.weight.weight"].T)
        v.append(vector)
        spans.append(h[np.argsort(-mass)[:3]])

    def distance(point: Any, rows: Any) -> float:
        shares = np.linalg.lstsq(rows.T, point, rcond=None)[0]
        return float(((point - rows.T @ shares) ** 2).sum())

    triplet = 0.0
    for i in range(told.num):
        point = u[i] / np.linalg.norm(u[i])
        triplet += max(0.0, 0.5 + distance(point, spans[i]) - distance(point, spans[told.negative(i)]))
    expected = {
        "class_video": told.cross_entropy(v),
        "class_image": told.cross_entropy(u),
        "triplet": triplet,
        "adversary": told.adversary(u, v),
    }
    weights = {"class_video": 10, "class_image": 1, "triplet": 0.01, "adversary": 1}
    expected["total"] = sum(weight * expected[name] for name, weight in weights.items())
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("defects", [[], ["proposal_axis_projector"], ["inert_adversary"]])
def test_the_releases_losses_agree_with_a_second_reading(defects: list[str]) -> None:
    model = made("apivr", ridge=1e-9, margin=0.5, released_defects=defects, **RELEASED).double()
    batch = batch_of(num=6)
    found, told = model.losses(batch), Reading(model, batch)
    u = [told.tanh_layers("image", row) for row in told.images]
    v, networks, targets = [], [], []
    for bag in told.bags:
        h = told.tanh_layers("proposals", np.concatenate([bag, np.repeat(bag[-1:], 6 - len(bag), axis=0)]))
        vector, mass = told.attended(h)
        v.append(vector)
        networks.append(told.tanh_layers("projector", h))
        kept = h if "proposal_axis_projector" in defects else h[np.argsort(-mass, kind="stable")[:3]]
        along = np.linalg.pinv(kept, rcond=1e-6)
        targets.append(kept @ along if "proposal_axis_projector" in defects else along @ kept)
    whole = math.sqrt(sum((network**2).sum() for network in networks))
    triplet = 0.0
    for i in range(told.num):
        point = u[i] / np.linalg.norm(u[i])
        right, wrong = (point @ networks[j] @ point / whole for j in (i, told.negative(i)))
        triplet += max(0.0, 0.5 + wrong - right)
    gaps = [((network - target) ** 2).mean() for network, target in zip(networks, targets, strict=True)]
    expected = {
        "class_video": told.cross_entropy(v),
        "class_image": told.cross_entropy(u),
        "projector": float(np.mean(gaps)),
        "triplet": triplet,
        "adversary": told.adversary(u, v),
    }
    weights = {"class_video": 10, "class_image": 1, "triplet": 0.01, "projector": 0.001, "adversary": 1}
    if "inert_adversary" in defects:
        weights["adversary"] = 0
    expected["total"] = sum(weight * expected[name] for name, weight in weights.items())
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "options", [SMALL, RELEASED, RELEASED | {"released_defects": DEFECTS}], ids=["paper", "code", "as is"]
)
def test_neither_losses_nor_vectors_depend_on_what_fills_up(options: dict[str, Any]) -> None:
    model = made("apivr", **options).double()
    short, long = batch_of(), batch_of(longest=11)
    losses = model.losses(long)
    for name, value in model.losses(short).items():
        torch.testing.assert_close(value, losses[name], msg=name)
    torch.testing.assert_close(model.encode_bags(short.inputs["video"])[3], model.encode_bags(long.inputs["video"])[3])


@pytest.mark.parametrize("options", [SMALL, RELEASED], ids=["paper", "released"])
def test_everything_but_the_adversary_has_its_gradient_reversed(options: dict[str, Any]) -> None:
    """As the other losses minus weight x factor x adversary, differentiated without a reversal."""
    model, batch = made("apivr", adversary_weight=2.0, **options).double(), batch_of(progress=0.2)
    model.losses(batch)["total"].backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    losses = model.losses(batch)
    _, _, _, video = model.encode_bags(batch.inputs["video"])
    logits = model.modality.layers(torch.cat([model.image(batch["image"]), video]))
    adversary = 2 * torch.nn.functional.cross_entropy(logits, torch.tensor([0] * 7 + [1] * 7))
    factor = 2.0 * math.tanh(5 * 0.2)
    (losses["total"] - losses["adversary"] - factor * adversary).backward(retain_graph=True)
    for name, value in model.named_parameters():
        if not name.startswith("modality"):
            torch.testing.assert_close(found[name], value.grad, msg=name)


def test_each_step_moves_its_own_side_and_a_defect_leaves_the_classifier_as_it_was() -> None:
    for options, still in (
        (SMALL, set()),
        (RELEASED, set()),
        (RELEASED | {"released_defects": DEFECTS}, {"classifier"}),
    ):
        model = made("apivr", **options)
        (phase,) = model.phases(LoopConfig())
        assert [step.loss for step in phase.steps] == ["total", "adversary"]
        moved = [
            {name.split(".")[0] for name, _ in model.named_parameters() if rate_of(step, name)} for step in phase.steps
        ]
        parts = {name.split(".")[0] for name, _ in model.named_parameters()}
        assert moved == [parts - {"modality"} - still, {"modality"}]
    (alone,) = made("apivr", adversary_weight=0, **SMALL).phases(LoopConfig())
    assert [step.loss for step in alone.steps] == ["total"]


@pytest.mark.parametrize(("defects", "reaches"), [(["inert_adversary"], False), ([], True)])
def test_as_released_the_adversary_reaches_nothing(defects: list[str], reaches: bool) -> None:
    gradients = []
    for weight in (0, 1):
        model = made("apivr", released_defects=defects, adversary_weight=weight, **RELEASED).double()
        model.losses(batch_of(progress=1.0))["total"].backward()
        gradients.append([value.grad for name, value in model.named_parameters() if name.startswith("image")])
    same = [torch.allclose(one, other, rtol=1e-9, atol=1e-12) for one, other in zip(*gradients, strict=True)]
    assert same == [not reaches] * 4


def test_the_adversary_makes_modalities_the_same_while_labels_stay_apart() -> None:
    items = unrelated_items("apivr", **SMALL)
    items.inputs["image"].values[:] -= 1
    items.inputs["video"].values[:] += 1

    def last(weight: float) -> tuple[float, float]:
        given = SMALL | {"video_class_weight": 1.0, "triplet_weight": 0.0, "adversary_weight": weight}
        _, losses = learned("apivr", items, 150, 0.005, **given)
        return float(np.mean([epoch["adversary"] for epoch in losses[-50:]])), losses[-1]["class_video"]

    (known, _), (unknown, classes) = last(1e-9), last(1.0)
    assert known < 1.2
    assert unknown == pytest.approx(2 * math.log(2), abs=0.03)
    assert classes < 0.4


def test_the_triplet_alone_brings_images_nearer_to_their_own_bags_subspace() -> None:
    items = unrelated_items("apivr", **SMALL)
    given = {
        "video_class_weight": 0,
        "image_class_weight": 0,
        "triplet_weight": 1,
        "adversary_weight": 0,
        "margin": 0.3,
    }
    _, losses = learned("apivr", items, 60, 0.01, **SMALL | given)
    assert losses[-1]["triplet"] < 0.2 * losses[0]["triplet"]


def test_the_bag_on_the_card_is_as_the_options_say() -> None:
    def bag(**options: Any) -> Any:
        return registry.card("apivr", registry.resolve_options("apivr", options)).inputs["video"]

    assert bag() == Bag(64, "first")
    assert bag(num_proposals=60, choose="score") == Bag(60, "score")


def test_the_released_forms_layers_are_the_releases() -> None:
    published = Path(__file__).resolve().parents[3] / "shared/reference/checkpoints/apivr_thumos14_released.json"
    if not published.exists():
        pytest.skip("the reference of ../shared is not here")
    model = Apivr(ApivrOptions(form="released"), Sizes({"image": 128, "video": 4096}, 18))
    theirs = json.loads(published.read_text())
    names = {"proposals.0": "vf_fc_0", "proposals.2": "vf_fc_1", "proposals.4": "vf_fc_2"}
    names |= {"image.0": "le_fc_0", "image.2": "le_fc_1", "image.4": "le_fc_2"}
    names |= {"attention.hidden": "vf1_fc_0", "attention.values": "vf1_fc_1", "attention.scores": "vf1_fc_2"}
    names |= {"projector.0": "rf_fc_0", "projector.2": "rf_fc_1", "classifier": "lc_fc_3"}
    names |= {"modality.layers.0": "dc_fc_0", "modality.layers.2": "dc_fc_1"}
    shapes = {}
    for name, value in model.named_parameters():
        layer, kind = name.rsplit(".", 1)
        kind = "weights" if kind == "weight" else "biases"
        shapes[f"{names[layer]}/{kind}"] = list(value.shape)[::-1]
    assert shapes == theirs["keys"]
    assert sum(value.numel() for value in model.parameters()) == theirs["num_params"]


def test_the_loop_is_the_releases() -> None:
    loop = dict(registry.registration("apivr").card.loop)
    assert loop == {"epochs": 200, "batch": 70, "learning_rate": 1e-4, "beta1": 0.7}


@pytest.mark.parametrize("options", [SMALL, RELEASED, AS_IS], ids=["paper", "released", "as is"])
def test_a_batch_without_negatives_has_finite_gradients(options: dict[str, Any]) -> None:
    model = made("apivr", **options).double()
    losses = model.losses(batch_of(num=3, num_labels=1))
    assert losses["triplet"].item() == 0
    losses["total"].backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


@pytest.mark.parametrize("options", [SMALL, RELEASED], ids=["paper", "released"])
def test_it_learns_a_small_batch_by_heart(options: dict[str, Any]) -> None:
    items = unrelated_items("apivr", **options)
    model, losses = learned("apivr", items, 150, 0.01, **options)
    assert losses[-1]["class_video"] < 0.1 * losses[0]["class_video"]
    assert mean_average_precision(model, items, "common") > 0.95


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_kept": 64}, "num_kept below common_dim"),
        ({"form": "released", "num_proposals": 60}, "num_proposals equal to common_dim"),
        ({"released_defects": ["inert_adversary"]}, "set form: released"),
        ({"form": "released", "released_defects": ["none"]}, "released_defects"),
    ],
)
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.resolve_options("apivr", given)
