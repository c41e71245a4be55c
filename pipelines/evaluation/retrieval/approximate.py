"""Approximate search with faiss, and what it misses, measured against exact search on the same data.

An index proposes candidates; their scores are then computed as exact search defines them, so only the set that is
ranked is approximate. Every result carries the share of the exact top K that was found (recall), over a seeded sample
of the queries. Building and searching are repeatable: seeds are fixed, and what depends on the order of threads (a
graph's links, a clustering's sums) is built by one thread.

| index | cosine spaces | Hamming spaces |
|---|---|---|
| ``ivf`` | inverted lists around k-means centres, `probes` of them searched | the same over bits |
| ``hnsw`` | a navigable small-world graph; holds the gallery in memory, as ``ivf`` does | the same over bits |
| ``binary`` | sign bits after a rotation (``itq`` learned, ``lsh`` random), all compared | all compared, exact |

Sources: Johnson et al., Billion-scale similarity search with GPUs (faiss), 2019; Malkov and Yashunin, HNSW, 2018; Gong
and Lazebnik, Iterative Quantization, CVPR 2011; Charikar, similarity estimation by sign bits, STOC 2002.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.evaluation.metrics.retrieval_rank import rank_keys
from clipmill.pipelines.evaluation.retrieval.best import NO_KEY, Best
from clipmill.pipelines.evaluation.retrieval.blocks import (
    BlockSizes,
    Computing,
    GalleryChunk,
    Matches,
    Prepare,
    Scorers,
    find,
    query_block,
    query_spans,
)
from clipmill.pipelines.evaluation.retrieval.exclusion import Exclusion
from clipmill.pipelines.evaluation.retrieval.scorers import BestOfSamples, Block, Combined, Cosine, Hamming, Side
from clipmill.pipelines.evaluation.retrieval.scores import BlockScores
from clipmill.schemas.arrays import Ints
from clipmill.schemas.errors import UsageError, describe

Search = Callable[[npt.NDArray[Any], int], Ints]
"""Returns the positions ``int64[n, c]`` of the c nearest items of rows ``[n, D]``, -1 where there are fewer."""

_ADD_ROWS = 4096
"""ours: rows added at a time. A graph's links depend on it, so it is no part of how the work is cut."""


@dataclass(frozen=True, slots=True)
class Approximate:
    """How to search approximately. All defaults are ours.

    Attributes:
        index: ``ivf``, ``hnsw`` or ``binary``.
        candidates: items per query (and per decoded sample) whose exact score is taken; at least the largest cut-off.
        num_lists: of ``ivf``; None: 4 sqrt(N), but at most N / 39.
        probes: of ``ivf``, lists searched per query.
        links, build_effort, search_effort: of ``hnsw`` (M, efConstruction, efSearch).
        codes, num_bits: of ``binary`` over cosine spaces: ``itq`` or ``lsh``; None: as many bits as dimensions, rounded
            up to whole bytes. ``itq`` has at most as many bits as dimensions.
        training_rows: most rows that centres and rotations are learned from.
        recall_queries: queries that recall is measured on.
        seed: of centres, rotations and the two samples.
    """

    index: Literal["ivf", "hnsw", "binary"]
    candidates: int = 200
    num_lists: int | None = None
    probes: int = 16
    links: int = 32
    build_effort: int = 200
    search_effort: int = 256
    codes: Literal["itq", "lsh"] = "itq"
    num_bits: int | None = None
    training_rows: int = 100_000
    recall_queries: int = 100
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """What an approximate search was, and what it found of the exact top lists.

    Attributes:
        settings: as used.
        recall: by space and ``recall_of_exact@K``: mean share of the exact K best that are among the K found.
        num_queries: how many queries that was measured on.
    """

    settings: Approximate
    recall: Mapping[str, Mapping[str, float]]
    num_queries: int

    @property
    def line(self) -> str:
        """The line that goes with every number found so."""
        k = list(next(iter(self.recall.values())))[0].rpartition("@")[2]
        spaces = ", ".join(f"{space} {values[f'recall_of_exact@{k}']:.4f}" for space, values in self.recall.items())
        return f"{self.settings.index}, recall of the exact {k} best on {self.num_queries} queries: {spaces}"

    def as_json(self) -> dict[str, Any]:
        """Returns the plain form that is stored with results."""
        recall = {space: dict(values) for space, values in self.recall.items()}
        return {"settings": asdict(self.settings), "recall": recall, "num_queries": self.num_queries}


