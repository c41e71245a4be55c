"""Which frame of a video each tick of a constant rate shows, by three rules that are in use.

All of them are functions of presentation times alone, counted from the first frame. ffmpeg counts from the earliest
stream of a file: the same where the video is the only stream or begins first.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

TICK_TOLERANCE_SECONDS = 1e-6
"""A frame whose presentation time is this little after a tick counts as on display at it (ours: float rounding)."""
HALF_TOLERANCE_TICKS = 1e-9
"""A time this little below the middle between two ticks counts as the middle (ours: times are floats; ffmpeg's are
fractions, whose distance from a middle is a thousand times this in any container)."""

Shown = Callable[[npt.NDArray[np.float64], float, float], npt.NDArray[np.int64]]


def nearest(pts_seconds: npt.NDArray[np.float64], stop_seconds: float, fps: float) -> npt.NDArray[np.int64]:
    """Returns ``int64[K]``, the frame at each tick, as ffmpeg's ``fps`` filter has it (``round=near``).

    Each frame's time, and the end of the last one, is rounded to the nearest tick, halves up; a tick shows the last
    frame that was rounded to it or to an earlier one. K is zero for a video of less than half a tick.

    Args:
        pts_seconds: ``float64[N]``, increasing presentation times.
        stop_seconds: end of display of the last frame.
        fps: ticks a second.
    """
    first = pts_seconds[0]
    rounded = _half_up((pts_seconds - first) * fps)
    num_ticks = int(_half_up(np.array([(stop_seconds - first) * fps]))[0])
    return np.searchsorted(rounded, np.arange(num_ticks), side="right") - 1


def ffmpeg_r(pts_seconds: npt.NDArray[np.float64], stop_seconds: float, fps: float) -> npt.NDArray[np.int64]:
    """Returns ``int64[K]``, the frames that ffmpeg writes with ``-r`` before an output file: its constant-rate mode.

    Not the ``fps`` filter: a frame is dropped only when the output is more than 1.1 ticks ahead of it, and repeated
    when the output has fallen more than 1.1 ticks behind; at the end, the last frame is repeated as often as the
    middle one of the last three times says. Where frames are dropped the output begins with the first two frames of the
    video, stays up to two ticks ahead, and has two frames more. Re-read from ``video_sync_process`` of ffmpeg
    (fftools), with its single-precision roundings.
    """
    times = ((pts_seconds - pts_seconds[0]) * fps).tolist()
    durations = (np.diff(np.append(pts_seconds, stop_seconds)) * fps).tolist()
    frames: list[int] = []
    repeats_before = (0, 0, 0)
    for frame, (time, duration) in enumerate(zip(times, durations, strict=True)):
        behind = time - len(frames)
        end = behind + duration
        if behind < 0 < end:
            behind = 0.0
        num, num_before = 1, 0
        if end < -1.1:
            num = 0
        elif end > 1.1:
            num = int(np.rint(np.float32(end)))
            if behind > 1.1:
                num_before = int(np.rint(np.float32(behind - 0.6)))
        repeats_before = (num_before, *repeats_before[:2])
        frames += [max(frame - 1, 0) if position < num_before else frame for position in range(num)]
    frames += [len(times) - 1] * sorted(repeats_before)[1]
    return np.array(frames, dtype=np.int64)


BY_RULE: Mapping[str, Shown] = {"nearest": nearest, "ffmpeg_r": ffmpeg_r}
"""The rules that number a whole video's ticks from its first frame, whatever clip is wanted of it."""


def _half_up(ticks: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    tolerance = HALF_TOLERANCE_TICKS + 4 * np.finfo(np.float64).eps * np.abs(ticks)
    return np.floor(ticks + 0.5 + tolerance).astype(np.int64)
