"""Mean absolute error, and the share of videos that are off by one at most.

    mae = mean |predicted - counted| / counted        obo = share of videos with |predicted - counted| <= 1

Videos without a prediction count as predicted 0. Source: Dwibedi et al., Counting Out Time, CVPR 2020.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.evaluation.tasks.result import RunScore, Units, mean_intervals
from clipmill.schemas.config_evaluate import PredictionTaskConfig

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CountingEvaluation:
    """One set of counts, scored: video id to count, annotated and predicted."""

    truth: Mapping[str, float]
    predicted: Mapping[str, float]
    run: RunScore


def evaluate_counts(
    name: str,
    truth: Mapping[str, float],
    predicted: Mapping[str, float],
    config: PredictionTaskConfig,
    notes: tuple[str, ...] = (),
) -> CountingEvaluation:
    """Returns the score of one set of counts."""
    videos = tuple(sorted(truth))
    counted = np.array([truth[video] for video in videos])
    values = errors(np.array([predicted.get(video, 0.0) for video in videos]), counted)
    metrics = {metric: float(column.mean()) for metric, column in values.items()}
    always = errors(np.full(len(videos), np.median(counted)), counted)
    typical = {metric: float(column.mean()) for metric, column in always.items()}
    run = RunScore(
        name=name,
        headline="obo",
        shown=tuple(metrics),
        metrics=metrics,
        baselines={"median": typical} if config.baselines else {},
        intervals=mean_intervals(values, config.seed, config.resamples, config.confidence),
        counts={"num_videos": len(videos), "num_missing": sum(video not in predicted for video in videos)},
        line=f"off by one at most in {100 * metrics['obo']:.1f} % of {len(videos)} videos",
        units=Units("video", videos, values),
        notes=notes,
    )
    return CountingEvaluation(truth, predicted, run)


def errors(predicted: Floats, counted: Floats) -> dict[str, Floats]:
    """Returns both measures per video, ``float64[V]`` each."""
    gap = np.abs(predicted - counted)
    return {"obo": (gap <= 1).astype(np.float64), "mae": gap / np.maximum(counted, 1)}
