"""The diagnosis of detections against row-by-row definitions and against the metrics' own numbers."""

from dataclasses import replace

import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.detection import DetectionMap
from clipmill.pipelines.evaluation.metrics.detection_errors import (
    CATEGORIES,
    categories,
    class_confusion,
    false_positives,
)
from clipmill.pipelines.evaluation.metrics.detection_hits import (
    NOTHING,
    RECALL_LEVELS,
    Hits,
    average_precision,
    hits_at,
    precision_at_recall,
)
from clipmill.pipelines.evaluation.metrics.detection_lengths import by_length, length_edges
from clipmill.pipelines.evaluation.metrics.detection_thumos14 import ThumosMap
from clipmill.schemas.segments import Segments, segments_from_columns

Row = tuple[str, float, float, str, float]


def table(*rows: Row) -> Segments:
    video, start, stop, label, score = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return segments_from_columns(video, start, stop, label, score)


def drawn(seed: int, num_videos: int = 5, num: int = 120) -> tuple[Segments, Segments, Segments]:
    """Crowded videos of four classes with many equal scores and equal overlaps; class d has no ground truth."""
    random = np.random.default_rng(seed)

    def rows(count: int, labels: str) -> list[Row]:
        found = []
        for _ in range(count):
            start = float(random.integers(0, 40))
            length = float(random.integers(1, 12))
            video, label = f"v{random.integers(num_videos)}", labels[random.integers(len(labels))]
            found.append((video, start, start + length, label, float(random.integers(1, 9)) / 8))
        return found

    return table(*rows(40, "abc")), table(*rows(num, "abcd")), table(*rows(3, "x"))


def overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    inside = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return inside / (max(a[1], b[1]) - min(a[0], b[0])) if inside else 0.0


def span(segments: Segments, row: int) -> tuple[float, float]:
    return float(segments.start_seconds[row]), float(segments.stop_seconds[row])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_hits_give_the_ap_of_the_metric_itself(seed: int, threshold: float) -> None:
    truth, predictions, ambiguous = drawn(seed)
    expected = DetectionMap((threshold,)).update(truth, predictions).result()
    hits = hits_at(truth, predictions, threshold)
    got = dict(zip(hits.ground_truth.label_names, average_precision(hits).tolist(), strict=True))
    assert [got[name] for name in expected.label_names] == expected.average_precision[0].tolist()
    assert np.isnan(got["d"])
    expected = ThumosMap((threshold,)).update(truth, predictions, ambiguous).result()
    hits = hits_at(truth, predictions, threshold, "thumos14", ambiguous=ambiguous)
    got = dict(zip(hits.ground_truth.label_names, average_precision(hits).tolist(), strict=True))
    assert [got[name] for name in expected.label_names] == expected.average_precision[0].tolist()


def test_hits_point_both_ways_and_follow_the_asked_comparison() -> None:
    truth = table(("v", 0, 10, "a", 1), ("v", 20, 30, "a", 1))
    predictions = table(("v", 0, 5, "a", 0.9), ("v", 20, 30, "a", 0.8), ("v", 20, 29, "a", 0.7))
    hits = hits_at(truth, predictions, 0.5)
    assert (hits.target.tolist(), hits.found_by.tolist()) == ([0, 1, NOTHING], [0, 1])
    assert hits_at(truth, predictions, 0.5, strict=True).target.tolist() == [NOTHING, 1, NOTHING]
    assert hits_at(truth, predictions, 0.5, "thumos14").target.tolist() == [NOTHING, 1, NOTHING]
    assert hits_at(truth, predictions, 0.5, "thumos14", strict=False).target.tolist() == [0, 1, NOTHING]


@pytest.mark.parametrize("seed", range(3))
def test_precision_at_recall_is_the_best_at_that_recall_or_beyond(seed: int) -> None:
    truth, predictions, _ = drawn(seed)
    hits = hits_at(truth, predictions, 0.4)
    curves = precision_at_recall(hits)
    for code, name in enumerate(hits.ground_truth.label_names):
        num = int(hits.num_ground_truths[code])
        rows = [row for row in hits.order.tolist() if hits.predictions.label[row] == code]
        right = np.cumsum(hits.is_hit[rows]) if rows else np.zeros(0)
        for level, value in zip(RECALL_LEVELS.tolist(), curves[code].tolist(), strict=True):
            if not num:
                assert np.isnan(value), name
                continue
            reached = [r / n for n, r in enumerate(right.tolist(), start=1) if r / num >= level - 1e-12]
            assert value == pytest.approx(max(reached, default=0.0), abs=1e-12)


