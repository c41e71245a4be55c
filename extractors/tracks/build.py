"""Key-feature tracks as an extractor: frames are described in forward, one by one, and linked by the clip's reducer."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from clipmill.extractors.base import Outputs, Reducer, options_of
from clipmill.extractors.tracks.card import CARD
from clipmill.extractors.tracks.keypoints import Describer, Keypoints
from clipmill.extractors.tracks.linking import Linker, Tracks
from clipmill.extractors.tracks.options import DESCRIPTOR_BYTES, TracksOptions
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Clip, Window
from clipmill.schemas.rows import Rows, concatenate


def build(recipe: Recipe, device: str) -> "TracksExtractor":
    """Returns the extractor; it reads no weights and runs on the CPU, whatever `device` is."""
    return TracksExtractor(recipe, options_of(CARD, recipe))


class TracksExtractor:
    """Describes frames. What links them is the reducer's, so that frames of any videos may share a batch."""

    def __init__(self, recipe: Recipe, options: TracksOptions) -> None:
        self._recipe = recipe
        self._options = options
        self._describer = Describer(options.num_keypoints, options.fast_threshold)

    def forward(self, frames: npt.NDArray[np.uint8]) -> Outputs:
        """Returns the keypoints of ``uint8[N, 1, H, W, 1]``, padded with zeros to the K of the frame that has most.

        ``values uint8[N, K, 32]``, ``positions float32[N, K, 2]`` (x, y) and ``num_valid int64[N]``.
        """
        found = [self._describer.describe(np.ascontiguousarray(window[0, :, :, 0])) for window in frames]
        most = max(len(item) for item in found)
        values = np.zeros((len(found), most, DESCRIPTOR_BYTES), dtype=np.uint8)
        positions = np.zeros((len(found), most, 2), dtype=np.float32)
        for index, item in enumerate(found):
            values[index, : len(item)] = item.descriptors
            positions[index, : len(item)] = item.positions
        return {"values": values, "positions": positions, "num_valid": np.array([len(item) for item in found])}

    def reducer(self, clip: Clip) -> Reducer:
        """Returns the reducer of the recipe's layer."""
        if self._recipe.layer == "frame_descriptors":
            return FrameDescriptors(clip, self._options)
        return KeyFeatures(clip, self._options)


class _TrackRows:
    """What both layers share: linking, and one masked row of zeros for a clip in which nothing was found."""

    def __init__(self, clip: Clip, options: TracksOptions) -> None:
        self._clip = clip
        self._options = options
        self._linker = Linker(options)
        self._num_windows = 0
        self._parts: list[Rows] = []

    def _link(self, window: Window, outputs: Mapping[str, npt.NDArray[np.generic]]) -> tuple[Keypoints, Tracks | None]:
        """Returns the keypoints of the window's frame, and the tracks that ended before it."""
        self._num_windows += 1
        num_valid = int(outputs["num_valid"])
        # Copies, so that the batch they came in is not kept alive.
        descriptors = np.array(outputs["values"][:num_valid], dtype=np.uint8)
        keypoints = Keypoints(descriptors, np.array(outputs["positions"][:num_valid], dtype=np.float32))
        return keypoints, self._linker.add(keypoints, window.start_seconds, window.stop_seconds)[1]

    def _collected(self) -> Rows:
        blank = _rows(
            self._clip,
            np.zeros((1, DESCRIPTOR_BYTES), dtype=np.uint8),
            np.array([[self._clip.start_seconds, self._clip.stop_seconds]]),
            np.zeros((1, 2)),
            np.zeros(1, dtype=np.int32),
            shot=0,
            is_real=False,
        )
        if not self._num_windows:
            return blank.slice(0, 0)
        return concatenate(self._parts) if self._parts else blank


class KeyFeatures(_TrackRows):
    """One row per track that is long enough, in the order in which tracks end: its voted descriptor and its times.

    ``x`` and ``y`` are the mean position of the track.
    """

    def add(self, window: Window, outputs: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Takes the keypoints of one frame."""
        shot = self._linker.shot
        self._keep(self._link(window, outputs)[1], shot)

    def rows(self) -> Rows:
        """Returns the key features; one masked row where no track was long enough, none for a clip without frames."""
        self._keep(self._linker.tracks, self._linker.shot)
        return self._collected()

    def _keep(self, ended: Tracks | None, shot: int) -> None:
        if ended is None:
            return
        strong = ended.take(ended.num_frames >= self._options.min_track_frames)
        if not len(strong):
            return
        seconds = np.stack([strong.start_seconds, strong.stop_seconds], axis=1)
        centres = strong.position_sums / strong.num_frames[:, np.newaxis]
        values = strong.vote(self._options)
        self._parts.append(_rows(self._clip, values, seconds, centres, strong.num_frames, shot))


class FrameDescriptors(_TrackRows):
    """One row per keypoint of every frame, as it was described: what a query is matched with inside a shot.

    ``x`` and ``y`` are its position, ``track_frames`` counts the frames of its track up to this one, and the times are
    the frame's. Rows grow with the frames of the clip, about 500 each.
    """

    def add(self, window: Window, outputs: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Takes the keypoints of one frame."""
        keypoints, _ = self._link(window, outputs)
        tracks = self._linker.tracks
        if tracks is None or not len(keypoints):
            return
        seconds = np.tile([window.start_seconds, window.stop_seconds], (len(keypoints), 1))
        values, places = keypoints.descriptors, keypoints.positions
        self._parts.append(_rows(self._clip, values, seconds, places, tracks.num_frames, self._linker.shot))

    def rows(self) -> Rows:
        """Returns the descriptors; one masked row where no frame has any, none for a clip without frames."""
        return self._collected()


def _rows(
    clip: Clip,
    values: npt.NDArray[np.uint8],
    seconds: npt.NDArray[np.float64],
    places: npt.NDArray[np.floating],
    num_frames: npt.NDArray[np.int32],
    shot: int,
    is_real: bool = True,
) -> Rows:
    return Rows(
        values=values,
        clip=np.full(len(values), clip.index, dtype=np.int32),
        start_seconds=seconds[:, 0],
        stop_seconds=seconds[:, 1],
        mask=np.full(len(values), is_real),
        extras={
            "shot": np.full(len(values), shot, dtype=np.int32),
            # A copy: the linker goes on with its own.
            "track_frames": num_frames.copy(),
            "x": places[:, 0].astype(np.float32),
            "y": places[:, 1].astype(np.float32),
        },
    )
