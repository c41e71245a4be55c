"""How many rows a recipe makes of a video of a given length, without a video."""

import numpy as np

from clipmill.extractors.registry import card_of
from clipmill.pipelines.features.windows import clip_windows
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Clip


def expected_rows(recipe: Recipe, num_frames: int, fps: float) -> int:
    """Returns the number of rows of one clip that is a whole video of `num_frames` frames at a constant rate.

    Exact, but for extractors that make as many rows as they find (detections).
    """
    clip = Clip(0, 0.0, num_frames / fps)
    found = clip_windows(np.arange(num_frames) / fps, clip.stop_seconds, clip, recipe.sampling, "")
    layer = card_of(recipe).layer(recipe.layer)
    if not found.windows:
        return 0
    if recipe.pooling != "none":
        return 1
    if layer.frames_per_step is not None:
        return sum(-(-len(window.frames) // layer.frames_per_step) - 1 for window in found.windows)
    if layer.frames_per_row is not None:
        # The windows of a plain grid are joined: what counts is how many frames they reach together.
        step = recipe.sampling.step or recipe.sampling.frames or 1
        last = found.windows[-1]
        reached = (len(found.windows) - 1) * step + len(last.frames) - last.num_padded_frames
        return max(-(-reached // layer.frames_per_row) - 1, 1)
    return layer.expected_rows(recipe.sampling, len(found.windows), 1)
