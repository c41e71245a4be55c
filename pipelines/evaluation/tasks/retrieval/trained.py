"""The seam to trained models: a run's checkpoint, the clips it is tested on, and what it embeds them as."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from clipmill.models.base import RETRIEVAL_SIDES, Side
from clipmill.models.checkpoints import TrainedModel, find_checkpoint, load
from clipmill.models.embedding import embed, inputs_of
from clipmill.pipelines.datasets.items import Items, read_items
from clipmill.pipelines.evaluation.retrieval.scorers import Block
from clipmill.pipelines.evaluation.tasks.retrieval.spaces import COSINE_INPUTS, check_recipe_trained_on
from clipmill.schemas.arrays import Floats
from clipmill.schemas.config import DataConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import Input
from clipmill.schemas.model import validate


def load_run(run: str, checkpoint: str | None) -> TrainedModel:
    """Returns the checkpoint a run is used by, or the one called `checkpoint`."""
    return load(find_checkpoint(run, checkpoint))


def sides_of(trained: TrainedModel | None) -> Mapping[Side, tuple[str, ...]]:
    """Returns the inputs of a query and of a gallery item; without a model the image's and the video's vector."""
    return RETRIEVAL_SIDES if trained is None else trained.card.sides


def kinds_of(trained: TrainedModel | None) -> Mapping[str, Input]:
    """Returns how each input is read; without a model as plain cosine compares."""
    return COSINE_INPUTS if trained is None else trained.card.inputs


def items_of(data: DataConfig | None, trained: TrainedModel | None, run: str) -> Items:
    """Returns the clips of `data`, or of what the run was trained on, split as there.

    Raises:
        UsageError: there is neither, the features are no longer those the run was trained on, or its training clips
            would be tested.
    """
    if data is None:
        if trained is None:
            raise UsageError("evaluation data: expected data or run, got neither; see docs/evaluation.md")
        data = validate(DataConfig, trained.origin.config["data"], "the run's data")
    vocabularies = None if trained is None else trained.origin.vocabularies
    items = read_items(data, kinds_of(trained), vocabularies=vocabularies)
    if trained is not None:
        _check_same_data(trained, items, run)
    return items


def query_seconds(items: Items, trained: TrainedModel | None) -> Floats:
    """Returns when the frame that stands for each query is: that of its vector, else the middle of its clip."""
    for name in sides_of(trained)["query"]:
        rows = items.inputs[name]
        if rows.offsets is None and rows.start_seconds is not None:
            return rows.start_seconds
    return np.asarray(items.clip_seconds.mean(axis=1), np.float64)


def features_of(items: Items, trained: TrainedModel | None) -> list[tuple[str, str]]:
    """Returns the stored features of the items, each as what it is used for and its name."""
    return [
        (side, items.sources[name].name)
        for side, names in sides_of(trained).items()
        for name in names
        if name not in items.vocabularies
    ]


@dataclass(frozen=True, slots=True)
class EmbedQueries:
    """Embeds a block of query images with the checkpoint at `path`; picklable, so that a cluster's workers can."""

    path: str

    @classmethod
    def of_run(cls, run: str, checkpoint: str | None) -> "EmbedQueries":
        """Returns the embedding of a run's queries."""
        return cls(os.path.abspath(find_checkpoint(run, checkpoint)))

    def __call__(self, block: Block) -> Block:
        trained = _loaded(self.path)
        return dict(block) | embed(trained, "query", inputs_of(block, trained.card.sides["query"]))


@lru_cache(maxsize=2)
def _loaded(path: str) -> TrainedModel:
    return load(Path(path))


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
