"""Stores with known rows, over several file systems."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe, Sampling, Weights
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows, concatenate
from clipmill.schemas.tables import COMMITS
from clipmill.schemas.task import clips_fingerprint
from clipmill.stores.shard_formats import SHARD_FORMATS
from clipmill.stores.store import Store
from clipmill.stores.verify import values_sha256

MakeRecipe = Callable[..., Recipe]
MakeRows = Callable[..., Rows]
Commit = Callable[..., str]


@pytest.fixture(params=SHARD_FORMATS.names)
def shard_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["path", "file://", "memory://"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh place for a store on each file system."""
    if request.param == "memory://":
        name = f"/{uuid.uuid4().hex}"
        yield f"memory:/{name}/store"
        fs = fsspec.filesystem("memory")
        if fs.exists(name):
            fs.rm(name, recursive=True)
    else:
        yield f"{'' if request.param == 'path' else request.param}{tmp_path / 'a store'}"


@pytest.fixture
def make_recipe() -> MakeRecipe:
    def make(name: str = "c3d", dim: int = 4, **changes: Any) -> Recipe:
        fields: dict[str, Any] = {
            "name": name,
            "extractor": "c3d",
            "extractor_version": 1,
            "layer": "fc6",
            "dim": dim,
            "weights": Weights(source="random(0)", seed=0, card="sports1m"),
            "sampling": Sampling(frames=16),
            "preprocess": Preprocess(),
            "clips": ClipRule(),
        }
        return Recipe(**fields | changes)

    return make


@pytest.fixture
def make_rows() -> MakeRows:
    def make(num_rows: int, dim: int = 4, dtype: str = "float32", seed: int = 0, clips: int = 1) -> Rows:
        random = np.random.default_rng(seed)
        starts = np.arange(num_rows, dtype=np.float64) / 3
        return Rows(
            values=(random.random((num_rows, dim)) * 100).astype(dtype),
            clip=np.sort(random.integers(0, clips, num_rows)).astype(np.int32),
            start_seconds=starts,
            stop_seconds=starts + 0.5,
            mask=random.random(num_rows) < 0.8,
        )

    return make


@pytest.fixture
def commit() -> Commit:
    """Writes shard, commit and recipe of some videos, as a worker does; returns the shard's path."""

    def write(
        store: Store,
        recipe: Recipe,
        task_key: str,
        videos: Mapping[Video, Rows],
        clips: Sequence[tuple[float, float, str | None]] = ((0.0, 1.0, None),),
    ) -> str:
        spans, position = [], 0
        for video, rows in videos.items():
            spans.append((video.id, position, position + len(rows)))
            position += len(rows)
        store.write_recipe(recipe)
        shard = store.write_shard(recipe, task_key, concatenate(list(videos.values())), spans)
        table = [
            {
                "video_id": video.id,
                "video_fingerprint": video.fingerprint,
                "clips_fingerprint": clips_fingerprint(video),
                "recipe_fingerprint": recipe.fingerprint,
                "shard": shard,
                "row_start": start,
                "row_stop": stop,
                "clips": [{"start_seconds": a, "stop_seconds": b, "label": label} for a, b, label in clips],
                "passport": {"weights": "random(0)", "values_sha256": values_sha256(rows.values)},
            }
            for (video, rows), (_, start, stop) in zip(videos.items(), spans, strict=True)
        ]
        store.write_commit(recipe, task_key, pa.Table.from_pylist(table, schema=COMMITS))
        return shard

    return write
