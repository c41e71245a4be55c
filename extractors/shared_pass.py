"""One forward pass for recipes that differ only in the layer they read."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from clipmill.schemas.fingerprint import fingerprint
from clipmill.schemas.recipe import Recipe

Found = TypeVar("Found")

OF_A_LAYER = ("layer", "dim", "dtype", "pooling")
"""Keys of a recipe's identity that say what is read of a pass, and what becomes of it afterwards."""


class LastPass(Generic[Found]):
    """Runs `run` unless the batch is the last one again: the same bytes, so the same numbers.

    Recipes of one network get the same windows in the same batches, one after the other; where they do not (one was
    given a video up), each batch is run.
    """

    def __init__(self, run: Callable[[npt.NDArray[np.uint8]], Found]) -> None:
        self._run = run
        self._last: tuple[npt.NDArray[np.uint8], Found] | None = None
        self.num_runs = 0

    def __call__(self, frames: npt.NDArray[np.uint8]) -> Found:
        """Returns ``run(frames)``."""
        # By bytes, a thousandth of a pass: each recipe stacks its batches itself, and nothing writes to them after.
        if self._last is None or not np.array_equal(self._last[0], frames):
            self._last = None
            self.num_runs += 1
            self._last = frames, self._run(frames)
        return self._last[1]


def sharing_groups(recipes: Sequence[Recipe], layers_of: Callable[[Recipe], Sequence[str]]) -> list[list[Recipe]]:
    """Returns recipes that may share a pass together, in each group the one that needs most of the network first.

    Args:
        layers_of: the layers of a recipe's extractor that come out of one pass, later ones last; none where it has no
            such pass.
    """
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        layers = layers_of(recipe)
        key = recipe.fingerprint
        if recipe.layer in layers and not recipe.files:
            key = fingerprint({name: value for name, value in recipe.identity().items() if name not in OF_A_LAYER})
        groups.setdefault(key, []).append(recipe)
    for group in groups.values():
        layers = layers_of(group[0])
        if len(group) > 1:
            group.sort(key=lambda recipe: layers.index(recipe.layer), reverse=True)
    return list(groups.values())
