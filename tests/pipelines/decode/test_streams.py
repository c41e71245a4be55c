"""Which of several video streams is used: what stands out, what is asked for, and what is refused."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from decoded_events import request, run
from encoded_videos import STREAM_LEVELS, encode_two_streams

from clipmill.pipelines.decode.probe import probe, video_fingerprint
from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.decode.session import DecodeSession
from clipmill.pipelines.decode.thumbnails import thumbnails
from clipmill.schemas.errors import VideoError


@pytest.fixture(scope="module")
def session() -> Iterator[DecodeSession]:
    with DecodeSession() as opened:
        yield opened


def refused(path: str, stream: str | None = None) -> VideoError:
    with pytest.raises(VideoError) as caught:
        scan(path, stream)
    return caught.value


@pytest.mark.parametrize(
    ("stream", "level"), [("0", 60), ("1", 160), ("v:0", 60), ("v:1", 160), ("front", 60), ("Rear", 160), ("fra", 160)]
)
def test_a_stream_is_chosen_by_number_title_or_language(
    session: DecodeSession, tmp_path: Path, stream: str, level: int
) -> None:
    path = encode_two_streams(tmp_path / "a.mkv")
    timeline = scan(path, stream)
    (outcome,) = run(session, [request(path, timeline=timeline)])
    means = [frame.mean() for frame in outcome.frames.values()]
    assert len(means) == 10
    np.testing.assert_allclose(means, level, atol=2)
    assert outcome.summary.decoder == "pyav"


def test_a_stream_of_mp4_and_mpegts(session: DecodeSession, tmp_path: Path) -> None:
    for suffix in ("mp4", "ts"):
        path = encode_two_streams(tmp_path / f"a.{suffix}")
        (outcome,) = run(session, [request(path, timeline=scan(path, "v:1"))])
        np.testing.assert_allclose([frame.mean() for frame in outcome.frames.values()], STREAM_LEVELS[1], atol=2)


def test_two_streams_that_are_as_likely_are_refused(tmp_path: Path) -> None:
    for suffix in ("mkv", "ts"):
        error = refused(encode_two_streams(tmp_path / f"a.{suffix}"))
        assert error.reason == "ambiguous_stream"
        assert "stream 0 96x64" in error.message
        assert error.message.endswith("choose one with videos.stream, or the manifest's column stream")
    with pytest.raises(VideoError, match="expected one video stream that stands out"):
        probe(str(tmp_path / "a.mkv"))


def test_a_default_flag_or_a_larger_picture_stands_out(tmp_path: Path) -> None:
    assert scan(encode_two_streams(tmp_path / "a.mkv", defaults=(False, True))).stream_index == 1
    for number, sizes in enumerate([((48, 32), (320, 240)), ((320, 240), (48, 32))]):
        path = encode_two_streams(tmp_path / f"{number}.mkv", sizes=sizes)
        assert (probe(path).width, scan(path).stream_index) == (320, 1 - number)


def test_streams_that_are_not_there_are_refused_with_those_that_are(tmp_path: Path) -> None:
    path = encode_two_streams(tmp_path / "a.mkv")
    error = refused(path, "reer")
    assert error.reason == "no_such_stream"
    assert "stream 0 96x64 'front' 'eng', 1 96x64 'rear' 'fra'" in error.message
    assert "did you mean 'rear'" in error.message
    assert [refused(path, name).reason for name in ("2", "v:2")] == ["no_such_stream"] * 2


def test_a_cover_is_no_candidate(session: DecodeSession, tmp_path: Path) -> None:
    path = str(tmp_path / "a.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 960, 640, "yuvj420p"
        cover.disposition = 0x400
        for each, count in ((stream, 10), (cover, 1)):
            for number in range(count):
                pixels = np.full((each.height, each.width, 3), 90, dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=each.pix_fmt)
                frame.pts, frame.time_base = number, Fraction(1, 10)
                container.mux(each.encode(frame))
            container.mux(each.encode(None))
    timeline = scan(path)
    assert (timeline.stream_index, timeline.num_frames, timeline.decord_refusal) == (0, 10, None)
    assert refused(path, "1").reason == "no_such_stream"


def test_each_stream_has_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    path = encode_two_streams(tmp_path / "a.mkv")
    assert len({video_fingerprint(path, stream) for stream in (None, "0", "1")}) == 3


def test_thumbnails_are_those_of_the_stream(tmp_path: Path) -> None:
    import io

    from PIL import Image

    path = encode_two_streams(tmp_path / "a.mkv")
    for stream, level in zip(("front", "rear"), STREAM_LEVELS, strict=True):
        (jpeg,) = thumbnails(path, [0.5], 32, stream)
        assert np.asarray(Image.open(io.BytesIO(jpeg))).mean() == pytest.approx(level, abs=4)
