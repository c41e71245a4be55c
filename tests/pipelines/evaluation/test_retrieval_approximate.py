"""Approximate search: exact where it looks everywhere, else it says what it misses; and repeatable."""

import dataclasses
import json

import dask.array as da
import numpy as np
import pytest

from clipmill.pipelines.evaluation.retrieval.approximate import Approximate
from clipmill.pipelines.evaluation.retrieval.blocks import BlockSizes
from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, RetrievalResult, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.scorers import BestOfSamples, Combined, Cosine, Hamming
from clipmill.pipelines.evaluation.tasks.result import task_results_json
from clipmill.pipelines.evaluation.tasks.retrieval.score import retrieval_score
from clipmill.schemas.config import parse_config
from clipmill.schemas.config_index import IndexConfig
from clipmill.schemas.config_retrieval import RetrievalConfig
from clipmill.schemas.errors import ConfigError, UsageError

SPACES = {
    "appearance": Cosine("image", "video"),
    "video": BestOfSamples("samples", "video"),
    "combined": Combined({"appearance": 0.4, "video": 0.6}),
}
NUM = 800


def data() -> tuple[Queries, Gallery]:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, 32))
    label = np.arange(NUM) % 12
    video = (centres[label] + rng.standard_normal((NUM, 32))).astype(np.float32)
    image = (centres[label[:40]] + rng.standard_normal((40, 32))).astype(np.float32)
    samples = (centres[label[:40], None] + rng.standard_normal((40, 3, 32))).astype(np.float32)
    bits = np.packbits(video > 0, axis=1)
    return (
        Queries(
            [f"q{n}" for n in range(40)],
            [str(n) for n in label[:40]],
            {"image": image, "samples": samples, "bits": np.packbits(image > 0, axis=1)},
        ),
        Gallery([f"g{n:04d}" for n in range(NUM)], [str(n) for n in label], {"video": video, "bits": bits}),
    )


def run(settings: Approximate | None, spaces: object = SPACES, **more: object) -> RetrievalResult:
    queries, gallery = data()
    return evaluate_retrieval(queries, gallery, spaces, (5, 20), approximate=settings, full_ranks=False, **more)  # type: ignore[arg-type]


EXACT = run(None)
EVERYWHERE = {
    "ivf": Approximate("ivf", num_lists=8, probes=8, candidates=NUM),
    "hnsw": Approximate("hnsw", candidates=NUM, search_effort=NUM),
    "binary": Approximate("binary", candidates=NUM),
}


@pytest.mark.parametrize("index", EVERYWHERE)
def test_an_index_that_looks_everywhere_is_exact(index: str) -> None:
    result = run(EVERYWHERE[index], block_sizes=BlockSizes(16, 400))
    assert result.approximate is not None
    for space in SPACES:
        assert np.array_equal(result.space(space).top, EXACT.space(space).top), space
        assert np.array_equal(result.space(space).top_scores, EXACT.space(space).top_scores), space
        assert dict(result.space(space).metrics) == dict(EXACT.space(space).metrics)
        assert dict(result.approximate.recall[space]) == {"recall_of_exact@5": 1.0, "recall_of_exact@20": 1.0}


NARROW = {
    "ivf": Approximate("ivf", num_lists=60, probes=2, candidates=20),
    "hnsw": Approximate("hnsw", candidates=20, links=2, build_effort=4, search_effort=4),
    "itq": Approximate("binary", candidates=20, codes="itq", num_bits=16),
    "lsh": Approximate("binary", candidates=20, codes="lsh", num_bits=128),
}


