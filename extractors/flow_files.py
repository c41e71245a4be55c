"""Optical flow that was computed elsewhere and stored as grey images: two for each flow, its x and its y.

denseflow, dense_flow and the flow that is published for Charades are such files. Level 0 stands for ``-bound`` pixels,
level 255 for ``bound``.
"""

import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Pixels
from clipmill.schemas.errors import VideoError, describe
from clipmill.schemas.recipe import Preprocess

NUMBER = re.compile(r"\{number(?::0(\d{1,2})d?)?\}")
VIDEO_PLACES = re.compile(r"\{id\}|\{path\}|\{stem\}")
PLACES = re.compile(r"[{}]")

X_NAME = "flow_x_{number:05d}.jpg"
Y_NAME = "flow_y_{number:05d}.jpg"
"""As denseflow and dense_flow name their files."""

FLOW_MARK = "#flow="
"""In what names a video's flow images among all that planning has read."""

UNREADABLE = "unreadable"
"""In place of the digest of files that cannot be read: a worker meets the same fault, and says which."""

DIGEST_BYTES = 16
STAMP_BYTES = 7
"""So that a stamp fits into a signed 64-bit number."""

TURNED_FACTOR = 1.05
"""Ours: an image this much higher than wide is upright. Landscape images of any aspect agree, since flow of 340 x 256
pixels is common for videos of every shape."""


def name_problem(name: str) -> str | None:
    """Returns what is wrong with a pattern of file names, or None."""
    if len(NUMBER.findall(name)) != 1 or not NUMBER.search(name.rpartition("/")[2]):
        return "one {number} (or {number:05d}) in the file's name"
    if PLACES.search(NUMBER.sub("", VIDEO_PLACES.sub("", name))):
        return "no other places than {id}, {path}, {stem} and one {number} (or {number:05d})"
    return None


def folder_problem(folder: str) -> str | None:
    """Returns what is wrong with a pattern of folders, or None."""
    return "no other places than {id}, {path} and {stem}" if PLACES.search(VIDEO_PLACES.sub("", folder)) else None


def _placed(pattern: str, video_id: str, uri: str) -> str:
    filled = {
        "{id}": video_id,
        "{path}": os.path.splitext(video_id)[0],
        "{stem}": PurePosixPath(uri).stem,
    }
    return VIDEO_PLACES.sub(lambda match: filled[match.group()], pattern)


