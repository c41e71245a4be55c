"""Exact top-K and exact ranks by blocks: query block x gallery block, merged before anything is averaged. Over Dask.

Query blocks are taken one after the other. For each, the gallery is cut into as many chunks as there are workers;
a worker walks through its chunk block by block, holding one block of it and its K best at a time, so memory is
bounded by a pair of blocks per worker, and neither all scores nor the gallery need fit.

First pass, per pair of blocks and space: a float32 product, and one comparison that drops what cannot be among the K
best even if it is off by its bound; the few that remain get their defined score (`retrieval_best`, `retrieval_scores`).
Where ranks of all relevant items are wanted, their scores are taken in the same pass, and a second one counts how many
items stand before each. Keys (`retrieval_rank`) are unique integers made of defined scores, so merging is sorting, and
the outcome depends neither on how the work was cut nor on which worker did which part.
"""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from dask.delayed import delayed

from clipmill.pipelines.evaluation.metrics.retrieval_rank import key_ties, rank_keys
from clipmill.pipelines.evaluation.retrieval.best import NO_KEY, Best
from clipmill.pipelines.evaluation.retrieval.exclusion import Exclusion
from clipmill.pipelines.evaluation.retrieval.relevance import Relevance
from clipmill.pipelines.evaluation.retrieval.scorers import Block, Combined, Scorer, Side
from clipmill.pipelines.evaluation.retrieval.scores import BlockScores
from clipmill.pipelines.worker_errors import first_cause, first_line
from clipmill.schemas.arrays import Ints, Keys
from clipmill.schemas.errors import ClipmillError, EngineError, UsageError, describe

Ties = npt.NDArray[np.uint32]
Scorers = Mapping[str, Scorer | Combined]
Prepare = Callable[[Block], Block]

_SLAB_BYTES = 64 << 20
"""ours: bytes of gallery rows that a worker holds of Dask arrays."""


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """How the work is cut. Any sizes give the same result; they decide memory and speed.

    Attributes:
        query_rows, gallery_rows: rows of one block.
    """

    query_rows: int = 1024
    gallery_rows: int = 4096

    def __post_init__(self) -> None:
        if self.query_rows < 1 or self.gallery_rows < 1:
            got = f"{self.query_rows} x {self.gallery_rows}"
            raise UsageError(describe("blocks", "rows", "at least 1 x 1", got, "leave the sizes out for the defaults"))


