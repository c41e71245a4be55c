"""Videos whose shots are known: stills full of corners, panned a little from frame to frame, with hard cuts."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def still(seed: int, height: int, width: int) -> Pixels:
    """Returns ``uint8[height, width, 3]``: coloured rectangles on one another, with a range of colours of its own."""
    generator = np.random.default_rng(seed)
    darkest, brightest = np.sort(generator.integers(0, 256, (2, 3)), axis=0)
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    for _ in range(height * width // 120):
        row, column = generator.integers(0, (height, width))
        rows, columns = generator.integers(4, 40, 2)
        picture[row : row + rows, column : column + columns] = generator.integers(darkest, brightest + 1)
    return picture


def shots(lengths: Sequence[int], height: int = 180, width: int = 320, pan: int = 2, seed: int = 0) -> Iterator[Pixels]:
    """Yields ``uint8[height, width, 3]`` frames of one still after another, each shown for so many frames.

    Args:
        pan: pixels a still moves each frame, in a direction of its own.
    """
    for number, length in enumerate(lengths):
        margin = pan * max(length - 1, 0)
        picture = still(100 * seed + number, height + margin, width + margin)
        for step in range(length):
            row, column = pan * step, pan * step
            row = row if number % 2 else margin - row
            yield picture[row : row + height, column : column + width]


def encode_frames(path: Path | str, frames: Iterator[Pixels], fps: float | Fraction = 25) -> Path:
    """Writes the frames as H.264 of high quality; returns the path."""
    path = Path(path)
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "crf": "16"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.pix_fmt = "yuv420p"
        for number, pixels in enumerate(frames):
            if not number:
                stream.height, stream.width = pixels.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode(None))
    return path
