"""One row per 8 frames from I3D, over clips of any length in bounded memory.

The network has no dense layer, so one pass over a whole clip of n frames gives ``ceil(n / 8) - 1`` feature steps. A
step depends on 107 frames: step j on frames ``[8 j - 44, 8 j + 62]``. Windows that overlap by 104 frames therefore
give, but for 6 steps at each inner border, exactly the steps of one long pass; those 6 come from the neighbouring
window.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from clipmill.extractors.base import frame_spacing_seconds
from clipmill.schemas.recipe import Sampling
from clipmill.schemas.records import Clip, Window
from clipmill.schemas.rows import Rows

FRAMES_PER_STEP = 8
"""Frames from one feature step to the next: three halvings of the time axis."""
FRAMES_BEFORE, FRAMES_AFTER = 44, 62
"""How far before and after its own first frame the frames lie that a step depends on."""


class StepRows:
    """Joins the steps of overlapping windows of one clip.

    Where two windows have the same step, the cut lies in the middle of what they share: the earlier window gives the
    first half. With the default 256 frames every 152 that is exact; with less overlap, steps near a cut have seen zeros
    where the neighbouring window has frames. The clip's end is padded by repeating its last frame to the end of the
    last window; steps that begin in the padding are left out.

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
        stride = (self._sampling.step or num_frames) // FRAMES_PER_STEP
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
