"""Baselines of temporal detection: what one scores without looking at a video, to read every mAP against.

* chance: in each video, segments whose start and stop are two uniform numbers, with a class and a score drawn
  uniformly; per video, from the seed and the video's id, so that a cut of the work changes nothing.
* blind: every video gets the same detections: for each class, the share of the video that covers most of its training
  annotations at tIoU 0.5, scored by the class's share of the annotations times what the span covers.

Source: own; the fixed spans are those of `moments_baselines`.
"""

import zlib
from collections.abc import Mapping

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection import DetectionMap, DetectionScore
from clipmill.pipelines.evaluation.metrics.moments_baselines import normalised, span_grid, span_scores
from clipmill.schemas.segments import Segments


def chance_detections(
    ground_truth: Segments, durations: Mapping[str, float], per_video: int, seed: int = 0
) -> Segments:
    """Returns `per_video` random detections for each video that has a duration.

    Args:
        ground_truth: gives the videos and the classes.
        durations: video id to seconds.
    """
    known = [code for code, name in enumerate(ground_truth.video_ids) if name in durations]
    columns = np.zeros((4, len(known), per_video))
    for row, code in enumerate(known):
        name = ground_truth.video_ids[code]
        columns[:, row] = np.random.default_rng([seed, zlib.crc32(name.encode())]).random((4, per_video))
        columns[:2, row] *= durations[name]
    first, second, label, score = columns.reshape(4, -1)
    num_labels = len(ground_truth.label_names)
    return Segments(
        ground_truth.video_ids,
        ground_truth.label_names,
        np.repeat(np.array(known, np.int64), per_video),
        (label * num_labels).astype(np.int64),
        np.minimum(first, second),
        np.maximum(first, second),
        score,
    )


def blind_detections(
    training: Segments,
    training_durations: Mapping[str, float],
    video_ids: tuple[str, ...],
    durations: Mapping[str, float],
    num_steps: int = 20,
) -> Segments:
    """Returns one detection per class for each of `video_ids` that has a duration, at the same share of every video.

    Args:
        training: annotations that the spans and scores are taken from.
        num_steps: ours: spans start and stop at multiples of 1 / num_steps of the video.
    """
    grid = span_grid(num_steps)
    seconds = np.array([training_durations.get(name, np.nan) for name in training.video_ids])
    num_labels = len(training.label_names)
    span, weight = np.zeros((num_labels, 2)), np.zeros(num_labels)
    for label in range(num_labels):
        own = training.take(training.label == label)
        start, stop = normalised(own, seconds)
        if not len(start):
            continue
        share, mean = span_scores(grid, start, stop, np.array([0.5]))
        # Where no span reaches the threshold more often, the one that overlaps more.
        best = int(np.lexsort((mean, share[:, 0]))[-1])
        span[label], weight[label] = grid[best], share[best, 0] * len(own) / len(training)
    known = np.array([code for code, name in enumerate(video_ids) if name in durations], np.int64)
    length = np.repeat([durations[video_ids[code]] for code in known.tolist()], num_labels)
    every = np.tile(np.arange(num_labels), len(known))
    return Segments(
        video_ids,
        training.label_names,
        np.repeat(known, num_labels),
        every,
        span[every, 0] * length,
        span[every, 1] * length,
        weight[every],
    )


def detection_baselines(
    ground_truth: Segments,
    durations: Mapping[str, float],
    state: DetectionMap,
    training: Segments | None = None,
    training_durations: Mapping[str, float] | None = None,
    per_video: int = 100,
    seed: int = 0,
) -> dict[str, DetectionScore]:
    """Returns the scores ``chance`` and ``blind`` under the settings of `state`.

    Args:
        training: annotations for the blind baseline; None: the scored ones, which makes it an upper bound.
        per_video: random detections per video.
    """
    if training is None or training_durations is None:
        training, training_durations = ground_truth, durations
    answers = {
        "chance": chance_detections(ground_truth, durations, per_video, seed),
        "blind": blind_detections(training, training_durations, ground_truth.video_ids, durations),
    }
    empty = DetectionMap(state.thresholds, state.blocked, state.drop_duplicates)
    return {name: empty.update(ground_truth, answer).result() for name, answer in answers.items()}
