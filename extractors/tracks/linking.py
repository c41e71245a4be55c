"""Keypoints linked over consecutive frames into tracks, and shots where the links break; in bounded memory.

What is kept of a video is its last frame's keypoints, and for each the counts of its track: nothing grows with length.
"""

from dataclasses import dataclass, fields
from typing import Self

import cv2
import numpy as np
import numpy.typing as npt

from clipmill.extractors.tracks.keypoints import Keypoints
from clipmill.extractors.tracks.options import TracksOptions
from clipmill.schemas.arrays import Bytes, Ints


def match(before: Keypoints, after: Keypoints, max_distance: int, max_displacement: float) -> tuple[Ints, Ints]:
    """Returns the indices of matching keypoints in `before` and `after`, each at most once, in the order of `before`.

    Brute force with cross-check: a pair matches when each is the other's nearest by Hamming distance (the first of
    equally near ones), the distance is below `max_distance` and the keypoints lie less than `max_displacement` pixels
    apart. The two limits come after the cross-check.
    """
    if not len(before) or not len(after):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    distance, nearest_after = _nearest(before.descriptors, after.descriptors)
    _, nearest_before = _nearest(after.descriptors, before.descriptors)
    mutual = nearest_before[nearest_after] == np.arange(len(before))
    moved = np.linalg.norm(before.positions - after.positions[nearest_after], axis=1)
    chosen = np.flatnonzero(mutual & (distance < max_distance) & (moved < max_displacement))
    return chosen, nearest_after[chosen]


def _nearest(queries: Bytes, candidates: Bytes) -> tuple[Ints, Ints]:
    """Returns, for each query, the distance in bits to its nearest candidate and that one's index."""
    distance, index = cv2.batchDistance(queries, candidates, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=1)
    return distance[:, 0].astype(np.int64), index[:, 0].astype(np.int64)


@dataclass(slots=True)
class Tracks:
    """Some tracks, as columns of equal length.

    Attributes:
        counts: ``int32[n, 256]``: how many of the track's descriptors have each bit.
        first: ``uint8[n, 32]``: the descriptor it began with.
        num_frames: ``int32[n]``.
        start_seconds, stop_seconds: ``float64[n]``: from its first frame to the end of display of its last.
        position_sums: ``float64[n, 2]``: of x and y over its frames.
    """

    counts: npt.NDArray[np.int32]
    first: npt.NDArray[np.uint8]
    num_frames: npt.NDArray[np.int32]
    start_seconds: npt.NDArray[np.float64]
    stop_seconds: npt.NDArray[np.float64]
    position_sums: npt.NDArray[np.float64]

    @classmethod
    def begin(cls, keypoints: Keypoints, start_seconds: float, stop_seconds: float) -> Self:
        """Returns one track of one frame for each keypoint."""
        number = len(keypoints)
        return cls(
            counts=np.unpackbits(keypoints.descriptors, axis=1).astype(np.int32),
            first=keypoints.descriptors,
            num_frames=np.ones(number, dtype=np.int32),
            start_seconds=np.full(number, start_seconds),
            stop_seconds=np.full(number, stop_seconds),
            position_sums=keypoints.positions.astype(np.float64),
        )

    def __len__(self) -> int:
        return len(self.num_frames)

    def take(self, chosen: Ints | npt.NDArray[np.bool_]) -> "Tracks":
        """Returns the chosen tracks."""
        return Tracks(**{item.name: getattr(self, item.name)[chosen] for item in fields(self)})

    def continue_from(self, before: "Tracks", old: Ints, new: Ints) -> None:
        """Makes tracks `new` of this frame the continuations of tracks `old` of the frame before."""
        for name in ("counts", "num_frames", "position_sums"):
            getattr(self, name)[new] += getattr(before, name)[old]
        self.first = self.first.copy()
        self.first[new] = before.first[old]
        self.start_seconds[new] = before.start_seconds[old]

    def vote(self, options: TracksOptions) -> npt.NDArray[np.uint8]:
        """Returns ``uint8[n, 32]``: the tracks' descriptors as one each, by `options.vote`."""
        if options.vote == "two_members":
            return np.packbits(self.counts >= 2, axis=1)
        twice, whole = 2 * self.counts, self.num_frames[:, np.newaxis]
        bits = twice > whole
        if options.ties == "first":
            bits |= (twice == whole) & np.unpackbits(self.first, axis=1).astype(np.bool_)
        return np.packbits(bits, axis=1)


class Linker:
    """Links one frame after another. `tracks` are those of the last frame, in the order of its keypoints.

    Attributes:
        shot: number of the shot the last frame lies in, from 0.
    """

    def __init__(self, options: TracksOptions) -> None:
        self._options = options
        self._keypoints: Keypoints | None = None
        self.tracks: Tracks | None = None
        self.shot = 0

    def add(self, keypoints: Keypoints, start_seconds: float, stop_seconds: float) -> tuple[bool, Tracks | None]:
        """Takes the next frame; returns whether it begins a new shot, and the tracks that ended before it.

        At a boundary all tracks end: the few that cross it are cut, and continue as new ones.
        """
        tracks = Tracks.begin(keypoints, start_seconds, stop_seconds)
        ended, is_boundary = None, False
        if self._keypoints is not None and self.tracks is not None:
            options = self._options
            old, new = match(self._keypoints, keypoints, options.max_distance, options.max_displacement)
            is_boundary = len(old) <= options.max_shared_tracks
            if is_boundary:
                ended = self.tracks
                self.shot += 1
            else:
                tracks.continue_from(self.tracks, old, new)
                continued = np.zeros(len(self.tracks), dtype=np.bool_)
                continued[old] = True
                ended = self.tracks.take(~continued)
        self._keypoints, self.tracks = keypoints, tracks
        return is_boundary, ended
