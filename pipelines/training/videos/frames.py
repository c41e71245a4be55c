"""Frames of training items: which ones, decoded ahead in a child process, cut and mirrored as drawn.

Everything drawn for an item is drawn from (seed, epoch, item) alone, so neither the number of workers nor how far one
decodes ahead changes a pixel.
"""

import hashlib
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from clipmill.extractors.learner import Augmentation
from clipmill.extractors.preprocess import resized_shape, values_of
from clipmill.pipelines.decode.session import (
    DecodedFrame,
    DecodeRequest,
    DecodeSession,
    Failed,
    Finished,
    Restarted,
    View,
)
from clipmill.pipelines.training.videos.items import VideoItem, VideoItems
from clipmill.schemas.arrays import Ints, Pixels
from clipmill.schemas.config_videos import LookAheadConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.recipe import Preprocess, Recipe

WAIT_SECONDS = 0.2
"""Between two looks at whether the other side has gone."""
RESIZED_TRIES = 10
"""Of drawing a part that fits the frame, before the whole of it is taken (torchvision's RandomResizedCrop)."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """One item of an epoch with what was drawn for it.

    Attributes:
        frames: ``int64[T]``, in order, with repeats.
        place: of the crop: shares of the room there is, from the top and from the left.
        mirrored: whether frames are mirrored.
        how: what else is done to them.
        target: as the network is told, the class of the mirror image where that is another.
        generator: for what else is drawn of the item.
    """

    item: VideoItem
    frames: Ints
    place: tuple[float, float]
    mirrored: bool
    how: Augmentation
    target: Any
    generator: np.random.Generator


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """An item's frames ``uint8[T, H, W, C]`` as the network takes them, and what it is to say of them."""

    pixels: Pixels
    target: Any
    generator: np.random.Generator


class Drawing:
    """Draws what is to be done with items.

    Args:
        seed: of the loop.
    """

    def __init__(self, items: VideoItems, recipe: Recipe, augmentation: Augmentation, seed: int) -> None:
        self._items, self._seed, self._augmentation = items, seed, augmentation
        self._num_frames, self._every = recipe.sampling.frames or 1, recipe.sampling.every
        code = {name: index for index, name in enumerate(items.classes)}
        self._mirrored = {
            code[name]: code[other]
            for name, other in augmentation.mirrored_classes.items()
            if name in code and other in code
        }

    def __call__(self, epoch: int, number: int) -> Drawn:
        """Returns item `number` as it is in epoch `epoch`, both from 0."""
        item, generator = self._items.items[number], self._generator(f"{epoch} item {number}")
        start, place, coin = generator.random(), generator.random(2), generator.random()
        frames, target = item.frames, item.target
        mirrored = item.mirrored or (self._augmentation.flip == "random" and coin < 0.5)
        if isinstance(target, int):
            frames = self._window(frames, start)
            target = self._mirrored.get(target, target) if mirrored else target
        return Drawn(item, frames, (float(place[0]), float(place[1])), mirrored, self._augmentation, target, generator)

    def validation(self, number: int) -> Drawn:
        """Returns item `number` of the validation split, in every epoch alike: its middle window, cropped as rows are.

        What a network draws of it besides is the same each time, too.
        """
        item, how = self._items.validation[number], Augmentation("recipe", flip="never")
        frames = self._window(item.frames, 0.5) if isinstance(item.target, int) else item.frames
        return Drawn(item, frames, (0.0, 0.0), False, how, item.target, self._generator(f"validation {number}"))

    def _generator(self, what: str) -> np.random.Generator:
        digest = hashlib.blake2b(f"{self._seed} {what}".encode(), digest_size=16).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))

    def _window(self, sequence: Ints, start: float) -> Ints:
        """Returns a window at a random place; a shorter clip repeats its last frame, or begins again."""
        loops = self._augmentation.loops
        span = self._num_frames * self._every if loops else (self._num_frames - 1) * self._every + 1
        first = int(start * (max(len(sequence) - span, 0) + 1))
        positions = first + np.arange(self._num_frames) * self._every
        return sequence[positions % len(sequence) if loops else np.minimum(positions, len(sequence) - 1)]


