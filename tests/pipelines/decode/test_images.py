"""Image files as videos of one frame: read as Pillow reads them, turned upright, and refused where they are damaged."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipmill.pipelines.decode.probe import probe
from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.decode.session import DecodedFrame, DecodeRequest, DecodeSession, Finished, View
from clipmill.pipelines.decode.thumbnails import thumbnails
from clipmill.schemas.arrays import Pixels
from clipmill.schemas.errors import VideoError
from clipmill.schemas.recipe import Preprocess


def picture(height: int = 12, width: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8))


def decoded(path: Path, preprocess: Preprocess | None = None) -> tuple[Pixels, Finished]:
    """Returns the one frame, and how the request ended."""
    timeline = scan(str(path))
    request = DecodeRequest(str(path), timeline, (View(preprocess or Preprocess(), [0]),))
    with DecodeSession() as session:
        events = [
            (np.array(event.pixels) if isinstance(event, DecodedFrame) else event) for event in session.run([request])
        ]
    (frame,) = [event for event in events if isinstance(event, np.ndarray)]
    (end,) = [event for event in events if isinstance(event, Finished)]
    return frame, end


@pytest.mark.parametrize("suffix", ["png", "JPG", "webp", "bmp", "tif"])
def test_it_is_one_frame_as_pillow_reads_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    picture().save(path)
    header, timeline = probe(str(path)), scan(str(path))
    assert (header.container, header.width, header.height, header.num_frames) == ("image", 20, 12, 1)
    assert (timeline.pts_seconds.tolist(), timeline.stop_seconds, timeline.truncated) == ([0.0], 1.0, None)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB"))
    frame, end = decoded(path)
    np.testing.assert_array_equal(frame, expected)
    assert (end.summary.decoder, end.summary.num_frames_decoded) == ("pillow", 1)
    (thumbnail,) = thumbnails(str(path), [0.5], width=10)
    assert Image.open(io.BytesIO(thumbnail)).size == (10, 6)


def test_it_is_turned_as_it_says_and_then_brought_to_size(tmp_path: Path) -> None:
    upright, path = picture(), tmp_path / "turned.png"
    exif = upright.getexif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    assert (probe(str(path)).width, probe(str(path)).height) == (20, 12)
    frame, _ = decoded(path, Preprocess(crop=(8, 8)))
    np.testing.assert_array_equal(frame, np.asarray(upright)[2:10, 6:14])


def test_one_that_breaks_off_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    picture(64, 64).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    for look in (probe, scan):
        with pytest.raises(VideoError, match=r"expected a whole image, got .*; save it again") as caught:
            look(str(path))
        assert caught.value.reason == "unreadable"


def test_what_is_named_or_moves_otherwise_is_no_image(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.webp", save_all=True, append_images=[picture().rotate(180)], duration=100)
    (tmp_path / "text.png").write_text("no image")
    for name in ("a.webp", "text.png"):
        with pytest.raises(VideoError) as caught:
            scan(str(tmp_path / name))
        assert caught.value.reason == "not_a_video"
