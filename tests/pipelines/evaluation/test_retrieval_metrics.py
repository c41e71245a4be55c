"""Ranked-list metrics against the reference sheet's vectors, closed forms and independent libraries."""

import itertools
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill.pipelines.evaluation.metrics.retrieval import RetrievalMeasures, measure
from clipmill.pipelines.evaluation.metrics.retrieval_average_precision import (
    average_precision_at,
    average_precision_curve,
    average_precision_min_at,
    cumulative_k,
    undo_cumulative_k,
)
from clipmill.pipelines.evaluation.metrics.retrieval_chance import (
    chance_average_precision,
    chance_precision,
    chance_recall,
)
from clipmill.pipelines.evaluation.metrics.retrieval_junk import (
    RevisitedTruth,
    positive_ranks,
    rectangle_ap,
    revisited_precision_at,
    trapezoid_ap,
)
from clipmill.pipelines.evaluation.metrics.retrieval_ndcg import binary_ndcg_at, ndcg_at
from clipmill.pipelines.evaluation.metrics.retrieval_rank import (
    RankedHits,
    key_scores,
    key_ties,
    pessimistic_first_rank,
    rank_keys,
    ranked_hits,
    ranking,
    tie_order,
)
from clipmill.pipelines.evaluation.metrics.retrieval_recall import hit_at, precision_at, rank_value, recall_at
from clipmill.pipelines.evaluation.metrics.retrieval_state import PerQuery
from clipmill.schemas.errors import UsageError

TREC = Path(__file__).resolve().parents[4] / "shared" / "data" / "evaluation" / "trec_eval"
ALL = ["map@3", "map_min@3", "map@10", "recall@5", "hit@5", "p@5", "ndcg@5", "median_rank"]


def _rel(*ranks: int, length: int) -> np.ndarray:
    row = np.zeros((1, length), bool)
    row[0, [rank - 1 for rank in ranks]] = True
    return row


# --- mAP@K, released definition --------------------------------------------------------------------


def test_one_hit_at_rank_one_scores_one_however_many_were_missed() -> None:
    """Wrong denominator: the released definition divides by the hits found, map_min by min(K, R)."""
    row = _rel(1, length=10)
    assert average_precision_at(row, 10)[0] == 1.0
    assert average_precision_min_at(row, [4], 10)[0] == 0.25
    assert average_precision_min_at(row, [40], 10)[0] == 0.1


def test_precision_counts_from_rank_one() -> None:
    """Off by one: a hit at rank 2 has precision 1/2 (0-based ranks would give 1)."""
    assert average_precision_at(_rel(2, length=5), 5)[0] == 0.5
    assert average_precision_at(_rel(1, 3, 4, length=5), 5)[0] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3, abs=0)


def test_a_hit_at_rank_k_counts_and_one_beyond_does_not() -> None:
    row = _rel(3, 4, length=6)
    assert average_precision_at(row, 2)[0] == 0.0
    assert average_precision_at(row, 3)[0] == pytest.approx(1 / 3, abs=0)
    assert average_precision_at(row, 4)[0] == pytest.approx((1 / 3 + 2 / 4) / 2, abs=0)


def test_lists_shorter_than_k() -> None:
    assert average_precision_at(_rel(2, length=3), 100)[0] == 0.5
    assert average_precision_curve(_rel(2, length=3), 5)[0].tolist() == [0.0, 0.5, 0.5, 0.5, 0.5]
    assert precision_at(_rel(2, length=3), 10)[0] == 0.1


def test_the_curve_is_the_metric_at_every_k() -> None:
    rows = np.random.default_rng(0).random((7, 30)) < 0.3
    curve = average_precision_curve(rows, 30)
    for k in (1, 2, 9, 30):
        assert np.array_equal(curve[:, k - 1], average_precision_at(rows, k))


def test_mean_is_over_queries_not_over_hits() -> None:
    """Micro for macro: one query with many hits must not outweigh one with few."""
    rows = np.concatenate([_rel(1, 2, 3, 4, length=4), _rel(4, length=4)])
    state = PerQuery().update([0, 1], average_precision_at(rows, 4))
    assert state.result() == (1.0 + 0.25) / 2
    assert state.result() != pytest.approx((4 * 1.0 + 0.25) / 5)


