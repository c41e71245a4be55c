"""One row per 8 frames from I3D, over clips of any length in bounded memory.

The network has no dense layer, so one pass over a whole clip of n frames gives ``ceil(n / 8) - 1`` feature steps. That
pass, cut into windows, is exact under three conditions:

* ``SAME`` pads an axis in front by what its length leaves: 2 or 3 frames before the first convolution, no step or one
  before the pool that halves time a second time, as ``n mod 4`` has it. Windows begin at multiples of 8 frames and are
  padded in front as the whole clip is.
* Where the clip ends every layer sees zeros, not the clip's last frame again: the last window ends with the clip.
* A step depends on 107 frames: step j on frames ``[8 j - 44 - d, 8 j + 62 - d]``, with d from 0 to 3 as the front
  padding has it. Of windows that overlap by 104 frames, all but 6 steps at each inner border are therefore those of the
  whole clip, and those 6 come from the neighbouring window.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clipmill.extractors.base import frame_spacing_seconds
from clipmill.schemas.recipe import Sampling
from clipmill.schemas.records import Clip, Window
from clipmill.schemas.rows import Rows

FRAMES_PER_STEP = 8
"""Frames from one feature step to the next: three halvings of the time axis."""
FRAMES_BEFORE, FRAMES_AFTER = 44, 62
"""How far before and after its own first frame the frames lie that a step depends on, in a clip of 4 k frames."""
LENGTHS_ALIKE = 4
"""Clips whose lengths differ by a multiple of this are padded in front alike."""


class Part(NamedTuple):
    """What of a window the network is given, and as a part of what.

    Attributes:
        num_frames: the window's first so many frames; the rest fill it up.
        num_clip_frames: a length that is padded in front as the clip's is.
    """

    num_frames: int
    num_clip_frames: int


def part_of(window: Window, least_frames: int) -> Part:
    """Returns what the network is given of a window.

    A clip of fewer than `least_frames` frames repeats its last one up to that (ours: the network makes no step of it).
    A window of a clip of unknown length is a clip of its own.
    """
    num_frames = max(len(window.frames) - window.num_padded_frames, least_frames)
    whole = max(window.num_clip_frames or num_frames, num_frames)
    if whole > num_frames:
        whole = num_frames + (whole - num_frames) % LENGTHS_ALIKE
    return Part(num_frames, whole)


class StepRows:
    """Joins the steps of overlapping windows of one clip.

    Where two windows have the same step, the cut lies in the middle of what they share: the earlier window gives the
    first half. With the default 256 frames every 152 that is exact; with less overlap, steps near a cut have seen zeros
    where the neighbouring window has frames. Steps that would begin beyond the clip's end are left out.

    A row describes the 16 frames whose two steps the last pool averages: ``[8 j, 8 j + 16)``, so rows overlap by half.
    """

    def __init__(self, clip: Clip, dtype: str, sampling: Sampling) -> None:
        self._clip = clip
        self._dtype = np.dtype(dtype)
        self._sampling = sampling
        self._values: list[npt.NDArray[np.generic]] = []
        self._starts: list[float] = []
        self._stops: list[float] = []
        self._stop_seconds = 0.0
        self._num_rows = 0
        self._num_windows = 0

    def add(self, window: Window, outputs: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Takes ``outputs["values"]``, ``[S, D]``, of the next window."""
        values = np.asarray(outputs["values"], dtype=self._dtype)
        num_frames = (len(values) + 1) * FRAMES_PER_STEP
        stride = (self._sampling.step or num_frames) // self._sampling.every // FRAMES_PER_STEP
        first = self._num_windows * stride
        skipped = (len(values) - stride) // 2 if self._num_windows else 0
        spacing = frame_spacing_seconds(window, self._sampling)
        del self._values[first + skipped :], self._starts[first + skipped :], self._stops[first + skipped :]
        for index in range(skipped, len(values)):
            start = window.start_seconds + FRAMES_PER_STEP * index * spacing
            self._values.append(values[index])
            self._starts.append(start)
            self._stops.append(start + 2 * FRAMES_PER_STEP * spacing)
        real_frames = num_frames - window.num_padded_frames
        self._num_rows = first + -(-real_frames // FRAMES_PER_STEP) - 1
        self._stop_seconds = window.stop_seconds
        self._num_windows += 1

    def rows(self) -> Rows:
        """Returns ``ceil(n / 8) - 1`` rows for the n frames of the windows; a clip of up to 8 frames still has one."""
        num_rows = min(max(self._num_rows, 1), len(self._values))
        values = np.stack(self._values[:num_rows]) if num_rows else np.zeros((0, 0), dtype=self._dtype)
        return Rows(
            values=values,
            clip=np.full(num_rows, self._clip.index, dtype=np.int32),
            start_seconds=np.array(self._starts[:num_rows], dtype=np.float64),
            stop_seconds=np.minimum(np.array(self._stops[:num_rows], dtype=np.float64), self._stop_seconds),
            mask=np.ones(num_rows, dtype=np.bool_),
        )
