"""Localising with a trained model, NumPy in and NumPy out.

trained = load(find_checkpoint("out/run"))
steps, score = localise(trained, {"video": InputRows(values, offsets), "query": words}, num_answers=5)
"""

from collections.abc import Mapping

import numpy as np
import torch

from clipmill.models.base import Localises
from clipmill.models.checkpoints import TrainedModel
from clipmill.models.embedding import check_rows, values_of
from clipmill.schemas.arrays import Floats
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import InputRows

_ITEMS = 64
"""ours: items of one forward pass, of which each has as many pairs of steps as steps squared."""


def localise(trained: TrainedModel, inputs: Mapping[str, InputRows], num_answers: int) -> tuple[Floats, Floats]:
    """Returns where the moments begin and end, ``float64[n, K, 2]`` in steps, and their scores ``float64[n, K]``.

    K is `num_answers`; an item that has fewer has scores of -inf for the rest. The best comes first.

    Args:
        inputs: those of the card, of n items, as stored: they are scaled here as in training.

    Raises:
        UsageError: the model does not localise, or steps are of another length than those it was trained on.
    """
    model = trained.model
    if not isinstance(model, Localises):
        expected = "a model that finds moments"
        remedy = f"evaluate the task it was trained for ({trained.card.task})"
        raise UsageError(describe("model", trained.name, expected, "one that does not", remedy))
    wanted = {name: inputs[name] for name in trained.card.inputs}
    for name, rows in wanted.items():
        check_rows(rows, name, trained)
    model.eval()  # type: ignore[attr-defined]
    device = next((value.device for value in model.state_dict().values()), torch.device("cpu"))  # type: ignore[attr-defined]
    num_items = len(next(iter(wanted.values())))
    steps = np.zeros((num_items, num_answers, 2))
    score = np.full((num_items, num_answers), -np.inf)
    # Items of about one length together, so that little is filled up.
    order = np.argsort(wanted[next(iter(wanted))].lengths(), kind="stable")
    with torch.inference_mode():
        for start in range(0, num_items, _ITEMS):
            rows_of = order[start : start + _ITEMS]
            block = {
                name: values_of(trained.scaled(name, rows.take(rows_of).unshared()), None, device)
                for name, rows in wanted.items()
            }
            found = model.localise(block, num_answers)
            num_found = found.score.shape[1]
            steps[rows_of, :num_found] = found.steps.double().cpu().numpy()
            score[rows_of, :num_found] = found.score.double().cpu().numpy()
    return steps, score
