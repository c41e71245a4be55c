"""Checking commits against the bytes they speak of."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import StorageUnavailableError, StoreError
from clipmill.schemas.recipe import Recipe
from clipmill.stores.shard_formats import open_shard
from clipmill.stores.shards import Shard
from clipmill.stores.store import Store


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing a commit says that its shard does not bear out.

    Attributes:
        shard: path relative to the store.
        video_id: whose rows; empty where the whole shard is concerned.
        reason: ``unreadable_commit``, ``unreadable_shard``, ``row_span``, ``shape``, ``videos`` or ``values_sha256``.
        message: what was expected and what was found.
    """

    shard: str
    video_id: str
    reason: str
    message: str


def values_sha256(values: npt.NDArray[np.generic]) -> str:
    """Returns the SHA-256 of `values` as stored: their little-endian bytes in row order."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little).tobytes()).hexdigest()


def verify_commits(store: Store) -> list[Problem]:
    """Returns what is wrong with the store's committed shards; nothing, for a sound store.

    Every row of every commit is read, superseded ones included.
    """
    recipes = {recipe.fingerprint: recipe for recipe in store.recipes()}
    problems: list[Problem] = []
    for path in store.commit_paths():
        try:
            rows = store.read_table(path).to_pylist()
        except StoreError as error:
            problems.append(Problem(path, "", "unreadable_commit", str(error)))
            continue
        by_shard: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_shard.setdefault(row["shard"], []).append(row)
        for shard, committed in sorted(by_shard.items()):
            problems += _check_shard(store, shard, committed, recipes)
    return problems


def _check_shard(
    store: Store, path: str, rows: list[dict[str, Any]], recipes: Mapping[str, Recipe]
) -> Iterator[Problem]:
    try:
        shard = open_shard(store.objects, path)
        columns = shard.columns()
        named = set(shard.videos())
    except (StoreError, StorageUnavailableError) as error:
        yield Problem(path, "", "unreadable_shard", str(error))
        return
    if len(columns.clip) != shard.num_rows:
        yield Problem(
            path, "", "shape", f"expected {shard.num_rows} rows in every column, got {len(columns.clip)} clips"
        )
    for row in rows:
        span = (row["video_id"], row["row_start"], row["row_stop"])
        if span not in named:
            yield Problem(
                path, row["video_id"], "videos", f"expected rows {span[1]}:{span[2]}, got a shard that names others"
            )
        yield from _check_rows(path, shard, row, recipes.get(row["recipe_fingerprint"]))


def _check_rows(path: str, shard: Shard, row: Mapping[str, Any], recipe: Recipe | None) -> Iterator[Problem]:
    video_id, start, stop = row["video_id"], row["row_start"], row["row_stop"]
    if not 0 <= start <= stop <= shard.num_rows:
        message = f"expected rows within 0:{shard.num_rows}, got {start}:{stop}"
        yield Problem(path, video_id, "row_span", message)
        return
    try:
        values = shard.values(start, stop)
    except (StoreError, StorageUnavailableError) as error:
        yield Problem(path, video_id, "unreadable_shard", str(error))
        return
    if recipe is not None and (values.shape[1], values.dtype.name) != (recipe.dim, recipe.dtype):
        message = f"expected {recipe.dtype} rows of {recipe.dim}, got {values.dtype} of {values.shape[1]}"
        yield Problem(path, video_id, "shape", message)
    expected, got = row["passport"]["values_sha256"], values_sha256(values)
    if expected != got:
        message = f"video {video_id}: expected values with SHA-256 {str(expected)[:12]}..., got {got[:12]}..."
        yield Problem(path, video_id, "values_sha256", message)
