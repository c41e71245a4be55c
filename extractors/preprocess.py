"""The geometry of preprocessing: resize and crop of ``uint8`` frames, done in the decode child.

The arithmetic half (colour order, scale, mean, std) is done on the device, by the extractors. No torch here, so that
the child starts quickly.
"""

import json
from math import ceil

import cv2
import numpy as np
from PIL import Image

from clipmill.schemas.arrays import Pixels
from clipmill.schemas.errors import VideoError, describe
from clipmill.schemas.recipe import Preprocess

PILLOW = {
    "bilinear_antialias": Image.Resampling.BILINEAR,
    "pillow_bicubic": Image.Resampling.BICUBIC,
    "pillow_lanczos": Image.Resampling.LANCZOS,
    "pillow_box": Image.Resampling.BOX,
    "pillow_hamming": Image.Resampling.HAMMING,
    "pillow_nearest": Image.Resampling.NEAREST,
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
    )
    values = {name: getattr(preprocess, name) for name in fields} | {"grey": preprocess.colour == "grey"}
    return json.dumps(values, sort_keys=True)


def resized_shape(preprocess: Preprocess, height: int, width: int) -> tuple[int, int]:
    """Returns rows and columns after the resize, before the crop."""
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
    other = far_side * target / side
    if preprocess.resize_rounding == "nearest":
        far = int(other + 0.5)
    else:
        # Cut to whole pixels, as torchvision does; the longest-side rule of R-MAC rounds up.
        far = ceil(other) if preprocess.resize == "long_side" else int(other)
    far = max(far, 1)
    return (target, far) if to_height else (far, target)


def centre_offset(preprocess: Preprocess, height: int, width: int) -> tuple[int, int]:
    """Returns row and column of the top left corner of the centred crop in a frame of this size."""
    rows, columns = preprocess.crop or (height, width)
    spare = height - rows, width - columns
    if preprocess.crop_rounding == "half_even":
        return round(spare[0] / 2), round(spare[1] / 2)
    return spare[0] // 2, spare[1] // 2


def output_shape(preprocess: Preprocess, height: int, width: int) -> tuple[int, int, int]:
    """Returns rows, columns and channels of a prepared frame."""
    rows, columns = resized_shape(preprocess, height, width)
    if preprocess.crop is not None:
        rows, columns = preprocess.crop
    return rows, columns, 1 if preprocess.colour == "grey" else 3


def apply_geometry(frame: Pixels, preprocess: Preprocess) -> Pixels:
    """Returns the frame resized and cropped, contiguous.

    Args:
        frame: ``uint8[H, W, 3]``, RGB.

    Returns:
        ``uint8[h, w, C]``, RGB or one grey channel. A frame smaller than the crop is padded with its border.

    Raises:
        VideoError: ``too_elongated``: resizing the short side makes the long side too long to hold.
    """
    if preprocess.colour == "grey":
        frame = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.uint8)[:, :, np.newaxis]
    rows, columns = resized_shape(preprocess, frame.shape[0], frame.shape[1])
    if (rows, columns) != frame.shape[:2]:
        if rows * columns > MOST_PIXELS:
            expected = f"at most {MOST_PIXELS} pixels after the resize"
            got = f"{columns} x {rows} from {frame.shape[1]} x {frame.shape[0]}"
            remedy = "set preprocess: {resize: exact, size: [rows, columns]}, or leave the video out"
            raise VideoError("decode", "too_elongated", describe("frame", "size", expected, got, remedy))
        frame = _resize(frame, rows, columns, preprocess.interpolation)
    if preprocess.crop is not None:
        frame = _crop(frame, preprocess.crop, preprocess)
    return np.ascontiguousarray(frame)


def _resize(frame: Pixels, rows: int, columns: int, interpolation: str) -> Pixels:
    if interpolation == "bilinear":
        resized = cv2.resize(frame, (columns, rows), interpolation=cv2.INTER_LINEAR)
    else:
        image = Image.fromarray(frame[:, :, 0] if frame.shape[2] == 1 else frame)
        resized = np.asarray(image.resize((columns, rows), PILLOW[interpolation]))
    return resized.reshape(rows, columns, frame.shape[2]).astype(np.uint8, copy=False)


def _crop(frame: Pixels, crop: tuple[int, int], preprocess: Preprocess) -> Pixels:
    rows, columns = crop
    short_rows, short_columns = max(rows - frame.shape[0], 0), max(columns - frame.shape[1], 0)
    if short_rows or short_columns:
        top, left = short_rows // 2, short_columns // 2
        pad = ((top, short_rows - top), (left, short_columns - left), (0, 0))
        frame = np.pad(frame, pad, mode="edge")
    height, width = frame.shape[:2]
    row, column = preprocess.crop_offset or centre_offset(preprocess, height, width)
    # A frame that is not resized can be too small for a fixed corner: the crop then touches its far border.
    row, column = min(row, height - rows), min(column, width - columns)
    return frame[row : row + rows, column : column + columns]
