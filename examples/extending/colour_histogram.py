"""A colour histogram as a clipmill extractor: a whole package from outside, in one module.

`docs/extending.md` walks through it, and a test installs it and builds features with it.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from clipmill.extractors.base import (
    EachWindow,
    Extractor,
    ExtractorCard,
    Layer,
    Outputs,
    Registration,
    WeightsCard,
    options_of,
)
from clipmill.schemas.model import Model
from clipmill.schemas.recipe import Preprocess, Recipe, Sampling
from clipmill.schemas.records import Clip


class Options(Model):
    """Switches of the histogram. Each is part of the recipe, so a store never mixes two of them.

    Attributes:
        bins: per colour channel; a row has ``bins ** 3`` values.
        normalise: ``l1``: a row sums to one; ``none``: it counts pixels.
    """

    bins: int = Field(default=4, ge=2, le=16)
    normalise: Literal["l1", "none"] = "l1"


def _card(options: Options) -> ExtractorCard:
    """Returns the card as `options` make it: they decide how long a row is."""
    return ExtractorCard(
        name="colour_histogram",
        version=1,
        summary="joint RGB histogram of a frame",
        layers=(Layer("histogram", options.bins**3),),
        sampling=Sampling(fps=1, frames=1),
        frames_fixed=True,
        # The one "card" of a descriptor without weights: which frames it wants.
        weights=(
            WeightsCard(
                name="frames",
                layouts=(),
                source="computed, no weights",
                licence="Apache-2.0",
                preprocess=Preprocess(resize="exact", size=(64, 64)),
            ),
        ),
        options=Options,
        variant=_card,
        gmac_per_window=0.001,
        batch_windows=64,
    )


class ColourHistogram:
    """Counts the colours of each window's one frame."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._options: Options = options_of(_card(Options()), recipe)

    def forward(self, frames: npt.NDArray[np.uint8]) -> Outputs:
        """Returns ``{"values": float32[N, bins ** 3]}`` for ``uint8[N, 1, H, W, 3]``, red the slowest axis."""
        bins = self._options.bins
        cells = (frames.reshape(len(frames), -1, 3).astype(np.int64) * bins) // 256
        codes = (cells[..., 0] * bins + cells[..., 1]) * bins + cells[..., 2]
        values = np.stack([np.bincount(row, minlength=bins**3) for row in codes]).astype(np.float32)
        if self._options.normalise == "l1":
            values /= codes.shape[1]
        return {"values": values}

    def reducer(self, clip: Clip) -> EachWindow:
        """Returns a reducer that makes one row per frame."""
        return EachWindow(clip, self._recipe.dtype)


def _build(recipe: Recipe, device: str) -> Extractor:
    return ColourHistogram(recipe)


REGISTRATION = Registration(_card(Options()), _build)
