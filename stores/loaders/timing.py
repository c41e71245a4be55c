"""When the rows of a feature are, in the few numbers a loader can be told."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipmill.schemas.rows import Rows

_EVEN = 0.25
"""ours: share of a step by which a row may come early or late and the rows still count as one step apart."""
_MOST_UNCOVERED = 0.05
"""ours: share of a video without rows from which on a loader that spreads them over all of it is said to be misled."""


@dataclass(frozen=True, slots=True)
class VideoTiming:
    """When the rows of one video are.

    Attributes:
        step_seconds: from one row to the next, the median; None with fewer than two rows.
        window_seconds: what one row describes, the median.
        even: whether all rows but the last are that far apart.
        uncovered: share of the video before its first row or after its last; 0 where its length is not known.
        fps: frames a second that the rows are counted in; None: not known.
    """

    step_seconds: float | None
    window_seconds: float
    even: bool
    uncovered: float
    fps: float | None


@dataclass(frozen=True, slots=True)
class Timing:
    """When the rows of all videos are.

    Attributes:
        step_seconds, window_seconds: medians over the videos; None where no video has two rows.
        step_frames, window_frames: the same in frames; None where the frame rate is not known.
        fps: the rate all videos were resampled to; None: each has its own.
        num_uneven: videos whose rows are not one step apart, or another step than most.
        most_uncovered: largest share of a video that has no rows at its beginning or end.
    """

    step_seconds: float | None
    window_seconds: float | None
    step_frames: int | None
    window_frames: int | None
    fps: float | None
    num_uneven: int
    most_uncovered: float

    def uneven_notes(self) -> list[str]:
        """Returns what a loader is misled by that spreads the rows evenly over the whole video."""
        notes = []
        if self.num_uneven:
            notes.append(f"rows of {self.num_uneven} videos are not one step apart, and the loader spreads them evenly")
        if self.most_uncovered > _MOST_UNCOVERED:
            share = f"{100 * self.most_uncovered:.0f} %"
            notes.append(
                f"up to {share} of a video has no rows at its ends; the loader spreads those there are over all of it "
                "(build with a shorter sampling.step, or tail: repeat)"
            )
        return notes

    def step_notes(self, seconds: float, key: str) -> list[str]:
        """Returns a note where rows are not `seconds` apart, which `key` of the loader says or its code assumes."""
        if self.step_seconds is None:
            return []
        if abs(self.step_seconds - seconds) <= 0.01 * seconds:
            uneven = f"rows of {self.num_uneven} videos are not {seconds:g} s apart, as the loader takes them to be"
            return [uneven] if self.num_uneven else []
        return [
            f"the loader takes rows {seconds:g} s apart ({key}), these are {self.step_seconds:.4g} s apart; "
            f"build the feature with a row each {seconds:g} s (sampling.fps and sampling.step)"
        ]


def video_timing(
    rows: Rows, origin: float, duration_seconds: float | None, fps: float | None, resampled_fps: float | None
) -> VideoTiming:
    """Returns when the rows of a video are; they are in order, and at least one.

    Args:
        origin: time of the video's first frame.
        fps: the video's own frame rate.
        resampled_fps: what it was resampled to before rows were made, if it was.
    """
    steps = np.diff(rows.start_seconds)
    step = float(np.median(steps)) if len(steps) else None
    even = step is None or bool(np.all(np.abs(steps[:-1] - step) <= _EVEN * step))
    uncovered = 0.0
    if duration_seconds:
        before = float(rows.start_seconds[0]) - origin
        after = origin + duration_seconds - float(rows.stop_seconds.max())
        uncovered = min(1.0, max(0.0, before) / duration_seconds + max(0.0, after) / duration_seconds)
    window = float(np.median(rows.stop_seconds - rows.start_seconds))
    return VideoTiming(step, window, even, uncovered, resampled_fps or fps)


def timing_of(videos: Sequence[VideoTiming], resampled_fps: float | None) -> Timing:
    """Returns the timing of all `videos`."""
    stepped = [video for video in videos if video.step_seconds is not None]
    step = _median([video.step_seconds for video in stepped if video.step_seconds is not None])
    counted = [video for video in stepped if video.fps is not None]
    in_frames = _median([(video.step_seconds or 0.0) * (video.fps or 0.0) for video in counted])
    window_frames = _median([video.window_seconds * video.fps for video in videos if video.fps is not None])
    uneven = 0
    for video in stepped:
        frames = (video.step_seconds or 0.0) * (video.fps or 0.0)
        other = in_frames is not None and video.fps is not None and abs(frames - in_frames) > _EVEN * in_frames
        uneven += not video.even or other
    return Timing(
        step,
        _median([video.window_seconds for video in videos]),
        None if in_frames is None else round(in_frames),
        None if window_frames is None else round(window_frames),
        resampled_fps,
        uneven,
        max((video.uncovered for video in videos), default=0.0),
    )


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None
