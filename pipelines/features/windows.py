"""Windows from presentation times: which frames go into which forward pass, before a frame is decoded.

All functions are pure: a window is a function of (timeline, clip, sampling, video id).
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.features.placement import Placed, has_own_rule, place
from clipmill.pipelines.features.resampling import BY_RULE, TICK_TOLERANCE_SECONDS
from clipmill.schemas.recipe import ClipRule, Sampling
from clipmill.schemas.records import Clip, Window

TICKS_PER_FRAME = 2000
FEWEST_TICKS = 20_000
"""Ours: more ticks than so many for each frame, and than so many in all, are no sampling but a damaged time scale. A
lecture of one picture a minute has 1,800 at 30 a second."""


def max_ticks(num_frames: int) -> int:
    """Returns how many ticks of a sampling rate, or clips of a rule, `num_frames` frames justify.

    Planning holds it against what headers claim, work against what the packets say.
    """
    return max(num_frames * TICKS_PER_FRAME, FEWEST_TICKS)


def num_ticks(sampling: Sampling, clips: ClipRule, duration_seconds: float) -> float:
    """Returns the larger of how often a video of this length is sampled, and how many clips it is cut into."""
    step = clips.step_seconds or clips.length_seconds if clips.from_ == "windows" else None
    return max(duration_seconds * (sampling.fps or 0.0), duration_seconds / step if step else 0.0)


@dataclass(frozen=True, slots=True)
class ClipWindows:
    """The windows of one clip, with what became of its tail."""

    windows: tuple[Window, ...]
    num_tail_windows_dropped: int = 0
    num_tail_windows_padded: int = 0


@dataclass(frozen=True, slots=True)
class _Sequence:
    """The frames a clip is sampled to: index and the span of time each stands for."""

    frames: npt.NDArray[np.int64]
    start_seconds: npt.NDArray[np.float64]
    stop_seconds: npt.NDArray[np.float64]


def clip_windows(
    pts_seconds: npt.NDArray[np.float64], stop_seconds: float, clip: Clip, sampling: Sampling, video_id: str
) -> ClipWindows:
    """Returns the windows of `clip`.

    Args:
        pts_seconds: ``float64[N]``, presentation time of every frame of the video, increasing.
        stop_seconds: end of display of the video's last frame.
        sampling: with `frames` resolved.

    A clip with 20 frames, ``frames=16, step=8``: one window ``[0, 16)``; its tail (frames 16 to 19) is dropped, or
    with ``tail=repeat`` makes the window 8..19 with frame 19 repeated four times, or with ``overlap`` the window 4..19.
    """
    sequence = _sample(pts_seconds, stop_seconds, clip, sampling)
    num_frames = sampling.frames or 1
    span = (num_frames - 1) * sampling.every + 1
    length = len(sequence.frames)
    if length == 0:
        return ClipWindows(())
    if has_own_rule(sampling):
        placed, num_dropped = place(length, sampling)
        num_padded = sum(item.num_padded > 0 for item in placed)
        return ClipWindows(tuple(_placed(sequence, clip, item) for item in placed), num_dropped, num_padded)
    if sampling.random_frames is not None:
        starts = _draw(max(length - span + 1, 1), sampling.random_frames, sampling.seed, video_id, clip.index)
        dropped = padded = 0
        if length < span:
            if sampling.tail == "drop":
                return ClipWindows((), num_tail_windows_dropped=1)
            padded = len(starts)
    else:
        starts, dropped, padded = _grid(length, span, sampling.step or num_frames, sampling.tail)
    # One list of numbers that all windows share: overlapping windows of a long video would else hold each many times.
    numbers = sequence.frames.tolist()
    reached = min(length, max(starts, default=0) + span)
    windows = tuple(_window(sequence, numbers, clip, start, num_frames, sampling.every, reached) for start in starts)
    return ClipWindows(windows, dropped, padded)


def _sample(pts_seconds: npt.NDArray[np.float64], stop_seconds: float, clip: Clip, sampling: Sampling) -> _Sequence:
    ends = np.append(pts_seconds[1:], stop_seconds)
    if sampling.fps is None:
        start = int(np.searchsorted(pts_seconds, clip.start_seconds - TICK_TOLERANCE_SECONDS, side="left"))
        stop = int(np.searchsorted(pts_seconds, clip.stop_seconds - TICK_TOLERANCE_SECONDS, side="left"))
        return _Sequence(np.arange(start, stop), pts_seconds[start:stop], ends[start:stop])
    if sampling.rounding is not None:
        return _resampled(pts_seconds, stop_seconds, clip, sampling.fps, sampling.rounding)
    first = max(clip.start_seconds, float(pts_seconds[0])) if len(pts_seconds) else clip.start_seconds
    last = min(clip.stop_seconds, stop_seconds)
    num_ticks = max(int(np.ceil((last - first) * sampling.fps - TICK_TOLERANCE_SECONDS * sampling.fps)), 0)
    ticks = first + np.arange(num_ticks) / sampling.fps
    frames = np.searchsorted(pts_seconds, ticks + TICK_TOLERANCE_SECONDS, side="right") - 1
    return _Sequence(frames, ticks, np.minimum(ticks + 1 / sampling.fps, last))


def _resampled(
    pts_seconds: npt.NDArray[np.float64], stop_seconds: float, clip: Clip, fps: float, rule: str
) -> _Sequence:
    """Returns the resampled video's ticks that lie in the clip, all to the end for one that ends with the video."""
    frames = BY_RULE[rule](pts_seconds, stop_seconds, fps)
    ticks = float(pts_seconds[0]) + np.arange(len(frames)) / fps
    first = int(np.searchsorted(ticks, clip.start_seconds - TICK_TOLERANCE_SECONDS, side="left"))
    stop = len(ticks)
    if clip.stop_seconds < stop_seconds - TICK_TOLERANCE_SECONDS:
        stop = int(np.searchsorted(ticks, clip.stop_seconds - TICK_TOLERANCE_SECONDS, side="left"))
    frames, ticks = frames[first:stop], ticks[first:stop]
    last = min(clip.stop_seconds, stop_seconds)
    # ``ffmpeg_r`` writes more frames than the video has ticks: those beyond its end have the last frame's time.
    starts = np.where(ticks < last, ticks, pts_seconds[frames])
    return _Sequence(frames, starts, np.minimum(ticks + 1 / fps, last))


