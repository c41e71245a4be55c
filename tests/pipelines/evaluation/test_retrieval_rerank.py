"""Re-ranking the best of a space, against a ranking of complete score rows."""

import dask.array as da
import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.retrieval import measure
from clipmill.pipelines.evaluation.metrics.retrieval_curve import interpolated_precision
from clipmill.pipelines.evaluation.metrics.retrieval_rank import RankedHits, tie_order
from clipmill.pipelines.evaluation.metrics.retrieval_state import PerQuery
from clipmill.pipelines.evaluation.retrieval.approximate import Approximate
from clipmill.pipelines.evaluation.retrieval.blocks import BlockSizes
from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, RetrievalResult, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.rerank import Reranked
from clipmill.pipelines.evaluation.retrieval.scorers import Block, Cosine
from clipmill.pipelines.evaluation.tasks.retrieval.spaces import chosen_spaces, with_rerank
from clipmill.schemas.errors import UsageError

NUM_QUERIES, NUM_ITEMS, DIM = 17, 60, 5


def second_score(queries: Block, gallery: Block) -> np.ndarray:
    """Not symmetric, with many ties."""
    left, right = np.asarray(queries["image"], np.float64), np.asarray(gallery["video"], np.float64)
    return np.round(left @ np.roll(right, 1, axis=1).T * 2)


def sides() -> tuple[Queries, Gallery]:
    random = np.random.default_rng(0)
    centres = random.normal(size=(4, DIM))
    left, right = random.integers(0, 5, NUM_QUERIES) % 4, random.integers(0, 4, NUM_ITEMS)
    image = (centres[left] + random.normal(size=(NUM_QUERIES, DIM))).astype(np.float32)
    video = (centres[right] + random.normal(size=(NUM_ITEMS, DIM))).astype(np.float32)
    video[30::4] = video[0]
    # A label that no item has, and an item whose place in the order of ids is not its own.
    labels = [f"label {code}" for code in left]
    labels[3] = "label 9"
    ids = [f"video {(7 * number) % NUM_ITEMS:03d}" for number in range(NUM_ITEMS)]
    return (
        Queries([f"q{number:02d}" for number in range(NUM_QUERIES)], labels, {"image": image}),
        Gallery(ids, [f"label {code}" for code in right], {"video": video}),
    )


def evaluated(k: int, cutoffs: tuple[int, ...] = (3, 10), **rest: object) -> RetrievalResult:
    queries, gallery = sides()
    cosine = Cosine("image", "video")
    scorers = {"reranked": Reranked("cosine", second_score, k), "cosine": cosine, "second": second_score}
    return evaluate_retrieval(queries, gallery, scorers, cutoffs, **rest)  # type: ignore[arg-type]


def expected_order(k: int) -> np.ndarray:
    """Returns the gallery's positions in the order of a stable sort of complete rows."""
    queries, gallery = sides()
    tie = tie_order(gallery.ids)
    first = Cosine("image", "video")(queries.vectors, gallery.vectors).astype(np.float32)
    second = second_score(queries.vectors, gallery.vectors).astype(np.float32)
    orders = []
    for query in range(NUM_QUERIES):
        order = np.lexsort((tie, -first[query]))
        best = order[:k]
        orders.append(np.r_[best[np.lexsort((tie[best], -second[query, best]))], order[k:]])
    return np.array(orders)


