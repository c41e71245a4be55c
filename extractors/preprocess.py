"""The geometry of preprocessing: resize and crop of ``uint8`` frames, done in the decode child.

The arithmetic half (colour order, scale, mean, std) is done on the device, by the extractors. No torch here, so that
the child starts quickly.
"""

import json
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipmill.schemas.arrays import Pixels
from clipmill.schemas.errors import VideoError, describe
from clipmill.schemas.recipe import Preprocess

OPENCV = {"bilinear": "INTER_LINEAR", "bicubic": "INTER_CUBIC", "nearest": "INTER_NEAREST"}
PILLOW = {
    "bilinear_antialias": Image.Resampling.BILINEAR,
    "pillow_nearest": Image.Resampling.NEAREST,
    "pillow_box": Image.Resampling.BOX,
    "pillow_hamming": Image.Resampling.HAMMING,
    "pillow_bicubic": Image.Resampling.BICUBIC,
    "pillow_lanczos": Image.Resampling.LANCZOS,
}

MOST_PIXELS = 1 << 26
"""Of a resized frame (ours): twice an 8K frame, 200 MB. Only a frame of a few rows or columns gets there."""


def geometry_key(preprocess: Preprocess) -> str:
    """Returns what decides the geometry: recipes with equal keys share one view of a decode pass."""
    fields = (
        "resize",
        "size",
        "resize_when",
        "resize_rounding",
        "interpolation",
        "crop",
        "crop_offset",
        "crop_rounding",
        "stored_side",
        "resize_precision",
        "crops",
    )
    values = {name: getattr(preprocess, name) for name in fields} | {"grey": preprocess.colour == "grey"}
    return json.dumps(values, sort_keys=True)


def resized_shape(preprocess: Preprocess, height: int, width: int) -> tuple[int, int]:
    """Returns rows and columns after the resize, before the crop."""
    if preprocess.stored_side is not None:
        height, width = _stored_shape(preprocess.stored_side, height, width)
    return _resized_shape(preprocess, height, width)


def _stored_shape(side: int, height: int, width: int) -> tuple[int, int]:
    """Returns rows and columns of a frame whose short side is brought to `side`."""
    far = max(int(side * (max(height, width) / min(height, width))), 1)
    return (side, far) if height < width else (far, side)


def _resized_shape(preprocess: Preprocess, height: int, width: int) -> tuple[int, int]:
    if preprocess.resize == "none":
        return height, width
    if preprocess.resize == "exact":
        rows, columns = preprocess.size
        return rows, columns
    to_height = {"short_side": height <= width, "long_side": height > width, "width": False}[preprocess.resize]
    side, far_side = (height, width) if to_height else (width, height)
    target = preprocess.size[0]
    keep = {"always": False, "shrink": side <= target, "enlarge": side >= target}[preprocess.resize_when]
    if keep:
        return height, width
    if preprocess.resize_rounding == "opencv_factor":
        factor = _factor(target, side)
        return max(round(height * factor), 1), max(round(width * factor), 1)
    other = far_side * target / side
    if preprocess.resize_rounding == "nearest":
        far = int(other + 0.5)
    elif preprocess.resize_rounding == "even":
        far = max(int(float(target) * far_side / side / 2) * 2, 2)
    else:
        # Cut to whole pixels, as torchvision does; the longest-side rule of R-MAC rounds up.
        far = ceil(other) if preprocess.resize == "long_side" else int(other)
    far = max(far, 1)
    return (target, far) if to_height else (far, target)


def _factor(target: int, side: int) -> float:
    # In the terms of the code that has it: target / side can differ in the last bit, and that can decide a rounding.
    return 1 + (float(target) - side) / side


def centre_offset(preprocess: Preprocess, height: int, width: int) -> tuple[int, int]:
    """Returns row and column of the top left corner of the centred crop in a frame of this size."""
    rows, columns = preprocess.crop or (height, width)
    spare = height - rows, width - columns
    if preprocess.crop_rounding == "half_even":
        return round(spare[0] / 2), round(spare[1] / 2)
    return spare[0] // 2, spare[1] // 2


def output_shape(preprocess: Preprocess, height: int, width: int) -> tuple[int, int, int]:
    """Returns rows, columns and channels of a prepared frame; of one in float32 four bytes stand for each channel."""
    rows, columns = resized_shape(preprocess, height, width)
    if preprocess.crop is not None:
        at_least = preprocess.crop
        rows, columns = at_least if preprocess.crops is None else (max(rows, at_least[0]), max(columns, at_least[1]))
    channels = 1 if preprocess.colour == "grey" else 3
    return rows, columns, channels * (1 if preprocess.resize_precision is None else 4)


