"""trec_eval's measures against its own C code (pytrec_eval), per query, on random judgements and runs with ties.

Two things are left to `test_trec_measures.py`: judgements below 0, some of which overrun the library's memory; and
interpolated precision where its older trec_eval reads the recall levels otherwise (see `trec_measures`).
"""

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill.pipelines.evaluation.metrics.trec import TrecMeasures

SUPPORTED = sorted(pytrec_eval.supported_measures - {"runid", "relstring"})
# Means over queries in trec_eval; per query its C code gives the logarithm of what ours averages.
GEOMETRIC = {"gm_map", "gm_bpref"}


def same_level(name: str, num_relevant: int) -> bool:
    """Returns whether both versions of trec_eval need the same number of relevant documents for the measure."""
    levels = [n / 10 for n in range(11)] if name == "11pt_avg" else [float(name.removeprefix("iprec_at_recall_"))]
    return all(int(level * num_relevant + 0.9) == int(level * num_relevant + 0.5) for level in levels)


def drawn(seed: int, num_documents: int, num_levels: int) -> tuple[dict, dict]:
    """Judgements from 0 up and a run whose scores repeat; ids that text and numbers order differently."""
    rng = np.random.default_rng(seed)
    names = [f"d{n}" for n in range(num_documents)]
    qrels, run = {}, {}
    for query in ("q1", "q10", "q2"):
        judged = rng.choice(num_documents, rng.integers(1, num_documents + 1), False)
        qrels[query] = {names[n]: int(rng.integers(0, 4)) for n in judged}
        found = rng.choice(num_documents, rng.integers(1, num_documents + 1), False)
        run[query] = {names[n]: float(rng.integers(0, num_levels)) / 4 for n in found}
    return qrels, run


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([3, 12, 60, 250]), st.sampled_from([1, 5, 1000]), st.integers(1, 3))
def test_every_measure_of_every_query_is_that_of_the_c_code(seed: int, size: int, levels: int, least: int) -> None:
    qrels, run = drawn(seed, size, levels)
    theirs = pytrec_eval.RelevanceEvaluator(qrels, set(SUPPORTED), relevance_level=least).evaluate(run)
    ours = TrecMeasures(tuple(SUPPORTED), relevance_level=least).update(qrels, run).result()
    compared = 0
    for place, query in enumerate(ours.query_ids):
        num_relevant = sum(value >= least for value in qrels[query].values())
        for name, values in ours.per_query.items():
            if name.startswith(("iprec", "11pt")) and not same_level(name, num_relevant):
                continue
            if name in theirs[query]:
                assert values[place] == pytest.approx(theirs[query][name], abs=2e-6), (query, name)
                compared += 1
    # Every name the library gives, but those it aggregates in its own way.
    missing = {name for name in theirs["q1"] if name not in ours.per_query} - GEOMETRIC - {"num_q"}
    assert not missing
    assert compared > 250


def test_every_measure_we_name_is_compared() -> None:
    from clipmill.pipelines.evaluation.metrics.trec_measures import ALL_MEASURES

    # What this library does not give is compared with trec_eval's printed output in test_trec_measures.py.
    assert {"map", "ndcg", "bpref", "infAP", "Rndcg", "G", "binG", "P", "iprec_at_recall"} <= set(SUPPORTED)
    assert set(SUPPORTED) <= set(ALL_MEASURES)
