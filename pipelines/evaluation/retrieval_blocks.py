"""Exact top-K and exact ranks by blocks: query block x gallery block, merged before anything is averaged. Over Dask.

First pass, per pair of blocks and space: score, keep the K best keys and the keys of the relevant items. Second pass:
how many items stand before each relevant one. Keys (`retrieval_rank`) are unique integers, so merging is sorting, and
the outcome does not depend on how the work was cut or in which order parts arrive. Query blocks are computed one after
the other, the gallery blocks of each in parallel: memory is bounded by a pair of blocks per thread, and neither all
scores nor the whole gallery need fit.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from dask.delayed import delayed

from pipelines.evaluation.metrics.retrieval_rank import key_ties, rank_keys
from pipelines.evaluation.retrieval_scorers import Block, Combined, Scorer
from schemas.errors import EngineError, UsageError, describe, near

Keys = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Compute = Callable[[Any], Any]
"""Runs one Dask object and returns its value."""

FAN_IN = 16
"""Parts merged at once."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How the work is cut. Fixed sizes, never derived from the number of threads or machines, so that both agree.

    Attributes:
        query_rows, gallery_rows: rows of one block.
    """

    query_rows: int = 512
    gallery_rows: int = 4096

    def __post_init__(self) -> None:
        if self.query_rows < 1 or self.gallery_rows < 1:
            got = f"{self.query_rows} x {self.gallery_rows}"
            raise UsageError(describe("blocks", "rows", "at least 1 x 1", got, "leave the sizes out for the defaults"))


@dataclass(frozen=True, slots=True)
class Items:
    """Queries or gallery as the blocks need them.

    Attributes:
        vectors: named arrays ``[n, ...]``, NumPy or Dask.
        codes: ``int64[n]``, the label of each item as a number shared by both sides.
        tie: ``uint32[n]``, place in ascending id order.
    """

    vectors: Mapping[str, Any]
    codes: Ints
    tie: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.codes)

    def block(self, start: int, stop: int) -> "Items":
        """Returns items ``[start, stop)``; Dask arrays stay lazy."""
        span = slice(start, stop)
        return Items({name: array[span] for name, array in self.vectors.items()}, self.codes[span], self.tie[span])


@dataclass(frozen=True, slots=True)
class Found:
    """What one space found for some queries.

    Attributes:
        top: ``uint64[Q, min(K, N)]``, the least keys, ascending.
        relevant: per query ``uint64[R]``, keys of its relevant items, ascending.
    """

    top: Keys
    relevant: tuple[Keys, ...]


def find(
    queries: Items,
    gallery: Items,
    scorers: Mapping[str, Scorer | Combined],
    k: int,
    cut: Cut,
    compute: Compute,
    prepare: Callable[[Block], Block] | None = None,
) -> dict[str, Found]:
    """Returns the K best keys and the relevant items' keys of all queries, per space.

    Args:
        compute: see `computing`.
        prepare: turns a query block into what scorers need (encode, decode samples), once per query block.
    """
    blocks = []
    for query in _query_blocks(queries, cut, prepare):
        parts = [delayed(_find_block)(query, block, scorers, k) for block in _gallery_blocks(gallery, cut)]
        blocks.append(compute(_tree(_merge_found, parts, k)))
    return {
        space: Found(
            np.concatenate([block[space].top for block in blocks]),
            tuple(keys for block in blocks for keys in block[space].relevant),
        )
        for space in scorers
    }


def count_before(
    queries: Items,
    gallery: Items,
    scorers: Mapping[str, Scorer | Combined],
    limits: Mapping[str, Sequence[Keys]],
    cut: Cut,
    compute: Compute,
    prepare: Callable[[Block], Block] | None = None,
) -> dict[str, tuple[Ints, ...]]:
    """Returns, per space and query, how many gallery items have a key less than each of `limits` ``uint64[m]``."""
    blocks = []
    for index, query in enumerate(_query_blocks(queries, cut, prepare)):
        span = slice(index * cut.query_rows, (index + 1) * cut.query_rows)
        wanted = delayed({space: tuple(keys[span]) for space, keys in limits.items()}, traverse=False)
        parts = [delayed(_count_block)(query, block, scorers, wanted) for block in _gallery_blocks(gallery, cut)]
        blocks.append(compute(_tree(_merge_counts, parts)))
    return {space: tuple(counts for block in blocks for counts in block[space]) for space in scorers}


@contextlib.contextmanager
def computing(address: str | None, threads: int | None = None, connect_seconds: float = 10) -> Iterator[Compute]:
    """Gives what computes Dask objects: threads of this process, or a ``distributed`` cluster by address.

    Args:
        address: of a scheduler, such as ``tcp://host:8786``; None: threads.
        threads: of this process; None: one per core.
        connect_seconds: how long to try to reach the scheduler.

    Raises:
        EngineError: the scheduler cannot be reached.
    """
    if address is None:
        yield lambda task: task.compute(scheduler="threads", num_workers=threads)
        return
    import distributed

    connect: Any = distributed.Client
    try:
        client = connect(address, timeout=connect_seconds, set_as_default=False)
    except (OSError, ValueError) as error:
        got = f"{type(error).__name__}: {error}".splitlines()[0]
        remedy = "start one with 'dask scheduler', or leave the address out to use threads"
        raise EngineError(describe("dask", address, "a running scheduler", got, remedy)) from None
    with client:
        yield lambda task: client.compute(task, sync=True)


def _query_blocks(queries: Items, cut: Cut, prepare: Callable[[Block], Block] | None) -> list[Any]:
    blocks = []
    for start in range(0, len(queries), cut.query_rows):
        block = queries.block(start, start + cut.query_rows)
        vectors = delayed(dict(block.vectors))
        if prepare is not None:
            vectors = delayed(prepare)(vectors)
        blocks.append((vectors, block.codes, block.tie))
    return blocks


def _gallery_blocks(gallery: Items, cut: Cut) -> list[Any]:
    blocks = []
    for start in range(0, len(gallery), cut.gallery_rows):
        block = gallery.block(start, start + cut.gallery_rows)
        blocks.append((dict(block.vectors), block.codes, block.tie))
    return blocks


def _tree(merge: Any, parts: list[Any], *extra: Any) -> Any:
    while len(parts) > 1:
        parts = [delayed(merge)(parts[start : start + FAN_IN], *extra) for start in range(0, len(parts), FAN_IN)]
    return parts[0]


def space_scores(
    queries: Block, gallery: Block, scorers: Mapping[str, Scorer | Combined], shape: tuple[int, int]
) -> dict[str, npt.NDArray[np.floating]]:
    """Returns the scores of every space ``[Q, G]``, combined spaces from those they combine.

    Raises:
        UsageError: a combined space names an unknown one, or scores hold NaN.
        ValueError: a scorer returned another shape.
    """
    scores: dict[str, npt.NDArray[np.floating]] = {}
    for space, scorer in scorers.items():
        if not isinstance(scorer, Combined):
            scores[space] = np.asarray(scorer(queries, gallery))
    for space, scorer in scorers.items():
        if isinstance(scorer, Combined):
            missing = sorted(set(scorer.weights) - set(scores))
            if missing:
                got = f"'{missing[0]}'"
                raise UsageError(describe("space", space, "spaces that are scored", got, near(missing[0], scores)))
            scores[space] = scorer.combine(scores)
    for space, array in scores.items():
        if array.shape != shape:
            raise ValueError(f"space {space}: expected scores {list(shape)}, got {list(array.shape)}; mend its scorer")
        if np.isnan(array).any():
            remedy = "check the features and the model for values that are not finite"
            raise UsageError(describe("space", space, "scores that are numbers", "NaN", remedy))
    return scores


def _block_keys(query: Any, gallery: Any, scorers: Mapping[str, Scorer | Combined]) -> dict[str, Keys]:
    (vectors, codes, _), (columns, others, tie) = query, gallery
    scores = space_scores(vectors, columns, scorers, (len(codes), len(others)))
    return {space: rank_keys(array, tie) for space, array in scores.items()}


def _find_block(query: Any, gallery: Any, scorers: Mapping[str, Scorer | Combined], k: int) -> dict[str, Found]:
    relevant = query[1][:, None] == gallery[1][None, :]
    found = {}
    for space, keys in _block_keys(query, gallery, scorers).items():
        best = np.partition(keys, k - 1, axis=1)[:, :k] if keys.shape[1] > k else keys
        rows = zip(keys, relevant, strict=True)
        found[space] = Found(np.sort(best, axis=1), tuple(np.sort(row[wanted]) for row, wanted in rows))
    return found


def _merge_found(parts: Sequence[dict[str, Found]], k: int) -> dict[str, Found]:
    merged = {}
    for space in parts[0]:
        top = np.sort(np.concatenate([part[space].top for part in parts], axis=1), axis=1)[:, :k]
        rows = zip(*(part[space].relevant for part in parts), strict=True)
        merged[space] = Found(top, tuple(np.sort(np.concatenate(row)) for row in rows))
    return merged


def _count_block(
    query: Any, gallery: Any, scorers: Mapping[str, Scorer | Combined], limits: Mapping[str, Sequence[Keys]]
) -> dict[str, tuple[Ints, ...]]:
    counts = {}
    for space, keys in _block_keys(query, gallery, scorers).items():
        ordered = np.sort(keys, axis=1)
        rows = zip(ordered, limits[space], strict=True)
        counts[space] = tuple(np.searchsorted(row, wanted, side="left").astype(np.int64) for row, wanted in rows)
    return counts


def _merge_counts(parts: Sequence[dict[str, tuple[Ints, ...]]]) -> dict[str, tuple[Ints, ...]]:
    return {
        space: tuple(np.sum(np.stack(row), axis=0) for row in zip(*(part[space] for part in parts), strict=True))
        for space in parts[0]
    }


def top_positions(top: Keys, by_tie: Ints) -> Ints:
    """Returns ``int64[Q, K]``: gallery positions of the keys `top`.

    Args:
        by_tie: ``int64[N]``, position of the item at each place of the id order.
    """
    return by_tie[key_ties(top)]
