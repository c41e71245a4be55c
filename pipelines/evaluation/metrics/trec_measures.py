"""The formulas of trec_eval's measures, over the ranked judgements of many queries at once.

For one query with R relevant documents (judged at `relevance_level` or higher), n retrieved, h(k) relevant among the
first k, and i running over 1-based ranks::

    map = sum over relevant ranks of h(i)/i, / R         map_cut_k: the same over i <= k      gm_map: geometric mean
    P_k = h(k)/k    recall_k = h(k)/R    relative_P_k = h(k)/min(k, R)    success_k = [h(k) > 0]    unj_k: unjudged
    Rprec = h(R)/R    Rprec_mult_m = P at int(m R + 0.9)    recip_rank = 1 / first relevant rank
    iprec_at_recall_x = highest h(i)/i with h(i) >= round(x R)     11pt_avg: their mean over 0, 0.1, ..., 1
    bpref = sum over relevant of 1 - min(judged nonrelevant above, R) / min(judged nonrelevant, R), / R
    infAP = sum over relevant of 1/i + (i-1)/i (judged above / (i-1)) (relevant above + e) / (judged above + 2e), / R
    ndcg = DCG/ideal DCG, DCG = sum of gain/log2(i + 1); gain = judgement, whatever the level; ideal over all judged
    ndcg_cut_k, ndcg_rel, Rndcg: at rank k; averaged over relevant ranks; averaged over where the ideal gain changes
    G, binG: gain over log2(2 + cost - gain so far)                     rbp: (1 - p) sum of p^(i-1) gain, p = 0.9
    set_P = h/n, set_recall = h/R, set_F = 2PR/(P + R), set_map = set_P * set_recall, utility = h - (n - h)

All denominators are trec_eval's: P_k divides by k also where fewer were retrieved, recall and map by all R. Recall
levels are rounded as in the outputs that trec_eval's own tests ship; older versions (such as the one inside pytrec_eval
0.5) take int(x R + 0.9) documents for iprec_at_recall and 11pt_avg, and print other numbers there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Bools, Floats, Ints
from clipmill.schemas.errors import UsageError, near

NOT_JUDGED = -1
UNJUDGED_IN_POOL = -2
MIN_GEOMETRIC = 0.00001
_EPSILON = 0.00001
_RBP_P = 0.9

CUTOFFS = (5, 10, 15, 20, 30, 100, 200, 500, 1000)
_RECALLS = tuple(step / 10 for step in range(11))
_MULTIPLES = tuple(step / 10 for step in range(2, 21, 2))


@dataclass(frozen=True)
class Rankings:
    """The ranked judgements of Q queries.

    Attributes:
        query: ``int64[N]``, ascending; documents of a query in the order of their rank.
        judgement: ``int64[N]``; -1: not in the pool; -2: in the pool, but unjudged.
        num_retrieved: ``int64[Q]``.
        judged_query, judged: ``int64[J]``, all judgements of the queries, retrieved or not, from 0 up.
        relevance_level: least judgement that counts as relevant.
    """

    query: Ints
    judgement: Ints
    num_retrieved: Ints
    judged_query: Ints
    judged: Ints
    relevance_level: int

    def __len__(self) -> int:
        return len(self.num_retrieved)

    @cached_property
    def starts(self) -> Ints:
        """``int64[Q]``, row of each query's first document."""
        return np.asarray(np.cumsum(self.num_retrieved) - self.num_retrieved, np.int64)

    @cached_property
    def rank(self) -> Ints:
        """``int64[N]``, 1-based."""
        return np.asarray(np.arange(len(self.query)) - self.starts[self.query] + 1, np.int64)

    @cached_property
    def relevant(self) -> Bools:
        """``bool[N]``."""
        return np.asarray(self.judgement >= self.relevance_level, np.bool_)

    @cached_property
    def found(self) -> Ints:
        """``int64[N]``, h: relevant documents of the query up to and including this one."""
        return self.running(self.relevant)

    @cached_property
    def hits(self) -> tuple[Ints, Ints, Floats]:
        """Query, h and h/i of the relevant documents alone."""
        rows = np.flatnonzero(self.relevant)
        return self.query[rows], self.found[rows], np.asarray(self.found[rows] / self.rank[rows], np.float64)

    @cached_property
    def num_relevant(self) -> Ints:
        """``int64[Q]``, R."""
        return np.bincount(self.judged_query[self.judged >= self.relevance_level], minlength=len(self))

    @cached_property
    def num_relevant_retrieved(self) -> Ints:
        """``int64[Q]``."""
        return np.bincount(self.query[self.relevant], minlength=len(self))

    @cached_property
    def gain(self) -> Floats:
        """``float64[N]``: the judgement, 0 without one."""
        return np.maximum(self.judgement, 0).astype(np.float64)

    @cached_property
    def discounted(self) -> Floats:
        """``float64[N]``: gain / log2(rank + 1)."""
        return np.asarray(self.gain / np.log2(self.rank + 1), np.float64)

    @cached_property
    def ideal(self) -> "Rankings":
        """The best possible ranking: all positive judgements, highest first."""
        positive = self.judged > 0
        query, judged = self.judged_query[positive], self.judged[positive]
        order = np.lexsort((-judged, query))
        counts = np.bincount(query, minlength=len(self))
        return Rankings(query[order], judged[order], counts, self.judged_query, self.judged, self.relevance_level)

    def running(self, values: npt.NDArray[np.generic]) -> Ints:
        """Returns the running sum of integers or flags `values` within each query."""
        total = np.cumsum(values, dtype=np.int64)
        before = np.r_[0, total][self.starts]
        return np.asarray(total - before[self.query], np.int64)

    def total(self, values: Floats, where: Bools | None = None) -> Floats:
        """Returns the sum of `values` within each query, ``float64[Q]``, in the order of rank."""
        if where is not None:
            return np.asarray(np.bincount(self.query[where], values[where], minlength=len(self)), np.float64)
        return np.asarray(np.bincount(self.query, values, minlength=len(self)), np.float64)

    def up_to(self, running: npt.NDArray[np.generic], cut: Ints) -> Floats:
        """Returns the running value at rank `cut` ``[Q]`` or at the last document before it; 0 where there is none."""
        last = np.minimum(cut, self.num_retrieved)
        padded = np.r_[running, 0]
        return np.where(last > 0, padded[np.where(last > 0, self.starts + last - 1, len(running))], 0).astype(
            np.float64
        )