@pytest.mark.parametrize("index", NARROW)
def test_recall_is_what_is_missing_from_the_exact_lists(index: str) -> None:
    result = run(NARROW[index], {"appearance": SPACES["appearance"]})
    exact, found = EXACT.space("appearance").top, result.space("appearance").top
    assert result.approximate is not None
    assert result.approximate.num_queries == 40
    for k in (5, 20):
        shares = [len(set(a[:k]) & set(b[:k])) / k for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
        recall = result.approximate.recall["appearance"][f"recall_of_exact@{k}"]
        assert recall == pytest.approx(np.mean(shares))
        assert 0.05 < recall < 1
    at_five = result.approximate.recall["appearance"]["recall_of_exact@5"]
    assert result.approximate.line.endswith(f"recall of the exact 5 best on 40 queries: appearance {at_five:.4f}")
    for query in range(40):
        kept = [item for item in found[query].tolist() if item >= 0]
        assert len(set(kept)) == len(kept)
        scores = result.space("appearance").top_scores[query, : len(kept)]
        assert (np.diff(scores) <= 0).all(), "what is found is ranked by exact scores"


def test_more_effort_finds_more() -> None:
    spaces = {"appearance": SPACES["appearance"]}
    for field, values in (("probes", (1, 4, 30)), ("candidates", (20, 60, 300))):
        start = NARROW["ivf" if field == "probes" else "itq"]
        found = [run(dataclasses.replace(start, **{field: value}), spaces).approximate for value in values]
        recalls = [item.recall["appearance"]["recall_of_exact@20"] for item in found if item is not None]
        assert recalls == sorted(recalls)
        assert recalls[-1] > recalls[0] + 0.2, field


@pytest.mark.parametrize("index", NARROW)
def test_results_are_the_same_bytes_every_time_and_on_any_number_of_threads(index: str) -> None:
    first = task_results_json(retrieval_score(run(NARROW[index], threads=1)))
    assert first == task_results_json(retrieval_score(run(NARROW[index], threads=2, block_sizes=BlockSizes(21, 170))))
    stored = json.loads(first)
    assert stored["protocol"]["search"]["index"] == NARROW[index].index
    assert set(stored["runs"]) == set(SPACES)
    assert all(0 < run["metrics"]["recall_of_exact@20"] <= 1 for run in stored["runs"].values())


@pytest.mark.parametrize("index", ["ivf", "itq", "lsh"])
def test_another_seed_is_another_index(index: str) -> None:
    spaces = {"appearance": SPACES["appearance"]}
    first, other = (run(dataclasses.replace(NARROW[index], seed=seed), spaces) for seed in (0, 1))
    assert not np.array_equal(first.space("appearance").top, other.space("appearance").top)


def test_galleries_larger_than_memory_are_read_in_chunks() -> None:
    queries, gallery = data()
    lazy = Gallery(gallery.ids, gallery.labels, {"video": da.from_array(gallery.vectors["video"], chunks=(130, 32))})
    result = evaluate_retrieval(
        queries, lazy, SPACES, (5, 20), approximate=NARROW["itq"], block_sizes=BlockSizes(16, 100)
    )
    assert task_results_json(retrieval_score(result)) == task_results_json(retrieval_score(run(NARROW["itq"])))


@pytest.mark.parametrize("index", ["ivf", "hnsw", "binary"])
def test_binary_vectors_are_searched_by_hamming_distance(index: str) -> None:
    spaces = {"hamming": Hamming("bits", "bits")}
    exact = run(None, spaces).space("hamming")
    result = run(EVERYWHERE[index], spaces)
    # A graph need not be connected where many distances are equal; the other two look at everything.
    found = np.mean([np.isin(a, b).mean() for a, b in zip(exact.top, result.space("hamming").top, strict=True)])
    assert found == 1.0 if index != "hnsw" else found > 0.9
    assert result.approximate is not None
    assert result.approximate.recall["hamming"]["recall_of_exact@20"] == pytest.approx(found)


def test_lists_that_are_shorter_than_k_leave_places_free() -> None:
    queries, gallery = data()
    settings = Approximate("ivf", num_lists=300, probes=1, candidates=20)
    result = evaluate_retrieval(queries, gallery, {"a": Cosine("image", "video")}, (20,), approximate=settings)
    space = result.space("a")
    assert (space.top == -1).any()
    assert not space.relevant[space.top == -1].any()
    assert np.isneginf(space.top_scores[space.top == -1]).all()
    assert space.precision_curve is None


def test_recall_is_measured_on_a_seeded_sample_of_the_queries() -> None:
    some = dataclasses.replace(NARROW["ivf"], recall_queries=7)
    measured = [run(some).approximate for _ in range(2)]
    assert measured[0] is not None
    assert measured[0] == measured[1]
    assert measured[0].num_queries == 7


def test_what_cannot_be_searched_approximately_is_refused() -> None:
    queries, gallery = data()
    with pytest.raises(UsageError, match="candidates: expected at least the largest cut-off 20, got 10"):
        run(Approximate("ivf", candidates=10))
    with pytest.raises(UsageError, match="probes: expected at least 1, got 0"):
        run(Approximate("ivf", probes=0))
    with pytest.raises(UsageError, match="num_bits: expected a multiple of 8, got 12"):
        run(Approximate("binary", num_bits=12))
    with pytest.raises(UsageError, match="num_bits: expected at most one bit per dimension for itq, got 64 of 32"):
        run(Approximate("binary", num_bits=64))
    with pytest.raises(UsageError, match="full_ranks: expected an exact search"):
        evaluate_retrieval(queries, gallery, SPACES, approximate=Approximate("ivf"), full_ranks=True)
    with pytest.raises(UsageError, match="space own: expected a cosine or Hamming space for an index, got function"):
        run(Approximate("ivf"), {"own": lambda left, right: np.zeros((1, 1))})
    with pytest.raises(UsageError, match=r"gallery video: expected uint8 \(packed bits\), got float32"):
        run(Approximate("binary"), {"bits": Hamming("image", "video")})
    gallery.vectors["video"][3, 3] = np.nan
    with pytest.raises(UsageError, match="gallery video: expected numbers, got NaN or infinity"):
        evaluate_retrieval(queries, gallery, SPACES, (5,), approximate=Approximate("ivf"))


def test_the_config_names_the_index_with_the_same_defaults() -> None:
    config = parse_config(RetrievalConfig, "{run: r, search: {index: ivf, probes: 4}}")
    assert Approximate(**config.search.model_dump()) == Approximate("ivf", probes=4)
    assert IndexConfig().index == "exact"
    with pytest.raises(ConfigError, match="expected no options with index exact, got probes"):
        parse_config(RetrievalConfig, "{run: r, search: {probes: 4}}")
    with pytest.raises(ConfigError, match="search.index"):
        parse_config(RetrievalConfig, "{run: r, search: {index: ivff}}")


def test_faiss_and_torch_share_a_process() -> None:
    import torch

    assert run(NARROW["hnsw"], threads=2).approximate is not None
    left = torch.ones(300, 300)
    assert float((left @ left).sum()) == 300.0**3
    assert run(NARROW["ivf"], threads=2).approximate is not None
