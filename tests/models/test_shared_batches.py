"""Several workers over gloo against one, for every registered model that learns: losses, weights and statistics."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.models import registry
from clipmill.models.base import Sizes, resolved_loop
from clipmill.pipelines.training.loop import train_epoch
from clipmill.pipelines.training.parallel import OneProcess, ProcessGroup, SharedBatch
from clipmill.schemas.config import LoopConfig
from tests.models.small_models import SMALL, as_double
from tests.models.synthetic_items import synthetic_items
from tests.pipelines.training.gloo_workers import run_workers
from tests.pipelines.training.test_training_loop import training_of

VARIANTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "acmr": [("two steps, one hinge a batch", {"projector_steps": 2, "hinge": "batch"})],
    "apivr": [("released", {"form": "released", "num_proposals": 6})],
    "ccl": [("parts", {"parts": True, "max_parts": 4, "joint_dim": 12})],
    "ci_mha": [(fusion, {"fusion": fusion}) for fusion in ("pad", "back", "seq")]
    + [("MHA", {"cross_attention": "one_way", "segmentation_weight": 0.0})],
    "cmdn": [("greedy", {"greedy": True})],
    "semart": [("amd", {"form": "amd"})],
    "shot_embedding": [("random GRU", {"encoder": "gru", "start": "random", "embedding_dim": 8})],
    "excl": [("mlp", {"predictor": "mlp"}), ("conditioned", {"predictor": "conditioned"})],
    "dspe": [("pairs", {"positives": "pair"}), ("no dropout", {"dropout": 0.0})],
}
"""Options of a model under which other code runs."""

LEARNING = [name for name in registry.BUILT_IN if not registry.registration(name).card.closed_form]
PLAIN: list[tuple[str, str, dict[str, Any]]] = [(name, "", {}) for name in LEARNING]
CASES = PLAIN + [(name, *form) for name in LEARNING for form in VARIANTS.get(name, [])]
EPOCHS = {"ccl": 4, "cmdn": 7, "similarity_network": 5}
"""As many as there are phases; of others two."""


def trained_states_of_plain_cases() -> dict[str, dict[str, Any]]:
    return trained_states(cases=PLAIN)


def trained_states(
    parallel: Any = None, cases: Sequence[tuple[str, str, dict[str, Any]]] = CASES
) -> dict[str, dict[str, Any]]:
    """Returns, by case, the weights, buffers, losses and one batch's share of work after some epochs in float64."""
    group = ProcessGroup() if parallel is None else parallel
    found = {}
    for name, form, options in cases:
        resolved = registry.resolve_options(name, SMALL.get(name, {}) | options)
        card = registry.card(name, resolved)
        # 22 items in batches of 7: the last has one, so the other workers have nothing of it.
        items = synthetic_items(card.inputs).of("train")
        items = items.take(np.arange(22))
        items = replace(items, inputs={key: as_double(rows) for key, rows in items.inputs.items()})
        sizes = Sizes({key: source.dim for key, source in items.sources.items()}, len(items.label_names))
        model: Any = registry.build(name, resolved, sizes, seed=3).double()
        epochs = EPOCHS.get(name, 2)
        loop = resolved_loop(card, LoopConfig(epochs=epochs, batch=7, learning_rate=1e-3, max_gradient_norm=1.0))
        training = replace(
            training_of(model, items, loop, group), couples_batch=card.couples_batch, gathers=card.gathers
        )
        widths = watched(model)
        losses = [train_epoch(training, epoch) for epoch in range(epochs)]
        found[f"{name} {form}"] = {
            "state": {key: value.double() for key, value in model.state_dict().items()},
            "losses": losses,
            "most_items": max(widths),
        }
    return found


def watched(model: Any) -> list[int]:
    """Returns a list that gets the number of items of each batch the model is given."""
    original, seen = model.losses, []

    def losses(batch: Any) -> Any:
        seen.append(len(next(iter(batch.inputs.values())).values))
        return original(batch)

    model.losses = losses
    return seen


@pytest.mark.parametrize(
    ("num_workers", "function", "cases"),
    [
        pytest.param(2, "trained_states_of_plain_cases", PLAIN, id="2-plain"),
        pytest.param(2, "trained_states", CASES, id="2", marks=pytest.mark.slow),
        pytest.param(3, "trained_states", CASES, id="3", marks=pytest.mark.slow),
    ],
)
def test_workers_numbers_are_those_of_one(
    num_workers: int, function: str, cases: list[tuple[str, str, dict[str, Any]]], tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = trained_states(OneProcess(), cases)
    finally:
        torch.set_num_threads(threads)
    workers = run_workers(f"tests.models.test_shared_batches:{function}", num_workers, tmp_path)
    for case, expected in alone.items():
        most = max(found[case]["most_items"] for found in workers)
        assert most == -(-7 // num_workers), f"{case}: each worker has its share alone"
        for found in workers:
            for key, value in expected["state"].items():
                torch.testing.assert_close(found[case]["state"][key], value, rtol=1e-6, atol=1e-9, msg=f"{case} {key}")
            for ours, theirs in zip(found[case]["losses"], expected["losses"], strict=True):
                assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9), case
        # The same bits on all, or they would drift apart.
        first, *others = (found[case]["state"] for found in workers)
        assert all(torch.equal(other[key], value) for other in others for key, value in first.items())


def gathered_gradients() -> dict[str, torch.Tensor]:
    """Returns what came back to this worker's rows from losses that differ by worker."""
    rank = torch.distributed.get_rank()
    rows = torch.arange(5.0).reshape(5, 1).repeat(1, 2)
    start, stop = (0, 2) if rank == 0 else (2, 5)
    own = rows[start:stop].clone().requires_grad_()
    workers = SharedBatch(rank, 2, 5)
    gathered, total = workers.gather(own), workers.add_up(own.sum())
    # Worker r takes (r + 1) times row i, times i + 1; and the square of the sum over all.
    weights = (rank + 1) * torch.arange(1.0, 6.0)[:, None]
    ((gathered * weights).sum() + total.square() / 2).backward()
    return {"gathered": gathered.detach(), "total": total.detach(), "gradient": own.grad}


def test_gradients_go_back_through_the_gathering(tmp_path: Path) -> None:
    first, second = run_workers("tests.models.test_shared_batches:gathered_gradients", 2, tmp_path)
    for found in (first, second):
        assert found["gathered"][:, 0].tolist() == [0, 1, 2, 3, 4]
        assert found["total"] == 20
    # (1 + 2) times i + 1, and of each worker's total 20.
    assert first["gradient"][:, 0].tolist() == [3 + 40, 6 + 40]
    assert second["gradient"][:, 0].tolist() == [9 + 40, 12 + 40, 15 + 40]