def _ratio(top: npt.ArrayLike, bottom: npt.ArrayLike) -> Floats:
    over = np.asarray(bottom, np.float64)
    return np.asarray(np.divide(top, over, out=np.zeros(over.shape), where=over != 0), np.float64)


def _found_at(r: Rankings, k: int) -> Floats:
    return r.up_to(r.found, np.full(len(r), k))


def _average_precision(r: Rankings, k: int | None = None) -> Floats:
    query, _, precision = r.hits
    if k is not None:
        within = r.rank[r.relevant] <= k
        query, precision = query[within], precision[within]
    return _ratio(np.bincount(query, precision, minlength=len(r)), r.num_relevant)


def _interpolated(r: Rankings, recall: float) -> Floats:
    # Highest h(i)/i over the relevant ranks that reach the recall.
    need = np.floor(recall * r.num_relevant + 0.5).astype(np.int64)
    query, found, precision = r.hits
    enough = found >= need[query]
    best = np.zeros(len(r))
    np.maximum.at(best, query[enough], precision[enough])
    return best


def _r_precision_multiple(r: Rankings, multiple: float) -> Floats:
    cut = (multiple * r.num_relevant + 0.9).astype(np.int64)
    return _ratio(r.up_to(r.found, cut), cut)


def _bpref(r: Rankings) -> Floats:
    nonrelevant = (r.judgement >= 0) & ~r.relevant
    num_nonrelevant = np.bincount(r.judged_query[r.judged < r.relevance_level], minlength=len(r))
    above = np.minimum(r.running(nonrelevant), r.num_relevant[r.query])
    bound = np.minimum(num_nonrelevant, r.num_relevant)[r.query]
    return _ratio(r.total(1.0 - _ratio(above, bound), r.relevant), r.num_relevant)


def _inferred(r: Rankings) -> Floats:
    before = (r.rank - 1).astype(np.float64)
    relevant = (r.found - 1).astype(np.float64)
    nonrelevant = r.running((r.judgement >= 0) & ~r.relevant)
    unjudged = r.running(r.judgement == UNJUDGED_IN_POOL)
    share = (relevant + _EPSILON) / (relevant + nonrelevant + 2 * _EPSILON)
    value = 1.0 / r.rank + before / r.rank * _ratio(relevant + nonrelevant + unjudged, before) * share
    return _ratio(r.total(np.where(before == 0, 1.0, value), r.relevant), r.num_relevant)


def _ndcg(r: Rankings, k: int | None = None) -> Floats:
    within = None if k is None else r.rank <= k
    ideal_within = None if k is None else r.ideal.rank <= k
    return _ratio(r.total(r.discounted, within), r.ideal.total(r.ideal.discounted, ideal_within))


def _running_dcg(r: Rankings) -> Floats:
    # Per query, not as a difference of one long sum: late queries would lose digits.
    parts = np.split(r.discounted, r.starts[1:]) if len(r) else []
    return np.concatenate([np.zeros(0), *(np.cumsum(part) for part in parts)])


