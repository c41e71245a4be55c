"""A small trained model, as a checkpoint holds it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from clipmill.models.base import Sizes
from clipmill.models.checkpoints import Origin, TrainedModel
from clipmill.models.map_ivr import MapIvrOptions
from clipmill.models.registry import build
from clipmill.models.scaling import fit
from clipmill.schemas.features import FeatureSource

IMAGE_DIM, VIDEO_DIM = 5, 11
MakeTrained = Callable[..., TrainedModel]


@pytest.fixture
def make_trained() -> MakeTrained:
    def make(**changes: Any) -> TrainedModel:
        sizes = {"appearance_dim": 6, "motion_dim": 6, "latent_dim": 3, "video_hidden": (9,), "decoder_hidden": (8,)}
        options = MapIvrOptions(**(sizes | changes))
        sizes_of_data = Sizes({"image": IMAGE_DIM, "video": VIDEO_DIM}, 3)
        random = np.random.default_rng(0)
        return TrainedModel(
            name="map_ivr",
            options=options.model_dump(mode="json"),
            sizes=sizes_of_data,
            model=build("map_ivr", options, sizes_of_data, seed=4),
            scalings={
                "image": fit(options.scaling, random.random((9, IMAGE_DIM))),
                "video": fit(options.scaling, random.random((9, VIDEO_DIM)) * 10),
            },
            origin=Origin(
                store_url="out/store",
                dataset="made",
                inputs={
                    "image": FeatureSource("vgg16", "1" * 32, IMAGE_DIM),
                    "video": FeatureSource("c3d", "2" * 32, VIDEO_DIM),
                },
                fingerprint="3" * 32,
                label_names=("dive", "jump", "run"),
                test_clip_ids=("a b/ü.mp4#0", "c#1"),
                config={"model": {"name": "map_ivr"}, "loop": {"epochs": 3}},
            ),
            epoch=3,
            training={"sampler": {"epoch": 3}},
        )

    return make
