"""Frames of more than 8 bits become the RGB that ffmpeg makes with the flags that are named; those of 8 bits stay."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from decoded_events import request, run
from encoded_videos import encode_video

from clipmill.pipelines.decode.conversion import SCALER_FLAGS
from clipmill.pipelines.decode.session import DecodeSession

BY_FFMPEG = {
    "bt2020_10bit.mp4": "7bd44895557b999a544ddfd5ef991ce6",
    "h264_10bits.mp4": "f215a06a511781a6a37f1c6ea16bd6f1",
    "h265_10bits.mp4": "1730745f54088780c95eb3c1540ba567",
    "testsrc2_12bit_hdr.mp4": "b531dcb993ba1c28cf3c95e4743cbb1c",
    "testsrc2_444_12bit_hevc.mp4": "c47b9987e0c8e9606943dd88e9c5f455",
    "testsrc2_av1_10bit.mp4": "9ac36a4dd6615d9bf9bca8cf20364d31",
    "testsrc2_odd_height_vp9_10bit.mp4": "649b4608a051f3050bc10cc0b7c40c5b",
    "testsrc2_odd_height_and_width_444_10bit.mp4": "299ce9d181a9a22517622607ed07f159",
}
"""First half of SHA-256 of what the command ffmpeg 9.0.2 writes of the first three frames:
``-frames:v 3 -fps_mode passthrough -sws_flags bicubic+accurate_rnd+full_chroma_int -pix_fmt rgb24 -f rawvideo``."""

BY_FFMPEG_8_BIT = {"testsrc2.mp4": "9c7fb6476a3e5a52f6eb66cbb9de9507"}
"""The same without ``-sws_flags``."""


@pytest.fixture(scope="module")
def session() -> Iterator[DecodeSession]:
    with DecodeSession() as opened:
        yield opened


@pytest.mark.parametrize(("name", "digest"), list((BY_FFMPEG | BY_FFMPEG_8_BIT).items()))
def test_frames_are_those_of_ffmpeg(session: DecodeSession, shared_data: Path, name: str, digest: str) -> None:
    (outcome,) = run(session, [request(shared_data / "torture" / "torchcodec" / name, range(3))])
    pixels = b"".join(frame.tobytes() for frame in outcome.frames.values())
    assert hashlib.sha256(pixels).hexdigest()[:32] == digest
    assert outcome.summary.scaler_flags == (SCALER_FLAGS if name in BY_FFMPEG else None)


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix"),
    [
        ("libx264", "yuv420p10le", "mp4"),
        ("libx265", "yuv422p10le", "mkv"),
        ("ffv1", "yuv420p12le", "mkv"),
        ("prores_ks", "yuv422p10le", "mov"),
    ],
)
def test_the_command_ffmpeg_agrees(
    session: DecodeSession, tmp_path: Path, codec: str, pixel_format: str, suffix: str
) -> None:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("the command ffmpeg is not on PATH")
    path = encode_video(tmp_path / f"a.{suffix}", 6, width=98, height=66, codec=codec, pix_fmt=pixel_format)
    (outcome,) = run(session, [request(path)])
    written = subprocess.run(
        [ffmpeg, "-v", "error", "-i", str(path), "-sws_flags", SCALER_FLAGS, "-fps_mode", "passthrough"]
        + ["-pix_fmt", "rgb24", "-f", "rawvideo", "-"],
        capture_output=True,
        check=True,
    ).stdout
    assert b"".join(frame.tobytes() for frame in outcome.frames.values()) == written


def test_a_change_of_size_on_the_way_is_followed(tmp_path: Path) -> None:
    from clipmill.pipelines.decode.conversion import ToRGB

    path = encode_video(tmp_path / "a.mkv", 1, codec="ffv1", pix_fmt="yuv420p10le")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        to_rgb = ToRGB(stream)
        for width, height, pixel_format in [(96, 64, "yuv420p10le"), (48, 34, "yuv422p12le"), (96, 64, "yuv420p")]:
            other = frame.reformat(width=width, height=height, format=pixel_format)
            assert to_rgb(other).shape == (height, width, 3)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "gray"])
def test_frames_of_8_bits_are_as_they_were(session: DecodeSession, tmp_path: Path, pixel_format: str) -> None:
    path = encode_video(tmp_path / "a.mkv", 3, codec="ffv1", pix_fmt=pixel_format)
    (outcome,) = run(session, [request(path, decoder="pyav")])
    with av.open(str(path)) as container:
        expected = [
            frame.reformat(format="rgb24", interpolation=Interpolation.BILINEAR).to_ndarray()
            for frame in container.decode(video=0)
        ]
    np.testing.assert_array_equal(list(outcome.frames.values()), expected)
    assert outcome.summary.scaler_flags is None
