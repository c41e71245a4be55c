"""A query's own clip, or its own video, left out of its ranking: against a loop that deletes them from the gallery."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.retrieval_average_precision import (
    average_precision_at,
    average_precision_min_at,
)
from clipmill.pipelines.evaluation.metrics.retrieval_chance import own_clip_first_average_precision
from clipmill.pipelines.evaluation.retrieval.approximate import Approximate
from clipmill.pipelines.evaluation.retrieval.blocks import BlockSizes
from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, RetrievalResult, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.scorers import BestOfSamples, Combined, Cosine
from clipmill.schemas.errors import UsageError

SPACES = {
    "near": Cosine("v", "v"),
    "sampled": BestOfSamples("samples", "v"),
    "both": Combined({"near": 0.5, "sampled": 0.5}),
}
K = 8


def sides(num: int = 37, num_videos: int = 12) -> tuple[Queries, Gallery]:
    """The same clips on both sides, a few of each video, with exact ties among them."""
    rng = np.random.default_rng(3)
    video = np.sort(rng.integers(0, num_videos, num))
    label = video % 3
    vectors = (np.eye(3)[label].repeat(2, axis=1) + 0.8 * rng.standard_normal((num, 6))).astype(np.float32)
    vectors[num // 2 :: 4] = vectors[0]
    ids, labels = [f"clip {i:02d}" for i in range(num)], [f"label {i}" for i in label]
    videos = [f"video {i}" for i in video]
    noisy = (vectors + 0.3 * rng.standard_normal(vectors.shape)).astype(np.float32)
    samples = (noisy[:, None] + 0.3 * rng.standard_normal((num, 3, 6))).astype(np.float32)
    return Queries(ids, labels, {"v": noisy, "samples": samples}, videos), Gallery(ids, labels, {"v": vectors}, videos)


def evaluated(exclude: str, **more: Any) -> RetrievalResult:
    queries, gallery = sides()
    return evaluate_retrieval(queries, gallery, SPACES, (1, K), exclude=exclude, **more)  # type: ignore[arg-type]


def left_out(exclude: str, queries: Queries, gallery: Gallery, query: int) -> set[int]:
    if exclude == "own_clip":
        return {query}
    return {item for item, video in enumerate(gallery.videos) if video == queries.videos[query]}


@pytest.mark.parametrize("exclude", ["own_clip", "own_video"])
@pytest.mark.parametrize("sizes", [BlockSizes(), BlockSizes(5, 4), BlockSizes(3, 11)])
def test_metrics_are_those_of_galleries_without_what_is_excluded(exclude: str, sizes: BlockSizes) -> None:
    queries, gallery = sides()
    result = evaluated(exclude, block_sizes=sizes, threads=3)
    whole = evaluate_retrieval(queries, gallery, SPACES, (len(gallery.ids),))
    for space in SPACES:
        found, everything = result.space(space), whole.space(space).top
        for query in range(len(queries.ids)):
            gone = left_out(exclude, queries, gallery, query)
            ranked = [item for item in everything[query].tolist() if item not in gone]
            hits = [gallery.labels[item] == queries.labels[query] for item in ranked]
            kept = found.top[query].tolist()
            assert kept == (ranked + [-1] * K)[:K]
            precisions = [sum(hits[: r + 1]) / (r + 1) for r in range(min(K, len(hits))) if hits[r]]
            values = found.per_query
            assert values[f"map@{K}"][query] == pytest.approx(np.mean(precisions) if precisions else 0.0)
            num = sum(hits)
            assert values[f"map_min@{K}"][query] == pytest.approx(sum(precisions) / min(K, num) if num else 0.0)
            assert values[f"recall@{K}"][query] == pytest.approx(sum(hits[:K]) / num if num else 0.0)


@pytest.mark.parametrize("exclude", ["own_clip", "own_video"])
def test_ranks_over_the_whole_gallery_leave_out_what_is_excluded(exclude: str) -> None:
    queries, gallery = sides()
    vectors = queries.vectors["v"].astype(np.float64), gallery.vectors["v"].astype(np.float64)
    vectors = tuple(side / np.linalg.norm(side, axis=1, keepdims=True) for side in vectors)
    scores = np.round((vectors[0] @ vectors[1].T).astype(np.float32), 6)
    ranks = []
    for query, row in enumerate(scores):
        kept = [item for item in range(len(row)) if item not in left_out(exclude, queries, gallery, query)]
        right = [row[item] for item in kept if gallery.labels[item] == queries.labels[query]]
        wrong = [row[item] for item in kept if gallery.labels[item] != queries.labels[query]]
        ranks.append(1 + sum(score >= max(right) for score in wrong) if right else math.inf)
    result = evaluated(exclude, block_sizes=BlockSizes(6, 5))
    assert result.space("near").metrics["median_rank"] == np.median(ranks)
    assert result.space("near").metrics["hit@1"] == pytest.approx(np.mean(np.array(ranks) <= 1))


@pytest.mark.parametrize("exclude", ["none", "own_clip", "own_video"])
def test_chance_is_the_mean_over_random_rankings_under_the_same_rule(exclude: str) -> None:
    queries, gallery = sides()
    rng = np.random.default_rng(0)
    values = []
    for _ in range(400):
        drawn = []
        for query, label in enumerate(queries.labels):
            gone = set() if exclude == "none" else left_out(exclude, queries, gallery, query)
            kept = [item for item in range(len(gallery.ids)) if item not in gone]
            hits = [gallery.labels[item] == label for item in rng.permutation(kept)[:K]]
            precisions = [sum(hits[: r + 1]) / (r + 1) for r in range(len(hits)) if hits[r]]
            drawn.append(np.mean(precisions) if precisions else 0.0)
        values.append(np.mean(drawn))
    chance = evaluated(exclude).chance[f"map@{K}"]
    assert abs(np.mean(values) - chance) < 4 * np.std(values) / math.sqrt(len(values))


@pytest.mark.parametrize(("items", "relevant", "k"), [(6, 2, 3), (7, 3, 7), (5, 5, 2), (6, 1, 1), (6, 1, 4), (5, 2, 9)])
def test_own_clip_first_is_the_mean_over_all_rankings_that_begin_with_it(items: int, relevant: int, k: int) -> None:
    others = [True] * (relevant - 1) + [False] * (items - relevant)
    rows = np.array([(True, *rest) for rest in itertools.permutations(others)])
    plain, normalised = own_clip_first_average_precision(items, relevant, k)
    assert plain == pytest.approx(average_precision_at(rows, k).mean())
    assert normalised == pytest.approx(average_precision_min_at(rows, np.full(len(rows), relevant), k).mean())


def test_every_expected_metric_of_own_clip_first_agrees_with_drawn_rankings() -> None:
    queries, gallery = sides()
    result = evaluated("none")
    rng = np.random.default_rng(1)
    recalls, precisions = [], []
    for _ in range(300):
        query = int(rng.integers(len(queries.ids)))
        others = [item for item in range(len(gallery.ids)) if item != query]
        ranked = [query, *rng.permutation(others)[: K - 1]]
        hits = sum(gallery.labels[item] == queries.labels[query] for item in ranked)
        precisions.append(hits / K)
        recalls.append(hits / gallery.labels.count(queries.labels[query]))  # type: ignore[attr-defined]
    for name, drawn in ((f"p@{K}", precisions), (f"recall@{K}", recalls)):
        assert abs(np.mean(drawn) - result.own_clip_first[name]) < 4 * np.std(drawn) / math.sqrt(len(drawn)), name
    assert result.own_clip_first["map@1"] == 1.0


def test_it_is_said_only_where_every_query_finds_itself() -> None:
    queries, gallery = sides()
    others = Gallery([f"other {name}" for name in gallery.ids], gallery.labels, gallery.vectors)
    assert evaluate_retrieval(queries, others, SPACES, (1,)).own_clip_first == {}
    assert evaluated("own_clip").own_clip_first == {}


@pytest.mark.parametrize("exclude", ["own_clip", "own_video"])
def test_an_index_with_enough_candidates_finds_the_same(exclude: str) -> None:
    exact, settings = evaluated(exclude, full_ranks=False), Approximate("hnsw", candidates=37)
    found = evaluated(exclude, approximate=settings)
    for space in SPACES:
        assert np.array_equal(found.space(space).top, exact.space(space).top)
        assert found.approximate is not None
        assert found.approximate.recall[space][f"recall_of_exact@{K}"] == 1.0


def test_judgements_count_what_is_ranked() -> None:
    queries, gallery = sides()
    pairs = zip(queries.ids, queries.labels, strict=True)
    items = list(zip(gallery.ids, gallery.labels, strict=True))
    qrels = {query: {item: 1 for item, other in items if other == label} for query, label in pairs}
    judged, labelled = evaluated("own_clip", qrels=qrels), evaluated("own_clip")
    assert judged.space("near").metrics == labelled.space("near").metrics
    assert judged.chance == labelled.chance
    assert judged.num_relevant_missing == 0


def test_a_gallery_of_one_video_and_unknown_videos_are_refused() -> None:
    queries, gallery = sides(5, 1)
    with pytest.raises(UsageError, match="nothing else for 5 of 5 queries"):
        evaluate_retrieval(queries, gallery, SPACES, exclude="own_video")
    unknown = Queries(queries.ids, queries.labels, queries.vectors)
    with pytest.raises(UsageError, match=r"queries videos: expected 5"):
        evaluate_retrieval(unknown, gallery, SPACES, exclude="own_video")
