"""Exact retrieval by blocks: against a direct computation, however the work is cut and wherever it runs."""

import dataclasses
import json
import socket

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill.pipelines.evaluation.bootstrap import bootstrap_difference, bootstrap_mean
from clipmill.pipelines.evaluation.metrics.retrieval import measure
from clipmill.pipelines.evaluation.metrics.retrieval_curve import RECALL_LEVELS, interpolated_precision
from clipmill.pipelines.evaluation.metrics.retrieval_rank import ranked_hits
from clipmill.pipelines.evaluation.retrieval.blocks import BlockSizes, computing
from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, RetrievalResult, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.scorers import BestOfSamples, Block, Combined, Cosine
from clipmill.pipelines.evaluation.tasks.published import published_scores
from clipmill.pipelines.evaluation.tasks.result import task_results_json
from clipmill.pipelines.evaluation.tasks.retrieval.score import retrieval_score
from clipmill.schemas.errors import EngineError, UsageError

SCORERS = {
    "appearance": Cosine("image", "appearance"),
    "video": BestOfSamples("decoded", "video"),
    "combined": Combined({"appearance": 0.5, "video": 0.5}),
}


def _data(num_queries: int = 23, num_items: int = 41, seed: int = 0) -> tuple[Queries, Gallery]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((4, 6))
    left, right = rng.integers(0, 4, num_queries), rng.integers(0, 4, num_items)
    queries = Queries(
        [f"q{i:03d}" for i in range(num_queries)],
        [f"label {i}" for i in left],
        {
            "image": (centres[left] + rng.standard_normal((num_queries, 6))).astype(np.float32),
            "decoded": (centres[left][:, None] + 2 * rng.standard_normal((num_queries, 3, 6))).astype(np.float32),
        },
    )
    vectors = centres[right] + rng.standard_normal((num_items, 6))
    vectors[num_items // 2 :: 5] = vectors[0]  # exact ties
    gallery = Gallery(
        [f"video {(i * 7) % num_items:03d}" for i in range(num_items)],
        [f"label {i}" for i in right],
        {"appearance": vectors.astype(np.float32), "video": vectors.astype(np.float32)[:, ::-1].copy()},
    )
    return queries, gallery


def _run(
    block_sizes: BlockSizes | None = None, address: str | None = None, cutoffs: tuple[int, ...] = (3, 10)
) -> RetrievalResult:
    queries, gallery = _data()
    return evaluate_retrieval(queries, gallery, SCORERS, cutoffs, block_sizes=block_sizes, dask_address=address)


def _same(left: RetrievalResult, right: RetrievalResult) -> None:
    assert task_results_json(retrieval_score(left)) == task_results_json(retrieval_score(right))
    for mine, other in zip(left.spaces, right.spaces, strict=True):
        assert dict(mine.metrics) == dict(other.metrics)
        assert np.array_equal(mine.top, other.top)
        assert np.array_equal(mine.top_scores, other.top_scores)
        assert mine.precision_curve is not None
        assert other.precision_curve is not None
        assert np.array_equal(mine.precision_curve, other.precision_curve)
        assert np.array_equal(mine.map_curve, other.map_curve)


def _cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    a, b = left.astype(np.float64), right.astype(np.float64)
    return (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)[None]


# --- against a direct computation -----------------------------------------------------------------


def test_every_metric_of_every_space_equals_the_direct_computation() -> None:
    queries, gallery = _data()
    result = _run(BlockSizes(query_rows=5, gallery_rows=7))
    appearance = _cosines(queries.vectors["image"], gallery.vectors["appearance"])
    video = np.stack([_cosines(queries.vectors["decoded"][:, i], gallery.vectors["video"]) for i in range(3)]).max(0)
    relevant = np.array(queries.labels)[:, None] == np.array(gallery.labels)[None]
    for space, scores in (("appearance", appearance), ("video", video), ("combined", (appearance + video) / 2)):
        hits = ranked_hits(scores, relevant, gallery.ids)
        assert len(result.space(space).metrics) == 2 * 6 + 1
        for name, value in result.space(space).metrics.items():
            values = measure(name).values(hits)
            assert value == pytest.approx(np.median(values) if name == "median_rank" else values.mean()), (space, name)


def test_top_lists_are_the_best_items_with_ties_by_id() -> None:
    queries, gallery = _data()
    space = _run().space("appearance")
    scores = _cosines(queries.vectors["image"], gallery.vectors["appearance"]).astype(np.float32)
    for query, row in enumerate(scores):
        expected = sorted(range(len(row)), key=lambda item: (-row[item], gallery.ids[item]))
        assert space.top[query].tolist() == expected[:10]


def test_precision_recall_curve_equals_direct_interpolation() -> None:
    queries, gallery = _data()
    relevant = np.array(queries.labels)[:, None] == np.array(gallery.labels)[None]
    scores = _cosines(queries.vectors["image"], gallery.vectors["appearance"])
    curves = []
    for order_hits in ranked_hits(scores, relevant, gallery.ids).relevant:
        found = np.cumsum(order_hits)
        precision, recall = found / np.arange(1, len(found) + 1), found / found[-1]
        curves.append([precision[recall >= level - 1e-9].max() for level in RECALL_LEVELS])
    curve = _run().space("appearance").precision_curve
    assert curve is not None
    assert np.allclose(curve, np.mean(curves, axis=0), atol=1e-12)


def test_interpolated_precision_of_small_cases() -> None:
    assert interpolated_precision([0, 3])[[0, 50, 51, 100]].tolist() == [1.0, 1.0, 0.5, 0.5]
    assert interpolated_precision([1])[[0, 100]].tolist() == [0.5, 0.5]
    assert not interpolated_precision([]).any()
    assert interpolated_precision(np.arange(100))[7] == 1.0


def test_recall_of_the_curve_is_over_all_relevant_items_not_those_found() -> None:
    assert interpolated_precision([0], 2)[[50, 51, 100]].tolist() == [1.0, 0.0, 0.0]


def test_precision_of_the_curve_is_the_best_at_that_recall_or_beyond() -> None:
    assert interpolated_precision([1, 2])[[0, 50, 51, 100]].tolist() == [2 / 3] * 4


def test_levels_of_recall_are_not_rounded_up_by_floating_point() -> None:
    # 7 of 100 items lead the list, so that precision is 1 up to recall 0.07 and below it from there on.
    curve = interpolated_precision([*range(7), *range(8, 101)])
    assert curve[7] == 1.0 > curve[8]


def test_a_query_finds_its_own_clip_which_counts() -> None:
    vectors = np.eye(3)
    queries = Queries(["a", "b", "c"], ["x", "y", "z"], {"v": vectors})
    result = evaluate_retrieval(queries, Gallery(["a", "b", "c"], ["x", "y", "z"], {"v": vectors}), _cosine(), (1,))
    assert result.space("cosine").metrics["map@1"] == 1.0
    assert result.space("cosine").metrics["median_rank"] == 1.0


def _cosine() -> dict[str, Cosine]:
    return {"cosine": Cosine("v", "v")}


def test_collapsed_embeddings_score_chance() -> None:
    labels = [f"label {i // 10}" for i in range(50)]
    ids = [f"{i:02d}" for i in range(50)]
    ones = np.ones((50, 8))
    result = evaluate_retrieval(Queries(ids, labels, {"v": ones}), Gallery(ids, labels, {"v": ones}), _cosine(), (10,))
    metrics = result.space("cosine").metrics
    assert metrics["p@10"] == pytest.approx(result.chance["p@10"])
    assert metrics["map_min@10"] == pytest.approx(0.2)
    assert metrics["median_rank"] == 41.0


def test_random_embeddings_score_the_exact_chance_floor() -> None:
    rng = np.random.default_rng(4)
    labels = [f"label {i % 5}" for i in range(400)]
    ids = [f"{i:03d}" for i in range(400)]
    queries = Queries(ids, labels, {"v": rng.standard_normal((400, 64))})
    gallery = Gallery(ids, labels, {"v": rng.standard_normal((400, 64))})
    result = evaluate_retrieval(queries, gallery, _cosine(), (10, 50))
    for name in ("map@10", "map_min@10", "map@50", "map_min@50", "p@10", "recall@50"):
        values = result.space("cosine").per_query[name]
        assert abs(values.mean() - result.chance[name]) < 4 * values.std() / 20, name
    assert result.chance_map_curve[9] == result.chance["map@10"]
    assert result.chance["map@10"] > 0.2  # the released definition lies above the share of relevant items


def test_labels_are_averaged_over_their_own_queries() -> None:
    result = _run()
    space = result.space("video")
    assert [score.label for score in space.per_label] == sorted(set(result.query_labels))
    for score in space.per_label:
        mine = [i for i, label in enumerate(result.query_labels) if label == score.label]
        assert score.num_queries == len(mine)
        assert score.num_relevant == list(result.gallery_labels).count(score.label)
        assert score.value == pytest.approx(space.per_query["map@3"][mine].mean())


# --- however the work is cut ----------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 25), st.integers(1, 45), st.sampled_from([1, 2]))
def test_block_sizes_and_threads_do_not_change_a_bit(query_rows: int, gallery_rows: int, threads: int) -> None:
    queries, gallery = _data()
    block_sizes = BlockSizes(query_rows, gallery_rows)
    _same(evaluate_retrieval(queries, gallery, SCORERS, (3, 10), block_sizes=block_sizes, threads=threads), _run())


def test_the_gallerys_storage_order_does_not_change_a_bit() -> None:
    queries, gallery = _data()
    order = np.random.default_rng(5).permutation(len(gallery.ids))
    moved = Gallery(
        [gallery.ids[i] for i in order],
        [gallery.labels[i] for i in order],
        {name: array[order] for name, array in gallery.vectors.items()},
    )
    result = evaluate_retrieval(queries, moved, SCORERS, (3, 10))
    assert task_results_json(retrieval_score(result)) == task_results_json(retrieval_score(_run()))


def test_lazy_dask_vectors_give_the_same_bits() -> None:
    queries, gallery = _data()
    lazy = Gallery(
        gallery.ids,
        gallery.labels,
        {name: da.from_array(array, chunks=(9, 6)) for name, array in gallery.vectors.items()},
    )
    _same(evaluate_retrieval(queries, lazy, SCORERS, (3, 10), block_sizes=BlockSizes(8, 10)), _run())


def test_a_distributed_cluster_gives_the_same_bits_as_threads() -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, silence_logs=50
    ) as cluster:
        _same(_run(BlockSizes(6, 11), address=cluster.scheduler_address), _run())