def test_map_min_equals_scikit_learn_where_k_covers_the_gallery() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    scores = rng.permuted(np.tile(np.arange(40.0), (25, 1)), axis=1)
    relevant = rng.random((25, 40)) < 0.2
    relevant[:, 0] = True
    hits = ranked_hits(scores, relevant)
    ours = average_precision_min_at(hits.relevant, hits.num_relevant, 40)
    theirs = [metrics.average_precision_score(r, s) for r, s in zip(relevant, scores, strict=True)]
    assert np.allclose(ours, theirs, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_released_definition_equals_torchmetrics(seed: int, k: int) -> None:
    """torchmetrics' retrieval AP with top_k divides by the hits within the top K as well."""
    functional = pytest.importorskip("torchmetrics.functional.retrieval")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    # torchmetrics takes a score of 0 or less as a verdict of its own, hence + 1.
    scores, relevant = rng.permutation(12).astype(np.float32) + 1, rng.random(12) < 0.4
    if not relevant.any():
        relevant[3] = True
    hits = ranked_hits(scores[None], relevant[None])
    preds, target = torch.from_numpy(scores), torch.from_numpy(relevant)
    ap = float(functional.retrieval_average_precision(preds, target, top_k=k))
    assert average_precision_at(hits.relevant, k)[0] == pytest.approx(ap, abs=1e-6)
    recall = float(functional.retrieval_recall(preds, target, top_k=k))
    assert recall_at(hits.relevant, hits.num_relevant, k)[0] == pytest.approx(recall, abs=1e-6)
    precision = float(functional.retrieval_precision(preds, target, top_k=k))
    assert precision_at(hits.relevant, k)[0] == pytest.approx(precision, abs=1e-6)
    ndcg = float(functional.retrieval_normalized_dcg(preds, target, top_k=k))
    assert binary_ndcg_at(hits.relevant, hits.num_relevant, k)[0] == pytest.approx(ndcg, abs=1e-5)
    hit = float(functional.retrieval_hit_rate(preds, target, top_k=k))
    assert hits.first_rank is not None
    assert hit_at(hits.first_rank, k)[0] == hit


def test_ndcg_equals_scikit_learn_on_graded_gains() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    scores = rng.permuted(np.tile(np.arange(30.0), (20, 1)), axis=1)
    gains = rng.integers(0, 4, (20, 30)).astype(float)
    order = ranking(scores)
    for k in (1, 5, 30):
        ours = ndcg_at(np.take_along_axis(gains, order, axis=1), gains, k)
        theirs = [metrics.ndcg_score(g[None], s[None], k=k) for g, s in zip(gains, scores, strict=True)]
        assert np.allclose(ours, theirs, atol=1e-12)
    assert ndcg_at(np.zeros((1, 5)), np.zeros((1, 5)), 3)[0] == 0.0


def test_ndcg_discounts_by_log2_of_rank_plus_one() -> None:
    """Off by one: the first rank has discount 1, the second 1 / log2(3)."""
    assert binary_ndcg_at(_rel(2, length=4), [1], 4)[0] == pytest.approx(1 / math.log2(3))


# --- cumulative_k ----------------------------------------------------------------------------------


def test_cumulative_k_averages_over_the_earlier_cut_offs() -> None:
    printed = cumulative_k({10: [0.4, 0.6], 20: [0.2, 0.4], 50: [0.0, 0.2]})
    assert printed == {10: 0.5, 20: pytest.approx(0.4), 50: pytest.approx(0.3)}


def test_undoing_cumulative_k_gives_the_reference_values() -> None:
    """Values of the reference sheet for the MAP-IVR and APIVR rows on ActivityNet."""
    comb = undo_cumulative_k({10: 0.357, 20: 0.346, 50: 0.329, 100: 0.314})
    assert [round(comb[k], 3) for k in (10, 20, 50, 100)] == [0.357, 0.335, 0.295, 0.269]
    apivr = undo_cumulative_k({10: 0.308, 20: 0.298, 50: 0.283, 100: 0.269})
    assert [round(apivr[k], 3) for k in (10, 20, 50, 100)] == [0.308, 0.288, 0.253, 0.227]


# --- ties and ranking ------------------------------------------------------------------------------


def test_equal_scores_are_ranked_by_id_whatever_the_storage_order() -> None:
    ids = ["d", "b", "a", "c"]
    assert [ids[i] for i in ranking(np.zeros(4), ids)] == ["a", "b", "c", "d"]
    assert ranking(np.array([1.0, 2.0, 2.0, 1.0])).tolist() == [1, 2, 0, 3]


def test_zero_and_negative_zero_are_equal_scores() -> None:
    assert ranking(np.array([-0.0, 0.0])).tolist() == [0, 1]
    assert ranking(np.array([0.0, -0.0])).tolist() == [0, 1]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, 1.0, -1.0]), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
