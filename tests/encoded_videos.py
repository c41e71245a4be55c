"""Tiny real videos whose frame number can be read back from the pixels."""

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt

Pattern = Literal["drift", "noise", "plain"]

NUM_COLUMNS = 8
NUM_ROWS = 2
NUM_BITS = NUM_COLUMNS * NUM_ROWS
DARK, BRIGHT = 32, 224
TIME_BASE = Fraction(1, 90_000)
STREAM_LEVELS = (60, 160)
"""Grey levels of the streams of `encode_two_streams`."""


def draw_frame(number: int, width: int, height: int, pattern: Pattern = "drift") -> npt.NDArray[np.uint8]:
    """Returns ``uint8[height, width, 3]``: the upper half shows `number` as 16 cells, the lower half the pattern."""
    pixels = np.full((height, width, 3), 128, dtype=np.uint8)
    half = height // 2
    rows = np.arange(half) * NUM_ROWS // half
    columns = np.arange(width) * NUM_COLUMNS // width
    bit = rows[:, None] * NUM_COLUMNS + columns[None, :]
    pixels[:half] = np.where((number >> bit) & 1, BRIGHT, DARK).astype(np.uint8)[..., None]
    if pattern == "drift":
        ramp = (np.arange(width)[None, :] * 2 + np.arange(height - half)[:, None] + 5 * number) % 256
        pixels[half:] = np.stack([ramp, np.roll(ramp, width // 3, 1), 255 - ramp], axis=-1).astype(np.uint8)
    elif pattern == "noise":
        generator = np.random.default_rng(number)
        pixels[half:] = generator.integers(0, 256, (height - half, width, 3), dtype=np.uint8)
    return pixels


def read_frame_number(pixels: npt.NDArray[np.uint8]) -> int:
    """Returns the number `draw_frame` drew, from ``uint8[H, W, C]`` of any size it was resized (not cropped) to."""
    height, width = pixels.shape[0] // 2, pixels.shape[1]
    number = 0
    for bit in range(NUM_BITS):
        row, column = divmod(bit, NUM_COLUMNS)
        top, bottom = row * height / NUM_ROWS, (row + 1) * height / NUM_ROWS
        left, right = column * width / NUM_COLUMNS, (column + 1) * width / NUM_COLUMNS
        y, x = int((top + bottom) / 2), int((left + right) / 2)
        if pixels[max(y - 1, 0) : y + 1, max(x - 1, 0) : x + 1].mean() > 128:
            number |= 1 << bit
    return number


def encode_video(
    path: Path | str,
    num_frames: int,
    fps: float | Fraction = 25,
    width: int = 96,
    height: int = 64,
    codec: str = "libx264",
    pattern: Pattern = "drift",
    pts: Sequence[float] | None = None,
    gop: int = 12,
    max_b_frames: int = 2,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
) -> Path:
    """Writes a video of `num_frames` frames numbered from 0 in presentation order; returns its path.

    Args:
        path: its suffix decides the container.
        fps: constant rate; ignored where `pts` is given.
        pts: presentation time of each frame in seconds, increasing: variable rate, late start.
        gop: largest distance of two keyframes, in frames.
        options: further options of the encoder, such as ``{"open-gop": "1"}`` inside ``x264-params``.
    """
    rate = Fraction(fps).limit_denominator(1001)
    times = [Fraction(number) / rate for number in range(num_frames)] if pts is None else [Fraction(t) for t in pts]
    if len(times) != num_frames:
        raise ValueError(f"expected {num_frames} times, got {len(times)}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    preset = {"preset": "ultrafast"} if codec in ("libx264", "libx265") else {}
    scheduling = os.sched_getscheduler(0), os.sched_getparam(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={**preset, **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if pts is not None:
            stream.time_base = stream.codec_context.time_base = TIME_BASE
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = max_b_frames
        base = stream.codec_context.time_base or 1 / rate
        for number, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw_frame(number, width, height, pattern), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.time_base = base
            frame.pts = round(seconds / base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    # Run by root, SVT-AV1 leaves the thread that called it in a real-time class, and all it starts afterwards: two of
    # those that spin can starve each other and the machine.
    os.sched_setscheduler(0, *scheduling)
    return path


def encode_two_streams(
    path: Path, sizes: Sequence[tuple[int, int]] = ((96, 64), (96, 64)), defaults: Sequence[bool] = (False, False)
) -> str:
    """Writes two video streams of 10 grey frames, titled front (English) and rear (French)."""
    with av.open(str(path), "w") as container:
        streams = []
        for (width, height), title, language, is_default in zip(
            sizes, ("front", "rear"), ("eng", "fra"), defaults, strict=True
        ):
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.metadata["title"], stream.metadata["language"] = title, language
            stream.disposition = int(is_default)
            streams.append(stream)
        for number in range(10):
            for stream, level in zip(streams, STREAM_LEVELS, strict=True):
                pixels = np.full((stream.height, stream.width, 3), level, dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return str(path)