def test_queries_are_prepared_once_per_block() -> None:
    queries, gallery = _data()
    seen: list[int] = []

    def prepare(block: Block) -> Block:
        seen.append(len(block["image"]))
        return {"image": block["image"] * 2.0, "decoded": block["decoded"]}

    result = evaluate_retrieval(
        queries, gallery, SCORERS, (3, 10), prepare=prepare, full_ranks=False, block_sizes=BlockSizes(10, 4), threads=1
    )
    assert seen == [10, 10, 3]
    assert result.space("appearance").metrics["map@3"] == _run().space("appearance").metrics["map@3"]


def test_without_full_ranks_there_are_no_metrics_that_need_them() -> None:
    queries, gallery = _data()
    space = evaluate_retrieval(queries, gallery, SCORERS, (3,), full_ranks=False).space("video")
    assert space.precision_curve is None
    assert "median_rank" not in space.metrics
    assert "map@3" in space.metrics


def test_cut_offs_beyond_the_gallery_are_served_by_what_there_is() -> None:
    space = _run(cutoffs=(10, 100)).space("video")
    assert space.top.shape == (23, 41)
    assert len(space.map_curve) == 100
    assert space.map_curve[99] == space.map_curve[40] == pytest.approx(space.metrics["map@100"])


# --- what cannot be evaluated ---------------------------------------------------------------------


