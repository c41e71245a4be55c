"""Giving space back: rows of removed videos, and what no commit refers to."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa

from clipmill.schemas.rows import concatenate
from clipmill.schemas.tables import COMMITS
from clipmill.stores.objects import StoredObject, is_temporary
from clipmill.stores.shard_formats import open_shard
from clipmill.stores.shards import slice_rows
from clipmill.stores.store import Store
from clipmill.stores.tables import take

_OTHER_FOLDERS = ("commits", "catalog", "quarantine", "runs", "recipes", "probes", "removed")


def find_garbage(store: Store, min_age_seconds: float = 0.0) -> list[StoredObject]:
    """Returns the objects of shards without a commit, and what writes that were killed left behind, sorted by path.

    Commits are listed after the shards: a shard committed meanwhile is not in the list. A build that is running has
    shards that wait for their commit, though, so give `min_age_seconds` beside one; an object whose age the storage
    does not tell is then left alone.

    Raises:
        StoreError: a commit cannot be read, and with it what it refers to.
        StorageUnavailableError: storage cannot be listed.
    """
    shard_objects = store.objects.find("shards")
    others = [item for folder in _OTHER_FOLDERS for item in store.objects.find(folder)]
    others += store.objects.entries("", with_hidden=True)
    committed = set(store.commits().column("shard").to_pylist())
    garbage = [item for item in shard_objects if _is_temporary(item) or shard_of(item.path) not in committed]
    garbage += [item for item in others if _is_temporary(item)]
    if min_age_seconds > 0:
        newest = time.time() - min_age_seconds
        garbage = [item for item in garbage if item.modified_seconds is not None and item.modified_seconds <= newest]
    return sorted(garbage, key=lambda item: item.path)


def delete_garbage(store: Store, garbage: Iterable[StoredObject]) -> None:
    """Deletes `garbage`, except what has been committed since it was listed.

    Raises:
        StorageUnavailableError: storage refuses.
    """
    committed: dict[str, bool] = {}
    for item in garbage:
        shard = shard_of(item.path)
        if not _is_temporary(item) and shard not in committed:
            committed[shard] = _is_committed(store, shard)
        if _is_temporary(item) or not committed[shard]:
            store.objects.delete(item.path)


def shard_of(path: str) -> str:
    """Returns the path of the shard an object below ``shards/`` belongs to (a Zarr shard has many objects)."""
    return "/".join(path.split("/")[:3])


@dataclass(frozen=True, slots=True)
class RemovedRows:
    """A commit that holds rows of removed videos.

    Attributes:
        kept: numbers of its rows that stay; none: it is withdrawn.
        video_ids: whose rows go.
        shards: that hold them, and are garbage afterwards.
    """

    path: str
    kept: tuple[int, ...]
    video_ids: frozenset[str]
    shards: frozenset[str]


def find_removed_rows(store: Store) -> list[RemovedRows]:
    """Returns the commits with rows of removed videos, by path; no commit is read where nothing was ever removed.

    Rows of a video that came back by a later build stay, unless they are of bytes it no longer has.

    Raises:
        StoreError: a commit cannot be read.
    """
    bytes_removed = store.removed_bytes()
    if not bytes_removed:
        return []
    held = store.membership()
    current = {**held.unlisted, **held.served}

    def is_gone(video_id: str, fingerprint: str) -> bool:
        if video_id in held.removed:
            return True
        return (video_id, fingerprint) in bytes_removed and current.get(video_id) != fingerprint

    def one(path: str) -> RemovedRows | None:
        table = store.read_table(path, ["video_id", "video_fingerprint", "shard"])
        rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        gone = [number for number, row in enumerate(rows) if is_gone(*row[:2])]
        if not gone:
            return None
        kept = tuple(sorted(set(range(len(rows))) - set(gone)))
        return RemovedRows(
            path, kept, frozenset(rows[number][0] for number in gone), frozenset(rows[number][2] for number in gone)
        )

    return [found for found in store.objects.each(one, store.commit_paths()) if found is not None]


def drop_removed_rows(store: Store, commit: RemovedRows) -> None:
    """Takes the rows of removed videos out of one commit; its other rows move, unchanged, to a shard without them.

    The new shard is written first and the commit then replaced as a whole, so a reader that opens finds either; the old
    shard is no commit's from then on. Killed in between and run again it does the same.

    Raises:
        StoreError: a shard of it is damaged; nothing is changed then.
        StorageUnavailableError: storage refuses.
    """
    if not commit.kept:
        store.withdraw_commit(commit.path)
        return
    rows = take(store.read_table(commit.path), commit.kept).to_pylist()
    _, folder, name = commit.path.split("/")
    # Of shards that hold nothing removed, rows stay where they are.
    moved = [row for row in rows if row["shard"] not in commit.shards]
    for path in sorted(commit.shards):
        of_shard = [row for row in rows if row["shard"] == path]
        if not of_shard:
            continue
        shard = open_shard(store.objects, path)
        columns = shard.columns()
        parts = [slice_rows(shard, row["row_start"], row["row_stop"], columns) for row in of_shard]
        stops = list(accumulate(len(part) for part in parts))
        places = list(zip([0, *stops[:-1]], stops, strict=True))
        spans = [(row["video_id"], *place) for row, place in zip(of_shard, places, strict=True)]
        written = store.write_rows(folder, name.removesuffix(".parquet"), concatenate(parts), spans)
        moved += [
            row | {"shard": written, "row_start": start, "row_stop": stop}
            for row, (start, stop) in zip(of_shard, places, strict=True)
        ]
    store.replace_commit(commit.path, pa.Table.from_pylist(moved, schema=COMMITS))


def _is_committed(store: Store, shard: str) -> bool:
    _, folder, name = shard.split("/")
    stem = name.rpartition(".")[0]
    # A task's key and a digest of its rows; the key alone in stores of earlier versions.
    for key in (stem.rpartition("-")[0], stem):
        try:
            if shard in store.read_table(f"commits/{folder}/{key}.parquet").column("shard").to_pylist():
                return True
        except FileNotFoundError:
            pass
    return False


def _is_temporary(item: StoredObject) -> bool:
    return is_temporary(item.path.rpartition("/")[2])
