"""From the scored segments of a video's windows to its rows, in memory bounded by the size of a pool."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from clipmill.extractors.base import frame_spacing_seconds
from clipmill.extractors.rc3d.options import RC3DOptions
from clipmill.extractors.rc3d.releases import Release
from clipmill.extractors.rc3d.segments import nms
from clipmill.schemas.arrays import Ints
from clipmill.schemas.recipe import Recipe, Sampling
from clipmill.schemas.records import Clip, Window
from clipmill.schemas.rows import Rows

Columns = dict[str, npt.NDArray[np.generic]]
NAMES = ("score", "class_index", "class_score", "values")
DETECTIONS_POOL = 5000
"""Candidates of a video kept before the last NMS (ours; it bounds memory): 25 times what the PyTorch release keeps."""


class SegmentPool:
    """The best segments of all windows so far, in seconds, best first; equal scores in the order they came.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int, sampling: Sampling) -> None:
        self._most = most
        self._sampling = sampling
        self.num_windows = 0
        self.columns: Columns = {}

    def add(self, window: Window, outputs: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Takes the segments of one window: frames become seconds, and what lies beyond the window's end is cut off.

        A segment that lies wholly in the repeated frames of a short video describes nothing, and is left out.
        """
        num_valid = int(outputs["num_valid"])
        frames = np.asarray(outputs["segments"], dtype=np.float64)[:num_valid]
        spacing = frame_spacing_seconds(window, self._sampling)
        seconds = np.minimum(window.start_seconds + frames * spacing, window.stop_seconds)
        real = seconds[:, 1] > seconds[:, 0]
        new: Columns = {name: np.asarray(outputs[name])[:num_valid][real] for name in NAMES}
        new["seconds"] = seconds[real]
        if self.columns:
            new = {name: np.concatenate([self.columns[name], new[name]]) for name in new}
        order = np.argsort(-np.asarray(new["score"], dtype=np.float64), kind="stable")[: self._most]
        # A copy, so that the window's arrays are not kept alive by a few rows of them.
        self.columns = {name: column[order].copy() for name, column in new.items()}
        self.num_windows += 1

    def take(self, chosen: Ints) -> Columns:
        """Returns the chosen segments."""
        return {name: column[chosen] for name, column in self.columns.items()}

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """``[n, 2]``: start and stop of each segment."""
        return np.asarray(self.columns["seconds"], dtype=np.float64)


def _rows(clip: Clip, columns: Columns, mask: npt.NDArray[np.bool_], dtype: str) -> Rows:
    seconds = np.asarray(columns["seconds"], dtype=np.float64)
    return Rows(
        values=columns["values"].astype(dtype),
        clip=np.full(len(seconds), clip.index, dtype=np.int32),
        start_seconds=seconds[:, 0],
        stop_seconds=seconds[:, 1],
        mask=mask,
        extras={
            "score": columns["score"].astype(np.float32),
            "class_index": columns["class_index"].astype(np.int32),
            "class_score": columns["class_score"].astype(np.float32),
        },
    )


def _blank(clip: Clip, dim: int) -> Columns:
    """Returns one row of zeros over the whole clip: what stands in where nothing was found, always masked."""
    return {
        "seconds": np.array([[clip.start_seconds, clip.stop_seconds]]),
        "score": np.zeros(1, dtype=np.float32),
        "class_index": np.zeros(1, dtype=np.int32),
        "class_score": np.zeros(1, dtype=np.float32),
        "values": np.zeros((1, dim), dtype=np.float32),
    }


class ProposalRows:
    """The `top` proposals of a clip by confidence, with their features.

    Windows overlap, so one event is proposed by several of them: of the pool's segments, those that overlap a better
    one by more than `merge_nms` are dropped. A clip with fewer than `top` repeats its last real one, masked: a bag of
    fixed size for APIVR, and the mask for the mean over real ones (MAP-IVR).
    """

    def __init__(self, clip: Clip, recipe: Recipe, options: RC3DOptions, release: Release) -> None:
        self._clip, self._recipe, self._options = clip, recipe, options
        self._threshold = options.merge_nms or release.test_filter.nms
        self._pool = SegmentPool(options.pool, recipe.sampling)

    def add(self, window: Window, outputs: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Takes the proposals of one window."""
        self._pool.add(window, outputs)

    def rows(self) -> Rows:
        """Returns exactly `top` rows, best first; none for a clip without windows."""
        if not self._pool.num_windows:
            return _rows(self._clip, _empty(self._recipe.dim), np.zeros(0, dtype=np.bool_), self._recipe.dtype)
        top, num_found = self._options.top, len(self._pool.seconds)
        if self._pool.num_windows == 1 and self._options.merge_nms is None:
            chosen = np.arange(min(top, num_found), dtype=np.int64)
        else:
            chosen = nms(self._pool.seconds, self._threshold, False, self._options.nms_equal, most=top)
        columns = self._pool.take(chosen) if num_found else _blank(self._clip, self._recipe.dim)
        filled = np.minimum(np.arange(top), max(len(chosen) - 1, 0))
        columns = {name: column[filled] for name, column in columns.items()}
        return _rows(self._clip, columns, np.arange(top) < len(chosen), self._recipe.dtype)


class DetectionRows:
    """A clip's detections: those of all windows pooled, then NMS once more per class, by plain lengths in seconds."""

    def __init__(self, clip: Clip, recipe: Recipe, options: RC3DOptions, release: Release) -> None:
        self._clip, self._recipe, self._options = clip, recipe, options
        self._threshold = options.nms_video or release.nms_video
        self._most = options.max_detections or release.max_detections
        self._pool = SegmentPool(max(DETECTIONS_POOL, self._most or 0), recipe.sampling)

    def add(self, window: Window, outputs: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Takes the detections of one window."""
        self._pool.add(window, outputs)

    def rows(self) -> Rows:
        """Returns one row per detection, best first; one masked row of zeros where nothing was detected."""
        if not self._pool.num_windows:
            return _rows(self._clip, _empty(self._recipe.dim), np.zeros(0, dtype=np.bool_), self._recipe.dtype)
        if not len(self._pool.seconds):
            blank = _blank(self._clip, self._recipe.dim)
            return _rows(self._clip, blank, np.zeros(1, dtype=np.bool_), self._recipe.dtype)
        classes = self._pool.columns["class_index"]
        kept = []
        for index in np.unique(classes):
            own = np.flatnonzero(classes == index)
            kept.append(own[nms(self._pool.seconds[own], self._threshold, False, self._options.nms_equal)])
        # The pool is sorted by score, so positions in it are ranks.
        chosen = np.sort(np.concatenate(kept))[: self._most]
        columns = self._pool.take(chosen)
        return _rows(self._clip, columns, np.ones(len(chosen), dtype=np.bool_), self._recipe.dtype)


def _empty(dim: int) -> Columns:
    return {name: column[:0] for name, column in _blank(Clip(0, 0.0, 0.0), dim).items()}