def find_approximately(
    queries: Mapping[str, Any],
    gallery: GalleryChunk,
    scorers: Scorers,
    cutoffs: Sequence[int],
    block_sizes: BlockSizes,
    workers: Computing,
    settings: Approximate,
    prepare: Prepare | None = None,
    exclusion: Exclusion | None = None,
) -> tuple[dict[str, Matches], Measured]:
    """Returns the best keys found per space (`NO_KEY` where fewer than K), and the recall measured.

    The index is built and searched in this process, on as many threads as there are workers; exact search for the
    recall runs on the workers.

    Raises:
        UsageError: a space that has no index, fewer candidates than the largest cut-off, or settings that do not fit.
    """
    _check(scorers, settings, cutoffs[-1])
    spaces = {name: scorer for name, scorer in scorers.items() if not isinstance(scorer, Combined)}
    indexes: dict[tuple[str, bool], Search] = {}
    for each in spaces.values():
        key = (each.gallery, isinstance(each, Hamming))  # type: ignore[attr-defined]
        if key not in indexes:
            indexes[key] = _build(gallery, *key, settings, workers.num_workers)
    num_queries = int(next(iter(queries.values())).shape[0])
    k = min(cutoffs[-1], len(gallery.tie))
    tops: dict[str, list[Any]] = {space: [] for space in scorers}
    for span in query_spans(num_queries, block_sizes):
        side = Side(workers.run(query_block(queries, span, prepare)))
        proposed = {name: _candidates(side, scorer, indexes, settings) for name, scorer in spaces.items()}
        if exclusion is not None:
            proposed = {name: _ranked(pairs, exclusion, span) for name, pairs in proposed.items()}
        for space, scorer in scorers.items():
            if isinstance(scorer, Combined):
                proposed[space] = np.unique(np.concatenate([proposed[name] for name in sorted(scorer.weights)]))
        found = _scored(side, span.stop - span.start, gallery, scorers, proposed, k, block_sizes.gallery_rows)
        for space, keys in found.items():
            tops[space].append(keys)
    every = {space: Matches(np.concatenate(parts), ()) for space, parts in tops.items()}
    measured = _measured(queries, gallery, scorers, cutoffs, block_sizes, workers, settings, every, prepare, exclusion)
    return every, measured


def _ranked(pairs: Ints, exclusion: Exclusion, span: slice) -> Ints:
    """Returns those of `pairs`, ``item x Q + query``, that are ranked."""
    item, query = np.divmod(pairs, span.stop - span.start)
    return pairs[~exclusion.has(query + span.start, item)]


def _check(scorers: Scorers, settings: Approximate, k: int) -> None:
    for space, scorer in scorers.items():
        if isinstance(scorer, Combined):
            for name in scorer.weights:
                if name not in scorers or isinstance(scorers[name], Combined):
                    raise UsageError(
                        describe("space", space, "spaces that are scored", f"'{name}'", "correct the name")
                    )
        elif not isinstance(scorer, Cosine | BestOfSamples | Hamming):
            got = type(scorer).__name__
            raise UsageError(describe("space", space, "a cosine or Hamming space for an index", got, "search exactly"))
    for name in ("candidates", "probes", "links", "build_effort", "search_effort", "training_rows", "recall_queries"):
        if getattr(settings, name) < 1:
            got = str(getattr(settings, name))
            raise UsageError(describe("search", name, "at least 1", got, "leave it out for the default"))
    if settings.candidates < k:
        remedy = "raise it, or lower the cut-offs"
        raise UsageError(
            describe("search", "candidates", f"at least the largest cut-off {k}", str(settings.candidates), remedy)
        )
    if settings.num_bits is not None and (settings.num_bits < 8 or settings.num_bits % 8):
        remedy = "whole bytes are compared"
        raise UsageError(describe("search", "num_bits", "a multiple of 8", str(settings.num_bits), remedy))


