"""Headers, fingerprints, and one test per reason a file cannot be used."""

import hashlib
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from encoded_videos import encode_video
from PIL import Image

from clipmill.pipelines.decode.probe import content_fingerprint, probe
from clipmill.pipelines.decode.scan import scan
from clipmill.schemas.errors import VideoError


def test_probe_returns_what_the_header_claims(tmp_path: Path) -> None:
    header = probe(str(encode_video(tmp_path / "a b é.mp4", 50, fps=25, width=96, height=64)))
    assert (header.codec, header.width, header.height, header.rotation_degrees) == ("h264", 96, 64, 0)
    assert header.num_frames == 50
    assert header.average_fps == pytest.approx(25)
    assert header.duration_seconds == pytest.approx(2.0)


def test_probe_of_a_matroska_file_takes_the_duration_of_the_container(tmp_path: Path) -> None:
    header = probe(str(encode_video(tmp_path / "a.mkv", 30, fps=10)))
    assert header.duration_seconds == pytest.approx(3.0, abs=0.11)
    assert header.num_frames is None


def test_content_fingerprint_is_blake2b_128_of_the_bytes(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(9_000_001)
    (tmp_path / "a").write_bytes(data)
    assert content_fingerprint(str(tmp_path / "a")) == hashlib.blake2b(data, digest_size=16).hexdigest()


def test_content_fingerprint_of_a_missing_file_is_a_video_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError) as caught:
        content_fingerprint(str(tmp_path / "none.mp4"))
    assert (caught.value.stage, caught.value.reason) == ("probe", "missing_file")


def refused(path: Path) -> VideoError:
    """Returns the error of `probe`, after checking that `scan` says the same and that the message is one line."""
    with pytest.raises(VideoError) as caught:
        probe(str(path))
    error = caught.value
    assert error.stage == "probe"
    assert str(path) in error.message
    assert "expected" in error.message
    assert "got" in error.message
    assert "\n" not in error.message
    with pytest.raises(VideoError) as scanned:
        scan(str(path))
    assert (scanned.value.stage, scanned.value.reason) == ("scan", error.reason)
    return error


def test_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.mp4").reason == "missing_file"


def test_folder_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    assert "a folder" in refused(tmp_path / "folder.mp4").message


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert refused(tmp_path / "a.mp4").reason == "empty_file"


def test_text_is_not_a_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("this is no video\n" * 100)
    assert refused(tmp_path / "a.mp4").reason == "not_a_video"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_picture_that_is_named_a_video_is_none(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (64, 48), (200, 10, 10)).save(tmp_path / f"a.{suffix}")
    (tmp_path / f"a.{suffix}").rename(tmp_path / "a.mp4")
    assert refused(tmp_path / "a.mp4").reason == "not_a_video"


def test_playlist_is_not_a_video_although_it_names_one(tmp_path: Path) -> None:
    encode_video(tmp_path / "real.ts", 10)
    (tmp_path / "a.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/real.ts\n#EXT-X-ENDLIST\n"
    )
    assert refused(tmp_path / "a.mp4").reason == "not_a_video"


def test_file_cut_before_its_index_is_truncated(tmp_path: Path) -> None:
    whole = encode_video(tmp_path / "whole.mp4", 50).read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: len(whole) // 2])
    assert refused(tmp_path / "a.mp4").reason == "truncated"


def test_container_with_a_broken_header_is_unreadable(tmp_path: Path) -> None:
    whole = bytearray(encode_video(tmp_path / "whole.mkv", 50).read_bytes())
    whole[4:400] = bytes(396)
    (tmp_path / "a.mkv").write_bytes(whole)
    assert refused(tmp_path / "a.mkv").reason == "unreadable"


def test_audio_has_no_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = 16_000, Fraction(1, 16_000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    error = refused(path)
    assert error.reason == "no_video_stream"
    assert "audio only" in error.message


def test_video_that_stands_askew_is_refused_by_name(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 5)
    data = bytearray(path.read_bytes())
    # The matrix of the track header follows 4 + 40 bytes after the type; this one turns by 45 degrees.
    place = data.index(b"tkhd") + 4 + 40
    assert data[place : place + 4] == b"\x00\x01\x00\x00"
    data[place : place + 20] = struct.pack(">5i", 46341, 46341, 0, -46341, 46341)
    path.write_bytes(data)
    assert refused(path).reason == "unsupported_rotation"
