"""Images of a page: stills as JPEG, and moving thumbnails, whose frames lie side by side in one WebP image.

The page's style steps through the frames of a moving thumbnail, so that it can be paused and obeys
``prefers-reduced-motion``; an animated GIF or WebP does neither.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

FRAME_WIDTH, FRAME_HEIGHT = 192, 108
"""ours: pixels of one frame; every frame is fitted into 16:9, so that all boxes of a page are alike."""
QUALITY = 60
NUM_FRAMES = 4
"""ours: frames of a clip."""
BUDGET_BYTES = 12_000_000
"""ours: most bytes of all thumbnails of a page; base64 makes them a third more, and 20 MB is the page's limit."""
BACKGROUND = (17, 19, 22)


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An encoded image (JPEG or WebP): a still, or `num_frames` equally large frames side by side, in time order."""

    data: bytes
    num_frames: int = 1


def frame_seconds(start_seconds: float, stop_seconds: float, num_frames: int = NUM_FRAMES) -> tuple[float, ...]:
    """Returns the middles of `num_frames` equal parts of a clip: where its frames are taken."""
    span = (stop_seconds - start_seconds) / num_frames
    return tuple(start_seconds + (i + 0.5) * span for i in range(num_frames))


def moving_thumbnail(frames: Sequence[bytes], width: int = FRAME_WIDTH, height: int = FRAME_HEIGHT) -> Thumbnail:
    """Returns the encoded images `frames` side by side; equal neighbours (a still clip) are kept once."""
    distinct = [frame for i, frame in enumerate(frames) if i == 0 or frame != frames[i - 1]]
    canvas = Image.new("RGB", (width * len(distinct), height), BACKGROUND)
    for index, frame in enumerate(distinct):
        with Image.open(io.BytesIO(frame)) as opened:
            image = opened.convert("RGB")
        scale = min(width / image.width, height / image.height)
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        if size != image.size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        canvas.paste(image, (index * width + (width - size[0]) // 2, (height - size[1]) // 2))
    buffer = io.BytesIO()
    canvas.save(buffer, "WEBP", quality=QUALITY, method=4)
    return Thumbnail(buffer.getvalue(), len(distinct))


def moving_thumbnails(frames: Mapping[str, Sequence[bytes]], budget_bytes: int = BUDGET_BYTES) -> dict[str, Thumbnail]:
    """Returns one thumbnail per id, with as many frames of each as keep all of them within `budget_bytes`.

    Where even one frame each is too much, the last ids have none.
    """
    most = max((len(images) for images in frames.values()), default=0)
    fitted: dict[str, Thumbnail] = {}
    for num_frames in range(most, 0, -1):
        fitted = {name: moving_thumbnail(_spread(images, num_frames)) for name, images in frames.items() if images}
        if sum(len(item.data) for item in fitted.values()) <= budget_bytes:
            return fitted
    kept: dict[str, Thumbnail] = {}
    for name, item in fitted.items():
        budget_bytes -= len(item.data)
        if budget_bytes < 0:
            break
        kept[name] = item
    return kept


def _spread(images: Sequence[bytes], num_frames: int) -> list[bytes]:
    num = min(num_frames, len(images))
    return [images[(2 * i + 1) * len(images) // (2 * num)] for i in range(num)]
