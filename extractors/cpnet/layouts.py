"""How the published weights of CPNet name and lay out their tensors: the variables of the released TensorFlow code.

A file holds the variables as a mapping of their names to arrays (``torch.save`` or ``numpy.savez``). Convolutions are
``(T, H, W, in, out)`` there with T = 1, the shared layers of a CP module ``(1, 1, in, out)``, the last ``(in, out)``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from clipmill.extractors.cpnet.network import CPNet
from clipmill.extractors.cpnet.releases import RELEASES, card_name, layout_name
from clipmill.extractors.weights import COUNTER, Layout, Shape

# Our name of a tensor within its layer -> TensorFlow's.
CONVOLUTION = {"weight": "weights", "bias": "biases"}
BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


@dataclass(frozen=True, slots=True)
class Variable:
    """One tensor of the network: our key and shape, TensorFlow's name and shape."""

    key: str
    shape: tuple[int, ...]
    tensorflow: str
    tensorflow_shape: tuple[int, ...]


@cache
def variables(depth: int, num_classes: int) -> tuple[Variable, ...]:
    """Returns every variable of the published network of a depth."""
    with torch.device("meta"):
        state = CPNet(depth, num_classes=num_classes).state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items() if not key.endswith(COUNTER)}
    names = {key: _tensorflow_name(key) for key in shapes}
    return tuple(
        Variable(key, shape, names[key], _tensorflow_shape(names[key], shape)) for key, shape in shapes.items()
    )


def _tensorflow_name(key: str) -> str:
    *scope, layer, tensor = key.split(".")
    if layer == "fc":
        return f"fc/{CONVOLUTION[tensor]}"
    if layer == "bn":
        # The one irregular name: the last batch norm of a CP module lies beside its convolution, not within.
        parts = [*scope[:-1], "bn_final"] if scope[-1] == "conv_final" else [*scope, "bn"]
        return "/".join([*parts, BATCH_NORM[tensor]])
    return "/".join([*scope, CONVOLUTION[tensor]])


def _tensorflow_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not name.endswith("weights"):
        return shape
    out, inputs, *kernel = shape
    if name == "fc/weights":
        return inputs, out
    if kernel:
        return 1, *kernel, inputs, out
    # Of a CP module's layers, the shared ones work on pairs (2D), the others on maps (3D).
    shared = "/pointnet/conv_" not in name
    return (1, 1, inputs, out) if shared else (1, 1, 1, inputs, out)


class TensorFlowLayout(Layout):
    """A layout whose number of classes may be free: it is the last axis of ``fc/weights``."""

    def count_classes(self, shapes: Mapping[str, Sequence[int]]) -> int | None:
        """Returns the number of classes of a file with this layout."""
        return shapes["fc/biases"][0] if "fc/biases" in shapes else None


def _from_tensorflow(depth: int, key: str, values: Tensor) -> Tensor:
    """Returns a variable as our network lays it out: ``(out, in, ...)``, without the time axis of length one."""
    if values.dim() > 1:
        values = values.permute(-1, -2, *range(values.dim() - 2))
    return values if key.startswith("fc.") else values.reshape(_shapes(depth)[key])


@cache
def _converter(depth: int) -> Callable[[str, Tensor], Tensor]:
    return partial(_from_tensorflow, depth)


@cache
def _shapes(depth: int) -> dict[str, tuple[int, ...]]:
    return {variable.key: variable.shape for variable in variables(depth, 1)}


@cache
def layouts(depth: int | None = None) -> tuple[Layout, ...]:
    """Returns the layouts of a depth, or of all: one per published training set, and one for any number of classes."""
    if depth is None:
        return tuple(layout for each in RELEASES for layout in layouts(each))
    published = RELEASES[depth].published
    found: list[Layout] = []
    for data, num_classes, _ in (*published, (None, None, None)):
        keys: dict[str, tuple[str, Shape]] = {
            variable.tensorflow: (variable.key, variable.tensorflow_shape)
            for variable in variables(depth, num_classes or 1)
        }
        if num_classes is None:
            keys["fc/weights"] = ("fc.weight", (RELEASES[depth].num_features, None))
            keys["fc/biases"] = ("fc.bias", (None,))
        # With another number of classes they may have begun from either of the depth's published ones.
        card = card_name(depth, data or published[0][0])
        others = () if data else tuple(card_name(depth, other) for other, *_ in published[1:])
        convert = _converter(depth)
        found.append(
            TensorFlowLayout(layout_name(depth, data), card, keys, num_classes, others=others, convert=convert)
        )
    return tuple(found)
