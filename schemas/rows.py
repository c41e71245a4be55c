"""Rows in memory: what reducers make, shards store and readers return."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic

import numpy as np
import numpy.typing as npt
from typing_extensions import TypeVar

V = TypeVar("V", bound=np.generic, default=np.generic, covariant=True)


@dataclass(frozen=True, slots=True)
class Rows(Generic[V]):
    """T output vectors of one video (or of one shard) under one recipe.

    Attributes:
        values: ``[T, D]`` in the recipe's dtype.
        clip: ``int32[T]``, index of the row's clip within its video.
        start_seconds, stop_seconds: ``float64[T]``, the time span the row describes.
        mask: ``bool[T]``, False for rows that only fill up (a video with fewer than k proposals).
        extras: further columns the extractor declares, each ``[T]``.
    """

    values: npt.NDArray[V]
    clip: npt.NDArray[np.int32]
    start_seconds: npt.NDArray[np.float64]
    stop_seconds: npt.NDArray[np.float64]
    mask: npt.NDArray[np.bool_]
    extras: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def slice(self, start: int, stop: int) -> "Rows[V]":
        """Returns rows ``[start, stop)``."""
        span = slice(start, stop)
        return Rows(
            self.values[span],
            self.clip[span],
            self.start_seconds[span],
            self.stop_seconds[span],
            self.mask[span],
            {name: column[span] for name, column in self.extras.items()},
        )


def concatenate(parts: Sequence[Rows[V]]) -> Rows[V]:
    """Returns the rows of all `parts` in order; at least one part is needed."""
    if not parts:
        raise ValueError("concatenate: expected at least one part, got none")
    return Rows(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.clip for part in parts]),
        np.concatenate([part.start_seconds for part in parts]),
        np.concatenate([part.stop_seconds for part in parts]),
        np.concatenate([part.mask for part in parts]),
        {name: np.concatenate([part.extras[name] for part in parts]) for name in parts[0].extras},
    )