def _ndcg_over_relevant(r: Rankings) -> Floats:
    dcg, ideal = _running_dcg(r), _running_dcg(r.ideal)
    positive = r.judgement > 0
    of = r.query[positive]
    last = np.minimum(r.rank[positive], r.ideal.num_retrieved[of])
    each = np.bincount(of, dcg[positive] / ideal[r.ideal.starts[of] + last - 1], minlength=len(r))
    num_found = np.bincount(of, minlength=len(r))
    everything = np.full(len(r), len(r.query) + len(r.judged))
    final = _ratio(r.up_to(dcg, everything), r.ideal.up_to(ideal, everything))
    return _ratio(each + (r.ideal.num_retrieved - num_found) * final, r.ideal.num_retrieved)


def _ndcg_at_changes(r: Rankings) -> Floats:
    dcg, ideal = _running_dcg(r), _running_dcg(r.ideal)
    following = np.r_[r.ideal.judgement[1:], -1]
    last_of_query = np.r_[r.ideal.query[1:] != r.ideal.query[:-1], True][: len(r.ideal.query)]
    change = np.flatnonzero(last_of_query | (following[: len(last_of_query)] != r.ideal.judgement))
    of = r.ideal.query[change]
    cut = np.minimum(r.ideal.rank[change], r.num_retrieved[of])
    reached = np.where(cut > 0, np.r_[dcg, 0.0][np.where(cut > 0, r.starts[of] + cut - 1, len(dcg))], 0.0)
    total = np.bincount(of, reached / ideal[change], minlength=len(r))
    number = np.bincount(of, minlength=len(r))
    beyond = (r.num_retrieved > r.ideal.num_retrieved + 1) & (r.ideal.num_retrieved > 0)
    everything = np.full(len(r), len(r.query) + len(r.judged))
    final = _ratio(r.up_to(dcg, everything), r.ideal.up_to(ideal, everything))
    return np.where(r.num_relevant > 0, _ratio(total + np.where(beyond, final, 0.0), number + beyond), 0.0)


def _g(r: Rankings) -> Floats:
    size = r.ideal.num_retrieved[r.query]
    inside = r.rank <= size
    ideal_gain = np.zeros(len(r.query))
    ideal_gain[inside] = r.ideal.gain[(r.ideal.starts[r.query] + r.rank - 1)[inside]]
    cost = r.running(np.maximum(ideal_gain, 1.0).astype(np.int64))
    gained = r.running(r.gain.astype(np.int64))
    positive = r.gain > 0
    value = np.zeros(len(r.query))
    value[positive] = r.gain[positive] / np.log2(2.0 + cost[positive] - gained[positive])
    return _ratio(r.total(value), r.ideal.total(r.ideal.gain))


def _binary_g(r: Rankings) -> Floats:
    value = np.zeros(len(r.query))
    value[r.relevant] = 1.0 / np.log2(2.0 + (r.rank - r.found)[r.relevant])
    return _ratio(r.total(value), r.num_relevant)


def _rank_biased(r: Rankings) -> Floats:
    # Gains beyond 1 are brought into [0, 1] by the highest judgement of the query, as the measure's authors ask.
    highest = np.ones(len(r))
    np.maximum.at(highest, r.judged_query, r.judged.astype(np.float64))
    discount = np.asarray(_RBP_P ** (r.rank - 1.0), np.float64)
    return (1.0 - _RBP_P) * r.total(np.asarray(r.gain / highest[r.query] * discount, np.float64))


def _rank_biased_residual(r: Rankings) -> Floats:
    unjudged = r.judgement < 0
    any_unjudged = np.bincount(r.query[unjudged], minlength=len(r)) > 0
    rest = _RBP_P**r.num_retrieved + (1 - _RBP_P) * r.total(np.asarray(_RBP_P ** (r.rank - 1.0), np.float64), unjudged)
    return np.where(any_unjudged, rest, 0.0)


def _unjudged_at(r: Rankings, k: int) -> Floats:
    return r.up_to(r.running(r.judgement < 0), np.full(len(r), k)) / k


def _f(r: Rankings) -> Floats:
    precision, recall = (
        _ratio(r.num_relevant_retrieved, r.num_retrieved),
        _ratio(r.num_relevant_retrieved, r.num_relevant),
    )
    return _ratio(2 * precision * recall, precision + recall)


def _first_relevant(r: Rankings) -> Floats:
    first = r.relevant & (r.found == 1)
    return r.total(1.0 / r.rank, first)


def _nonrelevant_judged(r: Rankings) -> Floats:
    return r.total(((r.judgement >= 0) & ~r.relevant).astype(np.float64))


