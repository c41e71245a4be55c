"""Thumbnails show the moment asked for; the raw rate is a rate."""

import io
from pathlib import Path

import numpy as np
import pytest
from encoded_videos import encode_video, read_frame_number
from PIL import Image

from clipmill.pipelines.decode.rate import raw_decode_rate
from clipmill.pipelines.decode.thumbnails import thumbnails
from clipmill.schemas.errors import VideoError


def test_thumbnails_show_the_frame_on_display_and_keep_the_aspect(tmp_path: Path) -> None:
    path = str(encode_video(tmp_path / "a.mp4", 50, fps=10, width=128, height=64))
    pictures = thumbnails(path, [2.05, 0.0, 2.05, 99.0, -1.0], width=96)
    opened = [Image.open(io.BytesIO(picture)) for picture in pictures]
    assert [picture.format for picture in opened] == ["JPEG"] * 5
    assert {picture.size for picture in opened} == {(96, 48)}
    assert [read_frame_number(np.asarray(picture)) for picture in opened] == [20, 0, 20, 49, 0]


def test_thumbnails_of_no_video_are_a_video_error(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video" * 99)
    with pytest.raises(VideoError) as caught:
        thumbnails(str(tmp_path / "a.mp4"), [0.0])
    assert (caught.value.stage, caught.value.reason) == ("decode", "not_a_video")


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_raw_decode_rate_is_positive_even_for_a_short_video(tmp_path: Path, pix_fmt: str) -> None:
    path = encode_video(tmp_path / "a.mp4", 5, pix_fmt=pix_fmt)
    assert raw_decode_rate(str(path), seconds=0.05) > 0


def test_raw_decode_rate_of_an_undecodable_video_is_a_video_error(shared_data: Path) -> None:
    (path,) = (shared_data / "torture" / "mp4parse").rglob("zero_empty_stsc.mp4")
    with pytest.raises(VideoError) as caught:
        raw_decode_rate(str(path), seconds=0.05)
    assert (caught.value.stage, caught.value.reason) == ("decode", "undecodable")
