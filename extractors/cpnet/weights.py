"""CPNet's weights: the variables of the released TensorFlow code into our network, and back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from clipmill.extractors.cpnet.layouts import layouts, variables
from clipmill.extractors.weights import COUNTER, match_layout, read_state_dict
from clipmill.schemas.errors import WeightsError, describe


def read_state(path: str, depth: int) -> dict[str, Tensor]:
    """Returns the tensors of a file under our keys, in our shapes.

    Raises:
        WeightsError: the file cannot be read, has another layout, or holds NaN or infinity.
    """
    state = read_state_dict(path)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    layout = match_layout(path, shapes, layouts(depth))
    renamed: dict[str, Tensor] = {}
    for variable in variables(depth, layout.count_classes(shapes) or 0):
        values = state[variable.tensorflow].float()
        if not values.isfinite().all():
            got = f"NaN or infinity in {variable.tensorflow}"
            raise WeightsError(describe("weights", path, "finite numbers", got, "fetch it again"))
        if values.dim() > 1:
            values = values.permute(-1, -2, *range(values.dim() - 2))
        renamed[variable.key] = values.reshape(variable.shape).contiguous()
        if variable.key.endswith("running_mean"):
            # Batch norm's counter, which inference does not need.
            renamed[variable.key.removesuffix("running_mean") + COUNTER] = torch.zeros((), dtype=torch.int64)
    return renamed


def to_tensorflow(state: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Returns a network's tensors as the released code names and lays them out: what `read_state` reads."""
    found = {}
    for variable in variables(depth, num_classes=len(state["fc.bias"])):
        values = state[variable.key].detach()
        if values.dim() > 1:
            values = values.permute(*range(2, values.dim()), 1, 0)
        found[variable.tensorflow] = values.reshape(variable.tensorflow_shape).contiguous()
    return found
