"""Segments on the time axis: anchors, coding, overlap, NMS. Plain numpy, as R-C3D defines them.

Within a buffer a segment is ``(start, end)`` in sampled frames, *both inside*: its length is ``end - start + 1``. That
convention is R-C3D's; seconds and half-open ranges begin where a segment leaves the buffer.
"""

from collections.abc import Sequence

import numpy as np

from clipmill.extractors.rc3d.releases import FEATURE_STRIDE_FRAMES, ProposalFilter
from clipmill.schemas.arrays import Floats, Ints

MAX_LOG_LENGTH = 80.0


def anchors(scales: Sequence[float], num_cells: int) -> Floats:
    """Returns ``[num_cells * A, 2]``: the anchors of each cell one after another, scales fastest.

    The base anchor covers frames 0 to 7, centre 3.5; scale s has length 8 s around the same centre; the next cell's lie
    8 frames later.
    """
    centre = (FEATURE_STRIDE_FRAMES - 1) / 2
    half = (FEATURE_STRIDE_FRAMES * np.asarray(scales, dtype=np.float64) - 1) / 2
    base = np.stack([centre - half, centre + half], axis=1)
    shifts = np.arange(num_cells, dtype=np.float64) * FEATURE_STRIDE_FRAMES
    return np.asarray((shifts[:, None, None] + base[None]).reshape(-1, 2))


def lengths(segments: Floats) -> Floats:
    """Returns ``end - start + 1``."""
    return np.asarray(segments[..., 1] - segments[..., 0] + 1.0)


def encode(segments: Floats, truth: Floats) -> Floats:
    """Returns offsets ``[..., 2]`` from `segments` to `truth`: shift of the centre in lengths, log ratio of lengths."""
    length, length_truth = lengths(segments), lengths(truth)
    centre, centre_truth = segments[..., 0] + 0.5 * length, truth[..., 0] + 0.5 * length_truth
    return np.stack([(centre_truth - centre) / length, np.log(length_truth / length)], axis=-1)


def decode(segments: Floats, offsets: Floats, buffer_frames: int) -> Floats:
    """Returns `segments` moved by `offsets` and clipped to ``[0, buffer_frames - 1]``.

    As published, the end is ``centre + length / 2`` without minus one: decoding what was encoded ends a frame late.
    """
    length = lengths(segments)
    centre = segments[..., 0] + 0.5 * length + offsets[..., 0] * length
    # Beyond this a segment covers any buffer; an untrained network's offsets would overflow.
    half = 0.5 * length * np.exp(np.minimum(offsets[..., 1], MAX_LOG_LENGTH))
    return np.clip(np.stack([centre - half, centre + half], axis=-1), 0.0, buffer_frames - 1.0)


def overlaps(first: Floats, second: Floats) -> Floats:
    """Returns intersection over union ``[n, m]``, with R-C3D's lengths of ``end - start + 1``."""
    start = np.maximum(first[:, None, 0], second[None, :, 0])
    end = np.minimum(first[:, None, 1], second[None, :, 1])
    common = np.maximum(end - start + 1.0, 0.0)
    return np.asarray(common / (lengths(first)[:, None] + lengths(second)[None, :] - common))


def nms(
    segments: Floats,
    threshold: float,
    inclusive_lengths: bool = True,
    suppress_equal: bool = False,
    most: int | None = None,
) -> Ints:
    """Returns the indices that survive greedy suppression, in order.

    Args:
        segments: ``[n, 2]``, best first.
        threshold: one that overlaps a kept one by more than this is dropped.
        inclusive_lengths: lengths are ``end - start + 1`` (inside a buffer) or ``end - start`` (in seconds).
        suppress_equal: drop also where the overlap equals the threshold (the PyTorch release's CPU variant).
        most: stop after so many.
    """
    one = 1.0 if inclusive_lengths else 0.0
    length = segments[:, 1] - segments[:, 0] + one
    remaining = np.arange(len(segments), dtype=np.int64)
    kept: list[int] = []
    while len(remaining) and (most is None or len(kept) < most):
        best, rest = int(remaining[0]), remaining[1:]
        kept.append(best)
        common = np.minimum(segments[rest, 1], segments[best, 1]) - np.maximum(segments[rest, 0], segments[best, 0])
        common = np.maximum(common + one, 0.0)
        union = length[rest] + length[best] - common
        # Segments of no length (plain lengths only) overlap nothing.
        overlap = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
        remaining = rest[overlap < threshold] if suppress_equal else rest[overlap <= threshold]
    return np.array(kept, dtype=np.int64)


def propose(
    scores: Floats, offsets: Floats, scales: Sequence[float], rule: ProposalFilter, suppress_equal: bool = False
) -> tuple[Floats, Floats]:
    """Returns the proposals of one buffer, best first: ``[n, 2]`` in frames, and their scores ``[n]``.

    Only real proposals come back; the PyTorch release pads its list with zero-length regions, which this does not need.

    Args:
        scores: ``[num_cells * A]``, foreground probability, in the order of `anchors`.
        offsets: ``[num_cells * A, 2]``.
    """
    num_cells = len(scores) // len(scales)
    segments = decode(anchors(scales, num_cells), offsets, num_cells * FEATURE_STRIDE_FRAMES)
    long_enough = np.flatnonzero(lengths(segments) >= rule.min_length_frames)
    # Stable, so that equal scores keep the order of anchors and results do not depend on a sort's whims.
    order = long_enough[np.argsort(-scores[long_enough], kind="stable")][: rule.num_before]
    kept = order[nms(segments[order], rule.nms, suppress_equal=suppress_equal, most=rule.num_after)]
    return segments[kept], scores[kept]