def _placed(sequence: _Sequence, clip: Clip, placed: Placed) -> Window:
    return Window(
        clip=clip.index,
        frames=tuple(int(sequence.frames[position]) for position in placed.positions),
        start_seconds=float(sequence.start_seconds[min(placed.positions)]),
        stop_seconds=float(sequence.stop_seconds[max(placed.positions)]),
        num_padded_frames=placed.num_padded,
    )


def _grid(length: int, span: int, step: int, tail: str) -> tuple[list[int], int, int]:
    """Returns window starts, dropped tails and padded tails for a sequence of `length` frames."""
    starts = list(range(0, length - span + 1, step))
    covered = starts[-1] + span if starts else 0
    next_start = len(starts) * step
    if covered >= length or next_start >= length:
        return starts, 0, 0
    if tail == "drop":
        return starts, 1, 0
    if tail == "overlap" and length >= span:
        return [*starts, length - span], 0, 0
    return [*starts, next_start], 0, 1


def _window(
    sequence: _Sequence, numbers: list[int], clip: Clip, start: int, num_frames: int, every: int, reached: int
) -> Window:
    last = len(numbers) - 1
    stop = start + (num_frames - 1) * every
    frames = numbers[start : min(stop, last) + 1 : every]
    num_padded = num_frames - len(frames)
    return Window(
        clip=clip.index,
        frames=(*frames, *([numbers[last]] * num_padded)),
        start_seconds=float(sequence.start_seconds[start]),
        stop_seconds=float(sequence.stop_seconds[min(stop, last)]),
        num_padded_frames=num_padded,
        num_clip_frames=-(-reached // every),
    )


def _draw(num_positions: int, count: int, seed: int, video_id: str, clip_index: int) -> list[int]:
    """Returns `count` sorted positions, without repeats while there are enough: a function of its arguments alone.

    A hash instead of a random generator, so that the draw cannot change with a library's version.
    """
    chosen: dict[int, None] = {}
    drawn: list[int] = []
    for draw in range(count):
        text = f"{seed}\x00{video_id}\x00{clip_index}\x00{draw}".encode("utf-8", "surrogateescape")
        position = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % num_positions
        if len(chosen) < num_positions:
            while position in chosen:
                position = (position + 1) % num_positions
        chosen[position] = None
        drawn.append(position)
    return sorted(drawn)