def direct_category(hits: Hits, row: int) -> int:
    truth, predictions = hits.ground_truth, hits.predictions
    if hits.target[row] != NOTHING:
        return 0
    own, other = [0.0], [0.0]
    for target in range(len(truth)):
        if truth.video[target] == predictions.video[row]:
            same = truth.label[target] == predictions.label[row]
            (own if same else other).append(overlap(span(predictions, row), span(truth, target)))
    for code, values, least in ((1, own, hits.threshold), (2, other, hits.threshold), (3, own, 0.1), (4, other, 0.1)):
        if max(values) >= least:
            return code
    return 5


@pytest.mark.parametrize("seed", range(3))
def test_categories_and_counts_agree_with_the_definition_row_by_row(seed: int) -> None:
    truth, predictions, _ = drawn(seed)
    hits = hits_at(truth, predictions, 0.5)
    found = false_positives(hits, times_ground_truths=2)
    counts = np.zeros((2, len(CATEGORIES)), np.int64)
    for code in range(len(truth.label_names) + 1):
        num = int(hits.num_ground_truths[code])
        ranked = [row for row in hits.order.tolist() if hits.predictions.label[row] == code]
        for place, row in enumerate(ranked):
            kind = direct_category(hits, row) if place < 2 * num else NOTHING
            assert found.category[row] == kind
            if kind != NOTHING:
                counts[place // num :, kind] += 1
    assert (found.counts == counts).all()
    assert set(found.category.tolist()) >= {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("seed", range(3))
def test_map_without_a_category_is_that_of_the_predictions_without_it(seed: int) -> None:
    truth, predictions, _ = drawn(seed)
    hits = hits_at(truth, predictions, 0.5)
    found = false_positives(hits)
    # The metric itself, on the predictions that are left: taking out misses moves no hit.
    for code in range(1, len(CATEGORIES)):
        left = (found.category != NOTHING) & (found.category != code)
        score = DetectionMap((0.5,)).update(hits.ground_truth, hits.predictions.take(left)).result()
        assert found.without[code] == pytest.approx(score.average, abs=1e-12)
    score = DetectionMap((0.5,)).update(hits.ground_truth, hits.predictions.take(found.category != NOTHING)).result()
    assert found.mean_average_precision == pytest.approx(score.average, abs=1e-12)
    assert np.isnan(found.without[0])


def test_each_category_by_its_simplest_case() -> None:
    truth = table(("v", 0, 10, "a", 1), ("v", 50, 60, "b", 1), ("w", 0, 10, "a", 1), *[("x", 0, 1, "a", 1)] * 4)
    predictions = table(
        ("v", 0, 10, "a", 0.9),  # true positive
        ("v", 0, 9, "a", 0.8),  # double detection
        ("v", 50, 60, "a", 0.7),  # wrong label
        ("v", 0, 2, "a", 0.6),  # localisation: tIoU 0.2
        ("v", 50, 52, "a", 0.5),  # confusion
        ("v", 30, 40, "a", 0.4),  # background
        ("w", 9.5, 15, "a", 0.3),  # background: overlaps less than 0.1
        ("u", 0, 10, "a", 0.2),  # background: a video without ground truth
    )
    hits = hits_at(truth, predictions, 0.5)
    assert categories(hits, np.arange(8)).tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
    assert false_positives(hits, 1).counts.tolist() == [[1, 1, 1, 1, 1, 1]]  # G is 6: the last two are beyond it.
    assert false_positives(hits, 2).counts.tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 3]]


