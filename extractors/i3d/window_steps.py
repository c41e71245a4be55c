"""One row per 8 frames of each window by itself: VSLNet's Charades features have two of each 24 frames."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from clipmill.extractors.base import frame_spacing_seconds
from clipmill.extractors.i3d.steps import FRAMES_PER_STEP
from clipmill.schemas.recipe import Sampling
from clipmill.schemas.records import Clip, Window
from clipmill.schemas.rows import Rows


class WindowStepRows:
    """The steps of a clip's windows one after the other; windows may differ in length, and are not joined.

    Row j of a window describes its frames ``[8 j, 8 j + 16)``, whose two steps the last pool averages.
    """

    def __init__(self, clip: Clip, dtype: str, sampling: Sampling) -> None:
        self._clip = clip
        self._dtype = np.dtype(dtype)
        self._sampling = sampling
        self._values: list[npt.NDArray[np.generic]] = []
        self._times: list[tuple[float, float]] = []

    def add(self, window: Window, outputs: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Takes ``outputs["values"]``, ``[S, D]``, of the next window."""
        values = np.asarray(outputs["values"], dtype=self._dtype)
        spacing = frame_spacing_seconds(window, self._sampling)
        self._values.append(values)
        for index in range(len(values)):
            start = window.start_seconds + FRAMES_PER_STEP * index * spacing
            stop = start + 2 * FRAMES_PER_STEP * spacing
            self._times.append((start, min(stop, window.stop_seconds)))

    def rows(self) -> Rows:
        """Returns ``ceil(T / 8) - 1`` rows for each window of T frames."""
        times = np.array(self._times, dtype=np.float64).reshape(-1, 2)
        return Rows(
            values=np.concatenate(self._values) if self._values else np.zeros((0, 0), dtype=self._dtype),
            clip=np.full(len(times), self._clip.index, dtype=np.int32),
            start_seconds=times[:, 0],
            stop_seconds=times[:, 1],
            mask=np.ones(len(times), dtype=np.bool_),
        )
