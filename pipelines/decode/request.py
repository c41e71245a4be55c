"""What is asked of a decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.decode.scan import Timeline
from clipmill.schemas.arrays import Ints
from clipmill.schemas.recipe import Preprocess


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What one consumer wants of a video: these frames (sorted, unique), prepared like this."""

    preprocess: Preprocess
    frames: Sequence[int] | npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class DecodeRequest:
    """One decode pass over one video, for any number of views. `duration_seconds` lengthens its deadline."""

    path: str
    timeline: Timeline
    views: tuple[View, ...]
    decoder: Literal["auto", "decord", "pyav"] | str = "auto"
    duration_seconds: float = 0.0

    @property
    def wanted(self) -> Ints:
        """Sorted indices of the frames that any view wants."""
        return np.unique(np.concatenate([np.asarray(view.frames, dtype=np.int64) for view in self.views]))