class FrameSource:
    """Items with their frames, in the order they are asked for; decoding goes on while the caller computes.

    A thread reads what a decode child writes, so that `look_ahead` items wait beyond the one being decoded. Use it as a
    context manager: leaving it ends thread and child.

    Args:
        wanted: what is to be shown, in order; drawn from in that thread.
    """

    def __init__(
        self,
        items: VideoItems,
        recipe: Recipe,
        decode: LookAheadConfig,
        wanted: Iterator[Drawn],
    ) -> None:
        self._items, self._preprocess = items, recipe.preprocess
        self._decode, self._wanted = decode, wanted
        self._ready: queue.Queue[Shown | BaseException | None] = queue.Queue(maxsize=decode.look_ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="training-frames")

    def __enter__(self) -> "FrameSource":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def __next__(self) -> Shown:
        """Returns the next item.

        Raises:
            UsageError: a video of it does not decode.
            MachineFaultError: no decode child could be started.
        """
        found = self._ready.get()
        if found is None:
            raise StopIteration
        if isinstance(found, BaseException):
            raise found
        return found

    def __iter__(self) -> "FrameSource":
        return self

    def _run(self) -> None:
        try:
            for shown in self._shown():
                if not self._put(shown):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, found: Shown | BaseException | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._ready.put(found, timeout=WAIT_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def _shown(self) -> Iterator[Shown]:
        under_way: list[Drawn] = []

        def requests() -> Iterator[DecodeRequest]:
            for drawn in self._wanted:
                under_way.append(drawn)
                yield self._request(drawn)

        decode = self._decode
        session = DecodeSession(
            deadline_seconds=decode.deadline_seconds,
            memory_bytes=int(decode.memory_gib * (1 << 30)),
            videos_per_child=decode.videos_per_child,
        )
        pixels: npt.NDArray[np.uint8] | None = None
        with session:
            for event in session.run(requests()):
                if self._stopped.is_set():
                    return
                drawn = under_way[0]
                if isinstance(event, DecodedFrame):
                    if pixels is None:
                        pixels = np.empty((len(drawn.frames), *event.pixels.shape), np.uint8)
                    pixels[drawn.frames == event.frame] = event.pixels
                elif isinstance(event, Restarted):
                    pixels = None
                elif isinstance(event, Failed):
                    video = self._items.videos[drawn.item.video]
                    remedy = "leave it out of the manifest; clipmill build lists all that do not decode"
                    raise UsageError(describe("video", video.id, "frames", event.error.message, remedy))
                elif isinstance(event, Finished) and pixels is not None:
                    under_way.pop(0)
                    yield Shown(self._changed(pixels, drawn), drawn.target, drawn.generator)
                    pixels = None

    def _request(self, drawn: Drawn) -> DecodeRequest:
        video = self._items.videos[drawn.item.video]
        timeline = video.timeline
        view = View(self._geometry(drawn), np.unique(drawn.frames))
        duration = timeline.stop_seconds - float(timeline.pts_seconds[0])
        return DecodeRequest(video.path, timeline, (view,), self._decode.decoder, duration)

    def _geometry(self, drawn: Drawn) -> Preprocess:
        """Returns what the child does: the resize, and the crop where its place is known before a frame is seen."""
        preprocess, how = self._preprocess, drawn.how.crop
        if how == "resized":
            # The frames as they are stored; the part's own resize comes after.
            return preprocess.model_copy(update={"crop": None, "crop_rounding": None, "resize": "none", "size": ()})
        if how == "random" and preprocess.crop is not None:
            if preprocess.resize != "exact" or preprocess.resize_when != "always":
                return preprocess.model_copy(update={"crop": None, "crop_offset": None})
            offset = _offset(resized_shape(preprocess, 1, 1), preprocess.crop, drawn.place)
            return preprocess.model_copy(update={"crop_offset": offset})
        return preprocess

    def _changed(self, pixels: Pixels, drawn: Drawn) -> Pixels:
        """Returns the frames cut and changed as far as the child did not."""
        crop, how = self._preprocess.crop, drawn.how
        if how.crop == "random" and crop is not None and pixels.shape[1:3] != crop:
            top, left = _offset(pixels.shape[1:3], crop, drawn.place)
            pixels = pixels[:, max(top, 0) : top + crop[0], max(left, 0) : left + crop[1]]
            if pixels.shape[1:3] != crop:
                expected, got = f"frames of at least {crop[1]} x {crop[0]}", f"{pixels.shape[2]} x {pixels.shape[1]}"
                raise UsageError(describe("model.preprocess", "crop", expected, got, "resize larger"))
        if how.crop == "resized" and crop is not None:
            pixels = _resized_part(pixels, crop, how, drawn.generator)
        if how.jitter is not None:
            pixels = _jittered(pixels, how.jitter, drawn.generator)
        if drawn.mirrored:
            width = pixels.shape[2]
            channels = values_of(pixels[:1, :1, :1], self._preprocess).shape[-1]
            # Of float32 pixels the four bytes of a number stay together.
            pixels = pixels.reshape(*pixels.shape[:2], width, channels, -1)[:, :, ::-1].reshape(pixels.shape)
        return np.ascontiguousarray(pixels)


def _offset(shape: Sequence[int], crop: tuple[int, int], place: tuple[float, float]) -> tuple[int, int]:
    rows, columns = (
        int(share * (max(side - kept, 0) + 1)) for share, side, kept in zip(place, shape, crop, strict=True)
    )
    return rows, columns


def _resized_part(pixels: Pixels, size: tuple[int, int], how: Augmentation, generator: np.random.Generator) -> Pixels:
    """Returns the frames' part of random area and shape, resized to `size` (rows, columns)."""
    height, width = pixels.shape[1:3]
    rows, columns = height, width
    for _ in range(RESIZED_TRIES):
        area = height * width * generator.uniform(*how.area)
        ratio = float(np.exp(generator.uniform(*np.log(how.ratio))))
        tried = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
        if 0 < tried[0] <= height and 0 < tried[1] <= width:
            rows, columns = tried
            break
    top, left = int(generator.integers(height - rows + 1)), int(generator.integers(width - columns + 1))
    part = pixels[:, top : top + rows, left : left + columns]
    resized = [cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR) for frame in part]
    return np.asarray(np.stack(resized), dtype=np.uint8)