def _build(gallery: GalleryChunk, name: str, is_binary: bool, settings: Approximate, num_threads: int) -> Search:
    import faiss

    width = int(gallery.vectors[name].shape[1])
    num = len(gallery.tie)
    sample = _sample(gallery, name, is_binary, settings) if settings.index != "hnsw" else None
    faiss.omp_set_num_threads(1)
    try:
        index, encode = _empty(faiss, width, is_binary, sample, num, settings)
        only = GalleryChunk({name: gallery.vectors[name]}, gallery.tie)
        for _, side, _ in only.blocks(_ADD_ROWS):
            index.add(encode(_rows(side, name, is_binary)))
    finally:
        faiss.omp_set_num_threads(num_threads)

    def search(vectors: npt.NDArray[Any], most: int) -> Ints:
        _, found = index.search(encode(vectors), min(most, num))
        return np.asarray(found, np.int64)

    return search


def _empty(
    faiss: Any, width: int, is_binary: bool, sample: Any, num_items: int, settings: Approximate
) -> tuple[Any, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]]:
    """Returns an index without items, and what turns rows into what it takes."""
    # Fewer than 39 rows for a centre is what faiss warns of.
    lists = settings.num_lists or max(1, min(round(4 * math.sqrt(num_items)), num_items // 39))
    lists = min(lists, 0 if sample is None else len(sample))
    if is_binary:
        if settings.index == "binary":
            return faiss.IndexBinaryFlat(8 * width), _same
        if settings.index == "hnsw":
            index = faiss.IndexBinaryHNSW(8 * width, settings.links)
            index.hnsw.efConstruction, index.hnsw.efSearch = settings.build_effort, settings.search_effort
            return index, _same
        quantizer = faiss.IndexBinaryFlat(8 * width)
        index = faiss.IndexBinaryIVF(quantizer, 8 * width, lists)
        index.quantizer_is_owned = quantizer  # keeps it alive: the index holds a bare pointer
        index.cp.seed, index.cp.min_points_per_centroid = settings.seed + 1, 1
        index.nprobe = settings.probes
        index.train(sample)
        return index, _same
    if settings.index == "hnsw":
        # Between unit vectors the least distance is the greatest cosine.
        index = faiss.IndexHNSWFlat(width, settings.links)
        index.hnsw.efConstruction, index.hnsw.efSearch = settings.build_effort, settings.search_effort
        return index, _same
    if settings.index == "ivf":
        index = faiss.index_factory(width, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.min_points_per_centroid = settings.seed + 1, 1
        index.cp.spherical, index.nprobe = True, settings.probes
        index.train(sample)
        return index, _same
    return _sign_bits(faiss, width, sample, settings)


def _sign_bits(
    faiss: Any, width: int, sample: Any, settings: Approximate
) -> tuple[Any, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]]:
    num_bits = settings.num_bits or (width // 8 * 8 if settings.codes == "itq" else -(-width // 8) * 8)
    if settings.codes == "itq" and not 8 <= num_bits <= width:
        got = f"{num_bits} of {width}"
        raise UsageError(describe("search", "num_bits", "at most one bit per dimension for itq", got, "use codes: lsh"))
    # Centred, because features that are never negative lie in one corner and would share most signs.
    centre = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    if settings.codes == "itq":
        transform = faiss.ITQTransform(width, num_bits, num_bits < width)
        transform.itq.seed = settings.seed + 1
        transform.train(sample - centre)
    else:
        transform = faiss.RandomRotationMatrix(width, num_bits)
        transform.init(settings.seed + 1)

    def encode(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        turned = transform.apply(np.ascontiguousarray(rows - centre))
        return np.packbits(turned > 0, axis=1, bitorder="little")

    return faiss.IndexBinaryFlat(num_bits), encode


def _same(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return rows


def _rows(side: Side, name: str, is_binary: bool) -> npt.NDArray[Any]:
    if not is_binary:
        if not side.is_finite(name):
            remedy = "check the features for values that are not finite"
            raise UsageError(describe("gallery", name, "numbers", "NaN or infinity", remedy))
        return np.ascontiguousarray(side.single_units(name))
    if side[name].dtype != np.uint8:
        raise UsageError(describe("gallery", name, "uint8 (packed bits)", str(side[name].dtype), "use a cosine space"))
    return np.ascontiguousarray(side[name])


def _sample(gallery: GalleryChunk, name: str, is_binary: bool, settings: Approximate) -> npt.NDArray[Any]:
    num = len(gallery.tie)
    chosen = np.arange(num)
    if num > settings.training_rows:
        chosen = np.sort(np.random.default_rng(settings.seed).choice(num, settings.training_rows, replace=False))
    parts = []
    for start, side, tie in GalleryChunk({name: gallery.vectors[name]}, gallery.tie).blocks(_ADD_ROWS):
        first, last = np.searchsorted(chosen, [start, start + len(tie)])
        parts.append(_rows(side, name, is_binary)[chosen[first:last] - start])
    return np.concatenate(parts)


def _candidates(side: Side, scorer: Any, indexes: Mapping[tuple[str, bool], Search], settings: Approximate) -> Ints:
    """Returns the pairs to score, as ascending ``item x Q + query``."""
    search = indexes[scorer.gallery, isinstance(scorer, Hamming)]
    rows = _rows(side, scorer.query, isinstance(scorer, Hamming))
    num = len(rows)
    samples = [rows[:, i] for i in range(rows.shape[1])] if isinstance(scorer, BestOfSamples) else [rows]
    pairs = []
    for sample in samples:
        items = search(np.ascontiguousarray(sample), settings.candidates)
        query = np.broadcast_to(np.arange(num)[:, None], items.shape)
        pairs.append((items * num + query)[items >= 0])
    return np.unique(np.concatenate(pairs))


def _scored(
    side: Side,
    num_queries: int,
    gallery: GalleryChunk,
    scorers: Scorers,
    proposed: Mapping[str, Ints],
    k: int,
    rows: int,
) -> dict[str, npt.NDArray[np.uint64]]:
    best = {space: Best.of(num_queries, k) for space in scorers}
    for start, items, tie in gallery.blocks(rows):
        scores = BlockScores(side, items, scorers, (num_queries, len(tie)))
        for space, pairs in proposed.items():
            first, last = np.searchsorted(pairs, [start * num_queries, (start + len(tie)) * num_queries])
            item, query = np.divmod(pairs[first:last], num_queries)
            order = np.argsort(query, kind="stable")
            query, item = query[order], item[order] - start
            if len(query):
                best[space].add(query, rank_keys(scores.pairs(space, query, item), tie[item]))
    return {space: state.keys for space, state in best.items()}


def _measured(
    queries: Mapping[str, Any],
    gallery: GalleryChunk,
    scorers: Scorers,
    cutoffs: Sequence[int],
    block_sizes: BlockSizes,
    workers: Computing,
    settings: Approximate,
    matches: Mapping[str, Matches],
    prepare: Prepare | None,
    exclusion: Exclusion | None,
) -> Measured:
    num = int(next(iter(queries.values())).shape[0])
    chosen = np.arange(num)
    if num > settings.recall_queries:
        chosen = np.sort(np.random.default_rng(settings.seed).choice(num, settings.recall_queries, replace=False))
    some: Block = {name: array[chosen] for name, array in queries.items()}
    skipped = None if exclusion is None else exclusion.of_queries(chosen)
    exact = find(some, gallery, None, scorers, cutoffs[-1], block_sizes, workers, prepare, skipped)
    recall: dict[str, dict[str, float]] = {}
    for space in scorers:
        recall[space] = {}
        for k in cutoffs:
            rows = zip(exact[space].top[:, :k], matches[space].top[chosen, :k], strict=True)
            # Only where a query does not rank every item has the exact list an empty place.
            shares = [_share(ours[ours != NO_KEY], theirs[theirs != NO_KEY]) for ours, theirs in rows]
            recall[space][f"recall_of_exact@{k}"] = math.fsum(shares) / len(shares)
    return Measured(settings, recall, len(chosen))


def _share(exact: npt.NDArray[np.uint64], found: npt.NDArray[np.uint64]) -> float:
    return float(np.isin(exact, found).mean()) if len(exact) else 1.0
