"""Small paired features whose structure is known, and runs over them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from clipmill.pipelines.datasets.items import Items, clip_id
from clipmill.schemas.config import TrainConfig
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.inputs import InputRows
from clipmill.schemas.model import validate
from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe, Sampling, Weights
from clipmill.schemas.records import Segment, Video
from clipmill.schemas.rows import Rows, concatenate
from clipmill.schemas.tables import COMMITS
from clipmill.schemas.task import clips_fingerprint
from clipmill.stores import Store

SMALL = {
    "appearance_dim": 16,
    "motion_dim": 16,
    "latent_dim": 8,
    "video_hidden": [32],
    "image_hidden": [32],
    "decoder_hidden": [64],
}
"""Options of a MAP-IVR that trains in a second."""

WriteFeature = Callable[..., Recipe]
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


def stored_video(video_id: str, label: str | None, split: str | None = None, *segments: Segment) -> Video:
    """A manifest entry whose bytes need not exist."""
    return Video(video_id, f"{video_id}.mp4", fingerprint="f" * 32, label=label, split=split, segments=segments)


def rows_of(values: npt.ArrayLike, clip: npt.ArrayLike | None = None, mask: npt.ArrayLike | None = None) -> Rows:
    """Rows one second apart, all of clip 0 and kept by their mask unless told otherwise."""
    array = np.asarray(values, np.float32)
    num = len(array)
    return Rows(
        values=array,
        clip=np.zeros(num, np.int32) if clip is None else np.asarray(clip, np.int32),
        start_seconds=np.arange(num, dtype=np.float64),
        stop_seconds=np.arange(num, dtype=np.float64) + 1,
        mask=np.ones(num, np.bool_) if mask is None else np.asarray(mask, np.bool_),
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(str(tmp_path / "store"), "zarr", "made")


@pytest.fixture
def write_feature(store: Store) -> WriteFeature:
    """Commits rows of some videos as feature `name`, with one clip per distinct clip index (or `clips`)."""

    def write(name: str, rows: dict[Video, Rows], clips: dict[str, int] | None = None, rule: str = "whole") -> Recipe:
        recipe = Recipe(
            name=name,
            extractor=name,
            extractor_version=1,
            layer="fc6",
            dim=next(iter(rows.values())).values.shape[1],
            weights=Weights(source="random(0)", seed=0, card="made"),
            sampling=Sampling(frames=1),
            preprocess=Preprocess(),
            clips=ClipRule.model_validate({"from": rule}),
        )
        bounds = np.cumsum([0, *(len(part) for part in rows.values())]).tolist()
        spans = [(video.id, bounds[i], bounds[i + 1]) for i, video in enumerate(rows)]
        store.write_recipe(recipe)
        shard = store.write_shard(recipe, "task", concatenate(list(rows.values())), spans)
        table = [
            {
                "video_id": video.id,
                "video_fingerprint": video.fingerprint,
                "clips_fingerprint": clips_fingerprint(video),
                "recipe_fingerprint": recipe.fingerprint,
                "shard": shard,
                "row_start": start,
                "row_stop": stop,
                "clips": [
                    {"start_seconds": 10.0 * i, "stop_seconds": 10.0 * (i + 1), "label": None}
                    for i in range((clips or {}).get(video.id, 1 + int(part.clip.max(initial=0))))
                ],
                "passport": {"weights": "random(0)"},
            }
            for (video, part), (_, start, stop) in zip(rows.items(), spans, strict=True)
        ]
        store.write_commit(recipe, "task", pa.Table.from_pylist(table, schema=COMMITS))
        store.write_manifest(f"run-{name}", list(rows))
        return recipe

    return write