@dataclass(frozen=True, slots=True)
class FlowFiles:
    """The flow images of one video.

    Attributes:
        video_id: of the video, for messages.
        x, y: folder of the images, and what comes before and after the number in their names.
        digits: to which the number is filled up with zeros, of x and of y.
        first: number of the first flow.
        num_x, num_y: how many images there are without a gap.
    """

    video_id: str
    x: tuple[str, str, str]
    y: tuple[str, str, str]
    digits: tuple[int, int]
    first: int
    num_x: int
    num_y: int

    @property
    def count(self) -> int:
        """Flows that have both images."""
        return min(self.num_x, self.num_y)

    @property
    def uri(self) -> str:
        """What names these files among all that planning has read once."""
        return f"{self._path('x', self.first)}{FLOW_MARK}{self._path('y', self.first)}"

    def _path(self, axis: Literal["x", "y"], number: int) -> str:
        (folder, before, after), digits = (self.x, self.digits[0]) if axis == "x" else (self.y, self.digits[1])
        return os.path.join(folder, f"{before}{number:0{digits}d}{after}")

    def _paths(self) -> list[str]:
        x = [self._path("x", self.first + index) for index in range(self.num_x)]
        return x + [self._path("y", self.first + index) for index in range(self.num_y)]

    def stamp(self) -> tuple[int, int]:
        """Returns the size of all files, and a number of their names, sizes and times: unchanged while they are."""
        total = 0
        digest = hashlib.blake2b(digest_size=STAMP_BYTES)
        for path in self._paths():
            try:
                status = os.stat(path)
            except OSError:
                continue
            total += status.st_size
            digest.update(
                f"{os.path.basename(path)}\x00{status.st_size}\x00{status.st_mtime_ns}\n".encode("utf-8", "replace")
            )
        return total, int.from_bytes(digest.digest(), "big")

    def digest(self) -> str:
        """Returns 32 hex digits over the bytes of all files in their order, wherever they lie and whatever their name.

        ``unreadable`` where one cannot be read.
        """
        digest = hashlib.blake2b(f"{self.num_x} {self.num_y}\n".encode(), digest_size=DIGEST_BYTES)
        try:
            for path in self._paths():
                with open(path, "rb") as file:
                    data = file.read()
                digest.update(len(data).to_bytes(8, "big"))
                digest.update(data)
        except OSError:
            return UNREADABLE
        return digest.hexdigest()

    def check(self, num_frames: int) -> None:
        """Refuses files that are not those of a video of so many frames: one for each pair, or one for each frame.

        Raises:
            VideoError: ``missing_flow`` or ``surplus_flow``.
        """
        allowed = (max(num_frames - 1, 1), num_frames)
        if self.num_x == self.num_y and self.num_x in allowed:
            return
        numbers = f"{allowed[0]} or {num_frames}" if allowed[0] != num_frames else str(num_frames)
        first = self._path("x", self.first)
        expected = f"{numbers} flows (x and y) for its {num_frames} frames, without a gap from {first} on"
        got = f"{self.num_x} of x and {self.num_y} of y"
        is_surplus = max(self.num_x, self.num_y) > num_frames
        remedy = "compute the flow of this file, and look at flow.folder, x, y and first"
        reason = "surplus_flow" if is_surplus else "missing_flow"
        raise VideoError("scan", reason, describe("video", self.video_id, expected, got, remedy))

    def levels(self, index: int) -> tuple[Pixels, Pixels]:
        """Returns x and y of flow `index` (from 0), each ``uint8[H, W, 1]``.

        Raises:
            VideoError: ``unreadable_flow``: one is no image; ``flow_size``: their sizes differ.
        """
        x, y = (self._image(axis, self.first + index) for axis in ("x", "y"))
        if x.shape != y.shape:
            expected = f"{_size(x)}, as {self._path('x', self.first + index)}"
            remedy = "compute this video's flow again"
            message = describe("flow", self._path("y", self.first + index), expected, _size(y), remedy)
            raise VideoError("extract", "flow_size", message)
        return x, y

    def _image(self, axis: Literal["x", "y"], number: int) -> Pixels:
        import cv2

        path = self._path(axis, number)
        try:
            data = np.fromfile(path, dtype=np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
        except (OSError, cv2.error):
            image = None
        if image is None:
            message = describe("flow", path, "a grey image", "none that can be read", "compute this video's flow again")
            raise VideoError("extract", "unreadable_flow", message)
        return np.asarray(image, dtype=np.uint8)[:, :, np.newaxis]


def _size(image: Pixels) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def find_flow_files(folder: str, names: tuple[str, str], first: int | None, video_id: str, uri: str) -> FlowFiles:
    """Returns the flow images of a video, as far as there are any.

    Args:
        folder: may hold ``{id}``, ``{path}`` (the id without suffix) and ``{stem}`` (of the video's file).
        names: of x and y, which hold ``{number:05d}`` too, and may begin with folders.
        first: number of the first flow; None: 0 where there is such a file, else 1.
    """
    parts: list[tuple[str, str, str]] = []
    digits: list[int] = []
    for name in names:
        match = NUMBER.search(name)
        if match is None:
            raise ValueError(f"flow name {name}: expected {{number}}, got none")
        # Filled after the number is cut out: an id may hold braces of its own.
        before = os.path.join(_placed(folder, video_id, uri), _placed(name[: match.start()], video_id, uri))
        parent, _, begin = before.rpartition("/")
        parts.append((parent, begin, _placed(name[match.end() :], video_id, uri)))
        digits.append(int(match.group(1) or 1))

    # Asked for one by one: a folder may hold the images of all videos, and would be listed for each of them.
    def has(place: int, number: int) -> bool:
        parent, before, after = parts[place]
        return os.path.isfile(os.path.join(parent, f"{before}{number:0{digits[place]}d}{after}"))

    start = first if first is not None else 0 if has(0, 0) or has(1, 0) else 1
    counts = []
    for place in (0, 1):
        count = 0
        while has(place, start + count):
            count += 1
        counts.append(count)
    return FlowFiles(video_id, parts[0], parts[1], (digits[0], digits[1]), start, counts[0], counts[1])


class ImageFlows:
    """Flows of whole windows, read from a video's images; an image is read once while it is remembered.

    Args:
        preprocess: whose resize brings the images to the network's size.
        num_remembered: how many flows are kept.
    """

    def __init__(self, preprocess: Preprocess, num_remembered: int) -> None:
        self._preprocess = preprocess
        self._num_remembered = num_remembered
        self._known: OrderedDict[tuple[FlowFiles, int], Pixels] = OrderedDict()

    def of(self, files: FlowFiles, frames: Sequence[int], frame_shape: tuple[int, int]) -> Pixels:
        """Returns ``uint8[T, 2, H, W]``, levels: of each video frame of `frames` the flow to the video's next frame.

        A frame behind the last flow has the last one.

        Args:
            frame_shape: rows and columns of the video's frames, whose orientation the images must have.

        Raises:
            VideoError: ``flow_size``, ``unreadable_flow``.
        """
        found = [self._one(files, min(frame, files.count - 1), frame_shape) for frame in frames]
        for image in found:
            if image.shape != found[0].shape:
                expected = f"images of one size ({found[0].shape[2]}x{found[0].shape[1]})"
                got = f"{image.shape[2]}x{image.shape[1]} after the resize"
                message = describe("flow of video", files.video_id, expected, got, "compute this video's flow again")
                raise VideoError("extract", "flow_size", message)
        return np.stack(found)

    def _one(self, files: FlowFiles, index: int, frame_shape: tuple[int, int]) -> Pixels:
        from clipmill.extractors.preprocess import resized

        key = (files, index)
        image = self._known.pop(key, None)
        if image is None:
            x, y = files.levels(index)
            _check_turned(files, x, frame_shape)
            pair = [resized(axis, self._preprocess)[:, :, 0] for axis in (x, y)]
            image = np.stack(pair)
        self._known[key] = image
        if len(self._known) > self._num_remembered:
            self._known.popitem(last=False)
        return image


def _check_turned(files: FlowFiles, image: Pixels, frame_shape: tuple[int, int]) -> None:
    def upright(rows: int, columns: int) -> int:
        return (rows > columns * TURNED_FACTOR) - (columns > rows * TURNED_FACTOR)

    if upright(*image.shape[:2]) * upright(*frame_shape) == -1:
        expected = f"the orientation of its frames ({frame_shape[1]}x{frame_shape[0]})"
        remedy = "compute the flow of the frames as they are shown"
        message = describe("flow of video", files.video_id, expected, f"images of {_size(image)}", remedy)
        raise VideoError("extract", "flow_size", message)


def values_of_levels(levels: Pixels, bound_ratio: float) -> npt.NDArray[np.float32]:
    """Returns ``level / 255 * 2 - 1``, as pytorch-i3d's loader does.

    Args:
        bound_ratio: what the levels' bound is of the network's; where it is not 1 values are scaled by it and clamped.
    """
    values = levels.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    return values if bound_ratio == 1 else np.clip(values * np.float32(bound_ratio), -1, 1)