_SINGLE: dict[str, Callable[[Rankings], Floats]] = {
    "num_q": lambda r: np.ones(len(r)),
    "num_ret": lambda r: r.num_retrieved.astype(np.float64),
    "num_rel": lambda r: r.num_relevant.astype(np.float64),
    "num_rel_ret": lambda r: r.num_relevant_retrieved.astype(np.float64),
    "map": _average_precision,
    "gm_map": _average_precision,
    "Rprec": lambda r: _ratio(r.up_to(r.found, r.num_relevant), r.num_relevant),
    "bpref": _bpref,
    "recip_rank": _first_relevant,
    "infAP": _inferred,
    "gm_bpref": _bpref,
    "utility": lambda r: (2.0 * r.num_relevant_retrieved - r.num_retrieved).astype(np.float64),
    "11pt_avg": lambda r: np.asarray(np.mean([_interpolated(r, recall) for recall in _RECALLS], axis=0), np.float64),
    "binG": _binary_g,
    "G": _g,
    "ndcg": _ndcg,
    "ndcg_rel": _ndcg_over_relevant,
    "Rndcg": _ndcg_at_changes,
    "set_P": lambda r: _ratio(r.num_relevant_retrieved, r.num_retrieved),
    "set_relative_P": lambda r: _ratio(r.num_relevant_retrieved, np.minimum(r.num_retrieved, r.num_relevant)),
    "set_recall": lambda r: _ratio(r.num_relevant_retrieved, r.num_relevant),
    "set_map": lambda r: _ratio(r.num_relevant_retrieved.astype(np.float64) ** 2, r.num_retrieved * r.num_relevant),
    "set_F": _f,
    "num_nonrel_judged_ret": _nonrelevant_judged,
    "rbp": _rank_biased,
    "rbp_resid": _rank_biased_residual,
}
_AT_RANK: dict[str, tuple[Callable[[Rankings, int], Floats], tuple[int, ...]]] = {
    "P": (lambda r, k: _found_at(r, k) / k, CUTOFFS),
    "recall": (lambda r, k: _ratio(_found_at(r, k), r.num_relevant), CUTOFFS),
    "ndcg_cut": (_ndcg, CUTOFFS),
    "map_cut": (_average_precision, CUTOFFS),
    "relative_P": (lambda r, k: _ratio(_found_at(r, k), np.minimum(k, r.num_relevant)), CUTOFFS),
    "success": (lambda r, k: (_found_at(r, k) > 0).astype(np.float64), (1, 5, 10)),
    "unj": (_unjudged_at, (5, 10, 20)),
}
_AT_SHARE: dict[str, tuple[Callable[[Rankings, float], Floats], tuple[float, ...]]] = {
    "iprec_at_recall": (_interpolated, _RECALLS),
    "Rprec_mult": (_r_precision_multiple, _MULTIPLES),
}

OFFICIAL_MEASURES = (
    *("num_q", "num_ret", "num_rel", "num_rel_ret", "map", "gm_map", "Rprec", "bpref", "recip_rank"),
    *("iprec_at_recall", "P"),
)
"""What trec_eval prints without options, but the run's name."""
ALL_MEASURES = tuple(dict.fromkeys((*OFFICIAL_MEASURES, *_SINGLE, *_AT_RANK, *_AT_SHARE)))
"""All that ``trec_eval -m all_trec`` prints, but the run's name and strings of judgements."""


def values_of(rankings: Rankings, measures: Sequence[str]) -> dict[str, Floats]:
    """Returns printed name to value per query, ``float64[Q]``.

    Raises:
        UsageError: an unknown measure; the near ones are named.
    """
    values: dict[str, Floats] = {}
    for measure in measures:
        for name, compute in _expand(measure):
            values[name] = compute(rankings)
    return values


def _expand(measure: str) -> list[tuple[str, Callable[[Rankings], Floats]]]:
    if measure in _SINGLE:
        return [(measure, _SINGLE[measure])]
    if measure in _AT_RANK:
        return [item for k in _AT_RANK[measure][1] for item in _expand(f"{measure}_{k}")]
    if measure in _AT_SHARE:
        return [item for share in _AT_SHARE[measure][1] for item in _expand(f"{measure}_{share:.2f}")]
    family, _, cut = measure.rpartition("_")
    if family in _AT_RANK and cut.isdigit() and int(cut) > 0:
        at_rank, k = _AT_RANK[family][0], int(cut)
        return [(measure, lambda rankings: at_rank(rankings, k))]
    if family in _AT_SHARE and cut.replace(".", "", 1).isdigit():
        at_share, share = _AT_SHARE[family][0], float(cut)
        return [(f"{family}_{share:.2f}", lambda rankings: at_share(rankings, share))]
    raise UsageError(
        f"measure {measure}: expected one of trec_eval's, got an unknown name; {near(measure, ALL_MEASURES)}"
    )
