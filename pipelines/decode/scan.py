"""The packet scan: presentation times of every frame, without decoding one."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.decode.inspection import DEFAULT_LIMITS, InspectionLimits, inspect
from clipmill.schemas.errors import VideoError


def _none() -> npt.NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """When each frame of a video is shown, as its packets say.

    Attributes:
        pts_seconds: ``float64[N]``, sorted presentation times of the frames that will be shown (what an edit list cuts
            away is left out).
        stop_seconds: end of display of the last frame.
        key_frames: ``int64[K]``, indices of frames decoding can start at; empty where they are not known.
        fresh_frames: ``int64[R]``, indices of key frames before and after which the video decodes to the same frames
            whether it is decoded as a whole or not; empty where that is not certain.
        counted: the container has no presentation times (AVI): frame i is the i-th the decoder gives.
        decord_refusal: why decord must not decode this video; None where it may.
        frame_bytes: size of one decoded RGB frame; 0 where it is not known.
        stream_index: number of the stream in the file, as ffprobe shows it; None: the one that stands out.
        truncated: what shows that the video breaks off before its end, in words; None where nothing does.
        num_packets: packets of the stream that are given to a decoder, from the start of the file; None: all. What a
            truncated file has of one more is no frame.
        num_repeated_times: frames that share their time with the one before.
        part_packets: ``int64[P]``, number of the packet each part of a recording that was joined begins with. One
            part, and so ``[0]``, where the clock never jumps; empty where it is not known.
        part_offsets: ``int64[P]``, ticks that lay a part behind the one before it, to be added to its packets' times.
    """

    pts_seconds: npt.NDArray[np.float64]
    stop_seconds: float
    key_frames: npt.NDArray[np.int64] = field(default_factory=_none)
    counted: bool = False
    decord_refusal: str | None = None
    frame_bytes: int = 0
    stream_index: int | None = None
    truncated: str | None = None
    num_packets: int | None = None
    num_repeated_times: int = 0
    part_packets: npt.NDArray[np.int64] = field(default_factory=_none)
    part_offsets: npt.NDArray[np.int64] = field(default_factory=_none)
    fresh_frames: npt.NDArray[np.int64] = field(default_factory=_none)

    @property
    def num_parts(self) -> int:
        """How many recordings were joined end to end: one where the clock never jumps."""
        return max(len(self.part_packets), 1)

    @property
    def num_frames(self) -> int:
        """Number of frames that will be shown."""
        return len(self.pts_seconds)


def scan(path: str, stream: str | None = None, limits: InspectionLimits = DEFAULT_LIMITS) -> Timeline:
    """Returns the timeline of the video at `path`: packets only, no decoding, in a child process with a deadline.

    Args:
        stream: which video stream (see `streams`); None: the one that stands out.

    Raises:
        VideoError: stage ``scan``; the reasons are those of `containers` and ``deadline``, ``decoder_crashed``,
            ``out_of_memory``.
        MachineFaultError: no child could be started.
    """
    answer = inspect("scan", path, "scan", {"stream": stream}, limits)
    times = answer.arrays["pts_seconds"].copy()
    if not len(times):
        raise VideoError("scan", "no_frames", f"video {path}: expected at least one frame, got none; re-encode it")
    return Timeline(
        pts_seconds=times,
        stop_seconds=float(answer.data["stop_seconds"]),
        key_frames=answer.arrays["key_frames"].copy(),
        counted=bool(answer.data["counted"]),
        decord_refusal=answer.data["decord_refusal"],
        frame_bytes=int(answer.data["frame_bytes"]),
        stream_index=answer.data["stream_index"],
        truncated=answer.data["truncated"],
        num_packets=answer.data["num_packets"],
        num_repeated_times=int(answer.data["num_repeated_times"]),
        part_packets=answer.arrays["part_packets"].copy(),
        part_offsets=answer.arrays["part_offsets"].copy(),
        fresh_frames=answer.arrays["fresh_frames"].copy(),
    )
