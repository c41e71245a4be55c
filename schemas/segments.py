"""Segments of many videos as columns: what annotation files hold and what detection and proposal metrics take."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Floats, Ints


@dataclass(frozen=True, slots=True)
class Segments:
    """N segments of V videos, in the order in which they were listed.

    Attributes:
        video_ids: the V videos that were looked at; a video without any segment is still listed here.
        label_names: the C classes; without classes, one empty name.
        video: ``int64[N]``, position of each segment's video in `video_ids`.
        label: ``int64[N]``, position of each segment's class in `label_names`.
        start_seconds, stop_seconds: ``float64[N]``.
        score: ``float64[N]``; ones for annotations.
    """

    video_ids: tuple[str, ...]
    label_names: tuple[str, ...]
    video: Ints
    label: Ints
    start_seconds: Floats
    stop_seconds: Floats
    score: Floats

    def __post_init__(self) -> None:
        lengths = {
            len(column) for column in (self.video, self.label, self.start_seconds, self.stop_seconds, self.score)
        }
        if len(lengths) != 1:
            raise ValueError(f"segments: expected columns of one length, got lengths {sorted(lengths)}")
        for name, code, names in (("video", self.video, self.video_ids), ("label", self.label, self.label_names)):
            if len(code) and not 0 <= int(code.min()) <= int(code.max()) < len(names):
                raise ValueError(
                    f"segments {name}: expected positions below {len(names)}, got {code.min()}..{code.max()}"
                )
            if len(set(names)) != len(names):
                raise ValueError(
                    f"segments {name}: expected distinct names, got {len(names) - len(set(names))} repeats"
                )

    def __len__(self) -> int:
        return len(self.video)

    def take(self, rows: npt.NDArray[np.generic]) -> "Segments":
        """Returns the segments at `rows` (positions or a mask), with the same videos and classes."""
        return replace(
            self,
            video=self.video[rows],
            label=self.label[rows],
            start_seconds=self.start_seconds[rows],
            stop_seconds=self.stop_seconds[rows],
            score=self.score[rows],
        )

    def of_videos(self, video_ids: Iterable[str]) -> "Segments":
        """Returns the segments of `video_ids` alone, in this table's order; ids that are not here are ignored."""
        wanted = set(video_ids)
        kept = [position for position, name in enumerate(self.video_ids) if name in wanted]
        new_position = np.full(len(self.video_ids), -1, np.int64)
        new_position[kept] = np.arange(len(kept))
        part = self.take(new_position[self.video] >= 0)
        return replace(part, video_ids=tuple(self.video_ids[p] for p in kept), video=new_position[part.video])


def segments_from_columns(
    video: Sequence[str],
    start_seconds: npt.ArrayLike,
    stop_seconds: npt.ArrayLike,
    label: Sequence[str] | None = None,
    score: npt.ArrayLike | None = None,
    video_ids: Iterable[str] = (),
    label_names: Iterable[str] = (),
) -> Segments:
    """Returns N segments from one video id (and class name) per segment.

    Args:
        video: N video ids.
        start_seconds, stop_seconds: ``float[N]``.
        label: N class names; None where there are no classes.
        score: ``float[N]``; None means ones.
        video_ids: videos to list first, also where they have no segment.
        label_names: classes to list first, also where they have no segment.
    """
    codes, videos = _factorize(video, video_ids)
    labels, names = _factorize(label if label is not None else [""] * len(video), label_names)
    scores = np.ones(len(codes)) if score is None else np.asarray(score, np.float64).reshape(-1)
    starts, stops = (np.asarray(column, np.float64).reshape(-1) for column in (start_seconds, stop_seconds))
    return Segments(videos, names, codes, labels, starts, stops, scores)


def _factorize(values: Sequence[str], first: Iterable[str]) -> tuple[Ints, tuple[str, ...]]:
    # A dict keeps the order of first appearance and is several times faster than sorting strings.
    positions = {name: position for position, name in enumerate(dict.fromkeys(first))}
    codes = np.fromiter((positions.setdefault(value, len(positions)) for value in values), np.int64, len(values))
    return codes, tuple(positions)
