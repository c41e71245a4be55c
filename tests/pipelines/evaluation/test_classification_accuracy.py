"""Accuracies against scikit-learn and torchmetrics, closed forms and the usual mistakes."""

import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.classification import Classification
from clipmill.pipelines.evaluation.metrics.classification_videos import VideoClassification
from clipmill.schemas.errors import UsageError
from clipmill.schemas.segments import Segments, segments_from_columns


def random_case(seed: int, num_items: int = 200, num_classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.random((num_items, num_classes)), random.integers(0, num_classes - 1, num_items)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_learn(seed: int) -> None:
    from sklearn.metrics import confusion_matrix, recall_score, top_k_accuracy_score

    scores, labels = random_case(seed)
    got = Classification(7, (1, 3)).update(scores, labels).result()
    for k in (1, 3):
        assert got.top[k] == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(7)))
    predicted = scores.argmax(axis=1)
    np.testing.assert_array_equal(got.confusion, confusion_matrix(labels, predicted, labels=range(7)))
    macro = recall_score(labels, predicted, labels=np.unique(labels), average="macro")
    assert got.mean_class_accuracy == pytest.approx(macro)


def test_any_cut_gives_the_identical_number() -> None:
    scores, labels = random_case(5)
    whole, merged = Classification(7).update(scores, labels).result(), Classification(7)
    for part in np.array_split(np.random.default_rng(0).permutation(len(labels)), 4):
        merged = Classification(7).update(scores[part], labels[part]).merge(merged)
    got = merged.result()
    assert got.top == whole.top
    assert got.mean_class_accuracy == whole.mean_class_accuracy
    np.testing.assert_array_equal(got.confusion, whole.confusion)


def test_mean_class_accuracy_is_over_classes_that_have_items() -> None:
    scores = np.array([[1.0, 0.0, 0.0]] * 10)
    labels = np.array([0] * 9 + [1])
    got = Classification(3, (1,)).update(scores, labels).result()
    assert got.top[1] == 0.9
    assert got.mean_class_accuracy == 0.5
    assert got.most_frequent[1] == 0.9
    assert "1 without items" in got.line


def test_constant_scores_give_chance_and_not_a_perfect_score() -> None:
    labels = np.arange(10)
    got = Classification(10, (1, 5)).update(np.zeros((10, 10)), labels).result()
    assert got.top == got.chance == {1: 0.1, 5: 0.5}


def test_confusion_is_true_by_predicted() -> None:
    got = Classification(2, (1,)).update([[0.1, 0.9]], [0]).result()
    assert got.confusion.tolist() == [[0, 1], [0, 0]]


def test_no_items_gives_nan() -> None:
    got = Classification(3).update(np.zeros((0, 3)), np.zeros(0, np.int64)).result()
    assert np.isnan(got.top[1])
    assert np.isnan(got.mean_class_accuracy)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([[0.1, 0.2]], [0], r"expected shape \(1, 3\), got \(1, 2\)"),
        ([[0.1, 0.2, 0.3]], [3], "labels: expected 0 to 2, got 3 to 3"),
        ([[0.1, 0.2, 0.3]], [-1], "labels: expected 0 to 2, got -1 to -1"),
        ([[0.1, np.nan, 0.3]], [0], "scores row 0: expected numbers, got NaN"),
    ],
)
def test_what_cannot_be_scored_is_refused(scores: list[list[float]], labels: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Classification(3).update(scores, labels)


def test_equal_scores_rank_by_class_number() -> None:
    for label, expected in ((0, 1.0), (1, 0.0)):
        assert Classification(2, (1,)).update([[0.5, 0.5]], [label]).result().top[1] == expected


def test_chance_is_at_most_one() -> None:
    assert Classification(3, (5,)).update([[0.1, 0.2, 0.3]], [0]).result().chance[5] == 1.0


def test_top_k_of_the_most_frequent_classes_is_of_true_classes() -> None:
    got = Classification(3, (1, 2)).update([[0.0, 0.0, 1.0]] * 6, [0, 0, 0, 1, 1, 2]).result()
    assert got.most_frequent == pytest.approx({1: 3 / 6, 2: 5 / 6})


def videos(*rows: tuple[str, str, float]) -> Segments:
    video, label, score = zip(*rows, strict=True)
    return segments_from_columns(video, [0.0] * len(rows), [1.0] * len(rows), label, score)


def test_untrimmed_classification_of_a_counted_example() -> None:
    truth = videos(("v", "a", 1), ("v", "a", 1), ("v", "b", 1), ("w", "b", 1), ("missing", "a", 1))
    answers = videos(("v", "a", 0.9), ("w", "a", 0.8), ("w", "b", 0.7), ("v", "c", 0.6), ("v", "b", 0.5))
    got = VideoClassification((1, 2, 3)).update(truth, answers).result()
    # a: v is right, w is wrong, one of two videos found: 1/2. b: w, v, both right: 1.
    np.testing.assert_allclose(got.average_precision, [0.5, 1.0])
    assert got.mean_average_precision == 0.75
    assert got.hit == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 2 / 3})
    assert got.average_hit == pytest.approx({1: 0.5 / 3, 2: 1.5 / 3, 3: 2 / 3})
    assert (got.counts.num_missing_videos, got.counts.num_duplicates) == (1, 1)


