"""THUMOS14-style mAP against the authors' own numbers of S-CNN, and against what goes wrong easily."""

from pathlib import Path

import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.detection import DetectionMap
from clipmill.pipelines.evaluation.metrics.detection_matching import tiou
from clipmill.pipelines.evaluation.metrics.detection_nms import nms, soft_nms
from clipmill.pipelines.evaluation.metrics.detection_thumos14 import (
    THUMOS14_THRESHOLDS,
    ThumosMap,
    scnn_detections,
    window_length_weights,
)
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores.formats.thumos14 import read_thumos14, read_thumos14_classes

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
SCNN = DATA / "evaluation" / "scnn-thumos14"
ANNOTATIONS = DATA / "annotations" / "thumos14"

needs_scnn = pytest.mark.skipif(not SCNN.is_dir(), reason=f"needs the S-CNN predictions in {SCNN.name}")


def segments(rows: list[tuple[str, float, float, str, float]]) -> Segments:
    video, start, stop, label, score = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return segments_from_columns(video, start, stop, label, score)


def scnn_windows() -> tuple[Segments, np.ndarray, np.ndarray]:
    from scipy.io import loadmat

    rows = loadmat(SCNN / "res_seg_swin.mat")["seg_swin"]
    rows = rows[rows[:, 10] != 0]
    names = list(read_thumos14_classes(ANNOTATIONS / "annotation_test" / "detclasslist.txt").values())
    windows = segments_from_columns(
        [f"video_test_{int(number):07d}" for number in rows[:, 0]],
        rows[:, 4],
        rows[:, 5],
        [names[int(number) - 1] for number in rows[:, 10]],
        rows[:, 8],
        label_names=names,
    )
    weights = loadmat(SCNN / "window_weight" / "weight.mat")["weight"]
    return windows, np.log2(rows[:, 1] / 16).astype(np.int64), weights


@needs_scnn
def test_reproduces_the_map_of_scnn_to_the_last_digit() -> None:
    from scipy.io import loadmat

    published = loadmat(SCNN / "res_scnn_thumos14.mat")
    truth = read_thumos14(ANNOTATIONS / "annotation_test", "test")
    windows, length, weights = scnn_windows()
    for row, threshold in enumerate(THUMOS14_THRESHOLDS):
        state = ThumosMap((threshold,))
        state = state.update(truth.segments, scnn_detections(windows, length, weights, threshold), truth.ambiguous)
        score = state.result()
        order = [score.label_names.index(name) for name in windows.label_names]
        np.testing.assert_allclose(
            score.average_precision[0][order], published["AP_all"][0, row][0], rtol=0, atol=1e-12
        )
        assert round(score.average, 4) == (0.4772, 0.4353, 0.3628, 0.2870, 0.1897)[row]
    assert (score.counts.num_ground_truths, score.counts.num_videos, score.counts.num_missing_videos) == (3358, 212, 1)


@needs_scnn
def test_scnn_cut_by_video_gives_the_identical_number() -> None:
    truth = read_thumos14(ANNOTATIONS / "annotation_test", "test")
    windows, length, weights = scnn_windows()
    detections = scnn_detections(windows, length, weights, 0.3)
    whole = ThumosMap((0.3, 0.5)).update(truth.segments, detections, truth.ambiguous).result()
    everything = sorted({*truth.segments.video_ids, *detections.video_ids, *truth.ambiguous.video_ids})
    merged = ThumosMap((0.3, 0.5))
    for part in (everything[1::3], everything[::3], everything[2::3]):
        sides = (truth.segments.of_videos(part), detections.of_videos(part), truth.ambiguous.of_videos(part))
        merged = merged.merge(ThumosMap((0.3, 0.5)).update(*sides))
    assert merged.result().average_precision.tobytes() == whole.average_precision.tobytes()
    assert merged.result().counts == whole.counts


@needs_scnn
def test_window_length_weights_are_those_of_the_release() -> None:
    from scipy.io import loadmat

    train = read_thumos14(ANNOTATIONS / "annotation_val", "val").segments
    np.testing.assert_allclose(
        window_length_weights(train), loadmat(SCNN / "window_weight" / "weight.mat")["weight"], rtol=0, atol=1e-15
    )


def test_overlap_equal_to_the_threshold_is_no_hit() -> None:
    truth, prediction = segments([("v", 0, 10, "a", 1)]), segments([("v", 0, 5, "a", 1)])
    assert ThumosMap((0.5,)).update(truth, prediction).result().average == 0.0
    assert ThumosMap((0.49,)).update(truth, prediction).result().average == 1.0
    assert DetectionMap((0.5,)).update(truth, prediction).result().average == 1.0


