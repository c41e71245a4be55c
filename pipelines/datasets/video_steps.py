"""The steps of whole videos, and when they are: what models that localise read of a feature."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from clipmill.pipelines.datasets.rows import read_rows
from clipmill.schemas.arrays import Floats
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import InputRows
from clipmill.schemas.inputs import Sequence as SequenceInput
from clipmill.stores import Feature
from clipmill.stores.formats.sniff import listed

Grid = Literal["even", "rows"]


@dataclass(frozen=True, slots=True, eq=False)
class VideoSteps:
    """The steps of V videos.

    Attributes:
        position: video id to its entry of `rows`.
        rows: one video after the other.
        duration_seconds: by video id.
        grid: N steps of a video are N ``even`` parts of its duration, as published, or each lasts from the start of
            its row until the next one's (``rows``), the last until its own end.
    """

    position: Mapping[str, int]
    rows: InputRows
    duration_seconds: Mapping[str, float]
    grid: Grid

    @classmethod
    def read(
        cls, feature: Feature, kind: SequenceInput, duration_seconds: Mapping[str, float], grid: Grid
    ) -> "VideoSteps":
        """Returns the steps of the videos of `duration_seconds`.

        Raises:
            UsageError: one has no row, or a row that is not finite.
        """
        found = read_rows(feature, kind, duration_seconds.keys())
        position = {name: entry for entry, (name, _) in enumerate(found.clips)}
        if empty := sorted(duration_seconds.keys() - position.keys()):
            got = f"none in {len(empty)} ({listed(tuple(empty))})"
            remedy = "take their queries out, or build those videos anew"
            raise UsageError(describe("feature", feature.recipe.name, "rows in every video asked about", got, remedy))
        return cls(position, found.rows, duration_seconds, grid)

    @property
    def video_ids(self) -> tuple[str, ...]:
        """The videos, in the order of the rows."""
        return tuple(self.position)

    def of(self, video_ids: Sequence[str]) -> InputRows:
        """Returns the rows of n items that are about these videos; items of one video share its rows."""
        entry = np.array([self.position[name] for name in video_ids], np.int64)
        return InputRows(
            self.rows.values, self.rows.offsets, self.rows.start_seconds, self.rows.stop_seconds, entry=entry
        )

    def edges(self, video_id: str) -> Floats:
        """Returns ``float64[N + 1]`` seconds: step i of the video lasts from number i to the next."""
        offsets = self.rows.offsets
        if offsets is None:
            raise ValueError("steps: expected offsets, got none")
        entry = self.position[video_id]
        start, stop = int(offsets[entry]), int(offsets[entry + 1])
        if self.grid == "even" or self.rows.start_seconds is None or self.rows.stop_seconds is None:
            return np.linspace(0.0, self.duration_seconds[video_id], stop - start + 1)
        return np.append(self.rows.start_seconds[start:stop], self.rows.stop_seconds[stop - 1])


def best_cells(edges: Floats, start: float, stop: float) -> tuple[int, int]:
    """Returns the first and last step, both counted, whose time has the highest IoU with a moment.

    Of equal ones it is the earliest, and the shortest. A moment without length is in the step that holds it.

    Args:
        edges: ``float64[N + 1]`` seconds, ascending.
    """
    if stop <= start:
        holds = int(np.clip(np.searchsorted(edges, start, side="right") - 1, 0, len(edges) - 2))
        return holds, holds
    first, last = edges[:-1, None], edges[None, 1:]
    shared = np.minimum(last, stop) - np.maximum(first, start)
    whole = np.maximum(last, stop) - np.minimum(first, start)
    overlap = np.where(last > first, shared / whole, -np.inf)
    best = int(np.argmax(overlap))
    return best // overlap.shape[1], best % overlap.shape[1]


def seconds_of(edges: Floats, spans: Floats) -> Floats:
    """Returns spans ``[..., 2]`` in steps (begin, and end that is not counted any more) as seconds."""
    return np.interp(spans, np.arange(len(edges)), edges)
