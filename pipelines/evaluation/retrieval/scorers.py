"""What ranks a space: scores of query blocks against gallery blocks. Pure numpy, picklable, greater is better.

A score is defined pair by pair, without regard to blocks: products are added up in float64 in one fixed order, divided
by both norms, and rounded to a multiple of 2^-30 (so that what is equal but for the noise of float64
ties exactly, also around 0). Rankings then compare it as float32 (`metrics.retrieval_rank`). The last bits of a matrix
product depend on the shape of its blocks, on the processor and on the number of threads; this number does not.

Scorers therefore give two things: all scores of a block from one matrix product, with a bound on how far they can be
from the definition, and the defined scores of single pairs. `retrieval_scores` decides by the first which pairs need
the second. Bounds follow Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1: with unit roundoff
u, a product of two unit rows of length D is off by at most D u, and a norm by a relative D u / 2 + 2 u, in whichever
order they are added up; terms in u^2 have room in the constants.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Array, Floats, Ints, Singles

Scores = npt.NDArray[np.floating]
Block = Mapping[str, Array]
"""Named arrays of the same items, ``[n, ...]`` each: what queries and gallery items are given as."""

GRID = 2.0**-30
"""ours: defined cosines are multiples of this."""

_PAIR_BYTES = 256 << 10
"""ours: bytes of float64 rows gathered at a time for single pairs: what a core's cache holds."""


class Scorer(Protocol):
    """Scores ``[Q, G]`` of a query block against a gallery block, taken as they are.

    A scorer of this kind must give each pair the same score in whichever blocks it comes, and be picklable to run on a
    cluster.
    """

    def __call__(self, queries: Block, gallery: Block) -> Scores: ...


@runtime_checkable
class PairScorer(Protocol):
    """A scorer whose scores are defined pair by pair, and which can approximate those of a block faster."""

    def __call__(self, queries: Block, gallery: Block) -> Scores: ...

    def approximate(self, queries: "Side", gallery: "Side", single: bool) -> tuple[Scores, float]:
        """Returns scores ``[Q, G]``, float32 (`single`) or float64, and a bound on their distance from the definition.

        The bound is NaN where a vector holds NaN or infinity. Float64 scores are rounded to `GRID` by the caller.
        """
        ...

    def exact(self, queries: "Side", gallery: "Side", rows: Ints, columns: Ints) -> Floats:
        """Returns the defined scores ``float64[n]`` of the pairs (`rows`, `columns`) ``[n]``."""
        ...


class Side(Mapping[str, Array]):
    """A block with the unit rows made of it, each made once, however many spaces read them."""

    def __init__(self, arrays: Block) -> None:
        self._arrays = dict(arrays)
        self._units: dict[tuple[str, bool], Any] = {}
        self._norms: dict[str, Floats] = {}
        self._scales: dict[tuple[str, bool], Singles] = {}

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def part(self, start: int, stop: int) -> "Side":
        """Returns items ``[start, stop)``."""
        return Side({name: array[start:stop] for name, array in self._arrays.items()})

    def norms(self, name: str) -> Floats:
        """Returns the norms of the rows of the array `name` ``[n, D]``, float64; 1 for a zero vector."""
        if name not in self._norms:
            self._norms[name] = _norms(np.asarray(self._arrays[name], np.float64))
        return self._norms[name]

    def units(self, name: str) -> Floats:
        """Returns `unit_rows` of the array `name`, float64."""
        if (name, False) not in self._units:
            self._units[name, False] = unit_rows(self._arrays[name])
        units: Floats = self._units[name, False]
        return units

    def single_units(self, name: str) -> Singles:
        """Returns the rows of the array `name`, float32 of norm 1 within a relative (D / 2 + 3) 2^-24."""
        if (name, True) not in self._units:
            rows, odd = np.asarray(self._arrays[name], np.float32), self._odd(name)
            made = np.asarray(rows * self.single_scales(name)[..., None])
            if odd.any():
                made[odd] = unit_rows(self._arrays[name][odd])
            self._units[name, True] = made
        units: Singles = self._units[name, True]
        return units

    def single_scales(self, name: str) -> Singles:
        """Returns one over the norm of each row of the array `name`, float32; 1 where `single_units` is needed."""
        if (name, False) not in self._scales:
            squares = self._squares(name)
            norms = np.sqrt(np.where(self._odd(name), np.float32(1), squares))
            self._scales[name, False] = np.asarray(np.float32(1) / norms, np.float32)
        return self._scales[name, False]

    def has_scales(self, name: str) -> bool:
        """Returns whether products with rows as they are can be scaled afterwards: none is too great or too small."""
        return not self._odd(name).any()

    def is_finite(self, name: str) -> bool:
        """Returns whether the array `name` holds neither NaN nor infinity."""
        # The sum of squares of a row is not finite where a number is not, or where it overflows: then look again.
        return self.has_scales(name) or bool(np.isfinite(self._arrays[name]).all())

    def _odd(self, name: str) -> npt.NDArray[np.bool_]:
        # Squares of float32 leave its range long before the numbers do.
        squares = self._squares(name)
        return ~((squares > 1e-20) & (squares < 1e30))

    def _squares(self, name: str) -> Singles:
        if (name, True) not in self._scales:
            with np.errstate(over="ignore", invalid="ignore"):
                rows = np.asarray(self._arrays[name], np.float32)
                self._scales[name, True] = np.einsum("...i,...i->...", rows, rows)
        return self._scales[name, True]