def test_an_ambiguous_interval_ignores_a_miss_but_never_takes_away_a_hit() -> None:
    truth = segments([("v", 0, 10, "a", 1)])
    predictions = segments([("v", 20, 30, "a", 0.9), ("v", 0, 10, "a", 0.8)])
    ambiguous = segments([("v", 29, 40, "", 1), ("v", 0, 10, "", 1), ("w", 20, 30, "", 1)])
    assert ThumosMap((0.5,)).update(truth, predictions).result().average == 0.5
    assert ThumosMap((0.5,)).update(truth, predictions, ambiguous).result().average == 1.0


def test_times_in_either_order_are_one_interval_as_in_the_kit() -> None:
    truth = segments([("v", 0, 10, "a", 1), ("v", 40, 30, "a", 1)])
    predictions = segments([("v", 10, 0, "a", 0.9), ("v", 30, 40, "a", 0.8), ("v", 60, 50, "a", 0.85)])
    assert ThumosMap((0.5,)).update(truth, predictions).result().average == pytest.approx((1 + 2 / 3) / 2)
    ambiguous = segments([("v", 55, 52, "", 1)])
    assert ThumosMap((0.5,)).update(truth, predictions, ambiguous).result().average == 1.0


def test_precision_is_not_interpolated() -> None:
    truth = segments([("v", 0, 10, "a", 1), ("v", 20, 30, "a", 1)])
    ranking = segments([("v", 50, 60, "a", 0.9), ("v", 0, 10, "a", 0.8), ("v", 20, 30, "a", 0.7)])
    assert ThumosMap((0.5,)).update(truth, ranking).result().average == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_ground_truth_chooses_by_overlap_so_a_worse_ranked_prediction_may_be_the_hit() -> None:
    truth = segments([("v", 0, 10, "a", 1)])
    ranking = segments([("v", 0, 8, "a", 0.9), ("v", 0, 10, "a", 0.1)])
    assert ThumosMap((0.5,)).update(truth, ranking).result().average == 0.5


def test_equal_scores_keep_the_order_as_listed_within_a_video() -> None:
    truth = segments([("v", 0, 10, "a", 1)])
    hit, miss = ("v", 0.0, 10.0, "a", 0.5), ("v", 50.0, 60.0, "a", 0.5)
    assert ThumosMap((0.5,)).update(truth, segments([hit, miss])).result().average == 1.0
    assert ThumosMap((0.5,)).update(truth, segments([miss, hit])).result().average == 0.5


def test_a_class_without_predictions_has_average_precision_zero() -> None:
    truth = segments([("v", 0, 10, "a", 1), ("v", 0, 10, "b", 1)])
    assert ThumosMap((0.5,)).update(truth, segments([("v", 0, 10, "a", 1)])).result().average == 0.5


def test_equal_overlap_goes_to_the_better_ranked_prediction_however_listed() -> None:
    truth = segments([("v", 0, 10, "a", 1)])
    better, worse = ("v", 0.0, 8.0, "a", 0.9), ("v", 2.0, 10.0, "a", 0.1)
    for rows in ([better, worse], [worse, better]):
        assert ThumosMap((0.5,)).update(truth, segments(rows)).result().average == 1.0


def test_an_ambiguous_interval_ignores_nothing_it_only_touches_and_no_other_video() -> None:
    truth = segments([("v", 0, 10, "a", 1), ("w", 0, 10, "a", 1)])
    rows = [("w", 20, 30, "a", 0.9), ("v", 0, 10, "a", 0.8), ("w", 0, 10, "a", 0.7)]
    expected = pytest.approx((1 / 2 + 2 / 3) / 2)
    for ambiguous in (("w", 30, 40, "", 1), ("w", 10, 20, "", 1), ("v", 20, 30, "", 1)):
        assert ThumosMap((0.5,)).update(truth, segments(rows), segments([ambiguous])).result().average == expected


def test_window_lengths_count_instances_of_half_to_twice_their_length_per_class() -> None:
    # Of 1 s: 0.5 to 2. Of 3 s: 1.5 to 6. Both ends count; each class's column adds up to one.
    rows = [("v", 0, 0.5, "a", 1), ("v", 0, 2, "a", 1), ("v", 0, 6.5, "a", 1)]
    rows += [("v", 0, 1.5, "b", 1), ("v", 0, 4, "b", 1), ("v", 0, 6, "b", 1)]
    weights = window_length_weights(segments(rows), (1.0, 3.0))
    np.testing.assert_allclose(weights, [[2 / 3, 1 / 4], [1 / 3, 3 / 4]])


