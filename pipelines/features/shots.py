"""Shot boundaries: which frames differ too much from the one before, and the pass over a video that finds them.

Detectors see one frame after another and keep what they need of the last: nothing grows with the video.
"""

import contextlib
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from clipmill.extractors.tracks.card import CARD as TRACKS
from clipmill.extractors.tracks.keypoints import Describer
from clipmill.extractors.tracks.linking import Linker
from clipmill.extractors.tracks.options import TracksOptions
from clipmill.pipelines.decode.scan import Timeline
from clipmill.pipelines.decode.session import (
    DecodedFrame,
    DecodeRequest,
    DecodeSession,
    DecodeSummary,
    Failed,
    Finished,
    Restarted,
    View,
)
from clipmill.schemas.arrays import Pixels
from clipmill.schemas.recipe import Preprocess, ShotOptions

HISTOGRAM_SIZE = (90, 160)
"""Rows and columns of the frames histograms are taken from (ours: cheap, and 14,400 pixels are enough to count)."""
BINS = 16
"""Of each of hue, saturation and value, as in Stanford I2V's baseline detector (andrefaraujo/videosearch)."""


class ShotDetector(Protocol):
    """Looks at the frames of one video, in order. `preprocess` is the geometry of the frames it wants."""

    preprocess: Preprocess

    def add(self, frame: Pixels) -> bool:
        """Takes the next frame, ``uint8[H, W, C]``; returns whether a shot begins with it (the first does not)."""
        ...


def hsv_histogram(frame: Pixels) -> npt.NDArray[np.int64]:
    """Returns ``int64[4096]``: how many pixels of ``uint8[H, W, 3]`` (RGB) fall into each of 16 x 16 x 16 HSV bins."""
    hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV).reshape(-1, 3).astype(np.int64)
    # OpenCV's hue of 8 bits is degrees / 2.
    hue, saturation, value = hsv[:, 0] * BINS // 180, hsv[:, 1] * BINS // 256, hsv[:, 2] * BINS // 256
    return np.bincount((hue * BINS + saturation) * BINS + value, minlength=BINS**3)


class HistogramShots:
    """A boundary where 1 - the intersection of consecutive frames' HSV histograms, as a share of pixels, is too large.

    Args:
        threshold: largest distance inside a shot, 0 to 1.
    """

    preprocess = Preprocess(resize="exact", size=HISTOGRAM_SIZE)

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._before: npt.NDArray[np.int64] | None = None

    def add(self, frame: Pixels) -> bool:
        """Takes the next frame, ``uint8[90, 160, 3]`` RGB."""
        histogram, before = hsv_histogram(frame), self._before
        self._before = histogram
        if before is None:
            return False
        return bool(1 - int(np.minimum(histogram, before).sum()) / int(histogram.sum()) > self._threshold)


class TrackShots:
    """A boundary where two frames share too few key-feature tracks, all else as the extractor ``tracks`` has it.

    Args:
        threshold: most tracks two frames of different shots may share.
    """

    preprocess = TRACKS.weights[0].preprocess

    def __init__(self, threshold: int) -> None:
        options = TracksOptions(max_shared_tracks=threshold)
        self._describer = Describer(options.num_keypoints, options.fast_threshold)
        self._linker = Linker(options)

    def add(self, frame: Pixels) -> bool:
        """Takes the next frame, ``uint8[H, 720, 1]`` grey."""
        return self._linker.add(self._describer.describe(frame[:, :, 0]), 0.0, 0.0)[0]


def make_detector(options: ShotOptions) -> ShotDetector:
    """Returns a fresh detector for one video."""
    threshold = options.threshold or 0.0
    return TrackShots(int(threshold)) if options.detector == "tracks" else HistogramShots(threshold)


@dataclass(frozen=True, slots=True)
class ShotPass:
    """What a pass over a video found: presentation times of the frames that begin a new shot, and how it decoded."""

    boundaries_seconds: tuple[float, ...]
    summary: DecodeSummary


def find_shots(
    path: str, timeline: Timeline, options: ShotOptions, decoder: str, session: DecodeSession | None = None
) -> ShotPass | Failed:
    """Decodes all frames of the video at `path`, small, and returns where its shots begin, or how decoding failed.

    Args:
        session: what decodes, idle; None: one for this pass alone.
    """
    detector = make_detector(options)
    boundaries: list[float] = []
    view = View(detector.preprocess, np.arange(timeline.num_frames))
    duration = timeline.stop_seconds - float(timeline.pts_seconds[0])
    request = DecodeRequest(path, timeline, (view,), decoder, duration)
    with contextlib.ExitStack() as stack:
        running = session or stack.enter_context(DecodeSession())
        for event in running.run([request]):
            if isinstance(event, DecodedFrame):
                if detector.add(event.pixels):
                    boundaries.append(float(timeline.pts_seconds[event.frame]))
            elif isinstance(event, Restarted):
                detector = make_detector(options)
                boundaries.clear()
            elif isinstance(event, Finished):
                return ShotPass(tuple(boundaries), event.summary)
            else:
                return event
    raise RuntimeError(f"video {path}: the decode session ended without a last event")