def test_confusion_counts_what_lies_where_a_ground_truth_is() -> None:
    truth = table(("v", 0, 10, "a", 1), ("v", 20, 30, "a", 1), ("v", 40, 50, "b", 1), ("v", 0, 10, "b", 1))
    predictions = table(
        ("v", 0, 10, "b", 0.9),  # two ground truths lie there: the one of its own class
        ("v", 0, 10, "a", 0.8),  # the other
        ("v", 20, 30, "b", 0.7),  # a taken for b
        ("v", 40, 50, "b", 0.6),  # beyond the best G of b
    )
    assert class_confusion(hits_at(truth, predictions, 0.5)).tolist() == [[1, 1, 0], [0, 1, 1]]
    assert class_confusion(hits_at(truth, predictions, 0.5), 2).tolist() == [[1, 1, 0], [0, 2, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_confusion_agrees_with_the_greedy_loop(seed: int) -> None:
    truth, predictions, _ = drawn(seed)
    hits = hits_at(truth, predictions, 0.4)
    chosen = set(hits.best(3)[0].tolist())
    num = len(hits.ground_truth.label_names)
    expected = np.zeros((num, num + 1), np.int64)
    free = set(range(len(truth)))
    for row in (row for row in hits.order.tolist() if row in chosen):
        near = [
            (overlap(span(hits.predictions, row), span(hits.ground_truth, t)), hits.ground_truth.label[t], t)
            for t in sorted(free)
            if hits.ground_truth.video[t] == hits.predictions.video[row]
        ]
        near = [item for item in near if item[0] >= 0.4]
        if near:
            mine = hits.predictions.label[row]
            best = min(near, key=lambda item: (-item[0], item[1] != mine, item[2]))
            free.discard(best[2])
            expected[best[1], mine] += 1
    for target in free:
        expected[hits.ground_truth.label[target], num] += 1
    assert (class_confusion(hits, 3) == expected).all()


def test_a_length_is_not_punished_for_what_another_finds() -> None:
    truth = table(("v", 0, 2, "a", 1), ("v", 10, 30, "a", 1))
    predictions = table(
        ("v", 10, 30, "a", 0.9),  # a long hit
        ("v", 60, 80, "a", 0.8),  # a long miss
        ("v", 0, 1.9, "a", 0.7),  # a short hit
    )
    hits = hits_at(truth, predictions, 0.5)
    bins = by_length(hits, np.array([0.0, 5.0, np.inf]))
    assert bins.mean_average_precision.tolist() == [1.0, 1.0]
    assert (bins.num_ground_truths.tolist(), bins.num_found.tolist()) == ([1, 1], [1, 1])
    assert bins.num_predictions.tolist() == [1, 2]
    later = replace(hits, order=np.array([1, 0, 2]))
    assert by_length(later, np.array([0.0, 5.0, np.inf])).mean_average_precision.tolist() == [1.0, 0.5]


def test_one_bin_of_all_lengths_is_the_map_and_bins_are_even() -> None:
    truth, predictions, _ = drawn(0)
    hits = hits_at(truth, predictions, 0.5)
    whole = by_length(hits, np.array([0.0, np.inf]))
    assert whole.mean_average_precision[0] == DetectionMap((0.5,)).update(truth, predictions).result().average
    lengths = np.arange(1, 1001) / 10
    many = segments_from_columns(["v"] * 1000, np.zeros(1000), lengths, ["a"] * 1000)
    assert length_edges(many).tolist() == [0.0, 20.0, 40.0, 60.0, 80.0, np.inf]
    assert by_length(hits_at(many, table(), 0.5)).num_ground_truths.tolist() == [200] * 5
    assert length_edges(table()).tolist() == [0.0, np.inf]


def test_a_hit_belongs_to_the_length_of_what_it_found() -> None:
    truth = table(("v", 0, 4, "a", 1), ("v", 10, 30, "a", 1))
    predictions = table(("v", 0, 6, "a", 0.9), ("v", 10, 30, "a", 0.8))  # the first is a long one, on a short truth
    bins = by_length(hits_at(truth, predictions, 0.5), np.array([0.0, 5.0, np.inf]))
    assert bins.mean_average_precision.tolist() == [1.0, 1.0]
    assert bins.num_predictions.tolist() == [0, 2]