def apply_geometry(frame: Pixels, preprocess: Preprocess) -> Pixels:
    """Returns the frame resized and cropped, contiguous.

    Args:
        frame: ``uint8[H, W, 3]``, RGB.

    Returns:
        ``uint8[h, w, C]``, RGB or one grey channel; with `resize_precision` ``uint8[h, w, 4 C]``, the bytes of float32
        (see `values_of`). A frame smaller than the crop is padded with its border.

    Raises:
        VideoError: ``too_elongated``: resizing the short side makes the long side too long to hold.
    """
    if preprocess.colour == "grey":
        import cv2

        frame = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.uint8)[:, :, np.newaxis]
    found = resized(frame, preprocess)
    if preprocess.crop is not None:
        found = _padded(found, preprocess.crop)
        if preprocess.crops is None:
            found = _crop(found, preprocess.crop, preprocess)
    return np.ascontiguousarray(found).view(np.uint8)


def resized(frame: Pixels, preprocess: Preprocess) -> npt.NDArray[Any]:
    """Returns ``uint8[h, w, C]``, or float32 with `resize_precision`: the frame resized, before any crop.

    Args:
        frame: ``uint8[H, W, C]``, of one or three channels, which stay as they are.

    Raises:
        VideoError: as `apply_geometry`.
    """
    if preprocess.stored_side is not None:
        frame = _resize(frame, _stored_shape(preprocess.stored_side, *frame.shape[:2]), preprocess.interpolation)
    found: npt.NDArray[Any] = frame
    if preprocess.resize_precision is not None:
        found = found.astype(np.float32)
    shape = _resized_shape(preprocess, frame.shape[0], frame.shape[1])
    if shape != frame.shape[:2]:
        factor = None
        if preprocess.resize_rounding == "opencv_factor":
            factor = _factor(preprocess.size[0], _named_side(preprocess, *frame.shape[:2]))
        found = _resize(found, shape, preprocess.interpolation, factor)
    return found


def values_of(frames: npt.NDArray[np.uint8], preprocess: Preprocess) -> npt.NDArray[Any]:
    """Returns prepared frames ``[..., C]`` as numbers from 0 to 255: ``uint8``, or ``float32`` of a float32 resize.

    Frames that have a byte for each channel are taken as they are, whatever the preprocessing.
    """
    num_bytes = 4 if preprocess.resize_precision is not None else 1
    channels = 1 if preprocess.colour == "grey" else 3
    if frames.shape[-1] == channels * num_bytes and num_bytes > 1:
        return np.ascontiguousarray(frames).view(np.float32)
    return frames


def _named_side(preprocess: Preprocess, height: int, width: int) -> int:
    """Returns the side of a frame that `size` is of."""
    sides = {"short_side": min(height, width), "long_side": max(height, width)}
    return sides.get(preprocess.resize, width)


def _resize(
    frame: npt.NDArray[Any], shape: tuple[int, int], interpolation: str, factor: float | None = None
) -> npt.NDArray[Any]:
    rows, columns = shape
    if rows * columns > MOST_PIXELS:
        expected = f"at most {MOST_PIXELS} pixels after the resize"
        got = f"{columns} x {rows} from {frame.shape[1]} x {frame.shape[0]}"
        remedy = "set preprocess: {resize: exact, size: [rows, columns]}, or leave the video out"
        raise VideoError("decode", "too_elongated", describe("frame", "size", expected, got, remedy))
    resized: npt.NDArray[Any]
    if interpolation in OPENCV:
        # Who lists recipes or reads rows has no OpenCV, and asks for shapes alone.
        import cv2

        method = getattr(cv2, OPENCV[interpolation])
        if factor is not None:
            resized = np.asarray(cv2.resize(frame, None, fx=factor, fy=factor, interpolation=method))
        else:
            resized = np.asarray(cv2.resize(frame, (columns, rows), interpolation=method))
    else:
        image = Image.fromarray(frame[:, :, 0] if frame.shape[2] == 1 else frame)
        resized = np.asarray(image.resize((columns, rows), PILLOW[interpolation]))
    return resized.reshape(rows, columns, frame.shape[2]).astype(frame.dtype, copy=False)


def _padded(frame: npt.NDArray[Any], crop: tuple[int, int]) -> npt.NDArray[Any]:
    short_rows, short_columns = max(crop[0] - frame.shape[0], 0), max(crop[1] - frame.shape[1], 0)
    if not (short_rows or short_columns):
        return frame
    top, left = short_rows // 2, short_columns // 2
    pad = ((top, short_rows - top), (left, short_columns - left), (0, 0))
    return np.pad(frame, pad, mode="edge")


def _crop(frame: npt.NDArray[Any], crop: tuple[int, int], preprocess: Preprocess) -> npt.NDArray[Any]:
    rows, columns = crop
    height, width = frame.shape[:2]
    row, column = preprocess.crop_offset or centre_offset(preprocess, height, width)
    # A frame that is not resized can be too small for a fixed corner: the crop then touches its far border.
    row, column = min(row, height - rows), min(column, width - columns)
    return frame[row : row + rows, column : column + columns]
