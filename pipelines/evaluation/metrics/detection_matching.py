"""Overlap, one-to-one matching and average precision of segments: what all segment metrics are made of.

Temporal intersection over union of ``[s, e)`` and ``[s', e')``::

    tIoU = max(0, min(e, e') - max(s, s')) / (e - s + e' - s' - intersection)

ActivityNet's annotations have empty segments (``s = e``). Two empty segments at the same time overlap fully: the
official tool's 0/0 passes every threshold. A segment that ends before it starts overlaps nothing.

Greedy matching ("in order of rank, each takes the best target that is still free") is computed as deferred acceptance:
everybody asks for the best target left on its list at once, each target keeps the best-ranked who asked, the others
go on to the next of their list. The outcome is that of the greedy loop, since all targets rank alike, and no order of
work enters it. Source: D. Gale and L. Shapley, College admissions and the stability of marriage, 1962.
"""

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Floats, Ints


def tiou(start: Floats, stop: Floats, other_start: Floats, other_stop: Floats) -> Floats:
    """Returns the temporal IoU of segments, elementwise with broadcasting; all in seconds."""
    intersection = np.maximum(0.0, np.minimum(stop, other_stop) - np.maximum(start, other_start))
    union = (other_stop - other_start) + (stop - start) - intersection
    both_empty_there = (start == stop) & (other_start == other_stop) & (start == other_start)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(union > 0, intersection / union, both_empty_there), np.float64)


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
    lowest = min(int(group.min(initial=0)), int(other_group.min(initial=0)))
    num_groups = max(int(group.max(initial=0)), int(other_group.max(initial=0))) - lowest + 1
    if num_groups <= 4 * (len(group) + len(other_group)):
        # Few groups: look them up in a table instead of searching for each.
        sizes = np.bincount(other_group - lowest, minlength=num_groups)
        count = sizes[group - lowest]
        first = (np.cumsum(sizes) - sizes)[group - lowest]
    else:
        ordered = other_group[order]
        first = np.searchsorted(ordered, group, "left")
        count = np.searchsorted(ordered, group, "right") - first
    left = np.repeat(np.arange(len(group)), count)
    within = np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
    return left, order[np.repeat(first, count) + within]


def claim(who: Ints, target: Ints, num_targets: int) -> tuple[Ints, Ints]:
    """Returns who got a target, ascending, and which: greedy matching, the smallest of `who` first.

    Args:
        who: ``int[P]``, ascending; the rank of the one who may take `target`. Everybody's targets stand in the order of
            its preference.
        target: ``int[P]``, below `num_targets`.
    """
    position = np.flatnonzero(np.r_[True, who[1:] != who[:-1]][: len(who)])
    names, num_who = who[position], len(position)
    last = np.r_[position[1:], len(who)]
    holder = np.full(num_targets, num_who, np.int64)
    again = np.zeros(num_who, np.bool_)
    active = np.arange(num_who)
    while len(active):
        asked = target[position[active]]
        before = holder[asked]
        # Repeated targets: the last assignment stands, and `active` is ascending, so reversed the best rank is last.
        best = np.full(num_targets, num_who, np.int64)
        best[asked[::-1]] = active[::-1]
        accepted = np.minimum(before, best[asked])
        holder[asked] = accepted
        # Whoever lost, and whoever was driven out by a better one, goes on to the next of its list.
        again[active[accepted != active]] = True
        again[before[(before < num_who) & (accepted != before)]] = True
        active = np.flatnonzero(again)
        again[active] = False
        position[active] += 1
        active = active[position[active] < last[active]]
    taken = np.flatnonzero(holder < num_who)
    taken = taken[np.argsort(holder[taken])]
    return names[holder[taken]], taken


def by_preference(who: Ints, target: Ints, overlap: Floats, rank: Ints) -> tuple[Ints, Ints, Floats]:
    """Returns pairs in the order `claim` takes them: by rank, then by overlap descending, then as they stand.

    Args:
        who: ``int[P]``, ascending, each of 0 to W - 1 at least once.
        target: ``int[P]``. overlap: ``float64[P]``.
        rank: ``int[W]``, who comes first, second, ...
    """
    size = np.bincount(who, minlength=len(rank))
    start = (np.cumsum(size) - size)[rank]
    size = size[rank]
    ranked = np.repeat(np.arange(len(rank)), size)
    order = np.arange(len(who)) - np.repeat(np.cumsum(size) - size - start, size)
    # Most have one target and need no sorting.
    several = np.flatnonzero(np.repeat(size > 1, size))
    rows = order[several]
    order[several] = rows[np.lexsort((-overlap[rows], ranked[several]))]
    return ranked, target[order], overlap[order]


def rank_order(score: Floats, *ties: npt.NDArray[np.generic]) -> Ints:
    """Returns the order of descending `score` ``[N]``; equal scores by `ties` ascending, the first of them first.

    What is equal in all of them keeps its order. A score of NaN comes last.
    """
    # The sort need not be stable, which makes it twice as fast: equal scores are put in order below.
    order = np.argsort(-score)
    ordered = score[order]
    same = ordered[1:] == ordered[:-1]
    if same.any():
        tied = np.flatnonzero(np.r_[False, same] | np.r_[same, False])
        run = np.cumsum(np.r_[True, ~same])[tied]
        rows = order[tied]
        keys = [tie[rows] for tie in reversed(ties)]
        order[tied] = rows[np.lexsort((rows, *keys, run))]
    return order


def group_average_precision(place: Ints, group: Ints, num_positive: Ints, interpolated: bool = True) -> Floats:
    """Returns the average precision of each of G rankings, ``float64[G]``; NaN for one without positives.

    ``AP = (sum over hits of P(rank of the hit)) / positives``; interpolated: with the highest precision at that rank or
    any later one (Pascal VOC 2010-2012).

    Args:
        place: ``int[H]``, rank of each hit in its ranking, from 0.
        group: ``int[H]``, the ranking it belongs to, ascending; within a ranking ascending by `place`.
        num_positive: ``int[G]``, how many hits there could have been.
    """
    num_groups = len(num_positive)
    total = np.where(num_positive > 0, 0.0, np.nan)
    if len(place):
        hits = np.bincount(group, minlength=num_groups)
        starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        nth = np.arange(len(place)) - np.repeat(starts, hits[group[starts]]) + 1
        precision = nth / (place + 1)
        if interpolated:
            precision = _best_from_here(precision, starts)
        total += np.bincount(group, precision, minlength=num_groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / num_positive, np.float64)


def _best_from_here(values: Floats, starts: Ints) -> Floats:
    # A running maximum per group, backwards, on the values' ranks: integers, so that the offset of a group costs no
    # bit.
    levels, level = np.unique(values, return_inverse=True)
    block = np.searchsorted(starts, np.arange(len(values)), "right") - 1
    offset = (len(starts) - 1 - block) * len(levels)
    best = np.maximum.accumulate((level + offset)[::-1])[::-1] - offset
    return np.asarray(levels[best], np.float64)
