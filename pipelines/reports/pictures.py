"""Animated thumbnails: some frames of a clip side by side in one WebP picture, which the page's style steps through.

A strip can be paused and obeys ``prefers-reduced-motion``; an animated GIF or WebP does neither.
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
"""ours: most bytes of all strips of a page together; base64 makes them a third more, and 20 MB is the page's limit."""
BACKGROUND = (17, 19, 22)


@dataclass(frozen=True, slots=True)
class Strip:
    """`num_frames` frames of 192 x 108 side by side, left to right in time, as WebP."""

    data: bytes
    num_frames: int


def clip_seconds(start_seconds: float, stop_seconds: float, num_frames: int = NUM_FRAMES) -> tuple[float, ...]:
    """Returns the middles of `num_frames` equal parts of a clip: where its frames are taken."""
    span = (stop_seconds - start_seconds) / num_frames
    return tuple(start_seconds + (i + 0.5) * span for i in range(num_frames))


def strip(frames: Sequence[bytes], width: int = FRAME_WIDTH, height: int = FRAME_HEIGHT) -> Strip:
    """Returns the encoded pictures `frames` side by side; equal neighbours (a still clip) are kept once."""
    distinct = [frame for i, frame in enumerate(frames) if i == 0 or frame != frames[i - 1]]
    canvas = Image.new("RGB", (width * len(distinct), height), BACKGROUND)
    for index, frame in enumerate(distinct):
        with Image.open(io.BytesIO(frame)) as opened:
            picture = opened.convert("RGB")
        scale = min(width / picture.width, height / picture.height)
        size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        canvas.paste(picture, (index * width + (width - size[0]) // 2, (height - size[1]) // 2))
    buffer = io.BytesIO()
    canvas.save(buffer, "WEBP", quality=QUALITY, method=4)
    return Strip(buffer.getvalue(), len(distinct))


def strips(frames: Mapping[str, Sequence[bytes]], budget_bytes: int = BUDGET_BYTES) -> dict[str, Strip]:
    """Returns one strip per id, with as many frames of each as keep all of them within `budget_bytes`.

    Where even one frame each is too much, the last ids have no strip.
    """
    most = max((len(pictures) for pictures in frames.values()), default=0)
    found: dict[str, Strip] = {}
    for num_frames in range(most, 0, -1):
        found = {name: strip(_spread(pictures, num_frames)) for name, pictures in frames.items() if pictures}
        if sum(len(item.data) for item in found.values()) <= budget_bytes:
            return found
    kept: dict[str, Strip] = {}
    for name, item in found.items():
        budget_bytes -= len(item.data)
        if budget_bytes < 0:
            break
        kept[name] = item
    return kept


def _spread(pictures: Sequence[bytes], num_frames: int) -> list[bytes]:
    num = min(num_frames, len(pictures))
    return [pictures[(2 * i + 1) * len(pictures) // (2 * num)] for i in range(num)]
