"""Every registered model on data that no publication had: it trains to finite numbers or says in one line why not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from clipmill.models import registry
from clipmill.models.base import Localises
from clipmill.models.checkpoints import TrainedModel, find_checkpoint, load
from clipmill.models.embedding import embed
from clipmill.models.localising import localise
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.training.train import train_items
from clipmill.schemas.config import TrainConfig
from clipmill.schemas.errors import UsageError
from tests.models.test_exact_resume import FORMS, Form, config_of, items_of

Spoil = Callable[[Items], Items]


def keep(train: Callable[[Items, np.ndarray], np.ndarray]) -> Spoil:
    """Keeps some of the clips that are trained on, and all others."""

    def spoil(items: Items) -> Items:
        places = np.flatnonzero(items.part == "train")
        return items.take(np.sort(np.r_[train(items, places), np.flatnonzero(items.part != "train")]))

    return spoil


def rows(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Changes the rows of all inputs that are numbers; words stay what they are."""
    return lambda items: replace(
        items,
        inputs={
            name: replace(given, values=change(given.values)) if given.values.ndim == 2 else given
            for name, given in items.inputs.items()
        },
    )


def each_its_own_label(items: Items) -> Items:
    label = np.arange(len(items), dtype=np.int64)
    return replace(items, label=label, label_names=tuple(f"class {code:03d}" for code in label))


def one_of_label_3(items: Items, places: np.ndarray) -> np.ndarray:
    is_third = items.label[places] == 3
    return np.r_[places[~is_third], places[is_third][:1]]


HOSTILE: dict[str, Spoil] = {
    "one clip": keep(lambda items, places: places[:1]),
    "two clips of two labels": keep(lambda items, places: places[[0, -1]]),
    "two clips of one label": keep(lambda items, places: places[:2]),
    "one clip of a label": keep(one_of_label_3),
    "each clip its own label": each_its_own_label,
    "clips that are alike": rows(lambda values: np.repeat(values[:1], len(values), axis=0)),
    "zeros": rows(np.zeros_like),
    "great numbers": rows(lambda values: values * np.float32(1e6)),
    "small numbers": rows(lambda values: values * np.float32(1e-20)),
}


def refusal(config: TrainConfig, items: Items) -> str | None:
    """Trains, and returns the line that says why it does not."""
    try:
        train_items(config, items)
    except UsageError as error:
        return str(error)
    return None


def outputs(model: TrainedModel, items: Items) -> dict[str, Any]:
    """Returns what a trained model gives for all items: its vectors, or where it finds moments."""
    if isinstance(model.model, Localises):
        return {"steps": localise(model, items.inputs, num_answers=1)[0]}
    sides: tuple[Literal["query", "gallery"], ...] = ("query", "gallery")
    return {f"{side} {key}": values for side in sides for key, values in embed(model, side, items.inputs).items()}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("form", "batch"),
    [
        # One by one, each model as it is; its other forms are slow.
        pytest.param(form, batch, id=f"{form}-{batch}", marks=pytest.mark.slow if batch and form[1] else ())
        for form in FORMS
        for batch in (1, None)
    ],
)
def test_it_ends_in_finite_numbers_or_says_why_not(form: Form, batch: int | None, tmp_path: Path) -> None:
    closed = registry.registration(form[0]).card.closed_form
    if closed and batch is not None:
        pytest.skip("has no batches")
    for name, spoil in HOSTILE.items():
        # As many epochs as there are phases.
        epochs = 8 if form[0] in ("ccl", "cmdn") else 2
        loop: dict[str, Any] = {"threads": 1} if closed else {"epochs": epochs, "threads": 1, "device": "cpu"}
        config = config_of(form, tmp_path / name, **loop)
        items = items_of(config)
        if batch is not None:
            # Two of each label to train on: a batch of one is no other for having more beside it.
            items = keep(lambda items, places: places[::3])(items)
        items = spoil(items)
        if batch is not None:
            batches = {"batch": min(batch, int((items.part == "train").sum()))}
            config = config.model_copy(update={"loop": config.loop.model_copy(update=batches)})
        if (refused := refusal(config, items)) is not None:
            assert "\n" not in refused, name
            assert "; " in refused, name
            continue
        model = load(find_checkpoint(config.out))
        state = model.model.state_dict().items()
        assert [key for key, value in state if not torch.isfinite(value.double()).all()] == [], name
        for key, values in outputs(model, items).items():
            assert np.isfinite(values).all(), f"{name}: {key}"