def _jittered(pixels: Pixels, jitter: tuple[float, float, float, float], generator: np.random.Generator) -> Pixels:
    """Returns RGB frames with brightness, contrast, saturation and hue changed, in an order drawn with them.

    As torchvision's ColorJitter does, but in float32 and rounded once; hue is turned in OpenCV's HSV.
    """
    values: npt.NDArray[Any] = pixels.astype(np.float32)
    factors = [float(generator.uniform(max(0.0, 1 - size), 1 + size)) for size in jitter[:3]]
    turn = float(generator.uniform(-jitter[3], jitter[3]))
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    for change in generator.permutation(4).tolist():
        if change == 0:
            values *= factors[0]
        elif change == 1:
            mean = (values @ weights).mean(axis=(1, 2))[:, None, None, None]
            values = mean + factors[1] * (values - mean)
        elif change == 2:
            grey = (values @ weights)[..., None]
            values = grey + factors[2] * (values - grey)
        elif jitter[3]:
            flat = np.clip(values, 0, 255).reshape(-1, values.shape[2], 3) / np.float32(255)
            hsv = cv2.cvtColor(flat, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0] + 360.0 * turn) % 360.0
            values = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).reshape(values.shape) * np.float32(255)
        values = np.clip(values, 0, 255)
    return np.asarray(np.rint(values), dtype=np.uint8)
