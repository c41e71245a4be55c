"""Which decoder serves a request, and what that holds in memory: known before anything is decoded."""

import numpy as np

from clipmill.pipelines.decode import memory_limit
from clipmill.pipelines.decode.scan import Timeline
from clipmill.schemas.arrays import Ints

MIN_SEEK_GAP = 4
"""A seek that passes over fewer frames than this costs more than decoding them (ours, measured on 240p H.264)."""
DECORD_SHARE = 0.5
"""decord walks the whole video; where seeking passes over more than the rest of it, PyAV seeks (ours)."""
SPARSE_SHARE = 0.25
"""Where fewer of the frames are wanted than this, PyAV skips what nothing depends on, which decord cannot (ours)."""
DECORD_AHEAD_BYTES = 1 << 30
"""decord decodes ahead of its consumer without bound: videos whose RGB frames exceed this, or a quarter of the memory
the child may have, go to PyAV (ours)."""


def seek_plan(timeline: Timeline, wanted: Ints) -> tuple[dict[int, int], int]:
    """Returns, for wanted frames that are worth a seek, the key frame to seek to, and how many frames get decoded."""
    if timeline.counted or timeline.num_parts > 1 or not len(timeline.key_frames) or not len(wanted):
        return {}, int(wanted[-1]) + 1 if len(wanted) else 0
    position, num_decoded, seeks = 0, 0, {}
    nearest = np.searchsorted(timeline.key_frames, wanted, side="right") - 1
    for frame, index in zip(wanted, nearest, strict=True):
        key = int(timeline.key_frames[index]) if index >= 0 else 0
        if key - position >= MIN_SEEK_GAP:
            seeks[int(frame)] = key
            position = key
        num_decoded += int(frame) + 1 - position
        position = int(frame) + 1
    return seeks, num_decoded


def why_not_decord(asked: str, timeline: Timeline, wanted: Ints, memory_bytes: int) -> str | None:
    """Returns why decord does not serve a request for the frames `wanted`; None where it does, or PyAV was asked for.

    Args:
        asked: ``decode.decoder``.
        memory_bytes: ceiling of the child's address space.
    """
    if asked != "auto":
        return None
    if timeline.decord_refusal is not None:
        return timeline.decord_refusal
    ahead_bytes = min(DECORD_AHEAD_BYTES, memory_limit.allowed_bytes(memory_bytes) // 4)
    if timeline.num_frames * timeline.frame_bytes > ahead_bytes:
        return f"more than {ahead_bytes >> 20} MiB of frames, which decord decodes ahead without bound"
    if len(wanted) >= DECORD_SHARE * timeline.num_frames:
        # However it is sought, as many are decoded.
        return None
    sparse = len(wanted) < SPARSE_SHARE * timeline.num_frames
    if sparse or seek_plan(timeline, wanted)[1] < DECORD_SHARE * timeline.num_frames:
        return f"sparse: {len(wanted)} of {timeline.num_frames} frames"
    return None


def bytes_ahead(asked: str, timeline: Timeline, wanted: Ints, memory_bytes: int) -> int:
    """Returns how many bytes of frames a child may hold that its consumer has not taken yet, beside the ring.

    decord decodes a whole video ahead; PyAV what is asked for.
    """
    if asked == "pyav" or why_not_decord(asked, timeline, wanted, memory_bytes) is not None:
        return 0
    return timeline.num_frames * timeline.frame_bytes
