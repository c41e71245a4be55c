"""The spaces of a trained model, each as what scores it."""

import os
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
from clipmill.pipelines.evaluation.tasks.retrieval.spaces import Spaces
from clipmill.schemas import spaces


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
