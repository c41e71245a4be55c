"""``task: detection``: mAP over tIoU of detected segments."""

from dataclasses import replace
from typing import TYPE_CHECKING

from clipmill.pipelines.evaluation.checks import check_classes, inverted_notes
from clipmill.pipelines.evaluation.inputs import read_blocked, run_names
from clipmill.pipelines.evaluation.tasks.base import Evaluation, Sources, Task
from clipmill.pipelines.evaluation.tasks.detection.inputs import read_segment_predictions, read_segment_truth
from clipmill.pipelines.evaluation.tasks.detection.score import (
    DetectionEvaluation,
    DetectionProtocol,
    detection_baseline_scores,
    evaluate_detection,
    ordered_truth,
)
from clipmill.pipelines.evaluation.tasks.segment_checks import (
    check_not_empty,
    check_training,
    check_videos,
    segments_score,
    truth_notes,
)
from clipmill.schemas.config_detection import DetectionConfig

if TYPE_CHECKING:
    from clipmill.pipelines.evaluation.tasks.page import TaskReport


def evaluate(config: DetectionConfig, sources: Sources) -> Evaluation[DetectionEvaluation]:
    """Returns mAP over tIoU of each set of predictions.

    Raises:
        UsageError: a file is something else, or its ids or classes share nothing with the ground truth's.
    """
    names = run_names(config.predictions)
    protocol = DetectionProtocol.of(config, read_blocked(config.blocked))
    truth = ordered_truth(read_segment_truth(config.ground_truth, config.training, sources), protocol)
    check_not_empty(truth)
    if config.baselines:
        check_training(truth)
    baselines = (
        detection_baseline_scores(truth, protocol, config.chance_per_video, config.seed) if config.baselines else {}
    )
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        predictions = read_segment_predictions(item, config.ground_truth, with_classes=True, sources=sources)
        answered = check_videos(config, truth, predictions, protocol.blocked, name)
        notes = (
            *check_classes(truth.segments, predictions, config.min_coverage),
            *inverted_notes(truth.segments, predictions, swapped=protocol.protocol == "thumos14"),
            *truth_notes(truth, config),
        )
        found = evaluate_detection(
            name, truth, predictions, protocol, baselines, config.resamples, config.confidence, config.seed
        )
        evaluations.append(replace(found, run=answered.told(found.run, notes)))
    score = segments_score(config, protocol.to_plain(), truth, [item.run for item in evaluations])
    return Evaluation(score, tuple(evaluations))


def report(evaluation: Evaluation[DetectionEvaluation], config: DetectionConfig, sources: Sources) -> "TaskReport":
    """Returns what the page shows."""
    from clipmill.pipelines.evaluation.tasks.detection.report import detection_report

    return detection_report(evaluation.score, evaluation.evaluated, seed=config.seed)


TASK = Task("detection", "mAP over tIoU of detected segments", DetectionConfig, evaluate, report)
