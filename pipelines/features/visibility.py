"""What a worker must be able to see: the store, the files of its recipes, the videos. Each is missed by name.

Workers may run on other machines. One that lacks a mount would find a folder of its own at the store's path, or miss
every single video of it; both are one fault of a node, told before it does any work.
"""

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace

from clipmill.pipelines.features.sources import is_local, local_path
from clipmill.schemas.errors import MachineFaultError, StoreError, WeightsError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.task import WorkerSpec
from clipmill.stores.storage_faults import Retries
from clipmill.stores.store import Store

MOST_VIDEOS = 20
"""ours: one of a folder's videos may have gone since planning; not these many."""

_NODES = "docs/engines.md says what nodes need"


def with_witnesses(spec: WorkerSpec, recipes: Iterable[Recipe], videos: Sequence[Video], run_file: str) -> WorkerSpec:
    """Returns `spec` with what a worker is to see of this machine's files.

    Args:
        run_file: of the run, in the store, written by now.
    """
    named = [path for recipe in recipes for path in (recipe.weights.file, *recipe.files.values()) if path]
    local = [local_path(video.uri) for video in videos if is_local(video.uri)]
    step = max(len(local) // MOST_VIDEOS, 1)
    return replace(
        spec,
        run_file=run_file,
        weights=tuple(dict.fromkeys(path for path in named if os.path.exists(path))),
        videos=tuple(path for path in local[::step][:MOST_VIDEOS] if os.path.exists(path)),
    )


def open_seen_store(spec: WorkerSpec) -> Store:
    """Returns the store of a worker's spec, after a look at all that the worker needs to see.

    Raises:
        StoreError, WeightsError: not there on this node, or not the same.
        MachineFaultError: not one of the videos is there.
        StorageUnavailableError: the store does not answer.
    """
    retries = Retries(spec.storage_attempts)
    if spec.run_file is None:
        return Store.open(spec.store_url, retries)
    node = f"{spec.store_url} on node {socket.gethostname()}"
    local = "://" not in spec.store_url or spec.store_url.startswith(("file://", "memory://"))
    remedy = "let all nodes share that folder, or give store.url as a URL" if local else "set its credentials there"
    try:
        store = Store.open(spec.store_url, retries)
    except StoreError as error:
        got = str(error).partition(", got ")[2].partition(";")[0] or str(error)
        raise StoreError(describe("store", node, "the store of this run", got, f"{remedy}; {_NODES}")) from None
    if not store.objects.exists(f"runs/{spec.run_id}/{spec.run_file}"):
        got = "another store at that path"
        raise StoreError(describe("store", node, f"run {spec.run_id}", got, f"{remedy}; {_NODES}"))
    missing = [path for path in spec.weights if not os.path.exists(path)]
    if missing:
        thing = f"{missing[0]} on node {socket.gethostname()}"
        raise WeightsError(describe("weights", thing, "the file planning read", "nothing", f"put it there; {_NODES}"))
    if spec.videos and not any(map(os.path.exists, spec.videos)):
        thing = f"on node {socket.gethostname()}"
        got = f"none of {len(spec.videos)}, such as {spec.videos[0]}"
        remedy = f"mount their folder there, or give them by URL; {_NODES}"
        raise MachineFaultError(describe("videos", thing, "those that planning read", got, remedy))
    return store
