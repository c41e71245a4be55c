"""The geometry of preprocessing: resize and crop of ``uint8`` frames, done in the decode child.

The arithmetic half (colour order, scale, mean, std) is done on the device, by the extractors. No torch here, so that the
child starts quickly.
"""

import json

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from schemas.recipe import Preprocess

Pixels = npt.NDArray[np.uint8]


def geometry_key(preprocess: Preprocess) -> str:
    """Returns what decides the geometry: recipes with equal keys share one view of a decode pass."""
    fields = ("resize", "size", "resize_when", "interpolation", "crop", "crop_offset")
    values = {name: getattr(preprocess, name) for name in fields} | {"grey": preprocess.colour == "grey"}
    return json.dumps(values, sort_keys=True)


def resized_shape(preprocess: Preprocess, height: int, width: int) -> tuple[int, int]:
    """Returns rows and columns after the resize, before the crop."""
    if preprocess.resize == "none":
        return height, width
    if preprocess.resize == "exact":
        rows, columns = preprocess.size
        return rows, columns
    short = preprocess.resize == "short_side"
    side = min(height, width) if short else max(height, width)
    target = preprocess.size[0]
    keep = {"always": False, "shrink": side <= target, "enlarge": side >= target}[preprocess.resize_when]
    if keep:
        return height, width
    # The other side is cut to whole pixels, as torchvision and mmaction2 do; the longest-side rule of R-MAC rounds up.
    other = max(height, width) * target / side if short else min(height, width) * target / side
    far = int(other) if short else int(np.ceil(other))
    if (height <= width) == short:
        return target, far
    return far, target


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
    """
    if preprocess.colour == "grey":
        frame = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[:, :, np.newaxis]
    rows, columns = resized_shape(preprocess, frame.shape[0], frame.shape[1])
    if (rows, columns) != frame.shape[:2]:
        frame = _resize(frame, rows, columns, preprocess.interpolation)
    if preprocess.crop is not None:
        frame = _crop(frame, preprocess.crop, preprocess.crop_offset)
    return np.ascontiguousarray(frame)


def _resize(frame: Pixels, rows: int, columns: int, interpolation: str) -> Pixels:
    if interpolation == "bilinear":
        resized = cv2.resize(frame, (columns, rows), interpolation=cv2.INTER_LINEAR)
    else:
        image = Image.fromarray(frame[:, :, 0] if frame.shape[2] == 1 else frame)
        resized = np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR))
    return resized.reshape(rows, columns, frame.shape[2]).astype(np.uint8, copy=False)


def _crop(frame: Pixels, crop: tuple[int, int], offset: tuple[int, int] | None) -> Pixels:
    rows, columns = crop
    short_rows, short_columns = max(rows - frame.shape[0], 0), max(columns - frame.shape[1], 0)
    if short_rows or short_columns:
        top, left = short_rows // 2, short_columns // 2
        pad = ((top, short_rows - top), (left, short_columns - left), (0, 0))
        frame = np.pad(frame, pad, mode="edge")
    # Centring rounds down, as Caffe does: column 29, not 30, of a 171 wide frame cropped to 112.
    row, column = offset if offset is not None else ((frame.shape[0] - rows) // 2, (frame.shape[1] - columns) // 2)
    return frame[row : row + rows, column : column + columns]
