"""Ranked-list measures against trec_eval's own outputs, ranx, hand-counted lists and the usual mistakes."""

import math
from pathlib import Path

import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.trec import TrecMeasures, TrecScore, evaluate_trec
from clipmill.pipelines.evaluation.metrics.trec_measures import ALL_MEASURES
from clipmill.schemas.errors import UsageError
from clipmill.stores.formats.trec import read_trec_qrels, read_trec_run


@pytest.fixture(scope="module")
def official(shared_data: Path) -> Path:
    return shared_data / "evaluation" / "trec_eval"


def ranked(*judgements: int | None, query: str = "q") -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """A list of documents with these judgements, best first; None: not judged."""
    names = [f"d{n:03d}" for n in range(len(judgements))]
    qrels = {query: {name: value for name, value in zip(names, judgements, strict=True) if value is not None}}
    return qrels, {query: {name: -float(n) for n, name in enumerate(names)}}


def value(measure: str, *judgements: int | None, unretrieved: tuple[int, ...] = (), **options: object) -> float:
    qrels, run = ranked(*judgements)
    qrels["q"] |= {f"missing{n}": judgement for n, judgement in enumerate(unretrieved)}
    return TrecMeasures((measure,), **options).update(qrels, run).result().summary[measure]  # type: ignore[arg-type]


def printed(score: TrecScore, measure: str, query: str) -> str:
    number = score.summary[measure] if query == "all" else score.per_query[measure][score.query_ids.index(query)]
    return f"{number:.0f}" if measure.startswith("num_") else f"{number:.4f}"


@pytest.mark.parametrize(("output", "num_lines"), [("out.test", 29), ("out.test.a", 98), ("out.test.aq", 383)])
def test_prints_every_number_of_the_official_outputs(official: Path, output: str, num_lines: int) -> None:
    qrels, run = read_trec_qrels(official / "qrels.test"), read_trec_run(official / "results.test")
    score = TrecMeasures(ALL_MEASURES).update(qrels, run.scores).result()
    lines = [[field.strip() for field in line.split("\t")] for line in (official / output).read_text().splitlines()]
    # Texts, not numbers: the run's name, and the judgements of the first documents as a string.
    lines = [line for line in lines if line[0] != "runid" and not line[0].startswith("relstring")]
    assert len(lines) == num_lines
    assert [printed(score, measure, query) for measure, query, _ in lines] == [line[2] for line in lines]
    assert run.name == "STANDARD"


def test_official_measures_are_those_printed_without_options(official: Path) -> None:
    qrels, run = read_trec_qrels(official / "qrels.test"), read_trec_run(official / "results.test").scores
    names = [line.split()[0] for line in (official / "out.test").read_text().splitlines()][1:]
    assert list(evaluate_trec(qrels, run).summary) == names


def random_case(seed: int, num_queries: int = 12) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    random = np.random.default_rng(seed)
    qrels, run = {}, {}
    for query in range(num_queries):
        names = [f"d{n:03d}" for n in random.permutation(80)]
        run[f"q{query}"] = {name: float(random.integers(0, 30)) / 4 for name in names[:50]}
        judged = names[20:60]
        qrels[f"q{query}"] = {name: int(random.integers(0, 4)) for name in judged} | {judged[0]: 1}
    return qrels, run


def test_any_cut_by_query_gives_the_identical_number() -> None:
    qrels, run = random_case(0)
    whole, merged = TrecMeasures(ALL_MEASURES).update(qrels, run).result(), TrecMeasures(ALL_MEASURES)
    names = sorted(qrels)
    for part in (names[1::3], names[2::3], names[::3]):
        mine = TrecMeasures(ALL_MEASURES).update({n: qrels[n] for n in part}, {n: run[n] for n in part})
        merged = mine.merge(merged)
    got = merged.result()
    assert dict(got.summary) == dict(whole.summary)
    assert all(got.per_query[name].tobytes() == column.tobytes() for name, column in whole.per_query.items())


def test_the_order_of_the_file_does_not_matter() -> None:
    qrels, run = random_case(1)
    backwards = {name: dict(reversed(list(documents.items()))) for name, documents in run.items()}
    assert dict(evaluate_trec(qrels, run, ALL_MEASURES).summary) == dict(
        evaluate_trec(qrels, backwards, ALL_MEASURES).summary
    )


