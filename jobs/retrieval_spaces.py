"""Which spaces a retrieval scores: a model's, and plain cosine where the vectors come from one network."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipmill.models.checkpoints import TrainedModel, load
from clipmill.pipelines.evaluation.retrieval.scorers import (
    BestOfSamples,
    Block,
    Combined,
    Cosine,
    Hamming,
    Scorer,
    Scores,
    on_grid,
)
from clipmill.schemas import spaces
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import Input, Vector
from clipmill.schemas.recipe import Recipe, Weights

COSINE = "cosine"
"""The baseline's space: stored vectors as they are."""

COSINE_INPUTS: dict[str, Input] = {"image": Vector("first"), "video": Vector("mean")}
"""What is compared where there is no model."""

Spaces = dict[str, Scorer | Combined]


def model_spaces(trained: TrainedModel, checkpoint: Path) -> Spaces:
    """Returns the model's spaces by name, each as what scores it."""
    return {name: scorer_of(space, checkpoint) for name, space in trained.model.spaces().items()}


def scorer_of(space: spaces.Space, checkpoint: Path) -> Scorer | Combined:
    """Returns what scores `space`.

    Args:
        checkpoint: of the model, for spaces that it scores itself.
    """
    if isinstance(space, spaces.Cosine):
        return Cosine(space.query, space.gallery)
    if isinstance(space, spaces.BestOfSamples):
        return BestOfSamples(space.query, space.gallery)
    if isinstance(space, spaces.Hamming):
        return Hamming(space.query, space.gallery)
    if isinstance(space, spaces.Combined):
        return Combined(dict(space.weights))
    return ModelScore(os.path.abspath(checkpoint))


@dataclass(frozen=True, slots=True)
class ModelScore:
    """Scores pairs by the model of the checkpoint at `path`; picklable, so that a cluster's workers can.

    The model computes in double precision and its scores are rounded, so that they do not depend on the blocks.
    """

    path: str

    def __call__(self, queries: Block, gallery: Block) -> Scores:
        model, names = _double(self.path), ("query", "gallery")
        sides = [
            {
                name: torch.from_numpy(np.asarray(values, np.float64 if values.dtype.kind == "f" else values.dtype))
                for name, values in block.items()
                if values.dtype.kind != "U"
            }
            for block in (queries, gallery)
        ]
        with torch.inference_mode():
            scores = model.score(**dict(zip(names, sides, strict=True)))
        return on_grid(scores.numpy().astype(np.float64))


@lru_cache(maxsize=2)
def _double(path: str) -> Any:
    return load(Path(path)).model.double()


def comparable(image: Recipe, video: Recipe) -> bool:
    """Returns whether both vectors are outputs of one network: same extractor, layer and weights."""
    return (image.extractor, image.layer, _weights(image)) == (video.extractor, video.layer, _weights(video))


def _weights(recipe: Recipe) -> Weights:
    """Returns the recipe's weights without the path they were read from."""
    return recipe.weights.model_copy(update={"file": None})


def chosen_spaces(scorers: Spaces, names: Sequence[str], thing: str = "evaluation") -> Spaces:
    """Returns the named spaces, and those a combined one among them is made of.

    Raises:
        UsageError: there is no space of that name.
    """
    for name in names:
        if name not in scorers:
            raise UsageError(describe(thing, "spaces", ", ".join(scorers) or "none here", name, "correct the name"))
    chosen = {name: scorers[name] for name in names}
    for scorer in list(chosen.values()):
        if isinstance(scorer, Combined):
            chosen = {name: scorers[name] for name in scorer.weights if name not in chosen} | chosen
    return chosen


def check_recipe_trained_on(run: str, role: str, name: str, trained_on: str, now: str) -> None:
    """Makes sure that a feature is still of the recipe a run was trained on.

    Raises:
        UsageError: it is another one.
    """
    if trained_on != now:
        raise UsageError(
            describe(
                "run",
                run,
                f"{role} feature {name} of recipe {trained_on[:8]}, which it was trained on",
                f"{name} of recipe {now[:8]}",
                "train again, or evaluate with the old recipe's key as the feature name",
            )
        )
