"""Whether the decoders of this machine work: a small video is encoded and read back through the decode child."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from clipmill.pipelines.decode.probe import probe
from clipmill.pipelines.decode.rate import raw_decode_rate
from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.decode.session import DecodedFrame, DecodeRequest, DecodeSession, Failed, View
from clipmill.schemas.errors import MachineFaultError, VideoError
from clipmill.schemas.recipe import Preprocess

NUM_FRAMES, SIDE = 12, 64
TOLERANCE = 12
"""A flat grey frame comes back within this of its level: lossy coding and colour conversion (ours)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried."""

    name: str
    passed: bool
    message: str


def check_decoders() -> list[Check]:
    """Returns a check of each decoder: every frame of an H.264 file must come back with its own grey level."""
    with tempfile.TemporaryDirectory(prefix="clipmill-") as folder:
        path = str(Path(folder) / "check.mp4")
        try:
            _encode(path, [np.full((SIDE, SIDE, 3), _level(frame), dtype=np.uint8) for frame in range(NUM_FRAMES)])
            header = probe(path)
        except (av.FFmpegError, VideoError, MachineFaultError) as error:
            return [Check("encode and probe", False, str(error))]
        checks = [Check("encode and probe", True, f"{header.codec} {header.width}x{header.height}")]
        return checks + [_check(path, decoder) for decoder in ("decord", "pyav")]


MADE_VIDEO = "H.264, 640x360, moving noise"
MADE_FRAMES, MADE_SIZE = 60, (360, 640)


def made_video_rate(seconds: float = 2.0) -> float:
    """Returns frames per second of the raw decoder (`raw_decode_rate`) on `MADE_VIDEO`."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (MADE_SIZE[0] // 8, MADE_SIZE[1] // 8, 3), dtype=np.uint8)
    image = coarse.repeat(8, axis=0).repeat(8, axis=1)
    with tempfile.TemporaryDirectory(prefix="clipmill-") as folder:
        path = str(Path(folder) / "made.mp4")
        _encode(path, [np.roll(image, 4 * frame, axis=1) for frame in range(MADE_FRAMES)])
        return raw_decode_rate(path, seconds)


def _level(frame: int) -> int:
    return 40 + frame * 14


def _encode(path: str, images: Sequence[npt.NDArray[np.uint8]]) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for pixels in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def _check(path: str, decoder: str) -> Check:
    try:
        request = DecodeRequest(path, scan(path), (View(Preprocess(), tuple(range(NUM_FRAMES))),), decoder)
        levels: dict[int, float] = {}
        with DecodeSession() as session:
            for event in session.run([request]):
                if isinstance(event, DecodedFrame):
                    levels[event.frame] = float(event.pixels.mean())
                elif isinstance(event, Failed):
                    return Check(decoder, False, event.error.message)
    except (VideoError, MachineFaultError) as error:
        return Check(decoder, False, str(error))
    wrong = [frame for frame in range(NUM_FRAMES) if abs(levels.get(frame, -255.0) - _level(frame)) > TOLERANCE]
    message = f"{NUM_FRAMES} frames exact" if not wrong else f"expected every frame, got {len(wrong)} wrong or missing"
    return Check(decoder, not wrong, message)