def test_ranking_is_pythons_stable_sort_and_ignores_the_gallerys_order(scores: list[float], rng: random.Random) -> None:
    ids = [f"item {i:03d}" for i in range(len(scores))]
    expected = [ids[i] for i in sorted(range(len(scores)), key=lambda i: (-scores[i], ids[i]))]
    shuffled = list(range(len(scores)))
    rng.shuffle(shuffled)
    moved = ranking(np.array([scores[i] for i in shuffled]), [ids[i] for i in shuffled])
    assert [ids[shuffled[i]] for i in moved] == expected


def test_keys_hold_score_and_tie() -> None:
    scores = np.array([3.5, -2.25, 0.0, -np.inf, np.inf], np.float32)
    keys = rank_keys(scores, np.array([4, 3, 2, 1, 0]))
    assert np.array_equal(key_scores(keys), scores)
    assert key_ties(keys).tolist() == [4, 3, 2, 1, 0]


def test_nan_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="got NaN"):
        rank_keys(np.array([1.0, np.nan]), np.arange(2))


def test_ids_given_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="'a': expected each id once"):
        tie_order(["a", "b", "a"])


def test_constant_scores_give_chance_not_one() -> None:
    """A collapsed embedding: the same score for all. Ordered by id, and averaged over the labels, that is chance."""
    labels = np.repeat(np.arange(7), 10)
    relevant = labels[:, None] == labels[None, :]
    hits = ranked_hits(np.zeros((70, 70)), relevant)
    state = RetrievalMeasures.of(["map@10", "recall@10", "hit@10"]).update(range(70), hits).result()
    assert state["map@10"] == pytest.approx(1 / 7)
    assert state["recall@10"] == pytest.approx(1 / 7)
    assert state["hit@10"] == 0.0
    assert np.array_equal(hits.first_rank, np.full(70, 61))


def test_pessimistic_rank_puts_equal_irrelevant_items_first() -> None:
    scores = np.array([[0.5, 0.9, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4], [1.0, 1.0, 1.0, 1.0]])
    relevant = np.array([[True, False, False, True], [False, False, False, True], [False] * 4])
    assert pessimistic_first_rank(scores, relevant).tolist() == [3, 1, 0]


def test_a_query_without_relevant_items_is_never_a_hit() -> None:
    assert hit_at([0, 1, 5, 6], 5).tolist() == [0.0, 1.0, 1.0, 0.0]


# --- junk ------------------------------------------------------------------------------------------

LISTED = ["J1", "P1", "N1", "P2", "J2", "N2", "N3", "P3", "N4"]
POSITIVES = {"P1", "P2", "P3", "P4"}


def test_junk_is_deleted_before_ranks_are_counted() -> None:
    ranks = positive_ranks(LISTED, POSITIVES, {"J1", "J2"})
    assert ranks.tolist() == [0, 2, 5]
    assert trapezoid_ap(ranks, 4) == pytest.approx(0.508333, abs=5e-7)
    assert rectangle_ap(ranks, 4) == pytest.approx(0.541667, abs=5e-7)
    as_negative = positive_ranks(LISTED, POSITIVES)
    assert as_negative.tolist() == [1, 3, 7]
    assert trapezoid_ap(as_negative, 4) == pytest.approx(0.249256, abs=5e-7)
    assert rectangle_ap(as_negative, 4) == pytest.approx(0.343750, abs=5e-7)


@pytest.mark.parametrize(
    ("ranks", "n", "trapezoid", "rectangle"),
    [([0], 1, 1.0, 1.0), ([1], 1, 0.25, 0.5), ([0, 3, 4], 3, 0.655556, 0.7), ([1, 2], 3, 0.277778, 0.388889)],
)
def test_reference_vectors_of_both_aps(ranks: list[int], n: int, trapezoid: float, rectangle: float) -> None:
    assert trapezoid_ap(ranks, n) == pytest.approx(trapezoid, abs=5e-7)
    assert rectangle_ap(ranks, n) == pytest.approx(rectangle, abs=5e-7)


def test_ranks_in_any_order_have_the_same_average_precision() -> None:
    assert trapezoid_ap([4, 0, 3], 3) == trapezoid_ap([0, 3, 4], 3)
    assert rectangle_ap([4, 0, 3], 3) == rectangle_ap([0, 3, 4], 3)


