"""Local features of one grey frame: ORB's corners, described by BRIEF."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from clipmill.extractors.tracks.options import DESCRIPTOR_BYTES
from clipmill.schemas.arrays import Pixels

EDGE_PIXELS = 31
"""ORB looks for no corner nearer to the border; BRIEF needs 28 pixels, so it drops none of ORB's."""
MOST_TIMES = 4
"""ORB keeps all corners as strong as the last one it wants; a regular pattern has thousands. At most so many times the
number wanted are kept (ours; it bounds memory)."""


@dataclass(frozen=True, slots=True)
class Keypoints:
    """The described corners of one frame.

    Attributes:
        descriptors: ``uint8[K, 32]``, 256 bits each.
        positions: ``float32[K, 2]``, x and y in pixels.
    """

    descriptors: npt.NDArray[np.uint8]
    positions: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.descriptors)


class Describer:
    """ORB's detector with OpenCV's defaults (8 levels of 1.2) and BRIEF of 32 bytes, without orientation.

    Args:
        num_keypoints: wanted of a frame.
        fast_threshold: of the corner detector, in grey levels.
    """

    def __init__(self, num_keypoints: int = 500, fast_threshold: int = 20) -> None:
        self._most = MOST_TIMES * num_keypoints
        # Written out, so that another OpenCV's defaults change no number.
        self._detector = cv2.ORB_create(  # type: ignore[attr-defined]
            nfeatures=num_keypoints,
            scaleFactor=1.2,
            nlevels=8,
            edgeThreshold=EDGE_PIXELS,
            firstLevel=0,
            WTA_K=2,
            scoreType=cv2.ORB_HARRIS_SCORE,
            patchSize=31,
            fastThreshold=fast_threshold,
        )
        self._descriptor: Any = cv2.xfeatures2d.BriefDescriptorExtractor_create(DESCRIPTOR_BYTES, False)  # type: ignore[attr-defined]

    def describe(self, frame: Pixels) -> Keypoints:
        """Returns the keypoints of ``uint8[H, W]``; none where the frame is too small or shows nothing."""
        if min(frame.shape) <= 2 * EDGE_PIXELS:
            return _none()
        found: Sequence[Any] = self._detector.detect(frame, None)
        if len(found) > self._most:
            found = sorted(found, key=lambda point: -point.response)[: self._most]
        # BRIEF may drop keypoints: only those it returns belong to its descriptors.
        points, descriptors = self._descriptor.compute(frame, found)
        if descriptors is None or not len(points):
            return _none()
        positions = np.array([point.pt for point in points], dtype=np.float32)
        return Keypoints(np.asarray(descriptors, dtype=np.uint8), positions)


def _none() -> Keypoints:
    return Keypoints(np.zeros((0, DESCRIPTOR_BYTES), dtype=np.uint8), np.zeros((0, 2), dtype=np.float32))
