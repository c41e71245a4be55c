"""Non-maximum suppression of segments, hard and soft, over all videos and classes at once.

Hard: within a group (a video and class), the best segment is kept and all that overlap it with ``tIoU > threshold`` go;
then the best of the rest is kept, and so on. Equality survives. Source: P. Felzenszwalb's nms as used by S-CNN and
R-C3D.
Soft: instead of going, they lose score and the next best is taken by what scores are then::

    gaussian:  score x exp(-tIoU^2 / sigma)                 linear:  score x (1 - tIoU) where tIoU > threshold

Source: N. Bodla et al., Soft-NMS, ICCV 2017 (BSN and its followers use the gaussian form on segments).
Ties: of equal scores the first listed is taken first; ``ties="last"`` takes the last, as an ascending stable sort read
from its end does (S-CNN).
"""

from typing import Literal

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection_matching import tiou
from clipmill.schemas.arrays import Floats, Ints
from clipmill.schemas.segments import Segments


def segment_groups(segments: Segments) -> Ints:
    """Returns the group of each segment, ``int64[N]``: equal for equal video and class."""
    return segments.video * max(len(segments.label_names), 1) + segments.label


def nms(segments: Segments, threshold: float, ties: Literal["first", "last"] = "first") -> Ints:
    """Returns the positions of the segments that are kept, by group, then in the order in which they were picked.

    Args:
        threshold: the largest tIoU with a kept segment that does no harm.
        ties: which of equal scores comes first.
    """
    group = segment_groups(segments)
    order = _by_group(group, segments.score, ties)
    picked: list[Ints] = []
    while len(order):
        of = group[order]
        new = np.flatnonzero(np.r_[True, of[1:] != of[:-1]])
        picked.append(order[new])
        best = np.repeat(order[new], np.diff(np.r_[new, len(order)]))
        overlap = tiou(
            segments.start_seconds[best],
            segments.stop_seconds[best],
            segments.start_seconds[order],
            segments.stop_seconds[order],
        )
        stays = overlap <= threshold
        stays[new] = False
        order = order[stays]
    return _in_order_of_picking(picked, group)


def soft_nms(
    segments: Segments,
    sigma: float | None = None,
    threshold: float = 0.0,
    max_per_group: int | None = None,
    min_score: float = 0.0,
) -> tuple[Ints, Floats]:
    """Returns the segments' positions, by group, then in the order of picking, and their new scores.

    Args:
        sigma: width of the gaussian form; None: the linear form.
        threshold: tIoU up to which nothing is lost (linear form; gaussian: 0 follows the paper).
        max_per_group: stop after this many of each video and class.
        min_score: stop where no better score is left.
    """
    group = segment_groups(segments)
    score = segments.score.copy()
    order = _by_group(group, score, "first")
    picked: list[Ints] = []
    while len(order) and (max_per_group is None or len(picked) < max_per_group):
        # Scores changed, the order within a group with them; a stable sort keeps the first listed of equals first.
        order = order[np.lexsort((order, -score[order], group[order]))]
        of = group[order]
        new = np.flatnonzero(np.r_[True, of[1:] != of[:-1]])
        size = np.diff(np.r_[new, len(order)])
        alive = score[order[new]] > min_score
        picked.append(order[new][alive])
        best = np.repeat(order[new], size)
        overlap = tiou(
            segments.start_seconds[best],
            segments.stop_seconds[best],
            segments.start_seconds[order],
            segments.stop_seconds[order],
        )
        loss = 1 - overlap if sigma is None else np.exp(-(overlap**2) / sigma)
        rest = np.repeat(alive, size)
        rest[new] = False
        score[order] *= np.where(rest & (overlap > threshold), loss, 1.0)
        order = order[rest]
    rows = _in_order_of_picking(picked, group)
    return rows, score[rows]


def _by_group(group: Ints, score: Floats, ties: Literal["first", "last"]) -> Ints:
    listed = np.arange(len(group))
    return np.lexsort((listed if ties == "first" else -listed, -score, group))


def _in_order_of_picking(picked: list[Ints], group: Ints) -> Ints:
    rows = np.concatenate([np.zeros(0, np.int64), *picked])
    return rows[np.argsort(group[rows], kind="stable")]
