"""Fully connected layers, one after the other: what most models' networks are."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

Activation = Literal["relu", "tanh", "sigmoid", "none"]

Width = Annotated[int, Field(ge=1)]
"""Length of a layer's output, as an option."""

_KINDS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}


def perceptron(widths: Sequence[int], hidden: Activation, output: Activation = "none") -> nn.Sequential:
    """Returns linear layers of the given widths with an activation after each.

    Args:
        widths: length of the input, then of each layer's output.
        hidden: activation of all layers but the last.
        output: activation of the last.
    """
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths), start=1):
        layers += [nn.Linear(before, after), _KINDS[output if number == len(widths) - 1 else hidden]()]
    return nn.Sequential(*layers)
