"""Rankings that do not depend on chance: descending score, equal scores by the order of the item ids.

Every ranking of this package is the ascending order of one integer key per item::

    key = (bits of the float32 score, turned so that a greater score is a smaller integer) << 32  |  tie

where `tie` is the item's place in the ascending order of the gallery's ids. Keys are unique, so there is exactly one
ranking, whatever sort made it, however the gallery was cut and in whichever order its rows were stored.
(`argsort(-scores)` is unstable; reversing an ascending sort favours the last of equal items.)

Scores are compared as float32: what differs only below that precision is a tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Ints, Keys


def tie_order(ids: Sequence[str]) -> npt.NDArray[np.uint32]:
    """Returns the place of each id in ascending (code point) order, ``uint32[N]``.

    Raises:
        ValueError: an id occurs twice.
    """
    order = sorted(range(len(ids)), key=ids.__getitem__)
    for left, right in zip(order, order[1:], strict=False):
        if ids[left] == ids[right]:
            raise ValueError(f"item {ids[left]!r}: expected each id once, got two; give every item its own id")
    places = np.empty(len(ids), np.uint32)
    places[order] = np.arange(len(ids), dtype=np.uint32)
    return places


def rank_keys(scores: npt.ArrayLike, tie: npt.ArrayLike) -> Keys:
    """Returns keys ``uint64[..., N]`` of `scores` ``[..., N]`` under `tie` ``[N]``: the best item has the least key.

    Raises:
        ValueError: a score is NaN, which has no rank.
    """
    # + 0.0 makes -0.0 and 0.0 the same bits: they are equal scores.
    single = np.asarray(scores).astype(np.float32) + np.float32(0.0)
    if np.isnan(single).any():
        raise ValueError("scores: expected numbers, got NaN; check the vectors and the model that made them")
    bits = single.view(np.uint32)
    negative = (bits >> np.uint32(31)).astype(bool)
    descending = np.where(negative, bits, np.uint32(0x7FFFFFFF) - bits)
    return (descending.astype(np.uint64) << np.uint64(32)) | np.asarray(tie).astype(np.uint64)


def key_scores(keys: Keys) -> npt.NDArray[np.float32]:
    """Returns the float32 scores that `keys` were made of."""
    descending = (keys >> np.uint64(32)).astype(np.uint32)
    negative = (descending >> np.uint32(31)).astype(bool)
    return np.where(negative, descending, np.uint32(0x7FFFFFFF) - descending).astype(np.uint32).view(np.float32)


def key_ties(keys: Keys) -> Ints:
    """Returns the tie order of the items that `keys` stand for."""
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def ranking(scores: npt.ArrayLike, ids: Sequence[str] | None = None) -> Ints:
    """Returns ``int64[..., N]``: positions, best first; equal scores by ascending id (without ids: position)."""
    array = np.asarray(scores)
    tie = np.arange(array.shape[-1]) if ids is None else tie_order(ids)
    return np.argsort(rank_keys(array, tie), axis=-1, kind="stable")


def pessimistic_first_rank(scores: npt.ArrayLike, relevant: npt.ArrayLike) -> Ints:
    """Returns the 1-based rank ``int64[Q]`` of the best relevant item, every equal irrelevant item placed before it.

    So scores that are all equal give the worst rank there is, never a perfect one. 0 where nothing is relevant.

    Args:
        scores: ``[Q, N]``, compared as float32.
        relevant: ``bool[Q, N]``.
    """
    single = np.asarray(scores).astype(np.float32)
    wanted = np.asarray(relevant, bool)
    best = np.where(wanted, single, -np.inf).max(axis=1, keepdims=True)
    before = (~wanted & (single >= best)).sum(axis=1)
    return np.where(wanted.any(axis=1), before + 1, 0).astype(np.int64)


@dataclass(frozen=True, slots=True)
class RankedHits:
    """What the metrics of ranked lists need to know of Q queries.

    Attributes:
        relevant: ``bool[Q, K]``, whether the item at each rank is relevant, best first; False beyond a list's end.
        num_relevant: ``int64[Q]``, relevant items in the whole gallery, found or not.
        first_rank: ``int64[Q]``, 1-based rank of the best relevant item in the whole gallery under the pessimistic
            tie rule (see `pessimistic_first_rank`), 0 where there is none; None where it was not computed.
    """

    relevant: npt.NDArray[np.bool_]
    num_relevant: Ints
    first_rank: Ints | None = None


def ranked_hits(scores: npt.ArrayLike, relevant: npt.ArrayLike, ids: Sequence[str] | None = None) -> RankedHits:
    """Returns the hits of complete score rows.

    Args:
        scores: ``[Q, N]``.
        relevant: ``bool[Q, N]``.
        ids: of the N items, for ties.
    """
    wanted = np.asarray(relevant, bool)
    order = ranking(scores, ids)
    return RankedHits(
        np.take_along_axis(wanted, order, axis=1),
        wanted.sum(axis=1).astype(np.int64),
        pessimistic_first_rank(scores, wanted),
    )
