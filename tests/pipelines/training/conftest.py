"""Small paired features whose structure is known, and runs over them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from clipmill.pipelines.datasets.items import Items, clip_id
from clipmill.schemas.config import TrainConfig
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.inputs import InputRows
from clipmill.schemas.model import validate

SMALL = {
    "appearance_dim": 16,
    "motion_dim": 16,
    "latent_dim": 8,
    "video_hidden": [32],
    "image_hidden": [32],
    "decoder_hidden": [64],
}
"""Options of a MAP-IVR that trains in a second."""

MakePairs = Callable[..., Items]
MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def make_pairs() -> MakePairs:
    """Pairs of `num_labels` classes: an image shows its class (and noise), a video its class, its motion and noise."""

    def make(
        num_labels: int = 4,
        videos_per_label: int = 10,
        image_dim: int = 12,
        video_dim: int = 20,
        motion: float = 1.0,
        noise: float = 0.3,
        seed: int = 0,
        test_per_label: int = 3,
    ) -> Items:
        random = np.random.default_rng(seed)
        image_centres = random.normal(size=(num_labels, image_dim))
        video_centres = random.normal(size=(num_labels, video_dim))
        motion_basis = random.normal(size=(3, video_dim))
        label = np.repeat(np.arange(num_labels), videos_per_label)
        num = len(label)
        image = image_centres[label] + noise * random.normal(size=(num, image_dim))
        video = video_centres[label] + noise * random.normal(size=(num, video_dim))
        video += motion * random.normal(size=(num, 3)) @ motion_basis
        video_ids = tuple(f"class {code}/video {number:03d}.mp4" for number, code in enumerate(label))
        return Items(
            inputs={
                "image": InputRows(image.astype(np.float32), None, np.full(num, 5.0), np.full(num, 6.0)),
                "video": InputRows(video.astype(np.float32)),
            },
            label=label.astype(np.int64),
            label_names=tuple(f"class {code}" for code in range(num_labels)),
            clip_ids=tuple(clip_id(video_id, 0) for video_id in video_ids),
            video_ids=video_ids,
            clips=np.zeros(num, np.int32),
            clip_seconds=np.tile([0.0, 10.0], (num, 1)),
            part=np.where(np.arange(num) % videos_per_label < test_per_label, "test", "train"),
            sources={
                "image": FeatureSource("frame", "1" * 32, image_dim),
                "video": FeatureSource("clip", "2" * 32, video_dim),
            },
            store_url="somewhere/store",
            dataset="made",
        )

    return make


def with_values(items: Items, **values: npt.NDArray[np.generic]) -> Items:
    """The items with other values of some inputs."""
    changed = {name: replace(items.inputs[name], values=array) for name, array in values.items()}
    return replace(items, inputs={**items.inputs, **changed})


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """A training config over the made pairs, in a fresh folder unless `out` is given."""

    def make(
        out: str = "run",
        options: dict[str, Any] | None = None,
        trainer: dict[str, Any] | None = None,
        resume: bool = True,
        **loop: Any,
    ) -> TrainConfig:
        data = {
            "data": {"store": "somewhere/store", "image": "frame", "video": "clip"},
            "model": {"name": "map_ivr", "options": SMALL | (options or {})},
            "loop": {"epochs": 4, "batch": 9, "learning_rate": 1e-3, "device": "cpu", "threads": 1} | loop,
            "trainer": trainer or {"name": "local"},
            "out": str(tmp_path / out),
            "resume": resume,
        }
        return validate(TrainConfig, data, "test")

    return make