def test_an_empty_side_is_refused() -> None:
    queries, gallery = _data()
    with pytest.raises(UsageError, match="gallery items: expected at least one, got none"):
        evaluate_retrieval(queries, Gallery([], [], {}), SCORERS)
    with pytest.raises(UsageError, match="queries items: expected at least one"):
        evaluate_retrieval(Queries([], [], {}), gallery, SCORERS)


def test_a_missing_label_is_refused_by_id() -> None:
    queries, gallery = _data()
    labels = [None, *queries.labels[1:]]
    with pytest.raises(UsageError, match="queries 'q000': expected a label, got none"):
        evaluate_retrieval(dataclasses.replace(queries, labels=labels), gallery, SCORERS)


def test_an_id_given_twice_is_refused() -> None:
    queries, gallery = _data()
    ids = ["q001", *queries.ids[1:]]
    with pytest.raises(UsageError, match="queries item 'q001': expected each id once"):
        evaluate_retrieval(dataclasses.replace(queries, ids=ids), gallery, SCORERS)


def test_vectors_of_another_length_are_refused() -> None:
    queries, gallery = _data()
    short = {**gallery.vectors, "video": gallery.vectors["video"][:-1]}
    with pytest.raises(UsageError, match="gallery video: expected 41"):
        evaluate_retrieval(queries, dataclasses.replace(gallery, vectors=short), SCORERS)


def test_nan_scores_are_refused_by_space() -> None:
    queries, gallery = _data()
    gallery.vectors["video"][3, 2] = np.nan
    with pytest.raises(UsageError, match="space video: expected scores that are numbers, got NaN"):
        evaluate_retrieval(queries, gallery, SCORERS)


def test_a_zero_vector_is_similar_to_nothing() -> None:
    queries, gallery = _data()
    queries.vectors["image"][0] = 0
    assert not evaluate_retrieval(queries, gallery, SCORERS, (3,)).space("appearance").top_scores[0].any()


