"""The seam to trained models: a run's checkpoint, the clips it is tested on, and what it embeds them as."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.models.checkpoints import TrainedModel, find_checkpoint, load
from clipmill.models.retrieval import embed_images, embed_videos
from clipmill.pipelines.datasets.pairs import PairedFeatures, read_pairs
from clipmill.pipelines.evaluation.retrieval.scorers import Block
from clipmill.pipelines.evaluation.tasks.retrieval.spaces import check_recipe_trained_on
from clipmill.schemas.config import RetrievalDataConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.model import validate


def load_run(run: str, checkpoint: str | None) -> TrainedModel:
    """Returns the newest checkpoint of a folder made by ``clipmill train``, or the one called `checkpoint`."""
    return load(find_checkpoint(run, checkpoint))


def clips_of(data: RetrievalDataConfig | None, trained: TrainedModel | None, run: str) -> PairedFeatures:
    """Returns the clips of `data`, or of what the run was trained on, split as there.

    Raises:
        UsageError: there is neither, the features are no longer those the run was trained on, or its training clips
            would be tested.
    """
    if data is None:
        if trained is None:
            raise UsageError("evaluation data: expected data or run, got neither; see docs/evaluation.md")
        data = validate(RetrievalDataConfig, trained.origin.config["data"], "the run's data")
    pairs = read_pairs(data)
    if trained is not None:
        _check_same_data(trained, pairs, run)
    return pairs


def embed_gallery(trained: TrainedModel, videos: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[np.float32]]:
    """Returns what clips are found by, by the names that the model's spaces read.

    Args:
        videos: ``[n, D]``, as stored.
    """
    return embed_videos(trained, videos)


@dataclass(frozen=True, slots=True)
class EmbedQueries:
    """Embeds a block of query images with the checkpoint at `path`; picklable, so that a cluster's workers can."""

    path: str

    @classmethod
    def of_run(cls, run: str, checkpoint: str | None) -> "EmbedQueries":
        """Returns the embedding of a run's queries."""
        return cls(os.path.abspath(find_checkpoint(run, checkpoint)))

    def __call__(self, block: Block) -> Block:
        return dict(block) | embed_images(_loaded(self.path), block["image"])


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


def _check_same_data(trained: TrainedModel, pairs: PairedFeatures, run: str) -> None:
    origin = trained.origin
    for role, then, now in (("image", origin.image, pairs.image_source), ("video", origin.video, pairs.video_source)):
        check_recipe_trained_on(run, role, now.name, then.recipe_fingerprint, now.recipe_fingerprint)
    # Clips added since are welcome, unless the model has seen them: then they would not be a test.
    seen = set(pairs.clip_ids) - set(origin.test_clip_ids)
    leaked = [clip for clip in pairs.test_clip_ids if clip in seen]
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
