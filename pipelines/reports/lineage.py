"""From a number back to what it was made of: clip, file, frames, weights, decoder and versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SHOWN_ENDS = 3
"""Times shown at either end of a long list."""


@dataclass(frozen=True, slots=True)
class ClipPlace:
    """Where a clip is: `clip` is its index within its video."""

    clip_id: str
    video_id: str
    clip: int
    start_seconds: float
    stop_seconds: float


@dataclass(frozen=True, slots=True)
class FeatureLineage:
    """How one feature's rows of a clip came about; what the store says, and `frames` as computed anew from the packets.

    Attributes:
        role: ``query`` or ``gallery``.
        recipe: key of the recipe, and `fingerprint` in full.
        rows: how many the clip has, and which are used.
        frames: which frames went through the network and when they are shown, as text; or why that is not known.
        weights: as the provenance record says, with the file's digest.
        facts: the rest of the provenance record: decoder, device, versions, digest of the values.
    """

    feature: str
    role: str
    recipe: str
    fingerprint: str
    rows: str
    frames: str
    weights: str
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ClipLineage:
    """One clip: the file it is cut from and the features it was compared by.

    Attributes:
        uri: where the video is.
        fingerprint: 32 hex digits over the video's bytes; `num_bytes` of them.
        state: whether the file there is still that one: ``same bytes``, or what is wrong; empty where no feature was
            made of it here.
    """

    clip_id: str
    video_id: str
    uri: str
    fingerprint: str
    num_bytes: int
    start_seconds: float
    stop_seconds: float
    state: str
    features: tuple[FeatureLineage, ...] = ()


def frames_text(frames: Sequence[int], pts_seconds: npt.NDArray[np.float64]) -> str:
    """Returns ``5 frames: 0, 25, 50, 75, 100 at 0.00, 1.00, 2.00, 3.00, 4.00 s``, shortened in the middle.

    Args:
        frames: indices in presentation order, distinct and ascending.
        pts_seconds: ``float64[N]`` of the whole video.
    """
    numbers = list(frames)
    if not numbers:
        return "no frame"
    times = [f"{pts_seconds[number]:.2f}" for number in numbers]
    noun = "frame" if len(numbers) == 1 else "frames"
    return f"{len(numbers)} {noun}: {_ends([str(n) for n in numbers])} at {_ends(times)} s"


def _ends(items: Sequence[str]) -> str:
    if len(items) <= 2 * SHOWN_ENDS + 1:
        return ", ".join(items)
    return ", ".join([*items[:SHOWN_ENDS], "…", *items[-SHOWN_ENDS:]])
