"""Whether the decoders of this machine work: a small video is encoded and read back through the decode child."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from clipmill.pipelines.decode.probe import probe
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
            _encode(path)
            header = probe(path)
        except (av.FFmpegError, VideoError, MachineFaultError) as error:
            return [Check("encode and probe", False, str(error))]
        checks = [Check("encode and probe", True, f"{header.codec} {header.width}x{header.height}")]
        return checks + [_check(path, decoder) for decoder in ("decord", "pyav")]


def _level(frame: int) -> int:
    return 40 + frame * 14


def _encode(path: str) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for frame in range(NUM_FRAMES):
            pixels = np.full((SIDE, SIDE, 3), _level(frame), dtype=np.uint8)
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