def unit_rows(vectors: Array) -> Floats:
    """Returns `vectors` ``[..., D]`` as float64 of norm 1 along the last axis; a zero vector stays zero (cosine 0)."""
    rows = np.ascontiguousarray(vectors, np.float64)
    with np.errstate(invalid="ignore"):
        units: Floats = rows / _norms(rows)[..., None]
    return units


def _norms(rows: Floats) -> Floats:
    norms = np.sqrt(_sums(rows, rows))
    return np.where(norms > 0, norms, 1.0)


def _sums(left: Floats, right: Floats) -> Floats:
    # A sum along the last axis adds each row by itself, in an order that depends on its length alone.
    return np.asarray(np.sum(left * right, axis=-1), np.float64)


def _scales_later(queries: Side, query: str, gallery: Side, item: str) -> bool:
    """Returns whether scaling the products is cheaper than scaling the gallery's rows, and possible."""
    return len(queries[query]) < gallery[item].shape[-1] and gallery.has_scales(item)


def _bound(queries: Side, query: str, gallery: Side, item: str, single: bool) -> float:
    """Returns how far a product of unit rows can be from the definition, NaN where not all numbers are finite."""
    if not (queries.is_finite(query) and gallery.is_finite(item)):
        return math.nan
    num = 2.0 * int(queries[query].shape[-1]) + 16
    # Twice in float64: the product and the definition are off, each by itself; and a little room for terms in u^2.
    double = 2.1 * num * 2.0**-53
    return 1.05 * num * 2.0**-24 + double + GRID if single else double


def on_grid(scores: Floats) -> Floats:
    """Returns `scores` rounded to multiples of `GRID`."""
    return np.asarray(np.rint(scores / GRID) * GRID, np.float64)


def _cosines(left: Floats, left_norms: Floats, right: Array) -> Floats:
    rows = np.asarray(right, np.float64)
    return np.asarray(_sums(left, rows) / (left_norms * _norms(rows)), np.float64)


@dataclass(frozen=True, slots=True)
class Cosine:
    """Cosine of ``queries[query]`` ``[Q, D]`` and ``gallery[gallery]`` ``[G, D]``: 1 minus MAP-IVR's S_A."""

    query: str
    gallery: str

    def __call__(self, queries: Block, gallery: Block) -> Floats:
        return on_grid(unit_rows(queries[self.query]) @ unit_rows(gallery[self.gallery]).T)

    def approximate(self, queries: Side, gallery: Side, single: bool) -> tuple[Scores, float]:
        """Returns the product of the unit rows, and its bound."""
        bound = _bound(queries, self.query, gallery, self.gallery, single)
        if single and _scales_later(queries, self.query, gallery, self.gallery):
            scores = queries.single_units(self.query) @ np.asarray(gallery[self.gallery], np.float32).T
            scores *= gallery.single_scales(self.gallery)
            return scores, bound
        if single:
            return queries.single_units(self.query) @ gallery.single_units(self.gallery).T, bound
        return queries.units(self.query) @ gallery.units(self.gallery).T, bound

    def exact(self, queries: Side, gallery: Side, rows: Ints, columns: Ints) -> Floats:
        """Returns the defined cosines of the pairs, ``float64[n]``."""
        found = np.empty(len(rows))
        left, norms = np.asarray(queries[self.query], np.float64), queries.norms(self.query)
        for span in _spans(len(rows), left.shape[-1]):
            query = rows[span]
            found[span] = _cosines(left[query], norms[query], gallery[self.gallery][columns[span]])
        return on_grid(found)


