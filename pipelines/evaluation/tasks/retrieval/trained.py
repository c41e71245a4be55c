"""The seam to trained models: a run's checkpoint, the clips it is tested on, what it embeds them as, and its spaces."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from clipmill.models.checkpoints import TrainedModel, load
from clipmill.models.embedding import embed, inputs_of
from clipmill.pipelines.datasets.items import Items, read_items
from clipmill.pipelines.datasets.provenance import all_rows_changed
from clipmill.pipelines.evaluation.retrieval.rerank import Reranked
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
from clipmill.pipelines.evaluation.tasks.retrieval.spaces import COSINE_INPUTS, Spaces, check_recipe_trained_on
from clipmill.schemas import spaces
from clipmill.schemas.config import DataConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.model import validate


def items_of(data: DataConfig | None, trained: TrainedModel | None, run: str, needs_labels: bool = True) -> Items:
    """Returns the clips of `data`, or of what the run was trained on, split as there.

    Args:
        needs_labels: whether each clip must have one.

    Raises:
        UsageError: there is neither, the features are no longer those the run was trained on, or its training clips
            would be tested.
    """
    if data is None:
        if trained is None:
            raise UsageError("evaluation data: expected data or run, got neither; see docs/evaluation.md")
        data = validate(DataConfig, trained.origin.config["data"], "the run's data")
    if trained is None:
        return read_items(data, COSINE_INPUTS, needs_labels)
    items = read_items(data, dict(trained.card.inputs), needs_labels, trained.origin.vocabularies)
    _check_same_data(trained, items, run)
    return items


@dataclass(frozen=True, slots=True)
class EmbedQueries:
    """Embeds a block of queries with the checkpoint at `path`; picklable, so that a cluster's workers can."""

    path: str

    def __call__(self, block: Block) -> Block:
        trained = _loaded(self.path)
        return dict(block) | embed(trained, "query", inputs_of(block, trained.card.sides["query"]))


def model_spaces(trained: TrainedModel, checkpoint: Path) -> Spaces:
    """Returns the model's spaces by name, each as what scores it."""
    return {name: scorer_of(space, checkpoint) for name, space in trained.model.spaces().items()}


def scorer_of(space: spaces.Space, checkpoint: Path) -> Scorer | Combined | Reranked:
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
    score = ModelScore(os.path.abspath(checkpoint))
    return Reranked(space.first, score, space.k) if isinstance(space, spaces.Reranked) else score


@dataclass(frozen=True, slots=True)
class ModelScore:
    """Scores pairs by the model of the checkpoint at `path`; picklable, so that a cluster's workers can.

    The model computes in double precision and its scores are rounded, so that they do not depend on the blocks.
    """

    path: str

    def __call__(self, queries: Block, gallery: Block) -> Scores:
        import torch

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
def _loaded(path: str) -> TrainedModel:
    return load(Path(path))


@lru_cache(maxsize=2)
def _double(path: str) -> Any:
    return load(Path(path)).model.double()


def training_seconds(run: str) -> float | None:
    """Returns how long the last call of ``clipmill train`` took, as its report says; None where there is none."""
    try:
        report: Mapping[str, Any] = json.loads((Path(run) / "report.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    seconds = report.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else None


def _check_same_data(trained: TrainedModel, items: Items, run: str) -> None:
    origin = trained.origin
    for name, now in items.sources.items():
        check_recipe_trained_on(run, name, now.name, origin.inputs[name].recipe_fingerprint, now.recipe_fingerprint)
    # Ids of another dataset may be the same by chance.
    changed = all_rows_changed(origin.inputs, items.sources) if items.dataset == origin.dataset else []
    if changed:
        raise UsageError(
            describe(
                "run",
                run,
                "the rows it was trained on",
                "; ".join(changed),
                "train again, or evaluate on a store that has those rows",
            )
        )
    # Clips added since are welcome, unless the model has seen them: then they would not be a test.
    seen = set(items.clip_ids) - set(origin.test_clip_ids)
    leaked = [clip for clip in items.test_clip_ids if clip in seen]
    if leaked:
        raise UsageError(
            describe(
                "run",
                run,
                "the split it was trained with",
                f"{len(leaked)} test clips it was not asked to keep out, such as {leaked[0]!r}",
                "train again, or evaluate with the run's own data",
            )
        )