@settings(max_examples=80, deadline=None)
@given(st.sets(st.integers(0, 60), max_size=20), st.integers(0, 5))
def test_trapezoid_never_exceeds_rectangle(ranks: set[int], missed: int) -> None:
    n = len(ranks) + missed
    if n == 0:
        return
    low, high = trapezoid_ap(sorted(ranks), n), rectangle_ap(sorted(ranks), n)
    at_top = sorted(ranks) == list(range(len(ranks)))
    assert math.isclose(low, high, abs_tol=1e-12) if at_top else low < high


def test_revisited_precision_ends_at_the_last_positive() -> None:
    assert [revisited_precision_at([0, 2, 5], 4, k) for k in (1, 5, 10)] == [1.0, 0.4, 0.5]
    assert revisited_precision_at([], 4, 10) == 0.0


def test_queries_without_positives_are_skipped_not_zero() -> None:
    state = PerQuery().update([0, 1], [rectangle_ap([0], 1), rectangle_ap([], 0)])
    assert state.result() == 1.0
    assert math.isnan(trapezoid_ap([], 0))
    assert math.isnan(revisited_precision_at([], 0, 5))
    assert math.isnan(PerQuery().result())


def test_revisited_protocols_move_the_other_level_to_junk() -> None:
    truth = RevisitedTruth(frozenset("e"), frozenset("h"), frozenset("j"))
    assert truth.protocol("easy") == ({"e"}, {"j", "h"})
    assert truth.protocol("medium") == ({"e", "h"}, {"j"})
    assert truth.protocol("hard") == ({"h"}, {"j", "e"})
    with pytest.raises(ValueError, match="easy, medium or hard"):
        truth.protocol("harder")


def test_an_item_both_positive_and_junk_is_refused() -> None:
    with pytest.raises(ValueError, match="positive or junk, got both"):
        positive_ranks(["a"], {"a"}, {"a"})


def test_a_list_with_an_id_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="each id once"):
        positive_ranks(["a", "b", "a"], {"a"})


# --- independent tools -----------------------------------------------------------------------------


def test_map_p_and_ndcg_equal_ranx() -> None:
    # Compiling ranx takes longer than its answers are worth here; interpreted it is quick on twelve queries.
    pytest.importorskip("numba").config.DISABLE_JIT = True
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(3)
    scores = rng.permuted(np.tile(np.arange(1.0, 51.0), (12, 1)), axis=1)
    relevant = rng.random((12, 50)) < 0.25
    relevant[:, 7] = True
    qrels = {f"q{q}": {f"d{i}": 1 for i in np.flatnonzero(row)} for q, row in enumerate(relevant)}
    run = {f"q{q}": {f"d{i}": float(s) for i, s in enumerate(row)} for q, row in enumerate(scores)}
    theirs = ranx.evaluate(
        ranx.Qrels(qrels), ranx.Run(run), ["map", "precision@10", "recall@10", "ndcg@10", "hit_rate@2"]
    )
    ours = RetrievalMeasures.of(["map_min@50", "p@10", "recall@10", "ndcg@10", "hit@2"])
    values = ours.update(range(12), ranked_hits(scores, relevant)).result()
    for mine, other in zip(values, theirs, strict=True):
        assert values[mine] == pytest.approx(theirs[other], abs=1e-9), (mine, other)


@pytest.mark.skipif(not TREC.is_dir(), reason="trec_eval's own outputs are not at hand")
def test_rectangle_ap_equals_trec_eval_per_query() -> None:
    official = {}
    for line in (TREC / "out.test.aq").read_text().splitlines():
        name, query, value = line.split()
        if name in ("map", "P_10"):
            official[name, query] = float(value)
    positives: dict[str, set[str]] = {}
    for line in (TREC / "qrels.test").read_text().splitlines():
        query, _, document, grade = line.split()
        positives.setdefault(query, set())
        if int(grade) > 0:
            positives[query].add(document)
    listed: dict[str, list[tuple[float, str]]] = {}
    for line in (TREC / "results.test").read_text().splitlines():
        query, _, document, _, score, _ = line.split()
        listed.setdefault(query, []).append((float(np.float32(score)), document))
    state, checked = PerQuery(), 0
    for position, query in enumerate(sorted(set(listed) & set(positives))):
        # trec_eval ranks equal scores by document id, descending.
        ranked = [document for _, document in sorted(listed[query], reverse=True)]
        ranks = positive_ranks(ranked, positives[query])
        ap = rectangle_ap(ranks, len(positives[query]))
        state = state.update([position], [ap])
        assert ap == pytest.approx(official["map", query], abs=5.1e-5)
        assert (ranks < 10).sum() / 10 == pytest.approx(official["P_10", query], abs=5.1e-5)
        checked += 1
    assert checked >= 3
    assert state.result() == pytest.approx(official["map", "all"], abs=5.1e-5)


