"""Finding and deleting what no commit refers to."""

import time
from collections.abc import Iterable

from clipmill.stores.objects import StoredObject, is_temporary
from clipmill.stores.store import Store

_OTHER_FOLDERS = ("commits", "catalog", "quarantine", "runs", "recipes", "probes")


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
