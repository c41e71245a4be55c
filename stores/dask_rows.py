"""The rows of a feature as a Dask array, whose blocks any process reads on its own."""

import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import StoreError, describe
from clipmill.stores.objects import Objects
from clipmill.stores.shard_formats import open_shard

if TYPE_CHECKING:
    import dask.array

_BLOCK_BYTES = 32 << 20
"""ours: most bytes of one block: reading in order needs little memory, however large the shards are."""


def dask_rows(url: str, spans: Mapping[str, Sequence[tuple[int, int]]], dim: int) -> "dask.array.Array":
    """Returns ``float32[N, dim]``, lazy: the rows ``[start, stop)`` of each shard, in the order given.

    Args:
        url: of the store, absolute: blocks are read by other processes.
    """
    import dask
    import dask.array

    blocks = []
    most = max(1, _BLOCK_BYTES // (4 * dim))
    for shard, whole in spans.items():
        for parts in _pieces(_merged(whole), most):
            rows: Any = dask.delayed(_block, pure=True)(url, shard, parts)  # type: ignore[attr-defined]
            shape = (sum(stop - start for start, stop in parts), dim)
            blocks.append(dask.array.from_delayed(rows, shape=shape, dtype=np.float32))  # type: ignore[no-untyped-call]
    if not blocks:
        blocks = [dask.array.zeros((0, dim), dtype=np.float32)]
    return dask.array.concatenate(blocks, axis=0)  # type: ignore[no-untyped-call,no-any-return]


def _merged(parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in parts:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged


def _pieces(parts: Sequence[tuple[int, int]], most: int) -> list[list[tuple[int, int]]]:
    """Returns `parts` cut into lists of at most `most` rows each, in order."""
    pieces: list[list[tuple[int, int]]] = [[]]
    room = most
    for start, stop in parts:
        while start < stop:
            if room == 0:
                pieces.append([])
                room = most
            taken = min(room, stop - start)
            pieces[-1].append((start, start + taken))
            start, room = start + taken, room - taken
    return pieces


def _block(url: str, shard: str, parts: Sequence[tuple[int, int]]) -> npt.NDArray[np.float32]:
    objects = Objects(url)
    if objects.is_local and objects.kind() is None:
        # On another machine than the one that read the commits: nothing is wrong with a shard.
        node, remedy = socket.gethostname(), "let all nodes share that folder, or give the store as a URL"
        raise StoreError(describe("store", f"{url} on node {node}", "a clipmill store", "nothing", remedy))
    opened = open_shard(objects, shard)
    found = [opened.values(start, stop).astype(np.float32, copy=False) for start, stop in parts]
    return found[0] if len(found) == 1 else np.concatenate(found)