def test_bad_cut_offs_spaces_and_blocks_are_refused() -> None:
    queries, gallery = _data()
    with pytest.raises(UsageError, match="cutoffs: expected numbers from 1 up"):
        evaluate_retrieval(queries, gallery, SCORERS, (0, 10))
    with pytest.raises(UsageError, match="spaces: expected at least one"):
        evaluate_retrieval(queries, gallery, {})
    with pytest.raises(UsageError, match=r"got 'vido'; did you mean 'video'"):
        evaluate_retrieval(queries, gallery, {**SCORERS, "mix": Combined({"vido": 1.0})})
    with pytest.raises(UsageError, match="at least 1 x 1"):
        BlockSizes(0, 5)
    with pytest.raises(UsageError, match=r"space vidoe: .* did you mean 'video'"):
        _run().space("vidoe")


def test_a_scorer_that_returns_another_shape_is_a_plain_error() -> None:
    queries, gallery = _data()
    with pytest.raises(ValueError, match="space bad: expected scores"):
        evaluate_retrieval(queries, gallery, {"bad": lambda left, right: np.zeros((2, 2))})


def test_a_scheduler_that_is_not_there_is_one_clear_line() -> None:
    pytest.importorskip("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EngineError, match=f"dask {address}: expected a running scheduler"):
        with computing(address, connect_seconds=0.5):
            pass


# --- results, bootstrap, published ----------------------------------------------------------------


def test_results_are_byte_stable_and_hold_no_times() -> None:
    result = _run()
    text = task_results_json(retrieval_score(result, about={"model": "map_ivr"}))
    again = dataclasses.replace(_run(), seconds=result.seconds + 5)
    assert text == task_results_json(retrieval_score(again, about={"model": "map_ivr"}))
    data = json.loads(text)
    assert list(data) == sorted(data)
    run = data["runs"]["video"]
    assert run["metrics"]["map@3"] == round(result.space("video").metrics["map@3"], 10)
    assert run["intervals"]["map@3"]["low"] == round(result.space("video").intervals["map@3"].low, 10)
    assert len(run["units"]["values"]["map@10"]) == data["data"]["num_queries"] == 23


def test_what_json_cannot_hold_becomes_null() -> None:
    queries = Queries(["q"], ["nowhere"], {"v": np.ones((1, 2))})
    result = evaluate_retrieval(queries, Gallery(["a"], ["x"], {"v": np.ones((1, 2))}), _cosine(), (1,))
    assert json.loads(task_results_json(retrieval_score(result)))["runs"]["cosine"]["metrics"]["median_rank"] is None
    assert result.space("cosine").metrics["map@1"] == 0.0


def test_cumulative_k_is_the_running_mean_over_the_cut_offs() -> None:
    space = _run().space("video")
    assert space.cumulative_k[3] == pytest.approx(space.metrics["map@3"])
    assert space.cumulative_k[10] == pytest.approx((space.metrics["map@3"] + space.metrics["map@10"]) / 2)


def test_bootstrap_agrees_with_the_normal_interval_and_is_seeded() -> None:
    values = np.random.default_rng(6).normal(0.4, 0.2, 500)
    interval = bootstrap_mean(values, seed=1)
    half = 1.96 * values.std() / np.sqrt(500)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.003)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.003)
    assert interval == bootstrap_mean(values, seed=1)
    assert interval != bootstrap_mean(values, seed=2)
    assert np.isnan(bootstrap_mean([np.nan]).low)


def test_paired_bootstrap_is_tighter_than_two_single_ones() -> None:
    rng = np.random.default_rng(7)
    theirs = rng.normal(0.5, 0.2, 300)
    ours = theirs + 0.02 + rng.normal(0, 0.01, 300)
    difference = bootstrap_difference(ours, theirs)
    assert 0.015 < difference.low < difference.value < difference.high < 0.025
    with pytest.raises(ValueError, match="same queries on both sides"):
        bootstrap_difference(ours, theirs[:-1])


def test_published_rows_name_their_source() -> None:
    rows = [*published_scores("retrieval", "activitynet"), *published_scores("retrieval", "thumos14")]
    assert len(rows) == 24
    combined = {row.dataset: row.metrics for row in rows if row.method == "MAP-IVR combined"}
    assert combined["thumos14"] == {"map@10": 0.721, "map@20": 0.719, "map@50": 0.717, "map@100": 0.714}
    assert combined["activitynet"]["map@10"] == 0.357
    assert all(row.source and all(0 < value < 1 for value in row.metrics.values()) for row in rows)
