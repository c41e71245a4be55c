"""Embedding with a trained model, NumPy in and NumPy out.

trained = load(find_checkpoint("out/run"))
queries = embed(trained, "query", {"image": InputRows(u)})       # u float32[Q, D], as stored
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from clipmill.models.base import Embeds, Side, Values
from clipmill.models.checkpoints import TrainedModel
from clipmill.schemas.arrays import Array
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import InputRows, Tokens, from_padded

if TYPE_CHECKING:
    import torch

_ITEMS = 256
"""ours: items of one forward pass; h decoded samples each make it h times as many vectors."""

_INPUT, _MASK = "input ", " mask"
"""Beginning of the names of arrays that hold inputs, and ending of those that say which of their rows there are."""


def embed(trained: TrainedModel, side: Side, inputs: Mapping[str, InputRows]) -> dict[str, Array]:
    """Returns the arrays that the model's spaces name, ``[n, ...]`` each, of n queries or gallery items.

    Args:
        inputs: those of the side, as stored: they are scaled here as in training.

    Raises:
        UsageError: the model cannot be searched with, or rows are of another length than those it was trained on.
    """
    model = trained.model
    if not isinstance(model, Embeds):
        remedy = "evaluate the task it was trained for"
        raise UsageError(describe("model", trained.name, "one that embeds", "one that does not", remedy))
    wanted = {name: inputs[name] for name in trained.card.sides[side]}
    for name, rows in wanted.items():
        check_rows(rows, name, trained)
    model.eval()  # type: ignore[attr-defined]  # A model just built is in training mode, where some layers see the batch.
    import torch

    device = next((value.device for value in model.state_dict().values()), torch.device("cpu"))  # type: ignore[attr-defined]
    lengths = {name: int(rows.lengths().max(initial=1)) for name, rows in wanted.items() if rows.offsets is not None}
    num_items = len(next(iter(wanted.values())))
    parts: dict[str, list[Any]] = {}
    with torch.inference_mode():
        # One pass even without items, which gives every array its shape.
        for start in range(0, max(1, num_items), _ITEMS):
            span = np.arange(start, min(start + _ITEMS, num_items))
            block = {
                name: values_of(trained.scaled(name, rows.take(span)), lengths.get(name), device)
                for name, rows in wanted.items()
            }
            for name, values in model.embed(side, block).items():
                parts.setdefault(name, []).append(values.cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def array_name(name: str) -> str:
    """Returns what the array of the input `name` is called among those a model embeds."""
    return _INPUT + name


def arrays_of(inputs: Mapping[str, InputRows]) -> dict[str, Array]:
    """Returns `inputs` as arrays ``[n, ...]`` that can be cut into blocks of items: padded, each with its mask."""
    found: dict[str, Array] = {}
    for name, rows in inputs.items():
        key = array_name(name)
        if rows.offsets is None:
            found[key] = rows.values
        else:
            found[key], found[key + _MASK] = rows.padded()
    return found


def inputs_of(block: Mapping[str, Array], names: tuple[str, ...]) -> dict[str, InputRows]:
    """Returns the inputs `names` of a block of what `arrays_of` gave."""
    found = {}
    for name in names:
        key = array_name(name)
        mask = block.get(key + _MASK)
        found[name] = InputRows(block[key]) if mask is None else from_padded(block[key], np.asarray(mask, np.bool_))
    return found


def values_of(rows: InputRows, length: int | None, device: "torch.device") -> Values:
    """Returns rows on the device, filled up to `length`; None: to the longest item's."""
    import torch

    if rows.offsets is None:
        return Values(torch.from_numpy(np.ascontiguousarray(rows.values)).to(device))
    values, mask = rows.padded(length)
    return Values(torch.from_numpy(values).to(device), torch.from_numpy(mask).to(device))


def check_rows(rows: InputRows, name: str, trained: TrainedModel) -> None:
    """Makes sure that rows of the input `name` are of the length that the model was trained on.

    Raises:
        UsageError: they are not.
    """
    if isinstance(trained.card.inputs[name], Tokens):
        return
    dim, source = trained.sizes.dims[name], trained.origin.inputs[name].name
    if rows.values.ndim != 2 or rows.values.shape[1] != dim:
        raise UsageError(
            describe(
                f"{name} vectors",
                f"of {source}",
                f"[n, {dim}] as the model was trained on",
                str(list(rows.values.shape)),
                "evaluate with the features of its training config",
            )
        )
