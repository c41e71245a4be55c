"""Where each clip's rows lie in a shard: found once, so that a clip is looked up without a pass over its video."""

from array import array
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Ints


@dataclass(frozen=True, slots=True, eq=False)
class ShardClips:
    """Runs of rows of one clip.

    Attributes:
        clip: ``int32[N]``, index of each row's clip within its video.
        starts: ``int64[R + 1]``, first row of each run, and N: an array of Python's, for single numbers are looked up.
        run_clip: ``int32[R]``, alike.
        is_ordered: clips of every video come in ascending order, each in one run: almost always, but nothing promises
            it.
    """

    clip: npt.NDArray[np.int32]
    starts: "array[int]"
    run_clip: "array[int]"
    is_ordered: bool

    @staticmethod
    def of(clip: npt.NDArray[np.int32], video_starts: Ints) -> "ShardClips":
        """Returns the runs of a shard, given the clip of each row and the first row of each of its videos."""
        breaks = np.zeros(len(clip), np.bool_)
        breaks[1:] = clip[1:] != clip[:-1]
        breaks[:1] = True
        first = np.zeros(len(clip), np.bool_)
        # A video without rows may stand at the end.
        first[video_starts[video_starts < len(clip)]] = True
        starts = np.flatnonzero(breaks | first)
        run_clip = clip[starts]
        is_ordered = bool((first[starts][1:] | (run_clip[1:] > run_clip[:-1])).all())
        bounds = np.append(starts, len(clip)).astype(np.int64)
        return ShardClips(
            clip, array("q", bounds.tobytes()), array("i", run_clip.astype(np.int32).tobytes()), is_ordered
        )

    def rows(self, start: int, stop: int, clip: int) -> slice | Ints:
        """Returns the rows of `clip` among those of a video, ``[start, stop)``; an empty slice where it has none."""
        if not self.is_ordered:
            found = np.flatnonzero(self.clip[start:stop] == clip) + start
            return found if found.size else slice(start, start)
        first = bisect_left(self.starts, start)
        last = bisect_left(self.starts, stop, first)
        run = bisect_left(self.run_clip, clip, first, last)
        if run == last or self.run_clip[run] != clip:
            return slice(start, start)
        return slice(self.starts[run], self.starts[run + 1])