@pytest.mark.parametrize("k", [1, 4, 10, 25, NUM_ITEMS, 1000])
@pytest.mark.parametrize("blocks", [None, BlockSizes(4, 7)])
def test_lists_and_ranks_are_those_of_complete_rows(k: int, blocks: BlockSizes | None) -> None:
    found = evaluated(k, block_sizes=blocks).space("reranked")
    order = expected_order(k)
    np.testing.assert_array_equal(found.top, order[:, :10])
    assert (np.diff(found.top_scores, axis=1) <= 0).all()
    queries, gallery = sides()
    relevant = np.array(queries.labels, object)[:, None] == np.array(gallery.labels, object)[order]
    hits = RankedHits(relevant, relevant.sum(axis=1))
    everyone = np.arange(NUM_QUERIES)
    for name in ("map@3", "map@10", "recall@10", "ndcg@10"):
        state = PerQuery().update(everyone, measure(name).values(hits))
        assert found.metrics[name] == pytest.approx(measure(name).reduce(state)), name
    curves = [interpolated_precision(np.flatnonzero(row), int(row.sum())) for row in relevant]
    np.testing.assert_allclose(found.precision_curve, np.mean(curves, axis=0))


def test_rank_of_the_first_relevant_item_is_pessimistic_about_ties() -> None:
    k = 12
    queries, gallery = sides()
    order = expected_order(k)
    first = Cosine("image", "video")(queries.vectors, gallery.vectors).astype(np.float32)
    second = second_score(queries.vectors, gallery.vectors)
    ranks = []
    for query in range(NUM_QUERIES):
        relevant = np.array([label == queries.labels[query] for label in gallery.labels])
        if not relevant.any():
            continue
        is_best = np.isin(np.arange(NUM_ITEMS), order[query, :k])
        # Items that were scored again before all others, each by its own score.
        score = np.array([(best, second[query, i] if best else first[query, i]) for i, best in enumerate(is_best)])
        greatest = max(tuple(row) for row in score[relevant])
        ranks.append(1 + sum(tuple(row) >= greatest for row in score[~relevant]))
    assert evaluated(k).space("reranked").metrics["median_rank"] == np.median(ranks)


def test_with_every_item_it_is_the_second_score_and_with_one_the_first() -> None:
    result = evaluated(NUM_ITEMS)
    assert result.space("reranked").metrics == result.space("second").metrics
    result = evaluated(1)
    assert result.space("reranked").metrics == result.space("cosine").metrics


def test_a_gallery_larger_than_memory_and_items_left_out() -> None:
    queries, gallery = sides()
    lazy = Gallery(gallery.ids, gallery.labels, {"video": da.from_array(gallery.vectors["video"], chunks=(11, DIM))})
    scorers = {"cosine": Cosine("image", "video"), "reranked": Reranked("cosine", second_score, 8)}
    one, two = (evaluate_retrieval(queries, side, scorers, (5,)) for side in (gallery, lazy))
    np.testing.assert_array_equal(one.space("reranked").top, two.space("reranked").top)
    own = Queries(gallery.ids[:NUM_QUERIES], queries.labels, queries.vectors)
    left_out = evaluate_retrieval(own, gallery, scorers, (5,), exclude="own_clip").space("reranked")
    assert not (left_out.top == np.arange(NUM_QUERIES)[:, None]).any()


def test_what_cannot_be_reranked_is_refused() -> None:
    queries, gallery = sides()
    scorers = {"reranked": Reranked("cosines", second_score, 8), "cosine": Cosine("image", "video")}
    with pytest.raises(UsageError, match="space reranked: expected a first space that is scored, got 'cosines'"):
        evaluate_retrieval(queries, gallery, scorers, (5,))
    with pytest.raises(UsageError, match="expected an exact search to re-rank"):
        evaluated(5, approximate=Approximate("hnsw"))
    with pytest.raises(UsageError, match="evaluation rerank: expected a model with a re-ranked space, got cosine"):
        with_rerank({"cosine": Cosine("image", "video")}, 5)


def test_a_reranked_space_brings_its_first() -> None:
    scorers = {"cosine": Cosine("image", "video"), "reranked": Reranked("cosine", second_score, 8), "x": second_score}
    assert list(chosen_spaces(scorers, ["reranked"])) == ["cosine", "reranked"]
    again = with_rerank(scorers, 3)["reranked"]
    assert isinstance(again, Reranked)
    assert again.k == 3
