"""A metric from outside: how well the best prediction of any class covers each annotated segment.

best_overlap = mean over videos of the mean over its annotations of the largest tIoU with any prediction there
"""

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection_matching import tiou
from clipmill.pipelines.evaluation.tasks.detection.score import DetectionEvaluation
from clipmill.pipelines.evaluation.tasks.measures import Measure, Measured
from clipmill.pipelines.evaluation.tasks.result import RunScore, Units
from clipmill.schemas.config_detection import DetectionConfig


def best_overlap(evaluation: DetectionEvaluation, run: RunScore, config: DetectionConfig) -> Measured:
    """Returns ``best_overlap`` with one value per annotated video, so that it has an interval and a paired test."""
    truth, predictions = evaluation.truth.segments, evaluation.predictions
    names = [truth.video_ids[code] for code in np.unique(truth.video).tolist()]
    values = []
    for name in sorted(names):
        own, answers = truth.of_videos([name]), predictions.of_videos([name])
        overlaps = tiou(
            own.start_seconds[:, None], own.stop_seconds[:, None], answers.start_seconds, answers.stop_seconds
        )
        values.append(float(overlaps.max(axis=1, initial=0.0).mean()))
    column = np.array(values)
    return Measured(
        {"best_overlap": float(column.mean())}, Units("video", tuple(sorted(names)), {"best_overlap": column})
    )


MEASURE = Measure(
    "detection",
    "best_overlap",
    "largest tIoU of each annotation with any prediction",
    best_overlap,
    {"best_overlap": "best tIoU"},
)
