"""Small pictures of moments of a video, for reports."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.decode.inspection import DEFAULT_LIMITS, InspectionLimits, inspect

JPEG_QUALITY = 80


def thumbnails(
    path: str,
    seconds: Sequence[float],
    width: int = 160,
    stream: str | None = None,
    limits: InspectionLimits = DEFAULT_LIMITS,
) -> list[bytes]:
    """Returns one JPEG per entry of `seconds`: the frame on display then (the first or last one outside the video).

    Args:
        seconds: presentation times, in any order.
        width: of the pictures, in pixels; the aspect is kept.
        stream: which video stream (see `streams`).
        limits: of the child process that decodes.

    Raises:
        VideoError: the video cannot be read, or no frame of it decodes.
    """
    options = {"seconds": [float(time) for time in seconds], "width": int(width), "stream": stream}
    answer = inspect("decode", path, "thumbnails", options, limits)
    ends = np.cumsum(answer.arrays["lengths"])
    data = answer.arrays["jpegs"].tobytes()
    return [data[end - length : end] for end, length in zip(ends, answer.arrays["lengths"], strict=True)]


def draw(path: str, seconds: Sequence[float], width: int, stream: str | None = None) -> dict[str, npt.NDArray[Any]]:
    """Returns the JPEGs one after another and their lengths; runs in the child process."""
    from clipmill.pipelines.decode import images
    from clipmill.pipelines.decode.containers import read_timeline
    from clipmill.pipelines.decode.pyav_frames import FaultError, PassCounts, pyav_frames
    from clipmill.pipelines.decode.scan import Timeline

    if images.is_image(path):
        return _joined([_jpeg(images.frame_of(path), width)] * len(seconds))
    facts, arrays = read_timeline(path, stream)
    timeline = Timeline(**facts, **arrays)
    shown = np.searchsorted(timeline.pts_seconds, np.asarray(seconds), side="right") - 1
    shown = np.clip(shown, 0, timeline.num_frames - 1).astype(np.int64)
    wanted = np.unique(shown)
    try:
        frames = pyav_frames(path, timeline, wanted, 1, careful=False, counts=PassCounts())
        pictures = {index: _jpeg(pixels, width) for index, pixels in frames}
    except FaultError:
        frames = pyav_frames(path, timeline, wanted, 1, careful=True, counts=PassCounts())
        pictures = {index: _jpeg(pixels, width) for index, pixels in frames}
    return _joined([pictures[int(index)] for index in shown])


def _joined(chosen: Sequence[bytes]) -> dict[str, npt.NDArray[Any]]:
    return {
        "jpegs": np.frombuffer(b"".join(chosen), dtype=np.uint8),
        "lengths": np.array([len(picture) for picture in chosen], dtype=np.int64),
    }


def _jpeg(pixels: npt.NDArray[np.uint8], width: int) -> bytes:
    from PIL import Image

    height = max(round(pixels.shape[0] * width / pixels.shape[1]), 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS).save(
        buffer, "JPEG", quality=JPEG_QUALITY, optimize=True
    )
    return buffer.getvalue()