def test_scnn_weights_scores_suppresses_below_the_threshold_and_prints() -> None:
    rows = [("v", 0.04, 10.06, "a", 0.5), ("v", 0, 5, "a", 0.123456789), ("v", 8, 16, "a", 0.9)]
    kept = scnn_detections(segments(rows), np.array([0, 0, 1]), np.array([[1.0], [0.5]]), 0.3)
    # The second overlaps the first by half, which is more than 0.3 - 0.1; the third by an eighth.
    assert kept.score.tolist() == [0.5, 0.45]
    assert (kept.start_seconds.tolist(), kept.stop_seconds.tolist()) == ([0.0, 8.0], [10.1, 16.0])
    alone = scnn_detections(segments(rows[1:2]), np.array([0]), np.array([[1.0], [0.5]]), 0.3)
    assert alone.score.tolist() == [0.12346]


def test_scnn_suppresses_at_a_tenth_below_the_threshold_in_decimals() -> None:
    # tIoU is 0.25 first, which 0.3 would let through, then 0.2 exactly, which 0.3 - 0.1 in binary would not.
    for stop, kept in ((2.5, 1), (2.0, 2)):
        rows = [("v", 0, 10, "a", 0.9), ("v", 0, stop, "a", 0.8)]
        assert len(scnn_detections(segments(rows), np.zeros(2, np.int64), np.ones((1, 1)), 0.3)) == kept


def test_scnn_keeps_the_last_listed_of_equal_scores() -> None:
    rows = [("v", 0, 10, "a", 0.5), ("v", 1, 11, "a", 0.5), ("v", 50, 60, "a", 0.5)]
    kept = scnn_detections(segments(rows), np.zeros(3, np.int64), np.ones((1, 1)), 0.3)
    assert sorted(kept.start_seconds.tolist()) == [1.0, 50.0]


def direct_nms(table: Segments, threshold: float) -> list[int]:
    order = sorted(range(len(table)), key=lambda row: -table.score[row])
    kept: list[int] = []
    for row in order:
        same = [k for k in kept if table.video[k] == table.video[row] and table.label[k] == table.label[row]]
        spans = [
            tiou(table.start_seconds[k], table.stop_seconds[k], table.start_seconds[row], table.stop_seconds[row])
            for k in same
        ]
        if all(span <= threshold for span in spans):
            kept.append(row)
    return sorted(kept)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_nms_agrees_with_the_loop(threshold: float) -> None:
    random = np.random.default_rng(3)
    start = random.uniform(0, 20, 200)
    table = segments_from_columns(
        [f"v{n}" for n in random.integers(0, 3, 200)],
        start,
        start + random.uniform(0.5, 8, 200),
        [f"c{n}" for n in random.integers(0, 2, 200)],
        random.random(200),
    )
    assert sorted(nms(table, threshold).tolist()) == direct_nms(table, threshold)


def test_nms_keeps_overlap_equal_to_the_threshold_and_other_classes() -> None:
    table = segments([("v", 0, 10, "a", 0.9), ("v", 0, 5, "a", 0.8), ("v", 0, 6, "a", 0.7), ("v", 0, 10, "b", 0.1)])
    assert nms(table, 0.5).tolist() == [0, 1, 3]


def test_nms_of_equal_scores_takes_first_or_last_as_told() -> None:
    table = segments([("v", 0, 10, "a", 0.5), ("v", 1, 11, "a", 0.5)])
    assert nms(table, 0.5).tolist() == [0]
    assert nms(table, 0.5, ties="last").tolist() == [1]


def test_soft_nms_lowers_scores_by_the_published_formulas() -> None:
    table = segments([("v", 0, 10, "a", 0.9), ("v", 0, 5, "a", 0.8), ("v", 20, 30, "a", 0.7), ("v", 0, 10, "b", 0.3)])
    rows, scores = soft_nms(table, sigma=0.5)
    assert rows.tolist() == [0, 2, 1, 3]
    np.testing.assert_allclose(scores, [0.9, 0.7, 0.8 * np.exp(-(0.5**2) / 0.5), 0.3])
    rows, scores = soft_nms(table, threshold=0.4)
    np.testing.assert_allclose(scores, [0.9, 0.7, 0.8 * 0.5, 0.3])
    rows, scores = soft_nms(table, sigma=0.5, max_per_group=1)
    assert rows.tolist() == [0, 3]
