"""A table of language queries and their moments: what all moment-retrieval formats are read into."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.schemas.segments import Segments


@dataclass(frozen=True, slots=True)
class MomentQueries:
    """Q queries, each a sentence about one video, with their windows.

    Attributes:
        query_ids: Q distinct ids; where a format has none, ``<video>#<number>``.
        video_ids: Q video ids.
        sentences: Q sentences, without spaces around them.
        duration_seconds: ``float64[Q]``, NaN where the format has none.
        windows: annotated or predicted moments; its `video_ids` are the Q query ids.
    """

    query_ids: tuple[str, ...]
    video_ids: tuple[str, ...]
    sentences: tuple[str, ...]
    duration_seconds: npt.NDArray[np.float64]
    windows: Segments

    def __post_init__(self) -> None:
        lengths = (len(self.query_ids), len(self.video_ids), len(self.sentences), len(self.duration_seconds))
        if len(set(lengths)) != 1 or self.windows.video_ids != self.query_ids:
            raise ValueError(f"moment queries: expected one entry per query in every column, got {lengths}")

    def __len__(self) -> int:
        return len(self.query_ids)
