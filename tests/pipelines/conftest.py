"""Small stores whose rows are given by hand."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe, Sampling, Weights
from clipmill.schemas.records import Segment, Video
from clipmill.schemas.rows import Rows, concatenate
from clipmill.schemas.tables import COMMITS
from clipmill.schemas.task import clips_fingerprint
from clipmill.stores import Store

WriteFeature = Callable[..., Recipe]


def stored_video(video_id: str, label: str | None, split: str | None = None, *segments: Segment) -> Video:
    """A manifest entry whose bytes need not exist."""
    fingerprint = hashlib.blake2b(video_id.encode(), digest_size=16).hexdigest()
    return Video(video_id, f"{video_id}.mp4", fingerprint, label=label, split=split, segments=segments)


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
