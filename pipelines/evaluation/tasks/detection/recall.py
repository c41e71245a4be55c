"""Recall of detections: the share of ground truths that any prediction found, whatever its score, per threshold.

    recall@t = found ground truths / ground truths        over all classes together

Matched as the protocol matches for AP: what lies beyond it in mAP is lost by ranking, what is missing here is never
found at all.
"""

import math

from clipmill.pipelines.evaluation.metrics.detection_hits import NOTHING
from clipmill.pipelines.evaluation.tasks.detection.hits import hits_of
from clipmill.pipelines.evaluation.tasks.detection.score import DetectionEvaluation
from clipmill.pipelines.evaluation.tasks.measures import Measure, Measured
from clipmill.pipelines.evaluation.tasks.result import RunScore, threshold_name
from clipmill.schemas.config_detection import DetectionConfig


def recall(evaluation: DetectionEvaluation, run: RunScore, config: DetectionConfig) -> Measured:
    """Returns ``recall@<tIoU>`` for each threshold of the protocol; NaN where there is no ground truth."""
    values = {}
    for threshold in evaluation.protocol.tiou_thresholds:
        found_by = hits_of(evaluation, threshold).found_by
        share = int((found_by != NOTHING).sum()) / len(found_by) if len(found_by) else math.nan
        values[threshold_name("recall", threshold)] = share
    return Measured(values)


MEASURE = Measure("detection", "recall", "share of ground truths that any prediction found", recall)
