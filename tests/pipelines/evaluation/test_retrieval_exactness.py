"""Exact search is exact: hard orders, near ties and other spaces against scores computed pair by pair."""

from fractions import Fraction

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill.pipelines.evaluation.metrics.retrieval_rank import rank_keys
from clipmill.pipelines.evaluation.retrieval.best import NO_KEY, Best
from clipmill.pipelines.evaluation.retrieval.blocks import BlockSizes, GalleryChunk, computing, find
from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, RetrievalResult, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.scorers import BestOfSamples, Combined, Cosine, Hamming, Side
from clipmill.pipelines.evaluation.retrieval.scores import BlockScores
from clipmill.schemas.errors import UsageError

COSINE = {"cosine": Cosine("v", "v")}


def pair_by_pair(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The definition, without any matrix product: ``float32[Q, N]``."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    dots = np.sum(a[:, None] * b[None], axis=2)
    norms = np.sqrt(np.sum(a * a, axis=1))[:, None] * np.sqrt(np.sum(b * b, axis=1))[None]
    scores = dots / np.where(norms > 0, norms, 1)
    return (np.rint(scores * 2.0**30) / 2.0**30).astype(np.float32)


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """The K least keys of whole score rows; ties by position."""
    return np.sort(rank_keys(scores, np.arange(scores.shape[1])), axis=1)[:, :k]


def found(left: np.ndarray, right: object, k: int, block_sizes: BlockSizes, threads: int = 1) -> np.ndarray:
    with computing(None, threads) as workers:
        chunk = GalleryChunk({"v": right}, np.arange(len(right), dtype=np.uint32))  # type: ignore[arg-type]
        return find({"v": left}, chunk, None, COSINE, k, block_sizes, workers)["cosine"].top


def near_ties(rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
    """Rows that differ by a few units in the last place of float32, so that float32 products cannot order them."""
    rows = np.repeat(rng.standard_normal((num // 13 + 1, dim)), 13, axis=0)[:num]
    return (rows * (1 + rng.integers(-3, 4, rows.shape) * 2.0**-22)).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 90), st.sampled_from([1, 3, 64]), st.integers(1, 2))
def test_near_ties_rank_as_their_defined_scores(seed: int, rows: int, k: int, dim: int, threads: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = near_ties(rng, 7, dim), near_ties(rng, 80, dim)
    right[rng.integers(0, 80, 5)] = 0
    expected = best(pair_by_pair(left, right), k)
    assert np.array_equal(found(left, right, k, BlockSizes(5, rows), threads), expected)


def test_float32_products_alone_would_order_near_ties_otherwise() -> None:
    # Guards the test above: without the second look at the survivors it would fail.
    rng = np.random.default_rng(0)
    left, right = near_ties(rng, 7, 64), near_ties(rng, 80, 64)
    side = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (left, right)]
    assert not np.array_equal(best(side[0] @ side[1].T, 40), best(pair_by_pair(left, right), 40))


@pytest.mark.parametrize("order", ["ascending", "descending", "all equal", "all zero"])
def test_orders_that_drop_nothing_or_everything_give_the_same_lists(order: str) -> None:
    rng = np.random.default_rng(1)
    left = rng.standard_normal((6, 16)).astype(np.float32)
    right = rng.standard_normal((3000, 16)).astype(np.float32)
    if order == "all equal":
        right[:] = right[0]
    elif order == "all zero":
        right[:] = 0
    else:
        right = right[np.argsort(right @ left[0])][:: 1 if order == "ascending" else -1].copy()
    whole = BlockScores(Side({"v": left}), Side({"v": right}), COSINE, (6, 3000)).all("cosine")
    for block_sizes in (BlockSizes(4, 100), BlockSizes(6, 3000)):
        assert np.array_equal(found(left, right, 20, block_sizes), best(whole, 20)), block_sizes


def test_many_waiting_pairs_are_settled_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipmill.pipelines.evaluation.retrieval.best._WAITING", 50)
    right = np.ones((4000, 4), np.float32)
    assert found(right[:2], right, 3, BlockSizes(2, 64))[:, :3].astype(np.uint32).tolist() == [[0, 1, 2], [0, 1, 2]]


def test_whole_blocks_and_single_pairs_are_defined_alike() -> None:
    rng = np.random.default_rng(2)
    left, right = near_ties(rng, 30, 48), near_ties(rng, 50, 48)
    samples = near_ties(rng, 90, 48).reshape(30, 3, 48)
    scorers = {
        "one": Cosine("v", "v"),
        "best": BestOfSamples("s", "v"),
        "sum": Combined({"one": 0.3, "best": 0.7}),
    }
    queries, gallery = Side({"v": left, "s": samples}), Side({"v": right})
    rows, columns = np.divmod(np.arange(1500), 50)
    for space in scorers:
        some = BlockScores(queries, gallery, scorers, (30, 50))
        whole = some.all(space)
        rough, bound = some.rough(space)
        assert np.abs(rough.astype(np.float64) - whole).max() <= bound
        for chosen in (slice(0, 1500, 40), slice(None)):
            fresh = BlockScores(queries, gallery, scorers, (30, 50))
            assert np.array_equal(fresh.pairs(space, rows[chosen], columns[chosen]), whole.reshape(-1)[chosen]), space


def test_defined_scores_are_true_cosines_to_half_a_grid_step() -> None:
    rng = np.random.default_rng(3)
    left, right = rng.standard_normal((4, 9)).astype(np.float32), rng.standard_normal((5, 9)).astype(np.float32)
    scores = Cosine("v", "v").exact(
        Side({"v": left}), Side({"v": right}), np.repeat(np.arange(4), 5), np.tile(np.arange(5), 4)
    )
    for value, (i, j) in zip(scores, np.ndindex(4, 5), strict=True):
        x, y = ([Fraction(float(number)) for number in row] for row in (left[i], right[j]))
        dot, norms = sum(map(lambda a, b: a * b, x, y)), sum(a * a for a in x) * sum(b * b for b in y)
        assert abs(value - float(dot) / float(norms) ** 0.5) <= 2.0**-31 + 1e-15


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e25])
def test_lengths_of_vectors_far_from_one_do_not_matter(scale: float) -> None:
    rng = np.random.default_rng(4)
    left, right = rng.standard_normal((5, 8)), rng.standard_normal((60, 8))
    right[::7] *= scale
    single = [array.astype(np.float32) for array in (left, right)]
    assert np.array_equal(found(*single, 10, BlockSizes(5, 16)), best(pair_by_pair(*single), 10))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_anywhere_is_refused_not_ranked(bad: float) -> None:
    vectors = np.random.default_rng(5).standard_normal((300, 8)).astype(np.float32)
    spoiled = vectors.copy()
    spoiled[211, 3] = bad
    for left, right in ((vectors, spoiled), (spoiled, vectors)):
        with pytest.raises(UsageError, match="space cosine: expected scores that are numbers, got NaN"):
            found(left, right, 5, BlockSizes(64, 64))


def test_dask_chunks_of_any_size_are_read_once_and_give_the_same_lists() -> None:
    rng = np.random.default_rng(6)
    left, right = near_ties(rng, 9, 16), near_ties(rng, 400, 16)
    reads: list[int] = []

    def seen(block: np.ndarray) -> np.ndarray:
        reads.append(len(block))
        return block

    expected = best(pair_by_pair(left, right), 12)
    for chunk in (7, 50, 400):
        reads.clear()
        lazy = da.from_array(right, chunks=(chunk, 16)).map_blocks(seen, dtype=np.float32, meta=right[:0])
        assert np.array_equal(found(left, lazy, 12, BlockSizes(9, 32)), expected)
        assert sum(reads) == 400, "each row is read once"


def test_memory_mapped_vectors_give_the_same_lists(tmp_path) -> None:
    rng = np.random.default_rng(7)
    left, right = near_ties(rng, 9, 16), near_ties(rng, 400, 16)
    np.save(tmp_path / "v.npy", right)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert np.array_equal(found(left, mapped, 12, BlockSizes(4, 64), threads=2), found(left, right, 12, BlockSizes()))


def test_half_precision_and_double_vectors_are_ranked_by_their_own_values() -> None:
    rng = np.random.default_rng(8)
    for kind in (np.float16, np.float64):
        left, right = (rng.standard_normal((n, 24)).astype(kind) for n in (6, 200))
        assert np.array_equal(found(left, right, 15, BlockSizes(4, 33)), best(pair_by_pair(left, right), 15))


def test_a_custom_scorer_is_taken_at_its_word() -> None:
    table = np.random.default_rng(9).integers(-5, 5, (8, 90)).astype(np.float64)
    table[2, :80] = -np.inf

    def scorer(queries: Side, gallery: Side) -> np.ndarray:
        return table[np.ix_(queries["row"], gallery["row"])]

    with computing(None, 1) as workers:
        chunk = GalleryChunk({"row": np.arange(90)}, np.arange(90, dtype=np.uint32))
        got = find({"row": np.arange(8)}, chunk, None, {"table": scorer}, 15, BlockSizes(3, 20), workers)
    assert np.array_equal(got["table"].top, best(table, 15))


def test_hamming_spaces_count_differing_bits() -> None:
    rng = np.random.default_rng(10)
    codes = rng.integers(0, 256, (70, 5)).astype(np.uint8)  # 40 bits: not a whole number of words
    differing = np.unpackbits(codes[:6, None] ^ codes[None], axis=2).sum(axis=2)
    with computing(None, 1) as workers:
        chunk = GalleryChunk({"bits": codes}, np.arange(70, dtype=np.uint32))
        scorers = {"hamming": Hamming("bits", "bits")}
        got = find({"bits": codes[:6]}, chunk, None, scorers, 9, BlockSizes(4, 16), workers)["hamming"].top
    assert np.array_equal(got, best(-differing.astype(np.float32), 9))
    with pytest.raises(ValueError, match=r"expected uint8\[n, bytes\], got float64"):
        Hamming("bits", "bits")({"bits": np.ones((2, 4))}, {"bits": codes})


def test_the_state_keeps_places_free_that_nothing_took() -> None:
    state = Best.of(2, 3)
    state.add(np.array([1]), np.array([7], np.uint64))
    assert state.keys.tolist() == [[NO_KEY] * 3, [7, NO_KEY, NO_KEY]]
    assert np.isinf(state.floor).all()


@pytest.mark.parametrize("width", [10, 200, 900])
def test_rough_scores_may_be_off_by_their_whole_bound(width: int) -> None:
    rng = np.random.default_rng(14)
    for _ in range(8):
        true = rng.standard_normal((5, 900)).astype(np.float32)
        rough = (true + rng.choice([-0.25, 0.25], true.shape)).astype(np.float32)
        state = Best.of(5, 12)

        def defined(query: np.ndarray, item: np.ndarray, true: np.ndarray = true) -> np.ndarray:
            return rank_keys(true[query, item], item)

        for start in range(0, 900, width):
            state.update(rough[:, start : start + width], 0.25 + 1e-6, start, defined)
        state.resolve(defined)
        assert np.array_equal(state.keys, best(true, 12))


def test_products_near_a_rounding_border_are_decided_pair_by_pair() -> None:
    class Border:
        """A product just beside the border between two steps of the grid; the defined score is on the other side."""

        def __call__(self, queries: Side, gallery: Side) -> np.ndarray:
            raise AssertionError("the defined scores are asked for pair by pair")

        def approximate(self, queries: Side, gallery: Side, single: bool) -> tuple[np.ndarray, float]:
            return np.array([[10.5 - 1e-4, 10.4]]) * 2.0**-30, 1e-3 * 2.0**-30

        def exact(self, queries: Side, gallery: Side, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            assert columns.tolist() == [0], "only what is unsure is looked at"
            return np.array([11 * 2.0**-30])

    sides = Side({"v": np.ones((1, 2))}), Side({"v": np.ones((2, 2))})
    assert (BlockScores(*sides, {"b": Border()}, (1, 2)).all("b") * 2.0**30).tolist() == [[11.0, 10.0]]


# --- relevance from judgements --------------------------------------------------------------------


def judged(qrels: dict[str, dict[str, int]], **more: object) -> RetrievalResult:
    rng = np.random.default_rng(11)
    queries = Queries([f"q{n}" for n in range(6)], [None] * 6, {"v": rng.standard_normal((6, 8))})
    gallery = Gallery([f"g{n:02d}" for n in range(40)], [None] * 40, {"v": rng.standard_normal((40, 8))})
    return evaluate_retrieval(queries, gallery, COSINE, (5, 40), qrels=qrels, block_sizes=BlockSizes(4, 9), **more)  # type: ignore[arg-type]


def test_judgements_that_repeat_the_labels_give_the_labels_numbers() -> None:
    rng = np.random.default_rng(12)
    left, right = (rng.standard_normal((n, 8)) for n in (9, 50))
    names = [[f"q{n}" for n in range(9)], [f"g{n}" for n in range(50)]]
    labels = [[f"c{n % 4}" for n in range(9)], [f"c{n % 4}" for n in range(50)]]
    queries, gallery = Queries(names[0], labels[0], {"v": left}), Gallery(names[1], labels[1], {"v": right})
    qrels = {
        name: {item: int(other == label) for item, other in zip(names[1], labels[1], strict=True)}
        for name, label in zip(names[0], labels[0], strict=True)
    }
    by_label = evaluate_retrieval(queries, gallery, COSINE, (3, 20), block_sizes=BlockSizes(4, 9))
    by_qrels = evaluate_retrieval(queries, gallery, COSINE, (3, 20), qrels=qrels, block_sizes=BlockSizes(5, 11))
    assert dict(by_label.space("cosine").metrics) == dict(by_qrels.space("cosine").metrics)
    assert dict(by_label.chance) == pytest.approx(dict(by_qrels.chance))
    assert np.array_equal(by_label.space("cosine").relevant, by_qrels.space("cosine").relevant)


def test_judgements_agree_with_trec_measures_of_the_same_ranking() -> None:
    from clipmill.pipelines.evaluation.metrics.trec import evaluate_trec

    rng = np.random.default_rng(13)
    # Two of the judged items are not in the gallery: they count as never found.
    qrels = {f"q{n}": {f"g{m:02d}": int(rng.integers(-1, 3)) for m in rng.choice(42, 12, False)} for n in range(6)}
    for level in (1, 2):
        result = judged(qrels, relevance_level=level)
        space = result.space("cosine")
        run = {
            name: {result.gallery_ids[item]: -float(rank) for rank, item in enumerate(row)}
            for name, row in zip(result.query_ids, space.top, strict=True)
        }
        from clipmill.pipelines.evaluation.metrics.trec import TrecMeasures

        score = (
            TrecMeasures(("map", "P_5", "recall_5", "recip_rank"), relevance_level=level).update(qrels, run).result()
        )
        num = np.array([sum(value >= level for value in qrels[name].values()) for name in result.query_ids])
        expected = score.per_query["map"] * num / np.minimum(np.maximum(num, 1), 40)
        assert space.metrics["map_min@40"] == pytest.approx(expected.mean())
        assert space.metrics["p@5"] == pytest.approx(score.summary["P_5"])
        assert space.metrics["recall@5"] == pytest.approx(score.summary["recall_5"])
        missing = sum(value >= level for items in qrels.values() for item, value in items.items() if item > "g39")
        assert result.num_relevant_missing == missing
    assert evaluate_trec(qrels, run, ("map",)).summary["map"] > 0


def test_judgements_of_other_ids_are_refused_with_both_sides() -> None:
    with pytest.raises(UsageError, match=r"qrels queries: expected some of our 6 ids, such as 'q0', got 1 others"):
        judged({"query 0": {"g00": 1}})
    with pytest.raises(UsageError, match=r"qrels items: expected some of our 40 ids, such as 'g00', got 2 others"):
        judged({"q0": {"g0": 1, "g1": 1}})


def test_queries_without_a_relevant_item_score_zero_and_count() -> None:
    result = judged({"q0": {"g00": 1}, "q1": {"g01": 0}})
    values = result.space("cosine").per_query["map@40"]
    assert values[0] > 0
    assert not values[1:].any()
    assert result.space("cosine").metrics["map@40"] == pytest.approx(values[0] / 6)
