"""Scores on halves of the videos are those of the metric on these videos alone, for every task that resamples."""

import numpy as np
import pytest

from clipmill.pipelines.evaluation.metrics.classification_videos import VideoClassification
from clipmill.pipelines.evaluation.metrics.detection import DetectionMap
from clipmill.pipelines.evaluation.metrics.detection_thumos14 import ThumosMap
from clipmill.pipelines.evaluation.metrics.proposals import ProposalRecall
from clipmill.pipelines.evaluation.tasks.classification.score import evaluate_video_classes
from clipmill.pipelines.evaluation.tasks.detection.score import (
    DetectionProtocol,
    evaluate_detection,
    ordered_truth,
    resampled_map,
)
from clipmill.pipelines.evaluation.tasks.proposals.score import ProposalsProtocol, evaluate_proposals, proposals_truth
from clipmill.pipelines.evaluation.tasks.result import half_samples
from clipmill.pipelines.evaluation.tasks.segment_truth import SegmentTruth, in_order
from clipmill.schemas.config_detection import DetectionConfig, ProposalsConfig
from clipmill.schemas.segments import Segments, segments_from_columns

NAMES = [f"v{number:02d}" for number in range(24)]
FILES = {"ground_truth": "truth", "predictions": "answers"}


def drawn(seed: int, per_video: int, extra: tuple[str, ...] = ()) -> Segments:
    """Random segments of every video, with ties of score; `extra` videos have some too."""
    rng = np.random.default_rng(seed)
    videos = [name for name in (*NAMES, *extra) for _ in range(per_video)]
    start = rng.integers(0, 20, len(videos)).astype(float)
    labels = [f"class{code}" for code in rng.integers(0, 4, len(videos))]
    stop = start + rng.integers(5, 15, len(videos))
    return segments_from_columns(videos, start, stop, labels, rng.integers(0, 20, len(videos)) / 20)


TRUTH, ANSWERS = drawn(0, 2), drawn(1, 12, extra=("unknown",))


def halves(num_resamples: int = 6) -> list[list[str]]:
    return [[name for name, here in zip(NAMES, row, strict=True) if here] for row in half_samples(24, num_resamples, 3)]


@pytest.mark.parametrize("protocol", ["activitynet", "thumos14"])
def test_map_on_a_half_is_that_of_the_metric_on_these_videos(protocol: str) -> None:
    settings = {"protocol": protocol, "tiou_thresholds": [0.3, 0.6], "ties": "time", "task": "detection"}
    resolved = DetectionProtocol.of(DetectionConfig.model_validate(FILES | settings))
    truth = ordered_truth(SegmentTruth(TRUTH, None, {}), resolved)
    found = evaluate_detection("x", truth, ANSWERS, resolved, resamples=6, seed=3).run.resampled
    for row, names in enumerate(halves()):
        some, answers = in_order(TRUTH.of_videos(names)), in_order(ANSWERS.of_videos([*names, "unknown"]))
        metric = DetectionMap((0.3, 0.6)) if protocol == "activitynet" else ThumosMap((0.3, 0.6))
        expected = metric.update(some, answers).result()
        assert found["map@0.3"][row] == pytest.approx(float(expected.mean_average_precision[0]), abs=1e-12)
        assert found["map@0.6"][row] == pytest.approx(float(expected.mean_average_precision[1]), abs=1e-12)
        assert found["average"][row] == pytest.approx(expected.average, abs=1e-12)


def test_map_on_all_videos_is_the_score() -> None:
    state = DetectionMap((0.5,)).update(TRUTH, ANSWERS)
    everything = np.ones((1, len(TRUTH.video_ids)), np.bool_)
    got = resampled_map(((state.blocks[0], 0),), TRUTH, True, everything)
    assert got[0, 0] == pytest.approx(state.result().average, abs=1e-15)
    assert got[0, 0] > 0


def test_a_class_that_a_choice_left_without_ground_truth_has_no_part_in_its_mean() -> None:
    truth = segments_from_columns(["a", "b"], [0, 0], [10, 10], ["run", "jump"])
    answers = segments_from_columns(["a"], [0], [10], ["run"], [1.0])
    state = DetectionMap((0.5,)).update(truth, answers)
    chosen = np.array([[True, True], [True, False], [False, False]])
    got = resampled_map(((state.blocks[0], 0),), truth, True, chosen)[:, 0]
    assert got[:2].tolist() == [0.5, 1.0]
    assert np.isnan(got[2])


def test_proposals_on_a_half_are_those_of_the_metric_on_these_videos() -> None:
    config = ProposalsConfig.model_validate(
        FILES | {"task": "proposals", "tiou_thresholds": [0.5], "max_avg_num_proposals": 8}
    )
    protocol = ProposalsProtocol.of(config)
    truth = proposals_truth(SegmentTruth(TRUTH, None, {}), protocol)
    found = evaluate_proposals("x", truth, ANSWERS, protocol, resamples=6, seed=3).run.resampled
    for row, names in enumerate(halves()):
        some, answers = TRUTH.of_videos(names), ANSWERS.of_videos([*names, "unknown"])
        expected = ProposalRecall((0.5,), 8.0).update(some, answers).result()
        assert found["area"][row] == pytest.approx(expected.area, abs=1e-12)
        assert found["recall@0.5"][row] == pytest.approx(float(expected.recall[0, -1]), abs=1e-12)


def test_video_classes_on_a_half_are_those_of_the_metric_on_these_videos() -> None:
    found = evaluate_video_classes("x", TRUTH, ANSWERS, baselines=False, resamples=6, seed=3).run.resampled["map"]
    for row, names in enumerate(halves()):
        some, answers = TRUTH.of_videos(names), ANSWERS.of_videos([*names, "unknown"])
        expected = VideoClassification().update(in_order(some), in_order(answers)).result()
        assert found[row] == pytest.approx(expected.mean_average_precision, abs=1e-12)