def without_ties(seed: int) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    random = np.random.default_rng(seed)
    qrels, run = random_case(seed)
    scores = {name: random.permutation(len(items)).astype(float).tolist() for name, items in run.items()}
    return qrels, {name: dict(zip(items, scores[name], strict=True)) for name, items in run.items()}


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn_where_everything_relevant_was_retrieved(seed: int) -> None:
    from sklearn.metrics import average_precision_score, ndcg_score

    qrels, run = without_ties(seed)
    for name in qrels:
        for document in qrels[name]:
            run[name].setdefault(document, -float(len(run[name])))
    score = evaluate_trec(qrels, run, ("map", "ndcg", "ndcg_cut_10"))
    for row, name in enumerate(score.query_ids):
        gain = np.array([qrels[name].get(document, 0) for document in run[name]])
        scores = np.array(list(run[name].values()))
        assert score.per_query["map"][row] == pytest.approx(average_precision_score(gain > 0, scores))
        assert score.per_query["ndcg"][row] == pytest.approx(ndcg_score(gain[None], scores[None]))
        assert score.per_query["ndcg_cut_10"][row] == pytest.approx(ndcg_score(gain[None], scores[None], k=10))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning")
def test_agrees_with_ranx() -> None:
    # Slow only because ranx compiles itself.
    from ranx import Qrels, Run, evaluate

    qrels, run = without_ties(2)
    names = {"map": "map", "P_10": "precision@10", "recall_20": "recall@20", "ndcg_cut_10": "ndcg@10"}
    names |= {"recip_rank": "mrr", "Rprec": "r-precision"}
    ours = evaluate_trec(qrels, run, tuple(names)).summary
    positive = {name: {document: value for document, value in items.items() if value} for name, items in qrels.items()}
    theirs = evaluate(Qrels(positive), Run(run), list(names.values()))
    for mine, other in names.items():
        assert ours[mine] == pytest.approx(theirs[other], abs=1e-9), mine


def test_equal_scores_rank_by_document_id_descending() -> None:
    run = {"q": {"a": 1.0, "b": 1.0, "c": 1.0}}
    assert evaluate_trec({"q": {"c": 1}}, run, ("recip_rank",)).summary["recip_rank"] == 1.0
    assert evaluate_trec({"q": {"a": 1}}, run, ("recip_rank",)).summary["recip_rank"] == pytest.approx(1 / 3)


def test_constant_scores_do_not_look_perfect() -> None:
    qrels, run = ranked(*([1] * 5 + [0] * 95))
    flat = {"q": dict.fromkeys(run["q"], 0.0)}
    assert evaluate_trec(qrels, flat, ("map",)).summary["map"] < 0.1


def test_precision_divides_by_k_also_where_fewer_were_retrieved() -> None:
    assert value("P_10", 1, 1) == 0.2
    assert value("set_P", 1, 1) == 1.0


def test_recall_and_map_divide_by_all_relevant_documents() -> None:
    assert value("recall_5", 1, 0, unretrieved=(1, 1, 1)) == 0.25
    assert value("map", 1, 0, unretrieved=(1, 1, 1)) == 0.25


def test_the_first_rank_is_one() -> None:
    assert value("recip_rank", 0, 1) == 0.5
    assert value("map", 0, 1, 0, 1) == 0.5
    assert (value("success_1", 0, 1), value("success_5", 0, 1)) == (0.0, 1.0)


def test_ndcg_gains_are_the_judgements_discounted_from_rank_one() -> None:
    dcg = 1 / math.log2(2) + 3 / math.log2(4)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert value("ndcg", 1, 0, 3, unretrieved=(2,)) == pytest.approx(dcg / ideal)
    assert value("ndcg_cut_1", 1, 0, 3, unretrieved=(2,)) == pytest.approx(1 / 3)


def test_bpref_ignores_documents_without_a_judgement() -> None:
    assert value("bpref", None, None, 1, 0, 1, 0) == value("bpref", 1, 0, 1, 0) == pytest.approx((1 + 1 / 2) / 2)
    assert value("map", None, None, 1, 0, 1, 0) < value("map", 1, 0, 1, 0)


def test_negative_judgements_are_in_the_pool_but_unjudged() -> None:
    assert value("num_nonrel_judged_ret", 1, -1, 0) == 1
    assert value("unj_5", 1, -1, 0, None, 0) == 0.4
    assert value("infAP", 0, -1, 1) != value("infAP", 0, None, 1)


