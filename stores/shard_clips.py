"""Where each clip's rows lie in a shard: found once, so that a clip is looked up without a pass over its video."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Ints


@dataclass(frozen=True, slots=True, eq=False)
class ShardClips:
    """Runs of rows of one clip.

    Attributes:
        clip: ``int32[N]``, index of each row's clip within its video.
        starts: ``int64[R + 1]``, first row of each run, and N.
        run_clip: ``int32[R]``.
        is_ordered: clips of every video come in ascending order, each in one run: almost always, but nothing promises
            it.
    """

    clip: npt.NDArray[np.int32]
    starts: Ints
    run_clip: npt.NDArray[np.int32]
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
        return ShardClips(clip, np.append(starts, len(clip)), run_clip, is_ordered)

    def rows(self, start: int, stop: int, clip: int) -> slice | Ints:
        """Returns the rows of `clip` among those of a video, ``[start, stop)``; an empty slice where it has none."""
        if not self.is_ordered:
            found = np.flatnonzero(self.clip[start:stop] == clip) + start
            return found if found.size else slice(start, start)
        first = int(self.starts.searchsorted(start))
        last = int(self.starts.searchsorted(stop))
        run = first + int(self.run_clip[first:last].searchsorted(clip))
        if run == last or self.run_clip[run] != clip:
            return slice(start, start)
        return slice(int(self.starts[run]), int(self.starts[run + 1]))
