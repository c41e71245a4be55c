"""Several crops of each frame, whose rows are averaged: ten-crop, and CPNet's six."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.extractors.base import Extractor, Outputs, QueueingExtractor, Reducer
from clipmill.extractors.flow_files import FlowFiles
from clipmill.extractors.preprocess import centre_offset
from clipmill.extractors.runtime import runtime_use_of
from clipmill.schemas.recipe import Preprocess
from clipmill.schemas.records import Clip, Window

Corner = tuple[int, int]


def corners(preprocess: Preprocess, height: int, width: int) -> list[Corner]:
    """Returns row and column of the crops of a frame of this size, mirror images not counted.

    ``ten``: the four corners and the centre. ``six``: at both ends of the long side and at one to four fifths, cut to
    whole pixels, of the way between (xingyul/cpnet, evaluate.py); in the middle of the short side.
    """
    rows, columns = preprocess.crop or (height, width)
    bottom, right = height - rows, width - columns
    middle = centre_offset(preprocess, height, width)
    if preprocess.crops == "ten":
        return [(0, 0), (0, right), middle, (bottom, 0), (bottom, right)]
    if height > width:
        return [(row, middle[1]) for row in _spread(bottom)]
    return [(middle[0], column) for column in _spread(right)]


def _spread(spare: int) -> list[int]:
    return [0, spare, *(spare // 5 * fifth for fifth in range(1, 5))]


def cut(frames: npt.NDArray[np.uint8], preprocess: Preprocess) -> list[npt.NDArray[np.uint8]]:
    """Returns the crops of windows ``uint8[N, T, H, W, C]``, each ``uint8[N, T, h, w, C]``.

    Of ``ten``, the second half are those of the mirrored frames: mirrored first, then cut, as torchvision does.
    """
    height, width = frames.shape[2:4]
    rows, columns = preprocess.crop or (height, width)
    sources = [frames, frames[:, :, :, ::-1]] if preprocess.crops == "ten" else [frames]
    places = corners(preprocess, height, width)
    return [
        np.ascontiguousarray(source[:, :, row : row + rows, column : column + columns])
        for source in sources
        for row, column in places
    ]


class AveragedCrops:
    """An extractor whose rows are the mean over the crops of another one's rows.

    Args:
        extractor: of one crop.
        preprocess: with `crops`.
    """

    def __init__(self, extractor: Extractor, preprocess: Preprocess) -> None:
        self._extractor = extractor
        self._preprocess = preprocess
        self.runtime_use = runtime_use_of(extractor)

    def forward(self, frames: npt.NDArray[np.uint8]) -> Outputs:
        """Returns the mean, taken in float64, of each output over the crops of ``uint8[N, T, H, W, C]``."""
        return _mean_outputs([self._extractor.forward(crop) for crop in cut(frames, self._preprocess)])

    @property
    def queues(self) -> bool:
        """Whether the extractor of one crop does."""
        return isinstance(self._extractor, QueueingExtractor) and self._extractor.queues

    def submit(
        self,
        frames: npt.NDArray[np.uint8],
        windows: Sequence[Window] | None = None,
        files: Sequence[FlowFiles] | None = None,
    ) -> Callable[[], Outputs]:
        """Queues what `forward` does, of all crops."""
        inner = self._extractor
        if not isinstance(inner, QueueingExtractor):
            raise TypeError("crops: expected an extractor that queues")
        waiting = [inner.submit(crop) for crop in cut(frames, self._preprocess)]
        return lambda: _mean_outputs([outputs() for outputs in waiting])

    def reducer(self, clip: Clip) -> Reducer:
        """Returns the extractor's own reducer."""
        return self._extractor.reducer(clip)


def _mean_outputs(found: Sequence[Outputs]) -> Outputs:
    return {name: _mean([outputs[name] for outputs in found]) for name in found[0]}


def _mean(values: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    mean: npt.NDArray[Any] = np.mean(np.stack(values), axis=0, dtype=np.float64).astype(values[0].dtype)
    return mean
