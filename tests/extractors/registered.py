"""Every registered extractor on a small fixed input: what the contract and the golden tests run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.extractors import registry
from clipmill.extractors.base import Extractor, Outputs, card_for
from clipmill.extractors.preprocess import output_shape
from clipmill.extractors.resolve import resolve_recipe
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import ClipRule, Recipe, Sampling
from clipmill.schemas.records import Clip, Window
from clipmill.schemas.rows import Rows
from tests.extractors.exported_programs import HALF, onnx_file, program

NUM_WINDOWS = 2
FRAME_SECONDS = 0.04
SOURCE = (240, 320)
"""Rows and columns of the frames before preprocessing, which decide the size of those an extractor does not fix."""


@dataclass(frozen=True, slots=True)
class Smaller:
    """A cheaper input than the default one, for a network that takes it."""

    num_frames: int | None = None
    side: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    preprocess: dict[str, Any] = field(default_factory=dict)
    weights: Callable[[], WeightsConfig] = lambda: WeightsConfig(random=0)


EXPORTED = {"resize": "exact", "size": [64, 64], **HALF}

SMALLER = {
    "cpnet": Smaller(num_frames=4, side=64),
    "i3d": Smaller(num_frames=16, side=64),
    "onnx": Smaller(weights=lambda: WeightsConfig(file=str(onnx_file("resnet"))), preprocess=EXPORTED),
    "rc3d": Smaller(num_frames=16),
    "rmac": Smaller(preprocess={"size": [192]}),
    "torch": Smaller(weights=lambda: WeightsConfig(file=str(program("resnet"))), preprocess=EXPORTED),
    # Windows of the fixed input have nothing in common, so that no track is longer than one frame.
    "tracks": Smaller(options={"min_track_frames": 1}),
}


def built_in() -> list[str]:
    """Returns the names the project itself registers, whatever else is installed."""
    return sorted(registry.BUILT_IN)


def recipe(name: str, layer: str | None = None, **changes: Any) -> Recipe:
    """Returns the recipe of an extractor's defaults under random weights, made smaller where `SMALLER` says so.

    An extractor of exported programs is given one of seeded weights.
    """
    smaller = SMALLER.get(name, Smaller())
    options = smaller.options | changes.pop("options", {})
    changes["preprocess"] = smaller.preprocess | changes.get("preprocess", {})
    card = registry.card(name)
    card = card_for(card, card.options.model_validate(options))
    # Of a program its file says how windows are cut.
    sampling = card.sampling if card.program is None else None
    if smaller.num_frames is not None:
        sampling = Sampling(fps=card.sampling.fps, frames=smaller.num_frames, every=1, tail="repeat")
    feature = FeatureConfig(layer=layer, weights=smaller.weights(), sampling=sampling, options=options, **changes)
    return resolve_recipe(name, feature, ClipRule(), DecodeConfig())


def frames_for(found: Recipe, num_windows: int = NUM_WINDOWS) -> npt.NDArray[np.uint8]:
    """Returns ``uint8[N, T, H, W, C]``: slopes and edges that differ in every window, frame and channel.

    Integer arithmetic, so that it is the same on every machine and under every version of NumPy.
    """
    side = SMALLER.get(found.extractor, Smaller()).side
    height, width, _ = output_shape(found.preprocess, *SOURCE)
    # A byte for each channel, also where frames are resized in float32: those are taken as they are.
    channels = 1 if found.preprocess.colour == "grey" else 3
    if side is not None:
        height = width = side
    num_frames = found.sampling.frames or 1
    window, time, row, column, channel = np.ogrid[:num_windows, :num_frames, :height, :width, :channels]
    slope = 3 * row + 2 * column + 7 * time + 61 * channel + 101 * window
    texture = (row * column) // 8 + (row ^ column) * (1 + channel)
    return ((slope + texture) % 256).astype(np.uint8)


def rows_of(extractor: Extractor, outputs: Outputs, found: Recipe) -> Rows:
    """Returns the rows of one clip that the windows of `outputs` make up, through the extractor's own reducer."""
    num_frames = found.sampling.frames or 1
    num_windows = len(next(iter(outputs.values())))
    length = num_frames * FRAME_SECONDS
    reducer = extractor.reducer(Clip(3, 0.0, num_windows * length))
    for index in range(num_windows):
        frames = tuple(range(index * num_frames, (index + 1) * num_frames))
        window = Window(3, frames, index * length, (index + 1) * length)
        reducer.add(window, {name: values[index] for name, values in outputs.items()})
    return reducer.rows()


@lru_cache(maxsize=1)
def default_run(name: str) -> tuple[Recipe, Extractor, Outputs]:
    """Returns recipe, extractor and outputs of `name` with its defaults; one is kept, as networks are large."""
    found = recipe(name)
    extractor = registry.build(found, "cpu")
    return found, extractor, extractor.forward(frames_for(found))
