"""Moment retrieval against Moment-DETR's official numbers, reference baselines, closed forms and the usual mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.moments import (
    QVHIGHLIGHTS_LENGTHS,
    QVHIGHLIGHTS_THRESHOLDS,
    Moments,
    MomentScore,
)
from clipmill.pipelines.evaluation.metrics.moments_baselines import moment_baselines, normalised, span_scores
from clipmill.pipelines.evaluation.metrics.moments_highlights import (
    HIGHLIGHT_LEVELS,
    Highlights,
    clip_average_precision,
)
from clipmill.schemas.errors import UsageError
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores.formats.activitynet_captions import read_activitynet_captions
from clipmill.stores.formats.charades_sta import read_charades_durations, read_charades_sta
from clipmill.stores.formats.qvhighlights import read_qvhighlights, read_qvhighlights_predictions


def truth(*rows: tuple[str, float, float]) -> Segments:
    return segments_from_columns(*zip(*rows, strict=True))


def predicted(*rows: tuple[str, float, float, float]) -> Segments:
    query, start, stop, score = zip(*rows, strict=True) if rows else ((), (), (), ())
    return segments_from_columns(query, start, stop, score=score)


def score(ground_truth: Segments, predictions: Segments, **options: object) -> MomentScore:
    return Moments(**options).update(ground_truth, predictions).result()  # type: ignore[arg-type]


def percent(value: float) -> float:
    return float(f"{100 * value:.2f}")


def test_reproduces_every_moment_number_of_moment_detr(shared_data: Path) -> None:
    folder = shared_data / "evaluation" / "moment-detr-qvhighlights"
    annotated = read_qvhighlights(folder / "highlight_val_release.jsonl").queries.windows
    predictions = read_qvhighlights_predictions(folder / "sample_val_preds.jsonl").queries.windows
    official = json.loads((folder / "sample_val_preds_metrics_raw.json").read_text())
    for name, length in QVHIGHLIGHTS_LENGTHS.items():
        for as_listed in (True, False):
            options = {"at": (1,), "thresholds": QVHIGHLIGHTS_THRESHOLDS, "as_listed": as_listed}
            got = score(annotated, predictions, length_seconds=length, **options)
            each = {str(t): percent(v) for t, v in zip(got.thresholds, got.average_precision, strict=True)}
            assert each | {"average": percent(got.average)} == official[name]["MR-mAP"]
            assert {str(t): percent(v) for t, v in zip(got.thresholds, got.recall[0], strict=True)} == official[name][
                "MR-R1"
            ]


def test_reproduces_every_highlight_number_of_moment_detr(shared_data: Path) -> None:
    folder = shared_data / "evaluation" / "moment-detr-qvhighlights"
    saliency = read_qvhighlights(folder / "highlight_val_release.jsonl").saliency
    predictions = read_qvhighlights_predictions(folder / "sample_val_preds.jsonl").saliency
    official = json.loads((folder / "sample_val_preds_metrics_raw.json").read_text())
    got = Highlights().update(saliency, {name: table[:, 0] for name, table in predictions.items()}).result()
    for row, name in enumerate(HIGHLIGHT_LEVELS):
        values = {"HL-mAP": percent(got.mean_average_precision[row]), "HL-Hit1": percent(got.hit_at_one[row])}
        assert values == official[f"HL-min-{name}"]


def test_any_cut_by_query_gives_the_identical_number(shared_data: Path) -> None:
    folder = shared_data / "evaluation" / "moment-detr-qvhighlights"
    annotated = read_qvhighlights(folder / "highlight_val_release.jsonl")
    predictions = read_qvhighlights_predictions(folder / "sample_val_preds.jsonl")
    windows, proposals = annotated.queries.windows, predictions.queries.windows
    whole, merged = Moments().update(windows, proposals).result(), Moments()
    clips = {name: table[:, 0] for name, table in predictions.saliency.items()}
    all_clips, some_clips = Highlights().update(annotated.saliency, clips).result(), Highlights()
    names = windows.video_ids
    for part in (names[5::7], names[:200:7], *(names[n::7] for n in (1, 2, 3, 4, 6)), names[203::7]):
        merged = merged.merge(Moments().update(windows.of_videos(part), proposals.of_videos(part)))
        mine = {name: annotated.saliency[name] for name in part}
        some_clips = Highlights().update(mine, clips).merge(some_clips)
    got = merged.result()
    assert got.num_queries == whole.num_queries
    for name in ("recall", "average_precision"):
        assert getattr(got, name).tobytes() == getattr(whole, name).tobytes()
    assert got.mean_iou == whole.mean_iou
    assert some_clips.result().mean_average_precision.tobytes() == all_clips.mean_average_precision.tobytes()


def test_baselines_agree_with_the_reference_measurements_on_charades(shared_data: Path) -> None:
    folder = shared_data / "annotations" / "charades_sta"
    durations = read_charades_durations(folder / "charades.json")
    train, test = (read_charades_sta(folder / f"charades_sta_{name}.txt", durations) for name in ("train", "test"))
    assert (len(train), len(test)) == (12408, 3720)
    spans = np.array([[0.0, 0.32], [0.0, 0.52]])
    share, mean = span_scores(spans, *normalised(test.windows, test.duration_seconds), np.array([0.3, 0.5, 0.7]))
    np.testing.assert_allclose(100 * share, [[41.8, 30.5, 16.5], [49.7, 24.7, 9.6]], atol=0.05)
    np.testing.assert_allclose(100 * mean, [28.8, 29.9], atol=0.05)
    baselines = moment_baselines(
        test.windows, test.duration_seconds, train.windows, train.duration_seconds, num_steps=25
    )
    assert baselines.fixed[1] > 0.30
    assert baselines.chance[1] < baselines.fixed[1] / 2
    assert "chance" in baselines.line


def test_baselines_agree_with_the_reference_measurements_on_activitynet_captions(shared_data: Path) -> None:
    queries = read_activitynet_captions(shared_data / "annotations" / "activitynet_captions" / "val_2.json")
    assert len(queries) == 17031
    spans = np.array([[0.32, 0.92], [0.12, 1.0]])
    share, mean = span_scores(spans, *normalised(queries.windows, queries.duration_seconds), np.array([0.3, 0.5, 0.7]))
    np.testing.assert_allclose(100 * share, [[47.1, 27.9, 6.1], [49.2, 26.9, 13.7]], atol=0.06)
    np.testing.assert_allclose(100 * mean, [28.9, 33.8], atol=0.06)


def test_chance_of_a_full_length_moment_is_its_closed_form() -> None:
    # |x - y| of two uniform numbers exceeds m with probability (1 - m)^2, and has the mean 1/3.
    baselines = moment_baselines(truth(("q", 0, 10)), [10.0], thresholds=(0.3, 0.5, 0.7), num_steps=150)
    np.testing.assert_allclose(baselines.chance, [0.49, 0.25, 0.09], atol=0.01)
    assert baselines.chance_mean_iou == pytest.approx(1 / 3, abs=0.005)
    assert baselines.fixed.tolist() == [1.0, 1.0, 1.0]
    assert baselines.tuned_on_scored
    assert "tuned on the scored" in baselines.line


def test_normalised_moments_are_clipped_to_the_video_and_unknown_durations_left_out() -> None:
    start, stop = normalised(truth(("q", 5, 12), ("r", 0, 1)), [10.0, np.nan])
    assert (start.tolist(), stop.tolist()) == ([0.5], [1.0])


def test_equality_with_the_threshold_counts_unless_strict() -> None:
    windows, answer = truth(("q", 0, 10)), predicted(("q", 0, 5, 1.0))
    assert score(windows, answer).recall_at(1, 0.5) == 1.0
    assert score(windows, answer, strict=True).recall_at(1, 0.5) == 0.0
    assert score(windows, answer, strict=True).recall_at(1, 0.3) == 1.0


def test_r_at_n_reads_exactly_n_predictions() -> None:
    wrong = [("q", 50.0 + n, 60.0 + n, 1.0 - n / 10) for n in range(4)]
    fifth = predicted(*wrong, ("q", 0, 10, 0.5))
    sixth = predicted(*wrong, ("q", 80, 90, 0.55), ("q", 0, 10, 0.5))
    assert score(truth(("q", 0, 10)), fifth).recall_at(5, 0.7) == 1.0
    assert score(truth(("q", 0, 10)), sixth).recall_at(5, 0.7) == 0.0
    assert score(truth(("q", 0, 10)), fifth).recall_at(1, 0.7) == 0.0


def test_mean_iou_is_of_the_first_prediction_also_where_only_r_at_5_is_asked() -> None:
    answers = predicted(("q", 0, 4, 0.9), ("q", 0, 10, 0.1))
    assert score(truth(("q", 0, 10)), answers, at=(5,)).mean_iou == pytest.approx(0.4)


def test_the_best_of_several_ground_truths_counts() -> None:
    assert score(truth(("q", 0, 10), ("q", 50, 60)), predicted(("q", 50, 60, 1.0))).recall_at(1, 0.7) == 1.0


def test_queries_are_averaged_not_windows() -> None:
    windows = truth(("q", 0, 10), ("q", 20, 30), ("q", 40, 50), ("r", 0, 10))
    answers = predicted(("q", 0, 10, 1.0), ("q", 20, 30, 0.9), ("q", 40, 50, 0.8), ("r", 70, 80, 1.0))
    got = score(windows, answers)
    assert got.average == 0.5
    assert got.recall_at(1, 0.5) == 0.5


def test_a_query_without_predictions_scores_zero_and_is_counted() -> None:
    got = score(truth(("q", 0, 10), ("r", 0, 10)), predicted(("q", 0, 10, 1.0), ("x", 0, 10, 1.0)))
    assert (got.recall_at(1, 0.5), got.num_queries, got.num_missing, got.num_unknown) == (0.5, 2, 1, 1)
    assert "1 without predictions" in got.line


def test_a_window_found_twice_is_one_hit() -> None:
    answers = predicted(("q", 0, 10, 0.9), ("q", 0, 10, 0.8), ("q", 20, 30, 0.7))
    assert score(truth(("q", 0, 10), ("q", 20, 30)), answers).average == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_reads_at_most_ten_windows() -> None:
    wrong = [("q", 50.0, 60.0, 1.0)] * 10
    assert score(truth(("q", 0, 10)), predicted(*wrong, ("q", 0, 10, 0.5))).average == 0.0
    assert score(truth(("q", 0, 10)), predicted(*wrong, ("q", 0, 10, 0.5)), max_windows=None).average == pytest.approx(
        1 / 11
    )


def test_equal_scores_keep_the_order_as_listed() -> None:
    right, wrong = ("q", 0.0, 10.0, 0.5), ("q", 50.0, 60.0, 0.5)
    assert score(truth(("q", 0, 10)), predicted(right, wrong)).recall_at(1, 0.5) == 1.0
    assert score(truth(("q", 0, 10)), predicted(wrong, right)).recall_at(1, 0.5) == 0.0


def test_as_listed_takes_the_first_window_of_the_file_whatever_its_score() -> None:
    answers = predicted(("q", 50, 60, 0.1), ("q", 0, 10, 0.9))
    assert score(truth(("q", 0, 10)), answers).recall_at(1, 0.5) == 1.0
    listed = score(truth(("q", 0, 10)), answers, as_listed=True)
    assert (listed.recall_at(1, 0.5), listed.average) == (0.0, 1.0)


def test_length_ranges_exclude_their_lower_and_include_their_upper_end() -> None:
    windows = truth(("ten", 0, 10), ("eleven", 0, 11))
    answers = predicted(("ten", 0, 10, 1.0))
    assert score(windows, answers, length_seconds=(0, 10)).num_queries == 1
    assert score(windows, answers, length_seconds=(10, 30)).recall_at(1, 0.5) == 0.0


def test_a_query_in_two_updates_is_refused() -> None:
    state = Moments().update(truth(("q", 0, 10)), predicted()).update(truth(("q", 0, 10)), predicted())
    with pytest.raises(UsageError, match="query q: expected it in one update"):
        state.result()
    clips = {"q": np.ones((2, 3))}
    with pytest.raises(UsageError, match="query q: expected it once"):
        Highlights().update(clips, {}).update(clips, {}).result()


def test_clip_average_precision_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_curve

    random = np.random.default_rng(0)
    for _ in range(50):
        positive, scores = random.random(20) < 0.3, random.integers(0, 12, 20) / 4
        if not positive.any():
            continue
        precision, recall, _ = precision_recall_curve(positive, scores)
        highest = np.maximum.accumulate(precision)
        expected = highest[np.flatnonzero(np.diff(recall))].mean()
        assert clip_average_precision(positive[None], scores)[0] == pytest.approx(expected)


def test_equal_clip_scores_cannot_look_perfect() -> None:
    positive = np.array([[True, False, False, False]])
    assert clip_average_precision(positive, np.zeros(4))[0] == 0.25


def test_clips_beyond_the_video_are_cut_and_missing_ones_score_zero() -> None:
    saliency = {"long": np.array([[0.0], [4.0]]), "short": np.array([[0.0], [4.0]]), "none": np.array([[4.0]])}
    got = Highlights((4,)).update(saliency, {"long": [0.1, 0.2, 0.9], "short": [-0.5]}).result()
    # long: best clip lies beyond the video (no hit), the others are in order (AP 1); short: 0 beats -0.5; none: 0.
    np.testing.assert_allclose(got.mean_average_precision, [2 / 3])
    np.testing.assert_allclose(got.hit_at_one, [0.0])
    assert got.num_missing == 1


def test_of_windows_that_overlap_alike_the_later_listed_is_taken_first() -> None:
    early, late = ("q", 0.0, 10.0), ("q", 2.0, 12.0)
    answers = predicted(("q", 1, 11, 0.9), ("q", 0, 10, 0.8))
    # Only if the first answer takes `late` is `early` left for the second.
    assert score(truth(early, late), answers, thresholds=(0.7,)).average == 1.0
    assert score(truth(late, early), answers, thresholds=(0.7,)).average == 0.5


def test_average_precision_counts_equality_with_the_threshold() -> None:
    assert score(truth(("q", 0, 10)), predicted(("q", 0, 5, 1.0)), thresholds=(0.5,), strict=True).average == 1.0


def test_the_union_of_half_overlapping_windows_is_both_together() -> None:
    assert score(truth(("q", 0, 10)), predicted(("q", 5, 15, 1.0))).mean_iou == pytest.approx(1 / 3)


def test_mean_iou_is_over_all_queries() -> None:
    assert score(truth(("q", 0, 10), ("r", 0, 10)), predicted(("q", 0, 5, 1.0))).mean_iou == 0.25


def test_queries_left_out_for_their_length_are_not_unknown() -> None:
    windows, answers = truth(("ten", 0, 10), ("twenty", 0, 20)), predicted(("ten", 0, 10, 1.0), ("x", 0, 1, 1.0))
    assert score(windows, answers, length_seconds=(10, 30)).num_unknown == 1


def test_chance_of_a_coarse_grid_is_counted_by_hand() -> None:
    # Two steps: (1/4, 1/4) and (3/4, 3/4) with weight 1/4 each, and (1/4, 3/4), which is the moment, with 1/2.
    baselines = moment_baselines(truth(("q", 2.5, 7.5)), [10.0], thresholds=(0.0, 0.9), num_steps=2)
    assert (baselines.chance.tolist(), baselines.chance_mean_iou) == ([1.0, 0.5], 0.5)


def test_moments_beyond_the_video_are_clipped_on_both_sides() -> None:
    start, stop = normalised(truth(("q", -2, 12)), [10.0])
    assert (start.tolist(), stop.tolist()) == ([0.0], [1.0])


def test_fixed_spans_are_tuned_on_training_and_scored_on_the_scored() -> None:
    training, scored = truth(("s", 0, 5), ("t", 0, 5)), truth(("p", 5, 10), ("q", 5, 10), ("r", 0, 5))
    baselines = moment_baselines(scored, [10.0] * 3, training, [10.0, 10.0], (0.5, 1.0), 10)
    assert baselines.spans[1] == (0.0, 0.5)
    assert (baselines.fixed[1], baselines.fixed_mean_iou, baselines.tuned_on_scored) == (1 / 3, 1 / 3, False)


def test_each_threshold_has_its_own_span_and_mean_iou_another() -> None:
    # At 0.3 a span of 0.3 still reaches the whole video; at 1 and for the mean the most frequent moment is best.
    windows = truth(("p", 0, 2), ("q", 0, 2), ("r", 0, 10))
    baselines = moment_baselines(windows, [10.0] * 3, thresholds=(0.3, 1.0), num_steps=10)
    assert baselines.fixed.tolist() == pytest.approx([1.0, 2 / 3])
    assert baselines.spans[0] != baselines.spans[1] == (0.0, 0.2)
    assert baselines.fixed_mean_iou == pytest.approx((1 + 1 + 0.2) / 3)


def test_baselines_take_the_best_window_of_a_query_however_listed() -> None:
    windows = truth(("q", 0, 5), ("r", 0, 5), ("q", 5, 10))
    share, mean = span_scores(
        np.array([[0.5, 1.0]]), *normalised(windows, [10.0, 10.0]), np.array([0.5, 1.0]), windows.video
    )
    assert (share.tolist(), mean.tolist()) == ([[0.5, 0.5]], [0.5])


def test_a_clip_is_a_hit_if_one_person_gave_at_least_the_level() -> None:
    got = Highlights((2, 3)).update({"q": np.array([[2.0, 0.0], [0.0, 0.0]])}, {"q": [0.9, 0.1]}).result()
    assert got.hit_at_one.tolist() == [1.0, 0.0]
    # One of two people has a positive clip, at the top; the other has none and counts zero.
    assert got.mean_average_precision.tolist() == [0.5, 0.0]


def test_highlight_precision_is_averaged_over_people_not_over_levels() -> None:
    got = Highlights((2, 3)).update({"q": np.array([[2.0, 2.0], [0.0, 0.0]])}, {"q": [0.9, 0.1]}).result()
    assert got.mean_average_precision.tolist() == [1.0, 0.0]


def test_the_first_of_equally_scored_clips_is_the_hit() -> None:
    assert Highlights((4,)).update({"q": np.array([[4.0], [0.0]])}, {"q": [1, 1]}).result().hit_at_one.tolist() == [1.0]
    assert Highlights((4,)).update({"q": np.array([[0.0], [4.0]])}, {"q": [1, 1]}).result().hit_at_one.tolist() == [0.0]


def test_highlight_precision_is_averaged_over_people_not_pooled() -> None:
    # The first person's only clip is ranked first, the second's last: (1 + 1/2) / 2, where pooled clips would give 1.
    got = Highlights((4,)).update({"q": np.array([[4.0, 0.0], [0.0, 4.0]])}, {"q": [0.9, 0.1]}).result()
    assert got.mean_average_precision.tolist() == [0.75]


def test_clip_average_precision_is_over_recall_levels_reached() -> None:
    # Two of equal score enter together: one level, at precision 2/3.
    scores = np.array([1.0, 1.0, 1.0, 0.0])
    assert clip_average_precision(np.array([[True, True, False, False]]), scores)[0] == pytest.approx(2 / 3)
    # From rank 1: the highest precision at that level or beyond.
    assert clip_average_precision(np.array([[False, True, True]]), np.array([3.0, 2.0, 1.0]))[0] == pytest.approx(2 / 3)


def test_windows_of_a_query_belong_together_also_where_others_are_listed_between() -> None:
    windows = truth(("q", 5, 10), ("r", 0, 5), ("q", 5, 10))
    share, _ = span_scores(np.array([[0.5, 1.0]]), *normalised(windows, [10.0, 10.0]), np.array([0.5]), windows.video)
    assert share.tolist() == [[0.5]]


def test_the_whole_video_is_one_of_the_fixed_spans() -> None:
    baselines = moment_baselines(truth(("q", 0, 10)), [10.0], thresholds=(1.0,), num_steps=4)
    assert (baselines.spans, baselines.fixed.tolist()) == (((0.0, 1.0),), [1.0])
