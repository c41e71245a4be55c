"""Image files: read as a viewer shows them, and, where a manifest names one, a video of one frame."""

import os
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL import __version__ as PILLOW_VERSION

from clipmill.pipelines.decode.refusals import refusal
from clipmill.schemas.arrays import Pixels

SUFFIXES = frozenset(".bmp .jpe .jpeg .jpg .pgm .png .pnm .ppm .tif .tiff .webp".split())
"""ours: what an image file is named by, in lower case. Formats of moving pictures (GIF, AVIF) are left to FFmpeg."""
DISPLAY_SECONDS = 1.0
"""ours: how long the one frame is on display, from 0 on."""
PAPER = (255, 255, 255)
"""ours: what shows through transparent pixels."""


class ImageError(Exception):
    """A file that cannot be read as an image: what was expected, what it is, and what helps."""

    def __init__(self, expected: str, got: str, remedy: str) -> None:
        super().__init__(expected, got, remedy)
        self.expected, self.got, self.remedy = expected, got, remedy


def is_image(path: str) -> bool:
    """Returns whether the file at `path` is named like an image and is one, of a single picture."""
    if os.path.splitext(path)[1].lower() not in SUFFIXES:
        return False
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) == 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError):
        return False


def read_image(path: str) -> Pixels:
    """Returns the image in the file at `path` as ``uint8[H, W, 3]``, RGB, as a viewer would show it.

    It is turned as its EXIF orientation says; transparent pixels lie on white (ours); 16-bit samples keep their high
    byte, as libpng's reduction to 8 bits does; grey becomes three equal channels; of an animation, the first frame.

    Raises:
        ImageError: no file, no image, a damaged one, or samples that are neither 8 nor 16 bits.
    """
    try:
        with Image.open(path) as opened:
            opened.load()
            return _rgb(ImageOps.exif_transpose(opened))
    except FileNotFoundError:
        raise ImageError("an image file", "nothing there", "correct the path") from None
    except IsADirectoryError:
        raise ImageError("an image file", "a folder", "name it under queries.folder") from None
    except UnidentifiedImageError:
        raise ImageError("an image", "a file of another kind", "convert it to PNG or JPEG") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError) as error:
        # Pillow's readers raise all of these for damaged files.
        got = next(iter(str(getattr(error, "strerror", None) or error).splitlines()), "") or type(error).__name__
        raise ImageError("a whole image", got, "save it again, as PNG or JPEG") from None


def _rgb(image: Image.Image) -> Pixels:
    mode = image.mode
    if mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[:, :, np.newaxis], 3, axis=2))
    if mode in ("I", "F"):
        raise ImageError("samples of 8 or 16 bits", f"Pillow's mode {mode}, 32 bits", "save it with 8 bits")
    if "A" in mode or "a" in mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (*PAPER, 255))
        image = Image.alpha_composite(paper, layer)
    return np.ascontiguousarray(np.asarray(image.convert("RGB"), dtype=np.uint8))


def frame_of(path: str) -> Pixels:
    """Returns the one frame ``uint8[H, W, 3]`` of an image file.

    Raises:
        Refused: ``unreadable``: the file is damaged, or has samples of 32 bits.
    """
    try:
        return read_image(path)
    except ImageError as error:
        raise refusal(path, "unreadable", error.expected, error.got, error.remedy) from None


def header_of(path: str) -> dict[str, Any]:
    """Returns the fields of `clipmill.schemas.records.VideoHeader`.

    Raises:
        Refused: see `frame_of`.
    """
    with Image.open(path) as image:
        codec = (image.format or "image").lower()
    height, width = frame_of(path).shape[:2]
    return {
        "container": "image",
        "codec": codec,
        "width": width,
        "height": height,
        "rotation_degrees": 0,
        "duration_seconds": DISPLAY_SECONDS,
        "average_fps": None,
        "num_frames": 1,
    }


def timeline_of(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the fields of `scan.Timeline`, the plain ones and the arrays: one frame at 0 s.

    Raises:
        Refused: see `frame_of`. Its pixels are looked at, since a file that breaks off shows nowhere else.
    """
    frame_bytes = frame_of(path).nbytes
    start, none = np.zeros(1, np.int64), np.zeros(0, np.int64)
    return (
        {
            "stream_index": None,
            "stop_seconds": DISPLAY_SECONDS,
            "counted": False,
            "decord_refusal": "an image",
            "frame_bytes": frame_bytes,
            "truncated": None,
            "num_packets": None,
            "num_repeated_times": 0,
        },
        {
            "pts_seconds": np.zeros(1),
            "key_frames": start,
            "fresh_frames": none,
            "part_packets": start,
            "part_offsets": start,
        },
    )


def version() -> str:
    """Returns the version of Pillow."""
    return PILLOW_VERSION