def test_relevance_level_changes_what_counts_but_not_the_gain() -> None:
    assert value("map", 1, 2, relevance_level=2) == 0.5
    assert value("ndcg", 1, 2, relevance_level=2) == value("ndcg", 1, 2)


def test_documents_beyond_the_limit_are_not_read() -> None:
    assert value("num_ret", 0, 0, 1, max_documents=2) == 2
    assert value("map", 0, 0, 1, max_documents=2) == 0.0


def test_judged_only_closes_the_gaps() -> None:
    assert value("map", None, None, 1, judged_only=True) == 1.0


def test_queries_without_results_are_left_out_or_zero_as_told() -> None:
    qrels, run = ranked(1, 0)
    qrels["without results"] = {"x": 1}
    run["without judgements"] = {"y": 1.0}
    loose = TrecMeasures(("map", "num_q")).update(qrels, run).result()
    full = TrecMeasures(("map", "num_q"), complete=True).update(qrels, run).result()
    assert (loose.summary["map"], loose.summary["num_q"]) == (1.0, 1.0)
    assert (full.summary["map"], full.summary["num_q"]) == (0.5, 2.0)
    assert (loose.num_without_results, loose.num_without_judgements) == (1, 1)
    assert "1 judged without results; 1 not judged" in loose.line


def test_mean_is_over_queries_not_over_documents() -> None:
    many, run_many = ranked(*[1] * 9, query="many")
    one, run_one = ranked(0, 1, query="one")
    assert evaluate_trec(many | one, run_many | run_one, ("map",)).summary["map"] == 0.75


def test_geometric_mean_has_a_floor() -> None:
    good, run_good = ranked(1, query="good")
    bad, run_bad = ranked(0, 0, query="bad")
    bad["bad"]["elsewhere"] = 1
    summary = evaluate_trec(good | bad, run_good | run_bad, ("gm_map",)).summary
    assert summary["gm_map"] == pytest.approx(math.sqrt(0.00001))


def test_an_unknown_measure_names_the_near_ones() -> None:
    with pytest.raises(UsageError, match=r"measure ndgc: expected one of trec_eval's.*'ndcg'"):
        evaluate_trec(*ranked(1), ("ndgc",))


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="query q document d: expected a number as score, got NaN"):
        evaluate_trec({"q": {"d": 1}}, {"q": {"d": math.nan}})


def test_no_query_in_common_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(UsageError, match="expected queries with both judgements and results, got none"):
        evaluate_trec({"a": {"d": 1}}, {"b": {"d": 1.0}})


def test_a_query_in_two_updates_is_refused() -> None:
    state = TrecMeasures().update(*ranked(1)).update(*ranked(1))
    with pytest.raises(UsageError, match="query q: expected it in one update"):
        state.result()


def test_judged_only_keeps_what_was_judged_not_relevant_and_drops_the_unjudged_of_the_pool() -> None:
    assert value("map", 0, 1, judged_only=True) == 0.5
    assert value("map", -1, 1, judged_only=True) == 1.0


def test_negative_judgements_are_not_among_the_judged_nonrelevant_of_bpref() -> None:
    # One judged nonrelevant document stands above both relevant ones.
    assert value("bpref", 0, 1, 1, -1) == 0.0


def test_a_query_with_an_empty_list_is_without_results() -> None:
    qrels, run = ranked(1)
    score = TrecMeasures(("map",)).update({**qrels, "empty": {"x": 1}}, {**run, "empty": {}}).result()
    assert (score.summary["map"], score.num_without_results) == (1.0, 1)


def test_the_relevance_level_holds_for_queries_without_results_too() -> None:
    qrels, run = ranked(2)
    state = TrecMeasures(("num_rel",), relevance_level=2, complete=True)
    assert state.update({**qrels, "missing": {"x": 1, "y": 2}}, run).result().summary["num_rel"] == 2.0


def test_rank_biased_gains_are_scaled_by_the_highest_judgement_of_their_own_query() -> None:
    low, run_low = ranked(1, query="low")
    high, run_high = ranked(3, query="high")
    assert evaluate_trec(low | high, run_low | run_high, ("rbp",)).summary["rbp"] == pytest.approx(0.1)


def test_the_residual_of_rank_biased_precision_holds_the_unjudged_and_all_beyond_the_list() -> None:
    assert value("rbp_resid", 1, None) == pytest.approx(0.1 * 0.9 + 0.9**2)


def test_unjudged_are_a_share_of_k_also_where_fewer_were_retrieved() -> None:
    assert value("unj_5", None, 1) == 0.2
