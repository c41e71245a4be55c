"""CPNet's weights: the variables of the released TensorFlow code into our network, and back."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clipmill.extractors.cpnet.layouts import layouts, variables
from clipmill.extractors.weights import COUNTER, read_weights


def read_state(path: str, depth: int, unused: Sequence[str] = (), layout: str | None = None) -> dict[str, Tensor]:
    """Returns the tensors of a file under our keys, in our shapes.

    Args:
        unused: beginnings of our keys that the wanted layer does without.
        layout: name of the one a recipe was resolved with.

    Raises:
        WeightsError: the file cannot be read, has another layout, or holds NaN or infinity.
    """
    _, state = read_weights(path, layouts(depth), unused, layout)
    # Batch norm's counter, which inference does not need.
    counters = [key.removesuffix("running_mean") + COUNTER for key in state if key.endswith("running_mean")]
    return state | {key: torch.zeros((), dtype=torch.int64) for key in counters}


def to_tensorflow(state: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Returns a network's tensors as the released code names and lays them out: what `read_state` reads."""
    found = {}
    for variable in variables(depth, num_classes=len(state["fc.bias"])):
        values = state[variable.key].detach()
        if values.dim() > 1:
            values = values.permute(*range(2, values.dim()), 1, 0)
        found[variable.tensorflow] = values.reshape(variable.tensorflow_shape).contiguous()
    return found
