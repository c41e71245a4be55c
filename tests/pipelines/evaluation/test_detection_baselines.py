"""The baselines of detection know nothing of the videos, and are reproducible."""

import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.detection import DetectionMap
from clipmill.pipelines.evaluation.metrics.detection_baselines import (
    blind_detections,
    chance_detections,
    detection_baselines,
)
from clipmill.schemas.segments import Segments, segments_from_columns


def always_in_the_middle() -> tuple[Segments, dict[str, float]]:
    names = [f"v{n}" for n in range(40)]
    lengths = dict(zip(names, np.linspace(20, 200, 40).tolist(), strict=True))
    start = [0.25 * lengths[name] for name in names]
    stop = [0.75 * lengths[name] for name in names]
    return segments_from_columns(names, start, stop, ["a", "b"] * 20), lengths


def test_blind_baseline_finds_a_dataset_that_needs_no_looking() -> None:
    truth, lengths = always_in_the_middle()
    baselines = detection_baselines(truth, lengths, DetectionMap((0.5, 0.9)))
    # Both classes are predicted in every video at the right place; half of the videos have each.
    np.testing.assert_allclose(baselines["blind"].mean_average_precision, [0.5, 0.5], atol=0.1)
    assert baselines["chance"].average < baselines["blind"].average / 2


def test_chance_does_not_depend_on_the_other_videos() -> None:
    truth, lengths = always_in_the_middle()
    part = truth.of_videos(["v7"])
    alone, among = chance_detections(part, lengths, 5), chance_detections(truth, lengths, 5).of_videos(["v7"])
    assert alone.start_seconds.tolist() == among.start_seconds.tolist()
    assert (alone.stop_seconds <= lengths["v7"]).all()
    assert (alone.start_seconds <= alone.stop_seconds).all()
    assert chance_detections(part, lengths, 5, seed=1).score.tolist() != alone.score.tolist()


def test_videos_without_a_duration_get_no_answer() -> None:
    truth, lengths = always_in_the_middle()
    del lengths["v3"]
    assert 3 not in chance_detections(truth, lengths, 2).video
    assert 3 not in blind_detections(truth, lengths, truth.video_ids, lengths).video


def test_blind_baseline_is_the_same_share_of_every_video() -> None:
    truth, lengths = always_in_the_middle()
    answer = blind_detections(truth, lengths, truth.video_ids, lengths)
    length = np.array([lengths[name] for name in answer.video_ids])[answer.video]
    assert np.ptp(answer.start_seconds / length) == pytest.approx(0.0)
    assert np.ptp(answer.stop_seconds / length) == pytest.approx(0.0)


def test_chance_draws_anew_for_every_video() -> None:
    truth = segments_from_columns(["v", "w"], [0, 0], [5, 5], ["a", "a"])
    drawn = chance_detections(truth, {"v": 10.0, "w": 10.0}, 3)
    assert not set(drawn.start_seconds[:3].tolist()) & set(drawn.start_seconds[3:].tolist())


def test_blind_scores_are_the_share_of_a_class_times_what_its_span_covers() -> None:
    names = ["v", "w", "x", "y"]
    lengths = dict.fromkeys([*names, "z"], 10.0)
    # Of a's three annotations two fit one span and one lies elsewhere; b has one of the four.
    truth = segments_from_columns(names, [0, 0, 9, 0], [5, 5, 10, 10], ["a", "a", "a", "b"])
    answer = blind_detections(truth, lengths, ("z",), lengths)
    np.testing.assert_allclose(answer.score, [2 / 3 * 3 / 4, 1 / 4])
    # Several spans cover as many at tIoU 0.5: the one that overlaps most is taken.
    assert (answer.start_seconds.tolist(), answer.stop_seconds.tolist()) == ([0.0, 0.0], [5.0, 10.0])


def test_baselines_leave_out_blocked_videos() -> None:
    truth, lengths = always_in_the_middle()
    baselines = detection_baselines(truth, lengths, DetectionMap((0.5,), frozenset({"v0"})))
    assert {baseline.counts.num_videos for baseline in baselines.values()} == {39}


def test_chance_draws_both_ends_from_the_whole_video() -> None:
    drawn = chance_detections(segments_from_columns(["v"], [0], [1], ["a"]), {"v": 1000.0}, 400)
    # The smaller and the greater of two uniform numbers have the means 1/3 and 2/3.
    assert drawn.start_seconds.mean() == pytest.approx(1000 / 3, rel=0.15)
    assert drawn.stop_seconds.mean() == pytest.approx(2000 / 3, rel=0.15)
