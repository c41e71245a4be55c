"""A published sample: an input whose outputs the authors of a network publish, to prove weights and loader with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipmill.schemas.recipe import Recipe

Logits = npt.NDArray[np.float64]
"""``float64[C]`` of one input."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One compared number.

    Attributes:
        index: the class of a logit; None for the norm of all of them.
    """

    name: str
    index: int | None
    expected: float
    got: float

    def agrees(self, tolerance: float) -> bool:
        """Returns whether they differ by no more than `tolerance` (relative)."""
        return abs(self.got - self.expected) <= tolerance * abs(self.expected)


@dataclass(frozen=True, slots=True)
class ComparedInput:
    """One input that was given.

    Attributes:
        stream: which stream of the network it is for, or all.
        published: whether its bytes are those of the published file.
    """

    path: str
    stream: str
    published: bool


@dataclass(frozen=True, slots=True)
class SampleComparison:
    """How a network's numbers on the sample compare with the published ones.

    Attributes:
        source: where the numbers are published.
        stream: which of the network's streams the weights are of.
        comparisons: the published numbers beside ours: the norm of all logits, then the highest ones, best first.
        tolerance: relative, within which each must agree; None where frames were prepared by us, which changes every
            number a little: the highest class alone must then be the published one.
        agrees: whether the weights are taken to be right.
        highest: the class with the highest of our logits.
    """

    source: str
    stream: str
    inputs: tuple[ComparedInput, ...]
    comparisons: tuple[Comparison, ...]
    tolerance: float | None
    agrees: bool
    highest: int


class PublishedSample(Protocol):
    """What ``clipmill weights check --input`` compares with; the folder of an extractor offers one in ``check.py``."""

    @property
    def remedy(self) -> str:
        """Where to get the sample, as the end of a sentence that asks for it."""
        ...

    def compare_arrays(self, weights: str, paths: Sequence[str]) -> SampleComparison:
        """Runs the weights file on the published arrays.

        Raises:
            FormatError: an array is not the published one's shape, or one is missing.
            WeightsError: the file cannot be read, or nothing is published for its classes.
        """
        ...

    def check_classes(self, weights: str, num_classes: int) -> None:
        """Makes sure that numbers are published for weights of so many classes.

        Raises:
            WeightsError: there are none.
        """
        ...

    def compare_video(self, recipe: Recipe, path: str, logits: Logits) -> SampleComparison:
        """Compares the logits that the pipeline made of the sample's video under `recipe`."""
        ...