# --- update / merge / result -----------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 36), max_size=6), st.randoms(use_true_random=False))
def test_any_cut_in_any_order_gives_identical_bits(seed: int, cuts: list[int], rng: random.Random) -> None:
    data = np.random.default_rng(seed)
    relevant = data.random((37, 12)) < 0.3
    hits = ranked_hits(data.standard_normal((37, 12)), relevant)
    assert hits.first_rank is not None
    whole = RetrievalMeasures.of(ALL).update(range(37), hits).result()
    edges = sorted({0, 37, *cuts})
    parts = [
        RetrievalMeasures.of(ALL).update(
            range(a, b), RankedHits(hits.relevant[a:b], hits.num_relevant[a:b], hits.first_rank[a:b])
        )
        for a, b in itertools.pairwise(edges)
    ]
    rng.shuffle(parts)
    merged = RetrievalMeasures.of(ALL)
    for part in parts:
        merged = merged.merge(part)
    assert merged.result() == whole


def test_a_query_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="query 3: expected one value, got two"):
        PerQuery().update([3], [0.5]).merge(PerQuery().update([3], [0.5]))


def test_values_and_queries_must_match() -> None:
    with pytest.raises(ValueError, match="got 1 for 2 queries"):
        PerQuery().update([0, 1], [0.5])


def test_states_of_different_measures_are_not_merged() -> None:
    with pytest.raises(ValueError, match="same on both sides"):
        RetrievalMeasures.of(["map@10"]).merge(RetrievalMeasures.of(["map@20"]))


def test_ranks_that_were_not_computed_are_asked_for() -> None:
    with pytest.raises(ValueError, match="pessimistic ranks, got none"):
        RetrievalMeasures.of(["median_rank"]).update([0], RankedHits(np.ones((1, 3), bool), np.array([3])))


def test_an_unknown_measure_names_the_near_ones() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'map@K'"):
        measure("mapp@10")
    with pytest.raises(UsageError, match="positive cut-off"):
        measure("map@0")
    with pytest.raises(UsageError, match="known measure"):
        measure("median_rnk")
    assert str(measure("map@10")) == "map@10"


# --- chance ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("items", "relevant", "k"), [(6, 2, 3), (7, 3, 7), (5, 5, 2), (6, 1, 1), (5, 2, 9)])
def test_chance_is_the_mean_over_all_rankings(items: int, relevant: int, k: int) -> None:
    base = [True] * relevant + [False] * (items - relevant)
    rows = np.array(list(itertools.permutations(base)))
    plain, normalised = chance_average_precision(items, relevant, k)
    assert plain == pytest.approx(average_precision_at(rows, k).mean())
    many = np.full(len(rows), relevant)
    assert normalised == pytest.approx(average_precision_min_at(rows, many, k).mean())
    assert chance_recall(items, k) == pytest.approx(recall_at(rows, many, k).mean())
    assert chance_precision(items, relevant, k) == pytest.approx(precision_at(rows, k).mean())


def test_chance_of_nothing_relevant_is_zero() -> None:
    assert chance_average_precision(10, 0, 5) == (0.0, 0.0)


def test_the_ideal_order_knows_what_was_not_retrieved() -> None:
    # Gain 3 is judged but not in the list: the ideal has it at rank 1.
    ideal = 3 + 2 / math.log2(3)
    assert ndcg_at([[2, 0]], [[0, 2, 3]], 2)[0] == pytest.approx(2 / ideal)
    assert binary_ndcg_at([[True, False]], [2], 2)[0] == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_queries_without_relevant_items_push_the_median_rank_to_infinity() -> None:
    assert rank_value([3, 0, 1]).tolist() == [3.0, math.inf, 1.0]
    hits = RankedHits(np.zeros((3, 4), bool), np.array([0, 0, 1]), np.array([0, 0, 2]))
    assert measure("median_rank").reduce(PerQuery().update(range(3), measure("median_rank").values(hits))) == math.inf
