"""Which way up a frame is shown: the display matrix of its stream or of its own side data, and turning it upright.

A container's matrix (MP4, MOV, Matroska) reaches every decoded frame as side data, and so do the display orientation
messages of H.264 and HEVC and the EXIF orientation of JPEG pictures. So the frames are asked, and a file that turns on
its way is followed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import atan2, degrees, hypot, nan
from typing import Any

import av
import av.error
import av.logging
import numpy as np

from clipmill.pipelines.decode.nal_units import length_bytes, unit_kind, units
from clipmill.schemas.arrays import Pixels

MAX_PEEK_PACKETS = 40
"""No codec holds back more frames than this before it gives the first one (ours)."""
EXACT_DEGREES = 1.0
"""A matrix turns by a multiple of 90 degrees where it is nearer to one than this, as ffmpeg has it."""

MATRIX_BYTES = 36
ORIENTATION_MESSAGE = 47
"""payloadType of the display orientation SEI message, in ITU-T H.264 D.1 and H.265 D.2 alike."""
_SEI_UNITS = {"h264": (6,), "hevc": (39,)}
_PICTURE_UNITS = {"h264": range(1, 6), "hevc": range(32)}


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a decoded frame becomes upright: rows and columns are exchanged first, then columns and rows are reversed.

    Attributes:
        rotation_degrees: counter-clockwise turn of the matrix, 0, 90, 180 or 270, as ffprobe shows it; mirroring is
            not in it.
        upright: False where the matrix turns by no multiple of 90 degrees: such a frame is not turned at all.
    """

    exchanged: bool = False
    reversed_columns: bool = False
    reversed_rows: bool = False
    rotation_degrees: int = 0
    upright: bool = True

    @property
    def is_identity(self) -> bool:
        """Whether frames are shown as they are decoded."""
        return not (self.exchanged or self.reversed_columns or self.reversed_rows)

    def apply(self, pixels: Pixels) -> Pixels:
        """Returns ``uint8[H, W, C]`` as it is shown: ``uint8[W, H, C]`` where rows and columns are exchanged."""
        if self.is_identity:
            return pixels
        if self.exchanged:
            pixels = pixels.transpose(1, 0, 2)
        return np.ascontiguousarray(pixels[:: -1 if self.reversed_rows else 1, :: -1 if self.reversed_columns else 1])


IDENTITY = Orientation()


def orientation_of(matrix: tuple[int, ...]) -> Orientation:
    """Returns what a display matrix ``(a, b, u, c, d, v, x, y, w)``, with a to d in 16.16, asks for.

    The rules are those by which ffmpeg chooses filters for its ``-autorotate``: only the angle of the matrix and the
    signs of its entries count, so a scaling one changes nothing.
    """
    a, b, _, c, d = matrix[:5]
    theta = _clockwise_degrees(a, b, c, d)
    if theta is None:
        return IDENTITY
    if abs(theta - 90) < EXACT_DEGREES:
        return Orientation(True, c <= 0, False, 270)
    if abs(theta - 180) < EXACT_DEGREES:
        return Orientation(False, a < 0, d < 0, 180)
    if abs(theta - 270) < EXACT_DEGREES:
        return Orientation(True, c < 0, True, 90)
    if abs(theta) < EXACT_DEGREES:
        return Orientation(False, False, d < 0, 0)
    return Orientation(upright=False)


def _clockwise_degrees(a: int, b: int, c: int, d: int) -> float | None:
    """Returns the angle as ``av_display_rotation_get`` has it, in whole degrees from 0 to 360; None for no angle."""
    scale_x, scale_y = hypot(a, c), hypot(b, d)
    theta = degrees(atan2(b / scale_y, a / scale_x)) if scale_x and scale_y else nan
    if theta != theta:
        return None
    return round(theta) % 360


class Turns:
    """Follows the frames of one stream, in the order they are shown, and says which way up each of them is.

    What a display orientation message says holds until the next one, as H.264 and H.265 have it where it is to persist.
    libavcodec gives it to its own frame alone. A message that says upright gives a frame no matrix at all, so the
    packets that hold messages are noted.
    """

    def __init__(self, stream: Any) -> None:
        self._context = stream.codec_context
        self._spoken: set[int | None] = set()
        self._current = IDENTITY

    def note(self, packet: Any) -> bool:
        """Looks at a packet that goes to the decoder; returns whether it is a key frame with a message."""
        spoken = packet.is_keyframe and _has_message(packet, self._context)
        if spoken:
            self._spoken.add(packet.pts)
        return bool(spoken)

    def follow(self, frame: Any) -> Orientation:
        """Returns how the next frame is shown."""
        data = frame.side_data.get("DISPLAYMATRIX")
        if data is not None and data.buffer_size >= MATRIX_BYTES:
            values = np.frombuffer(bytes(data), dtype="<i4", count=9)
            self._current = orientation_of(tuple(values.tolist()))
        elif self._spoken and frame.pts in self._spoken:
            self._current = IDENTITY
        return self._current


class FirstFrame:
    """Decodes the beginning of a stream, packet by packet, until one frame has come out.

    Attributes:
        orientation: of that frame; None until there is one.
    """

    def __init__(self, stream: Any) -> None:
        self._context = stream.codec_context
        self._turns = Turns(stream)
        self._left = MAX_PEEK_PACKETS
        self.orientation: Orientation | None = None

    def give(self, packet: Any) -> bool:
        """Takes the next packet (None at the end); returns whether further ones are wanted.

        Errors are kept quiet: what does not decode is told when the video is decoded.
        """
        if self.orientation is not None or not self._left:
            return False
        self._left -= 1
        av.logging.set_libav_level(av.logging.PANIC)
        try:
            for frame in self._context.decode(packet):
                self.orientation = self._turns.follow(frame)
                return False
        except av.error.MemoryError:
            raise MemoryError from None
        except (av.error.FFmpegError, ValueError):
            pass
        finally:
            av.logging.set_libav_level(av.logging.ERROR)
        return True


def _has_message(packet: Any, context: Any) -> bool:
    """Returns whether an H.264 or HEVC packet holds a display orientation message before its picture."""
    codec = context.codec.canonical_name
    if codec not in _SEI_UNITS:
        return False
    data = bytes(packet)
    for unit in units(data, length_bytes(codec, context.extradata)):
        if not unit:
            continue
        kind = unit_kind(codec, unit)
        if kind in _PICTURE_UNITS[codec]:
            return False
        if kind in _SEI_UNITS[codec] and ORIENTATION_MESSAGE in _messages(unit[1 if codec == "h264" else 2 :]):
            return True
    return False


def _messages(body: bytes) -> Iterator[int]:
    """Yields the payload types of an SEI unit."""
    body = body.replace(b"\0\0\3", b"\0\0")
    position = 0
    # The unit ends with one byte of trailing bits.
    while position + 2 < len(body):
        numbers = []
        for _ in range(2):
            number = 0
            while position < len(body) and body[position] == 0xFF:
                number += 255
                position += 1
            if position >= len(body):
                return
            numbers.append(number + body[position])
            position += 1
        yield numbers[0]
        position += numbers[1]
