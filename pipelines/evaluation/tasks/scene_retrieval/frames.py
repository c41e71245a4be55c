"""``protocol: frames`` of ``task: scene_retrieval``: the video, shot and frame that a query image was taken from."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from clipmill.pipelines.evaluation.tasks.result import RunScore, Units, mean_intervals
from clipmill.pipelines.evaluation.tasks.scene_retrieval.score import SceneEvaluation
from clipmill.schemas.arrays import Floats
from clipmill.schemas.config_scene_retrieval import SceneRetrievalConfig
from clipmill.stores.formats.records import FoundFrame, FoundFrames, ShownFrame, ShownFrames

SAME_FRAME_SECONDS = 1e-6
"""Times of one frame that were computed twice may differ in their last bits."""


def frame_hits(
    truth: Sequence[ShownFrame], found: Sequence[FoundFrame | None], tolerances: Sequence[float]
) -> dict[str, Floats]:
    """Returns, of each query, 1 where what was found first is right, else 0, ``float64[Q]`` by metric.

    ``video@1``: in the query's video; ``shot@1``: a shot of it that holds the query's frame; ``recall@0.5s``: a frame
    of it that begins within so many seconds of the query's.

    Args:
        found: of each query; None: nothing.
    """
    same = [answer is not None and answer.video == own.video for own, answer in zip(truth, found, strict=True)]
    inside, apart = [], []
    for own, answer, is_same in zip(truth, found, same, strict=True):
        start, stop, at = (answer.start_seconds, answer.stop_seconds, answer.seconds) if answer else (0.0, 0.0, 0.0)
        near = SAME_FRAME_SECONDS
        inside.append(is_same and start - near <= own.seconds <= stop + near)
        apart.append(abs(own.seconds - at) if is_same else math.inf)
    hits = {"video@1": np.array(same, np.float64), "shot@1": np.array(inside, np.float64)}
    for most in tolerances:
        hits[f"recall@{most:g}s"] = (np.array(apart) <= most + SAME_FRAME_SECONDS).astype(np.float64)
    return hits


def evaluate_frames(name: str, truth: ShownFrames, found: FoundFrames, config: SceneRetrievalConfig) -> SceneEvaluation:
    """Returns the shares of queries whose video, shot and frame were found; a query without an answer is a miss."""
    queries = tuple(sorted(truth.shown))
    columns = frame_hits(
        [truth.shown[query] for query in queries], [found.found.get(query) for query in queries], config.tolerances
    )
    metrics = {metric: float(values.mean()) for metric, values in columns.items()}
    num_missing = sum(found.found.get(query) is None for query in queries)
    num_others = sum(query not in truth.shown for query in found.found)
    size: Mapping[str, int] = {} if found.index_bytes is None else {"index_bytes": found.index_bytes}
    run = RunScore(
        name=name,
        headline="shot@1",
        shown=tuple(metrics),
        metrics=metrics,
        intervals=mean_intervals(columns, config.seed, config.resamples, config.confidence),
        counts={
            "num_queries": len(queries),
            "num_without_answer": num_missing,
            "num_without_judgement": num_others,
            **size,
        },
        line="; ".join(f"{metric} {value:.4f}" for metric, value in metrics.items())
        + f"; {len(queries)} queries; {num_missing} without an answer",
        units=Units("query", queries, columns),
    )
    return SceneEvaluation(name, truth, {}, run)
