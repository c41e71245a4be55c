"""A store with given rows, committed as a worker commits them, without decoding or networks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.rows import Rows, concatenate
from clipmill.schemas.tables import COMMITS
from clipmill.schemas.task import clips_fingerprint
from clipmill.stores.store import Store
from clipmill.stores.verify import values_sha256


def write_store(
    folder: Path, features: Sequence[tuple[Recipe, Mapping[str, Rows]]], labels: Mapping[str, str | None]
) -> str:
    """Returns the URL of a new store with the rows of each recipe and video; `labels` lists all videos."""
    store = Store.create(str(folder / "store"), "zarr", "given")
    videos = {name: Video(name, name, f"f{number}", label=label) for number, (name, label) in enumerate(labels.items())}
    store.write_manifest("r1", list(videos.values()))
    for recipe, rows_of in features:
        spans, position = [], 0
        for name, rows in rows_of.items():
            spans.append((name, position, position + len(rows)))
            position += len(rows)
        store.write_recipe(recipe)
        shard = store.write_shard(recipe, "task", concatenate(list(rows_of.values())), spans)
        table = [
            {
                "video_id": name,
                "video_fingerprint": videos[name].fingerprint,
                "clips_fingerprint": clips_fingerprint(videos[name]),
                "recipe_fingerprint": recipe.fingerprint,
                "shard": shard,
                "row_start": start,
                "row_stop": stop,
                "clips": [{"start_seconds": 0.0, "stop_seconds": 10.0, "label": labels[name]}],
                "passport": {
                    "weights": "random(0)",
                    "decoder": "none",
                    "decoder_version": "0",
                    "values_sha256": values_sha256(rows_of[name].values),
                },
            }
            for name, start, stop in spans
        ]
        store.write_commit(recipe, "task", pa.Table.from_pylist(table, schema=COMMITS))
    return str(folder / "store")
