"""ActivityNet-style mAP against a direct loop over rows, closed forms, and the usual mistakes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill.pipelines.evaluation.metrics.detection import ACTIVITYNET_THRESHOLDS, DetectionMap, DetectionScore
from clipmill.schemas.errors import UsageError
from clipmill.schemas.segments import Segments, segments_from_columns

Row = tuple[str, float, float, str]
Scored = tuple[str, float, float, str, float]


def truth(rows: list[Row], videos: tuple[str, ...] = ()) -> Segments:
    video, start, stop, label = zip(*rows, strict=True) if rows else ((), (), (), ())
    return segments_from_columns(video, start, stop, label, video_ids=videos)


def predicted(rows: list[Scored]) -> Segments:
    video, start, stop, label, score = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return segments_from_columns(video, start, stop, label, score)


def score(
    ground_truth: list[Row], predictions: list[Scored], thresholds: tuple[float, ...] = (0.5,), **options: object
) -> DetectionScore:
    state = DetectionMap(thresholds, **options)  # type: ignore[arg-type]
    return state.update(truth(ground_truth), predicted(predictions)).result()


def overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    common = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (b[1] - b[0]) + (a[1] - a[0]) - common
    return common / union if union > 0 else 0.0


def direct_average_precision(ground_truth: list[Row], predictions: list[Scored], label: str, threshold: float) -> float:
    """The definition, row by row."""
    positives = [row for row in ground_truth if row[3] == label]
    ranking = sorted((row for row in predictions if row[3] == label), key=lambda row: (-row[4], row[0], row[1], row[2]))
    taken: set[int] = set()
    hits = []
    for video, start, stop, _, _ in ranking:
        choices = [
            (overlap((start, stop), (row[1], row[2])), row[1], row[2], index)
            for index, row in enumerate(positives)
            if row[0] == video and index not in taken
        ]
        best = max(choices, default=(-1.0, 0.0, 0.0, -1))
        hits.append(best[0] >= threshold)
        if hits[-1]:
            taken.add(best[3])
    precision = [sum(hits[: rank + 1]) / (rank + 1) for rank in range(len(hits))]
    best_after = [max(precision[rank:]) for rank in range(len(hits))]
    return sum(value for value, hit in zip(best_after, hits, strict=True) if hit) / len(positives)


def cases(seed: int, num_videos: int = 6, num_predictions: int = 60) -> tuple[list[Row], list[Scored]]:
    random = np.random.default_rng(seed)
    videos = [f"v{n}" for n in range(num_videos)]

    def segment() -> tuple[float, float]:
        start = int(random.integers(0, 12))
        return start / 2, (start + int(random.integers(1, 8))) / 2

    rows: list[Row] = [(str(random.choice(videos)), *segment(), str(random.choice(["a", "b", "c"]))) for _ in range(20)]
    scored: list[Scored] = [
        (str(random.choice(videos)), *segment(), str(random.choice(["a", "b", "c"])), int(random.integers(0, 8)) / 8)
        for _ in range(num_predictions)
    ]
    return rows, scored


@pytest.mark.parametrize("seed", range(12))
def test_agrees_with_the_definition_row_by_row_with_many_ties(seed: int) -> None:
    rows, scored = cases(seed)
    thresholds = (0.1, 0.3, 0.5, 0.75, 1.0)
    got = score(rows, scored, thresholds)
    for position, label in enumerate(got.label_names):
        expected = [direct_average_precision(rows, scored, label, threshold) for threshold in thresholds]
        np.testing.assert_allclose(got.average_precision[:, position], expected, rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_any_cut_by_video_and_any_order_gives_the_identical_number(seed: int, num_parts: int) -> None:
    rows, scored = cases(seed % 1000)
    whole = score(rows, scored, ACTIVITYNET_THRESHOLDS)
    random = np.random.default_rng(seed)
    part_of = {f"v{n}": int(random.integers(0, num_parts)) for n in range(6)}
    states = []
    for part in random.permutation(num_parts):
        mine = [rows[i] for i in random.permutation(len(rows)) if part_of[rows[i][0]] == part]
        theirs = [scored[i] for i in random.permutation(len(scored)) if part_of[scored[i][0]] == part]
        states.append(DetectionMap().update(truth(mine), predicted(theirs)))
    merged = states[0]
    for state in states[1:]:
        merged = state.merge(merged)
    got = merged.result()
    assert got.label_names == whole.label_names
    assert got.average_precision.tobytes() == whole.average_precision.tobytes()
    assert got.counts == whole.counts


def test_equal_scores_do_not_depend_on_the_order_of_the_file() -> None:
    rows: list[Row] = [("v1", 0, 10, "a"), ("v2", 0, 10, "a")]
    right, wrong = ("v1", 0.0, 10.0, "a", 0.5), ("v2", 20.0, 30.0, "a", 0.5)
    assert score(rows, [right, wrong]).average == score(rows, [wrong, right]).average == 0.5


def test_a_second_prediction_of_one_ground_truth_is_false() -> None:
    rows: list[Row] = [("v", 0, 10, "a"), ("v", 50, 60, "a")]
    twice: list[Scored] = [("v", 0, 10, "a", 0.9), ("v", 0, 10, "a", 0.8), ("v", 50, 60, "a", 0.7)]
    assert score(rows, twice).average == pytest.approx((1 + 2 / 3) / 2)


def test_a_prediction_takes_the_best_ground_truth_that_is_free_not_only_the_best() -> None:
    rows: list[Row] = [("v", 0, 10, "a"), ("v", 2, 12, "a")]
    both_nearest_the_first: list[Scored] = [("v", 0, 10, "a", 0.9), ("v", 0.5, 10.5, "a", 0.8)]
    assert score(rows, both_nearest_the_first, (0.7,)).average == 1.0


def test_equality_with_the_threshold_is_a_hit() -> None:
    assert score([("v", 0, 10, "a")], [("v", 0, 5, "a", 1.0)], (0.5,)).average == 1.0


def test_precision_is_interpolated_from_later_ranks() -> None:
    rows: list[Row] = [("v", 0, 1, "a"), ("v", 10, 11, "a"), ("v", 20, 21, "a")]
    ranking: list[Scored] = [
        ("v", 5, 6, "a", 0.9),
        ("v", 0, 1, "a", 0.8),
        ("v", 10, 11, "a", 0.7),
        ("v", 20, 21, "a", 0.6),
    ]
    # Precisions at the hits are 1/2, 2/3, 3/4; every one is raised to 3/4.
    assert score(rows, ranking).average == pytest.approx(0.75)


def test_mean_is_over_classes_not_over_instances() -> None:
    rows: list[Row] = [("v", 10 * n, 10 * n + 5, "many") for n in range(9)] + [("v", 0, 5, "one")]
    only_many: list[Scored] = [("v", 10 * n, 10 * n + 5, "many", 1.0) for n in range(9)]
    got = score(rows, only_many)
    assert got.label_names == ("many", "one")
    assert got.average == 0.5


def test_predictions_of_other_classes_and_videos_do_not_match() -> None:
    got = score([("v", 0, 10, "a")], [("v", 0, 10, "b", 0.9), ("w", 0, 10, "a", 0.8)])
    assert got.average == 0.0
    assert (got.counts.num_unknown_label, got.counts.num_unknown_videos, got.counts.num_missing_videos) == (1, 1, 0)


def test_a_missing_video_stays_in_the_denominator_and_is_counted() -> None:
    got = score([("v", 0, 10, "a"), ("w", 0, 10, "a")], [("v", 0, 10, "a", 1.0)])
    assert got.average == 0.5
    assert (got.counts.num_videos, got.counts.num_missing_videos) == (2, 1)
    assert "1 without predictions" in got.line


def test_a_blocked_video_leaves_both_sides() -> None:
    rows: list[Row] = [("v", 0, 10, "a"), ("w", 0, 10, "a")]
    scored: list[Scored] = [("w", 30, 40, "a", 1.0), ("v", 0, 10, "a", 0.5)]
    assert score(rows, scored).average == 0.25
    got = score(rows, scored, blocked=frozenset({"w", "never seen"}))
    assert got.average == 1.0
    assert (got.counts.num_blocked_videos, got.counts.num_videos, got.counts.num_predictions) == (1, 1, 1)
    assert "1 blocked" in got.line


def test_duplicate_ground_truths_are_counted_and_dropped_on_request() -> None:
    rows: list[Row] = [("v", 0, 10, "a"), ("v", 0, 10, "a"), ("v", 0, 10, "b")]
    scored: list[Scored] = [("v", 0, 10, "a", 1.0), ("v", 0, 10, "b", 1.0)]
    official, dropped = score(rows, scored), score(rows, scored, drop_duplicates=True)
    assert (official.average, official.counts.num_duplicates) == (0.75, 1)
    assert (dropped.average, dropped.counts.num_duplicates, dropped.counts.num_ground_truths) == (1.0, 1, 2)


def test_no_predictions_scores_zero_and_no_ground_truth_scores_nan() -> None:
    assert score([("v", 0, 10, "a")], []).average == 0.0
    assert np.isnan(score([], [("v", 0, 10, "a", 1.0)]).average)


def test_a_video_in_two_updates_is_refused() -> None:
    state = DetectionMap((0.5,)).update(truth([("v", 0, 1, "a")]), predicted([]))
    with pytest.raises(UsageError, match="video v: expected all its segments in one update"):
        state.update(truth([]), predicted([("v", 0, 1, "a", 1.0)])).result()


def test_states_of_different_protocols_do_not_merge() -> None:
    with pytest.raises(ValueError, match="different settings"):
        DetectionMap((0.5,)).merge(DetectionMap((0.6,)))


def test_default_thresholds_are_those_of_the_official_tool_to_the_bit() -> None:
    assert ACTIVITYNET_THRESHOLDS == tuple(np.linspace(0.5, 0.95, 10))


def test_segments_refuse_columns_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="columns of one length"):
        segments_from_columns(["v"], [0.0, 1.0], [1.0])


def test_segments_of_videos_keeps_videos_without_segments() -> None:
    table = truth([("v", 0, 1, "a"), ("w", 2, 3, "b")], videos=("empty", "v", "w"))
    part = table.of_videos({"empty", "w", "unknown"})
    assert part.video_ids == ("empty", "w")
    assert part.start_seconds.tolist() == [2.0]
    assert part.video.tolist() == [1]


def test_two_equal_empty_segments_overlap_fully_as_in_the_official_tool() -> None:
    rows: list[Row] = [("v", 5, 5, "a")]
    assert score(rows, [("v", 5, 5, "a", 1.0)], (0.5, 0.95)).average == 1.0
    assert score(rows, [("v", 4, 4, "a", 1.0)], (0.5, 0.95)).average == 0.0


def test_a_segment_that_ends_before_it_starts_overlaps_nothing() -> None:
    rows: list[Row] = [("v", 5, 6, "a")]
    # The lengths of both add up to less than nothing, or to nothing: no way to a full overlap.
    assert score(rows, [("v", 5, 3, "a", 1.0)]).average == 0.0
    assert score(rows, [("v", 5, 4, "a", 1.0)]).average == 0.0
    assert score([("v", 5, 4, "a")], [("v", 5, 5, "a", 1.0)]).average == 0.0


def test_a_video_listed_without_any_prediction_is_missing() -> None:
    listed = segments_from_columns(["v"], [0], [10], ["a"], [1.0], video_ids=["v", "w"])
    counts = DetectionMap((0.5,)).update(truth([("v", 0, 10, "a"), ("w", 0, 10, "a")]), listed).result().counts
    assert (counts.num_missing_videos, counts.num_unknown_videos) == (1, 0)


def test_predictions_of_unknown_classes_are_counted_each() -> None:
    scored: list[Scored] = [("v", 0, 10, "b", 0.9), ("v", 5, 10, "b", 0.8), ("v", 0, 10, "a", 0.7)]
    got = score([("v", 0, 10, "a")], scored)
    assert (got.label_names, got.average, got.counts.num_unknown_label) == (("a",), 1.0, 2)


def test_a_prediction_of_another_class_does_not_use_up_a_ground_truth() -> None:
    rows: list[Row] = [("v", 0, 10, "a"), ("v", 50, 60, "b")]
    scored: list[Scored] = [("v", 0, 10, "b", 0.9), ("v", 0, 10, "a", 0.8), ("v", 50, 60, "b", 0.7)]
    np.testing.assert_allclose(score(rows, scored).average_precision, [[1.0, 0.5]])


def test_empty_segments_at_different_times_do_not_overlap() -> None:
    assert score([("v", 5, 5, "a")], [("v", 5.5, 5.5, "a", 1.0)]).average == 0.0


def test_of_ground_truths_that_overlap_alike_the_later_starting_is_taken_however_listed() -> None:
    early, late = ("v", 0.0, 10.0, "a"), ("v", 2.0, 12.0, "a")
    scored: list[Scored] = [("v", 1, 11, "a", 0.9), ("v", 0, 10, "a", 0.8)]
    assert score([early, late], scored, (0.7,)).average == score([late, early], scored, (0.7,)).average == 1.0


def test_equal_scores_and_starts_rank_by_stop() -> None:
    short, long = ("v", 0.0, 10.0, "a", 0.5), ("v", 0.0, 30.0, "a", 0.5)
    for scored in ([short, long], [long, short]):
        assert score([("v", 0, 10, "a")], scored).average == 1.0
        assert score([("v", 0, 30, "a")], scored).average == 0.5


def test_mean_is_over_classes_at_each_threshold() -> None:
    rows: list[Row] = [("v", 0, 10, "a"), ("v", 0, 10, "b")]
    scored: list[Scored] = [("v", 0, 10, "a", 1.0), ("v", 0, 5, "b", 1.0)]
    assert score(rows, scored, (0.3, 0.5, 0.6)).mean_average_precision.tolist() == [1.0, 1.0, 0.5]


def test_a_prediction_driven_out_by_a_better_one_takes_what_is_left() -> None:
    rows: list[Row] = [("v", 0, 10, "a"), ("v", 2, 12, "a"), ("v", 6, 16, "a")]
    # The second loses the first ground truth and takes the second, which the third likes best: it takes the last.
    scored: list[Scored] = [("v", 0, 10, "a", 0.9), ("v", 0.5, 10.5, "a", 0.8), ("v", 2.9, 12.9, "a", 0.7)]
    assert score(rows, scored).average == 1.0