def test_untrimmed_classification_cut_by_video_gives_the_identical_number() -> None:
    random = np.random.default_rng(0)
    names = [f"v{n}" for n in range(30)]
    truth = videos(*[(name, f"c{random.integers(0, 4)}", 1.0) for name in names])
    answers = videos(*[(name, f"c{c}", float(random.integers(0, 5))) for name in names for c in range(4)])
    whole, merged = VideoClassification().update(truth, answers).result(), VideoClassification()
    for part in (names[1::2], names[::2]):
        merged = merged.merge(VideoClassification().update(truth.of_videos(part), answers.of_videos(part)))
    got = merged.result()
    assert got.average_precision.tobytes() == whole.average_precision.tobytes()
    assert (got.hit, got.average_hit) == (whole.hit, whole.average_hit)


def test_a_blocked_video_leaves_both_sides_of_untrimmed_classification() -> None:
    truth, answers = videos(("v", "a", 1), ("w", "a", 1)), videos(("v", "a", 1), ("w", "b", 1))
    got = VideoClassification((1,), frozenset({"w"})).update(truth, answers).result()
    assert (got.mean_average_precision, got.hit[1]) == (1.0, 1.0)


def test_equally_scored_classes_of_a_video_rank_by_name_however_listed() -> None:
    for names in (("a", "b"), ("b", "a")):
        answers = videos(*[("v", name, 0.5) for name in names])
        for label, expected in (("a", 1.0), ("b", 0.0)):
            assert VideoClassification((1,)).update(videos(("v", label, 1)), answers).result().hit[1] == expected


def test_predictions_of_an_unknown_video_do_not_enter_another() -> None:
    answers = videos(("unknown", "a", 0.9), ("v", "b", 0.8), ("v", "a", 0.7))
    got = VideoClassification((1, 2)).update(videos(("v", "a", 1)), answers).result()
    assert got.hit == {1: 0.0, 2: 1.0}
    assert VideoClassification((1,)).update(videos(("v", "b", 1)), answers).result().hit == {1: 1.0}


def test_a_listed_video_without_a_class_is_not_annotated() -> None:
    truth = segments_from_columns(["v"], [0], [1], ["a"], video_ids=["v", "empty"])
    assert VideoClassification((1,)).update(truth, videos(("v", "a", 1))).result().hit == {1: 1.0}


def test_classes_found_in_one_video_do_not_count_in_another() -> None:
    truth, answers = videos(("v", "b", 1), ("w", "a", 1)), videos(("v", "a", 1), ("w", "b", 1))
    assert VideoClassification((1,)).update(truth, answers).result().hit == {1: 0.0}
