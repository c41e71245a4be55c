"""A store that image-to-video retrieval can be evaluated on, of drawn rows."""

from pathlib import Path
from typing import Any

import numpy as np

from clipmill.extractors.resolve import resolve_recipe
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import ClipRule, Sampling
from clipmill.schemas.rows import Rows
from tests.jobs.stored_rows import write_store

LABELS = ("jump", "run")


def retrieval_config(folder: Path, num_lacking: int = 0) -> dict[str, Any]:
    """A retrieval config over a store of ten videos of two labels; rows of one label are alike.

    Args:
        num_lacking: videos that have no row to be found by.
    """
    rng = np.random.default_rng(0)
    labels = {f"{number}.mp4": LABELS[number % 2] for number in range(10)}

    def rows(label: str, dim: int) -> Rows:
        values = (rng.random((1, dim)) + 2 * np.eye(2)[LABELS.index(label)].repeat(dim // 2)).astype(np.float32)
        return Rows(values, np.zeros(1, np.int32), np.zeros(1), np.full(1, 10.0), np.ones(1, np.bool_))

    features = []
    for name, sampling in (("query", Sampling(random_frames=1)), ("gallery", Sampling(fps=1))):
        feature = FeatureConfig(extractor="squeezenet", sampling=sampling, weights=WeightsConfig(random=0))
        recipe = resolve_recipe(name, feature, ClipRule(), DecodeConfig())
        with_rows = list(labels.items())[num_lacking if name == "gallery" else 0 :]
        features.append((recipe, {video: rows(label, recipe.dim) for video, label in with_rows}))
    url = write_store(folder, features, labels)
    data = {"store": url, "image": "query", "video": "gallery", "split": {"test_fraction": 0.6}}
    return {"data": data, "cutoffs": [1, 2], "examples": 0}
