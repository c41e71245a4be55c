"""What every registered model promises, and three from outside: a new one is tested the moment it is registered."""

import importlib
import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.models import registry
from clipmill.models.base import Embeds, Localises, ModelCard, Registration, ScoresPairs, resolved_loop
from clipmill.models.checkpoints import TrainedModel, find_checkpoint, load
from clipmill.models.embedding import embed
from clipmill.models.localising import localise
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.training.parallel import OneProcess
from clipmill.pipelines.training.train import TrainReport, train_items
from clipmill.pipelines.training.worker import EpochDone, TrainJob, start
from clipmill.schemas.config import LoopConfig, TrainConfig
from clipmill.schemas.inputs import InputRows
from clipmill.schemas.model import validate
from clipmill.schemas.spaces import BestOfSamples, Combined, Cosine, Hamming, PairScore, Reranked
from tests.models.small_models import SMALL, as_double
from tests.models.synthetic_items import synthetic_items
from tests.pipelines.training.test_training_loop import training_of

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ("gru_retrieval", "pair_scorer", "ridge_retrieval")


@pytest.fixture(params=[*registry.BUILT_IN, *OUTSIDE])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a model; those from outside are registered for the time of the test."""
    found: str = request.param
    if found in OUTSIDE:
        module = importlib.import_module(f"tests.models.outside.{found}")
        original = registry.registration

        def registration(wanted: str) -> Registration:
            return module.REGISTRATION if wanted == found else original(wanted)  # type: ignore[no-any-return]

        monkeypatch.setattr(registry, "registration", registration)
    return found


def card_of(name: str) -> ModelCard:
    return registry.card(name, registry.resolve_options(name, SMALL.get(name, {})))


def config_of(name: str, out: Path, **loop: Any) -> TrainConfig:
    card = card_of(name)
    named = {"image": None, "video": None} | {key: f"{key} feature" for key in card.inputs if key in ("image", "video")}
    others = {key: f"{key} feature" for key in card.inputs if key not in ("image", "video")}
    given: dict[str, Any] = {} if card.closed_form else {"device": "cpu", "threads": 1} | loop
    data = {
        "data": {"store": "somewhere/store", **named, "inputs": others},
        "model": {"name": name, "options": SMALL.get(name, {})},
        "loop": given,
        "out": str(out),
    }
    return validate(TrainConfig, data, "test")


def trained(name: str, items: Items, out: Path, **loop: Any) -> tuple[TrainReport, TrainedModel]:
    report = train_items(config_of(name, out, **loop), items)
    return report, load(find_checkpoint(out))


def fresh(name: str, items: Items, out: Path) -> TrainedModel:
    return start(TrainJob(config_of(name, out), items, {}, str(out), 0))


def test_a_card_is_plain_data(name: str) -> None:
    card = card_of(name)
    assert card.name == name
    assert json.dumps([asdict(kind) for kind in card.inputs.values()])
    assert json.dumps(dict(card.loop))
    assert card.source
    assert resolved_loop(card, LoopConfig()).model_dump().items() >= dict(card.loop).items()
    assert {name for side in card.sides.values() for name in side} <= set(card.inputs)
    assert bool(card.sides) == (card.task == "retrieval")


def test_losses_are_finite_and_of_each_item_unless_they_couple_the_batch(name: str, tmp_path: Path) -> None:
    card = card_of(name)
    if card.closed_form:
        pytest.skip("solved in closed form")
    items = synthetic_items(card.inputs).of("train")
    model = fresh(name, items, tmp_path).model
    placed = training_of(model, items, LoopConfig(epochs=9)).items
    whole = torch.arange(8)
    lengths, draws = placed.lengths(torch.arange(len(items))), noise(model, 8)
    losses = model.losses(placed.batch(whole, lengths, draws=draws))
    assert "total" in losses
    assert all(torch.isfinite(value).all() for value in losses.values())
    if card.couples_batch:
        assert all(value.ndim == 0 for value in losses.values())
        return
    assert all(value.shape == (8,) for value in losses.values())
    part = torch.tensor([2, 5])
    alone = model.losses(placed.batch(part, lengths, draws={key: value[part] for key, value in draws.items()}))
    for key, value in alone.items():
        torch.testing.assert_close(value, losses[key][part], msg=key)


def noise(model: Any, num_items: int) -> dict[str, torch.Tensor]:
    shapes = model.draws() if hasattr(model, "draws") else {}
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(num_items, *shape, generator=generator) for key, shape in shapes.items()}


def test_no_loss_depends_on_what_only_fills_up(name: str, tmp_path: Path) -> None:
    card = card_of(name)
    items = synthetic_items(card.inputs).of("train")
    if card.closed_form or all(rows.offsets is None for rows in items.inputs.values()):
        pytest.skip("no input is filled up")
    model = fresh(name, items, tmp_path).model
    placed = training_of(model, items, LoopConfig(epochs=9)).items
    some = torch.arange(6)
    lengths, draws = placed.lengths(some), noise(model, 6)
    short = model.losses(placed.batch(some, lengths, draws=draws))
    longer = {key: length + 3 for key, length in lengths.items()}
    for key, value in model.losses(placed.batch(some, longer, draws=draws)).items():
        torch.testing.assert_close(value, short[key], msg=key)


def test_an_embedding_does_not_depend_on_the_batch(name: str, tmp_path: Path) -> None:
    if card_of(name).task != "retrieval":
        pytest.skip("no model of retrieval")
    items = synthetic_items(card_of(name).inputs)
    model = fresh(name, items, tmp_path)
    assert isinstance(model.model, Embeds)
    for side in ("query", "gallery"):
        whole = embed(model, side, items.inputs)
        for one in (0, 17):
            alone = embed(model, side, {key: rows.take(np.array([one])) for key, rows in items.inputs.items()})
            for key, values in alone.items():
                np.testing.assert_allclose(values[0], whole[key][one], rtol=2e-5, atol=2e-6, err_msg=key)


def test_what_is_localised_does_not_depend_on_the_batch(name: str, tmp_path: Path) -> None:
    if card_of(name).task != "moments":
        pytest.skip("no model of moments")
    items = synthetic_items(card_of(name).inputs)
    model = fresh(name, items, tmp_path)
    assert isinstance(model.model, Localises)
    steps, score = localise(model, items.inputs, num_answers=4)
    lengths = items.inputs["video"].lengths()
    assert steps.shape == (len(items), 4, 2)
    there = np.isfinite(score)
    assert there[:, 0].all()
    assert (there.sum(axis=1) == np.minimum(4, lengths * (lengths + 1) // 2)).all()
    assert (score[:, 0] == score.max(axis=1)).all()
    begin, end = steps[..., 0][there], steps[..., 1][there]
    assert ((begin >= 0) & (begin < end) & (end <= np.repeat(lengths, there.sum(axis=1)))).all()
    for one in (0, 17):
        alone, own = localise(model, {key: rows.take(np.array([one])) for key, rows in items.inputs.items()}, 4)
        known = there[one]
        np.testing.assert_array_equal(alone[0][: known.sum()], steps[one][known])
        np.testing.assert_allclose(own[0][: known.sum()], score[one][known], rtol=2e-5)


def test_every_space_can_be_computed(name: str, tmp_path: Path) -> None:
    if card_of(name).task != "retrieval":
        pytest.skip("no model of retrieval")
    items = synthetic_items(card_of(name).inputs)
    model = fresh(name, items, tmp_path)
    queries, gallery = (embed(model, side, items.inputs) for side in ("query", "gallery"))
    spaces = model.model.spaces()
    assert spaces
    for space in spaces.values():
        if isinstance(space, Combined):
            assert set(space.weights) <= set(spaces)
        elif isinstance(space, PairScore | Reranked):
            assert isinstance(model.model, ScoresPairs)
            assert isinstance(space, PairScore) or space.first in spaces
            sides = [{key: torch.from_numpy(value) for key, value in side.items()} for side in (queries, gallery)]
            assert model.model.score(*sides).shape == (len(items), len(items))
        else:
            left, right = queries[space.query], gallery[space.gallery]
            assert left.ndim == (3 if isinstance(space, BestOfSamples) else 2)
            assert (right.ndim, right.shape[-1]) == (2, left.shape[-1])
            assert right.dtype == (np.uint8 if isinstance(space, Hamming) else np.float32)
            assert isinstance(space, Cosine | BestOfSamples | Hamming)


def test_training_lowers_the_total_and_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    items = synthetic_items(card_of(name).inputs)
    if card_of(name).closed_form:
        report, model = trained(name, items, tmp_path / "run")
        again, same = trained(name, items, tmp_path / "run")
        assert (again.start_epoch, again.losses) == (report.epoch, report.losses)
        assert report.losses[-1]["total"] < before(name, items, tmp_path)
    else:
        report, model = trained(name, items, tmp_path / "run", epochs=6, learning_rate=0.01)
        assert report.losses[-1]["total"] < report.losses[0]["total"]
        with pytest.raises(KeyboardInterrupt, match="stopped after epoch 2 of 6"):
            train_items(config_of(name, tmp_path / "parts", epochs=6, learning_rate=0.01), items, [interrupt])
        resumed, same = trained(name, items, tmp_path / "parts", epochs=6, learning_rate=0.01)
        assert (resumed.start_epoch, resumed.losses) == (2, report.losses)
    weights, others = (item.model.state_dict() for item in (model, same))
    assert [key for key in weights if not torch.equal(weights[key], others[key])] == []


def interrupt(done: EpochDone) -> None:
    """Ctrl-C in the second epoch."""
    if done.epoch == 1:
        signal.raise_signal(signal.SIGINT)


def before(name: str, items: Items, folder: Path) -> float:
    """The mean square of what a solution explains: what is left where nothing is explained."""
    rows: InputRows = items.of("train").inputs[card_of(name).sides["gallery"][0]]
    return float(np.square(rows.values).mean())


def test_the_epoch_that_did_best_on_the_validation_split_is_used(name: str, tmp_path: Path) -> None:
    if card_of(name).closed_form:
        pytest.skip("solved in closed form")
    items = synthetic_items(card_of(name).inputs)
    # So great a rate that the first epochs are not the worst.
    report, model = trained(
        name, items, tmp_path / "run", epochs=5, learning_rate=0.3, select="total", keep_checkpoints=1
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    values = [line["validation"]["total"] for line in lines]
    assert report.selected_epoch == 1 + int(np.argmin(values))
    assert model.epoch == report.selected_epoch
    assert report.num_validation == 12


def test_clips_that_validate_or_test_are_not_trained_on(name: str, tmp_path: Path) -> None:
    items = synthetic_items(card_of(name).inputs)
    loop: dict[str, Any] = {} if card_of(name).closed_form else {"epochs": 2}
    _, one = trained(name, items, tmp_path / "one", **loop)
    spoilt = {
        key: replace(rows, values=spoiled(rows, items.part != "train")) if rows.values.ndim == 2 else rows
        for key, rows in items.inputs.items()
    }
    _, two = trained(name, replace(items, inputs=spoilt), tmp_path / "two", **loop)
    assert one.scalings == two.scalings
    weights, others = (item.model.state_dict() for item in (one, two))
    assert [key for key in weights if not torch.equal(weights[key], others[key])] == []


def spoiled(rows: InputRows, untrained: np.ndarray) -> np.ndarray:
    values = np.array(rows.values)
    values[np.repeat(untrained, rows.lengths())] = 1e3
    return values


class _Half(OneProcess):
    """Worker `rank` of two, alone: it keeps its gradients."""

    def __init__(self, rank: int) -> None:
        self.rank, self.num_workers = rank, 2
        self.gradients: list[torch.Tensor] = []

    def add_up_gradients(self, parameters: Any) -> None:
        kept = [parameter.grad.clone().reshape(-1) for parameter in parameters if parameter.grad is not None]
        self.gradients.append(torch.cat(kept))


def test_two_workers_gradients_are_those_of_one(name: str, tmp_path: Path) -> None:
    """Per item each takes its share; where the batch is coupled, each computes all of it and counts for half."""
    from clipmill.pipelines.training.loop import train_epoch

    card = card_of(name)
    if card.closed_form:
        pytest.skip("solved in closed form")
    items = synthetic_items(card.inputs).of("train")

    def gradients(parallel: Any) -> list[torch.Tensor]:
        model = fresh(name, items, tmp_path).model.double()
        double = {key: as_double(rows) for key, rows in items.inputs.items()}
        loop = LoopConfig(epochs=2, batch=10, learning_rate=1e-30)
        training = training_of(model, replace(items, inputs=double), loop, parallel)
        train_epoch(replace(training, couples_batch=card.couples_batch), epoch=1)
        return parallel.gradients  # type: ignore[no-any-return]

    one, two = gradients(_Half(0)), gradients(_Half(1))
    alone = _Half(0)
    alone.num_workers = 1
    for left, right, whole in zip(one, two, gradients(alone), strict=True):
        torch.testing.assert_close(left + right, whole, rtol=1e-6, atol=1e-9)


def test_the_registry_and_the_contract_load_no_torch() -> None:
    code = "import sys, clipmill.models.registry, clipmill.models.base; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.stdout.strip() == "False", done.stderr