@dataclass(frozen=True, slots=True)
class BestOfSamples:
    """The greatest cosine over h decoded samples of a query: 1 minus MAP-IVR's S_V, the minimum over h of 1 - cos.

    ``queries[query]`` is ``[Q, h, D]``, ``gallery[gallery]`` is ``[G, D]``. The samples are taken one after the other,
    so no ``[Q, h, G]`` array ever exists.
    """

    query: str
    gallery: str

    def __call__(self, queries: Block, gallery: Block) -> Floats:
        scores, _ = self.approximate(Side(queries), Side(gallery), single=False)
        return on_grid(np.asarray(scores, np.float64))

    def approximate(self, queries: Side, gallery: Side, single: bool) -> tuple[Scores, float]:
        """Returns the greatest product over the samples, and its bound: that of one product."""
        bound = _bound(queries, self.query, gallery, self.gallery, single)
        # The greatest of the samples' products can be scaled once.
        later = single and gallery.has_scales(self.gallery)
        columns: Any = np.asarray(gallery[self.gallery], np.float32).T if later else None
        if columns is None:
            columns = (gallery.single_units(self.gallery) if single else gallery.units(self.gallery)).T
        best: Any = None
        product: Any = None
        for i in range(queries[self.query].shape[1]):
            # Samples in float64 are made again for each block: all of them at once may be larger than the gallery.
            rows: Any = queries.single_units(self.query)[:, i]
            if not single:
                rows = unit_rows(queries[self.query][:, i])
            product = np.matmul(rows, columns, out=product)
            if best is None:
                best, product = product, None
            else:
                np.maximum(best, product, out=best)
        if later:
            best *= gallery.single_scales(self.gallery)
        return best, bound

    def exact(self, queries: Side, gallery: Side, rows: Ints, columns: Ints) -> Floats:
        """Returns the defined scores of the pairs, ``float64[n]``."""
        found = np.empty(len(rows))
        num_samples, num_dimensions = queries[self.query].shape[1:]
        for span in _spans(len(rows), num_dimensions):
            right = gallery[self.gallery][columns[span]]
            best = np.full(len(right), -np.inf)
            for i in range(num_samples):
                left = np.asarray(queries[self.query][rows[span], i], np.float64)
                np.maximum(best, _cosines(left, _norms(left), right), out=best)
            found[span] = best
        return on_grid(found)


def _spans(num_pairs: int, num_dimensions: int) -> Iterator[slice]:
    size = max(1, _PAIR_BYTES // (8 * max(1, num_dimensions)))
    for start in range(0, num_pairs, size):
        yield slice(start, start + size)


@dataclass(frozen=True, slots=True)
class Hamming:
    """Minus the number of bits in which ``queries[query]`` and ``gallery[gallery]``, ``uint8[n, D / 8]``, differ.

    For binary descriptors and key features (BRIEF, ORB: 32 bytes). Whole numbers, hence exact in any block.
    """

    query: str
    gallery: str

    def __call__(self, queries: Block, gallery: Block) -> Singles:
        left, right = (_words(block[name]) for block, name in ((queries, self.query), (gallery, self.gallery)))
        differing = np.zeros((len(left), len(right)), np.int32)
        for word in range(left.shape[1]):
            differing += np.bitwise_count(left[:, word, None] ^ right[None, :, word])
        return -differing.astype(np.float32)


def _words(codes: Array) -> npt.NDArray[np.uint64]:
    rows = np.ascontiguousarray(codes)
    if rows.dtype != np.uint8 or rows.ndim != 2:
        raise ValueError(f"binary vectors: expected uint8[n, bytes], got {rows.dtype}{list(rows.shape)}; pack the bits")
    padded = np.zeros((len(rows), -(-rows.shape[1] // 8) * 8), np.uint8)
    padded[:, : rows.shape[1]] = rows
    return padded.view(np.uint64)


@dataclass(frozen=True, slots=True)
class Combined:
    """A weighted sum of other spaces' scores, from the scores already computed for the block: nothing is scored twice.

    MAP-IVR's combined space is ``Combined({"appearance": 1 - lambda_v, "video": lambda_v})``.
    """

    weights: Mapping[str, float]

    def combine(self, scores: Mapping[str, Scores]) -> Floats:
        """Returns the weighted sum of `scores`, of any one shape, in the order of the spaces' names."""
        first, *others = sorted(self.weights)
        total: Floats = self.weights[first] * np.asarray(scores[first], np.float64)
        for space in others:
            total = total + self.weights[space] * np.asarray(scores[space], np.float64)
        return total
