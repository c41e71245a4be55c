"""Overlap, one-to-one matching and average precision of segments: what all segment metrics are made of.

Temporal intersection over union of ``[s, e)`` and ``[s', e')``::

    tIoU = max(0, min(e, e') - max(s, s')) / (e - s + e' - s' - intersection)

ActivityNet's annotations have empty segments (``s = e``). Two empty segments at the same time overlap fully: the
official tool's 0/0 passes every threshold.

Greedy matching ("in order of rank, each takes the best target that is still free") is computed as deferred acceptance:
everybody asks for the best target left on his list at once, each target keeps the best-ranked who asked, the others
go on to the next of their list. The outcome is that of the greedy loop, since all targets rank alike, and no order of
work enters it. Source: D. Gale and L. Shapley, College admissions and the stability of marriage, 1962.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def tiou(start: Floats, stop: Floats, other_start: Floats, other_stop: Floats) -> Floats:
    """Returns the temporal IoU of segments, elementwise with broadcasting; all in seconds."""
    intersection = np.maximum(0.0, np.minimum(stop, other_stop) - np.maximum(start, other_start))
    union = (other_stop - other_start) + (stop - start) - intersection
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(union > 0, intersection / union, start == other_start), np.float64)


def tiou_of_hull(start: Floats, stop: Floats, other_start: Floats, other_stop: Floats) -> Floats:
    """Returns the temporal IoU with the union taken as ``max stop - min start``.

    The same number as `tiou` wherever segments overlap, but not the same last bit; tools that compare annotations of
    a tenth of a second against a threshold of a half meet equality often, so each protocol keeps its own arithmetic.
    """
    intersection = np.maximum(0.0, np.minimum(stop, other_stop) - np.maximum(start, other_start))
    union = np.maximum(stop, other_stop) - np.minimum(start, other_start)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(intersection > 0, intersection / union, 0.0), np.float64)


def group_pairs(group: Ints, other_group: Ints) -> tuple[Ints, Ints]:
    """Returns all (i, j) with ``group[i] == other_group[j]``, ordered by i, then by j.

    Args:
        group: ``int[N]``. other_group: ``int[M]``.
    """
    order = np.argsort(other_group, kind="stable")
    ordered = other_group[order]
    first = np.searchsorted(ordered, group, "left")
    count = np.searchsorted(ordered, group, "right") - first
    left = np.repeat(np.arange(len(group)), count)
    within = np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
    return left, order[np.repeat(first, count) + within]


def claim(who: Ints, target: Ints, num_who: int, num_targets: int) -> Ints:
    """Returns the target that each of `num_who` got, -1 for none: greedy matching, rank 0 first.

    Args:
        who: ``int[P]``, ascending; the rank of the one who may take `target`. Everybody's targets stand in the order of
            his preference.
        target: ``int[P]``.
    """
    counts = np.bincount(who, minlength=num_who)
    position = np.cumsum(counts) - counts
    last = position + counts
    holder = np.full(num_targets, num_who, np.int64)
    again = np.zeros(num_who, np.bool_)
    active = np.flatnonzero(counts)
    while len(active):
        asked = target[position[active]]
        before = holder[asked]
        # Repeated targets: the last assignment stands, and `active` is ascending, so reversed the best rank is last.
        best = np.full(num_targets, num_who, np.int64)
        best[asked[::-1]] = active[::-1]
        held = np.minimum(before, best[asked])
        holder[asked] = held
        # Whoever lost, and whoever was driven out by a better one, goes on to the next of his list.
        again[active[held != active]] = True
        again[before[(before < num_who) & (held != before)]] = True
        active = np.flatnonzero(again)
        again[active] = False
        position[active] += 1
        active = active[position[active] < last[active]]
    got = np.full(num_who, -1, np.int64)
    taken = np.flatnonzero(holder < num_who)
    got[holder[taken]] = taken
    return got


def rank_order(score: Floats, *ties: npt.NDArray[np.generic]) -> Ints:
    """Returns the order of descending `score` ``[N]``; equal scores by `ties` ascending, the first of them first.

    A score of NaN comes last.
    """
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    same = ordered[1:] == ordered[:-1]
    if not same.any() or not ties:
        return order
    tied = np.flatnonzero(np.r_[False, same] | np.r_[same, False])
    run = np.cumsum(np.r_[True, ~same])[tied]
    rows = order[tied]
    keys = [tie[rows] for tie in reversed(ties)]
    order[tied] = rows[np.lexsort((*keys, run))]
    return order


def group_average_precision(hit: Bools, group: Ints, num_positive: Ints, interpolated: bool = True) -> Floats:
    """Returns the average precision of each group, ``float64[G]``; NaN for a group without positives.

    ``AP = (sum over hits of P(rank of the hit)) / positives``; interpolated: with the highest precision at that rank or
    any later one (Pascal VOC 2010-2012).

    Args:
        hit: ``bool[N]``, is the ranked item a hit; the items of a group stand in the order of their rank.
        group: ``int[N]``, which ranking the item belongs to; all items of a group stand together.
        num_positive: ``int[G]``, how many hits there could have been.
    """
    num_groups = len(num_positive)
    total = np.where(num_positive > 0, 0.0, np.nan)
    rows = np.flatnonzero(hit)
    if len(rows):
        starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        first_row = np.zeros(num_groups, np.int64)
        first_row[group[starts]] = starts
        of = group[rows]
        hits = np.bincount(of, minlength=num_groups)
        hit_starts = np.flatnonzero(np.r_[True, of[1:] != of[:-1]])
        nth = np.arange(len(rows)) - np.repeat(hit_starts, hits[of[hit_starts]]) + 1
        precision = nth / (rows - first_row[of] + 1)
        if interpolated:
            precision = _best_from_here(precision, of, hit_starts)
        total += np.bincount(of, precision, minlength=num_groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / num_positive, np.float64)


def _best_from_here(values: Floats, group: Ints, starts: Ints) -> Floats:
    # A running maximum per group, backwards, on the values' ranks: integers, so that the offset of a group costs no
    # bit.
    levels, level = np.unique(values, return_inverse=True)
    block = np.searchsorted(starts, np.arange(len(values)), "right") - 1
    offset = (len(starts) - 1 - block) * len(levels)
    best = np.maximum.accumulate((level + offset)[::-1])[::-1] - offset
    return np.asarray(levels[best], np.float64)
