"""Which prediction found which ground truth, under the protocol that a set of detections was scored by."""

from clipmill.pipelines.evaluation.metrics.detection_hits import Hits, hits_at
from clipmill.pipelines.evaluation.tasks.detection.score import DetectionEvaluation, prepared


def hits_of(evaluation: DetectionEvaluation, threshold: float) -> Hits:
    """Returns the matching at one of the protocol's thresholds, or at any other."""
    protocol, truth = evaluation.protocol, evaluation.truth
    return hits_at(
        truth.segments,
        prepared(evaluation.listed, protocol, threshold),
        threshold,
        "thumos14" if protocol.protocol == "thumos14" else "activitynet",
        protocol.overlap == ">",
        protocol.interpolated,
        truth.ambiguous,
        protocol.drop_duplicates,
    )