@dataclass(frozen=True, slots=True)
class Computing:
    """What runs Dask objects: threads of this process, or a cluster.

    Attributes:
        run: computes one Dask object and returns its value.
        num_workers: how many tasks run at a time.
    """

    run: Callable[[Any], Any]
    num_workers: int

    def over(self, length: int, rows: int) -> list[slice]:
        """Returns the chunks of `length` items, made of whole blocks of `rows`, that the workers take."""
        num_blocks = -(-length // rows)
        num = min(self.num_workers, num_blocks)
        edges = [num_blocks * number // num * rows for number in range(num + 1)]
        return [slice(start, min(stop, length)) for start, stop in zip(edges, edges[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Matches:
    """What one space found for some queries.

    Attributes:
        top: ``uint64[Q, min(K, N)]``, the least keys, ascending.
        relevant: per query ``uint64[R]``, keys of its relevant items, ascending; nothing where not asked for.
    """

    top: Keys
    relevant: tuple[Keys, ...]


class _DaskRows:
    """Rows of a Dask array, of which one chunk is kept: read in order, each chunk is computed once."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._edges = np.r_[0, np.cumsum(array.chunks[0])]
        self._computed: tuple[int, Any] = (-1, None)

    def __getitem__(self, span: slice) -> Any:
        parts = []
        first = int(np.searchsorted(self._edges, span.start, side="right")) - 1
        for chunk in range(first, len(self._edges) - 1):
            start = int(self._edges[chunk])
            if start >= span.stop:
                break
            if self._computed[0] != chunk:
                self._computed = (-1, None)
                self._computed = (chunk, self._array.blocks[chunk].compute(scheduler="synchronous"))
            parts.append(self._computed[1][max(0, span.start - start) : span.stop - start])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class GalleryChunk:
    """Consecutive gallery items, read block by block.

    Attributes:
        vectors: named arrays ``[n, ...]``, NumPy (memory-mapped or not) or Dask.
        tie: ``uint32[n]``, place of each item in ascending id order.
        start: position of the first item in the gallery.
    """

    vectors: Mapping[str, Any]
    tie: Ties
    start: int = 0

    def part(self, span: slice) -> "GalleryChunk":
        """Returns the items of `span`; Dask arrays stay lazy."""
        vectors = {name: array[span] for name, array in self.vectors.items()}
        return GalleryChunk(vectors, self.tie[span], self.start + span.start)

    def slabs(self, rows: int) -> Iterator[tuple[int, Side, Ties]]:
        """Yields (first item, arrays, ties) of slabs made of whole blocks of `rows` items.

        A slab is what can be looked up again while it is there: all items of NumPy arrays, `_SLAB_BYTES` of Dask ones.
        """
        readers: dict[str, Any] = {}
        row_bytes = 1
        for name, array in self.vectors.items():
            readers[name] = array
            if not isinstance(array, np.ndarray):
                readers[name] = _DaskRows(array)
                row_bytes += array.dtype.itemsize * int(np.prod(array.shape[1:]))
        most = len(self.tie) if row_bytes == 1 else max(1, _SLAB_BYTES // (row_bytes * rows)) * rows
        for start in range(0, len(self.tie), most):
            span = slice(start, min(start + most, len(self.tie)))
            yield start, Side({name: reader[span] for name, reader in readers.items()}), self.tie[span]

    def blocks(self, rows: int) -> Iterator[tuple[int, Side, Ties]]:
        """Yields (first item, arrays, ties) of each block of `rows` items."""
        for first, slab, ties in self.slabs(rows):
            for start in range(0, len(ties), rows):
                yield first + start, slab.part(start, start + rows), ties[start : start + rows]


@contextlib.contextmanager
def computing(address: str | None, threads: int | None = None, connect_seconds: float = 10) -> Iterator[Computing]:
    """Gives what computes Dask objects: threads of this process, or a ``distributed`` cluster by address.

    Args:
        address: of a scheduler, such as ``tcp://host:8786``; None: threads.
        threads: of this process; None: one per core. Each does its matrix products alone.
        connect_seconds: how long to try to reach the scheduler.

    Raises:
        EngineError: the scheduler cannot be reached, or has no workers.
    """
    if address is None:
        from dask.system import CPU_COUNT
        from threadpoolctl import threadpool_limits

        num = threads or CPU_COUNT
        with threadpool_limits(limits=1, user_api="blas"):
            yield Computing(lambda task: task.compute(scheduler="threads", num_workers=num), num)
        return
    import distributed

    connect: Any = distributed.Client
    remedy = "start one with 'dask scheduler', or leave the address out to use threads"
    try:
        client = connect(address, timeout=connect_seconds, set_as_default=False)
    except (OSError, ValueError) as error:
        got = f"{type(error).__name__}: {error}".splitlines()[0]
        raise EngineError(describe("dask", address, "a running scheduler", got, remedy)) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=connect_seconds)
        except TimeoutError:
            remedy = f"start one with 'dask worker {address}'"
            raise EngineError(describe("dask", address, "at least one worker", "none", remedy)) from None
        yield Computing(lambda task: _computed(client, task, address), sum(client.nthreads().values()))


def _computed(client: Any, task: Any, address: str) -> Any:
    """Returns a Dask object's value, computed on a cluster.

    Raises:
        UsageError: the workers lack what this machine has: a package, or a store's folder.
        EngineError: the scheduler or too many workers are lost.
    """
    import distributed

    try:
        return client.compute(task, sync=True)
    except ClipmillError:
        raise
    except FileNotFoundError as error:
        remedy = "let them share the store's folder, or give it as a URL"
        raise UsageError(describe("dask", address, "workers that see the store", str(error), remedy)) from None
    except (OSError, TimeoutError, distributed.KilledWorker, concurrent.futures.CancelledError) as error:
        got = first_line(error)
        remedy = "see that scheduler and workers run, and run the same command again"
        raise EngineError(describe("dask", address, "a cluster that goes on", got, remedy)) from None
    except Exception as error:
        cause = first_cause(error)
        if cause is None:
            raise
        raise cause from None


def find(
    queries: Mapping[str, Any],
    gallery: GalleryChunk,
    relevance: Relevance | None,
    scorers: Scorers,
    k: int,
    block_sizes: BlockSizes,
    workers: Computing,
    prepare: Prepare | None = None,
    exclusion: Exclusion | None = None,
) -> dict[str, Matches]:
    """Returns the K best keys of all queries, per space, and with `relevance` those of all relevant items.

    Where fewer than K items are ranked, the rest of a list is `NO_KEY`.

    Args:
        exclusion: pairs that are not ranked.
        prepare: turns a query block into what scorers need (encode, decode samples), once per query block.
    """
    num_queries = _length(queries)
    k = min(k, len(gallery.tie))
    blocks = []
    for span in query_spans(num_queries, block_sizes):
        side = query_block(queries, span, prepare)
        parts = []
        for items in workers.over(len(gallery.tie), block_sizes.gallery_rows):
            part = delayed(gallery.part(items), traverse=False)
            wanted = None if relevance is None else delayed(relevance.part(span, items), traverse=False)
            skipped = None if exclusion is None else delayed(exclusion.part(span, items), traverse=False)
            rows = span.stop - span.start
            parts.append(delayed(_find_in)(side, rows, part, wanted, scorers, k, block_sizes.gallery_rows, skipped))
        blocks.append(workers.run(delayed(_merge_matches)(parts, k)))
    return {
        space: Matches(
            np.concatenate([block[space].top for block in blocks]),
            tuple(keys for block in blocks for keys in block[space].relevant),
        )
        for space in scorers
    }


def count_before(
    queries: Mapping[str, Any],
    gallery: GalleryChunk,
    scorers: Scorers,
    limits: Mapping[str, Sequence[Keys]],
    block_sizes: BlockSizes,
    workers: Computing,
    prepare: Prepare | None = None,
    exclusion: Exclusion | None = None,
) -> dict[str, tuple[Ints, ...]]:
    """Returns, per space and query, how many ranked items have a key less than each of `limits` ``uint64[m]``."""
    blocks = []
    for span in query_spans(_length(queries), block_sizes):
        side = query_block(queries, span, prepare)
        wanted = delayed({space: tuple(keys[span]) for space, keys in limits.items()}, traverse=False)
        parts = []
        for items in workers.over(len(gallery.tie), block_sizes.gallery_rows):
            part = delayed(gallery.part(items), traverse=False)
            skipped = None if exclusion is None else delayed(exclusion.part(span, items), traverse=False)
            parts.append(delayed(_count_in)(side, part, scorers, wanted, block_sizes.gallery_rows, skipped))
        blocks.append(workers.run(delayed(_merge_counts)(parts)))
    return {space: tuple(counts for block in blocks for counts in block[space]) for space in scorers}


def _length(arrays: Mapping[str, Any]) -> int:
    return int(next(iter(arrays.values())).shape[0])


def query_spans(num_queries: int, block_sizes: BlockSizes) -> list[slice]:
    """Returns the spans of the query blocks."""
    starts = range(0, num_queries, block_sizes.query_rows)
    return [slice(start, min(start + block_sizes.query_rows, num_queries)) for start in starts]


def query_block(queries: Mapping[str, Any], span: slice, prepare: Prepare | None) -> Any:
    """Returns the vectors of the queries of `span`, prepared: a Dask object."""
    arrays = delayed({name: array[span] for name, array in queries.items()})
    return arrays if prepare is None else delayed(prepare)(arrays)


def _find_in(
    queries: Block,
    num_queries: int,
    gallery: GalleryChunk,
    relevance: Relevance | None,
    scorers: Scorers,
    k: int,
    rows: int,
    exclusion: Exclusion | None,
) -> dict[str, Matches]:
    side = Side(queries)
    best = {space: Best.of(num_queries, min(k, len(gallery.tie))) for space in scorers}
    kept: dict[str, list[tuple[Ints, Keys]]] = {space: [] for space in scorers}
    for first, slab, ties in gallery.slabs(rows):

        def defined(space: str, query: Ints, item: Ints, slab: Side = slab, ties: Ties = ties) -> Keys:
            return _pair_keys(side, num_queries, slab, ties, scorers, rows, space, query, item)

        for start in range(0, len(ties), rows):
            tie = ties[start : start + rows]
            scores = BlockScores(side, slab.part(start, start + rows), scorers, (num_queries, len(tie)))
            span = (first + start, first + start + len(tie))
            pairs = None if relevance is None else relevance.pairs(*span)
            skipped = None if exclusion is None else exclusion.pairs(*span)
            for space in scorers:
                best[space].update(*scores.rough(space), start, partial(defined, space), skipped)
                if pairs is not None:
                    kept[space].append((pairs[0], rank_keys(scores.pairs(space, *pairs), tie[pairs[1]])))
        for space in scorers:
            best[space].resolve(partial(defined, space))
    return {space: Matches(best[space].keys, _by_query(num_queries, kept[space])) for space in scorers}


def _pair_keys(
    queries: Side,
    num_queries: int,
    slab: Side,
    ties: Ties,
    scorers: Scorers,
    rows: int,
    space: str,
    query: Ints,
    item: Ints,
) -> Keys:
    """Returns the keys of pairs of one space, block by block of `rows` items: many are cheaper together."""
    keys = np.empty(len(query), np.uint64)
    order = np.argsort(item, kind="stable")
    edges = np.searchsorted(item[order], np.arange(0, len(ties) + rows, rows))
    for number, (first, last) in enumerate(zip(edges, edges[1:], strict=False)):
        if first == last:
            continue
        batch, start = order[first:last], number * rows
        tie = ties[start : start + rows]
        scores = BlockScores(queries, slab.part(start, start + rows), scorers, (num_queries, len(tie)))
        keys[batch] = rank_keys(scores.pairs(space, query[batch], item[batch] - start), tie[item[batch] - start])
    return keys


def _by_query(num_queries: int, parts: Sequence[tuple[Ints, Keys]]) -> tuple[Keys, ...]:
    if not parts:
        return tuple(np.zeros(0, np.uint64) for _ in range(num_queries))
    rows, keys = np.concatenate([rows for rows, _ in parts]), np.concatenate([keys for _, keys in parts])
    order = np.lexsort((keys, rows))
    counts = np.bincount(rows, minlength=num_queries)
    return tuple(np.split(keys[order], np.cumsum(counts)[:-1]))


def _merge_matches(parts: Sequence[dict[str, Matches]], k: int) -> dict[str, Matches]:
    merged = {}
    for space in parts[0]:
        top = np.sort(np.concatenate([part[space].top for part in parts], axis=1), axis=1)[:, :k]
        rows = zip(*(part[space].relevant for part in parts), strict=True)
        merged[space] = Matches(top, tuple(np.sort(np.concatenate(row)) for row in rows))
    return merged


def _count_in(
    queries: Block,
    gallery: GalleryChunk,
    scorers: Scorers,
    limits: Mapping[str, Sequence[Keys]],
    rows: int,
    exclusion: Exclusion | None,
) -> dict[str, tuple[Ints, ...]]:
    side = Side(queries)
    counts = {space: tuple(np.zeros(len(wanted), np.int64) for wanted in limits[space]) for space in scorers}
    for first, items, tie in gallery.blocks(rows):
        scores = BlockScores(side, items, scorers, (_length(queries), len(tie)))
        skipped = None if exclusion is None else exclusion.pairs(first, first + len(tie))
        for space in scorers:
            keys = rank_keys(scores.all(space), tie)
            if skipped is not None:
                keys[skipped] = NO_KEY
            ordered = np.sort(keys, axis=1)
            for row, wanted, count in zip(ordered, limits[space], counts[space], strict=True):
                count += np.searchsorted(row, wanted, side="left")
    return counts


def _merge_counts(parts: Sequence[dict[str, tuple[Ints, ...]]]) -> dict[str, tuple[Ints, ...]]:
    return {
        space: tuple(np.sum(np.stack(row), axis=0) for row in zip(*(part[space] for part in parts), strict=True))
        for space in parts[0]
    }


def top_positions(top: Keys, by_tie: Ints) -> Ints:
    """Returns ``int64[Q, K]``: gallery positions of the keys `top`, -1 for `NO_KEY`.

    Args:
        by_tie: ``int64[N]``, position of the item at each place of the id order.
    """
    taken = top != NO_KEY
    return np.where(taken, by_tie[np.where(taken, key_ties(top), 0)], -1)
