"""Files that are no videos, or only parts of one, are called what they are."""

from pathlib import Path

import pytest
from altered_files import boxes, encrypt_matroska, remux
from encoded_videos import encode_video
from PIL import Image, features

from clipmill.pipelines.decode.probe import probe
from clipmill.pipelines.decode.scan import scan
from clipmill.schemas.errors import VideoError
from clipmill.stores.manifests import MEDIA_SUFFIXES


def refused(path: Path) -> VideoError:
    """Returns the error of `probe`, after checking that `scan` agrees."""
    with pytest.raises(VideoError) as caught:
        probe(str(path))
    with pytest.raises(VideoError) as scanned:
        scan(str(path))
    assert scanned.value.reason == caught.value.reason
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
@pytest.mark.parametrize("key_id", [b"sixteen byte key", b""], ids=["key id", "no key id"])
def test_encrypted_matroska(suffix: str, key_id: bytes, tmp_path: Path) -> None:
    codec = {"mkv": "libx264", "webm": "libvpx"}[suffix]
    path = encode_video(tmp_path / f"a.{suffix}", 12, codec=codec, max_b_frames=0)
    assert probe(str(path)).width == 96
    assert refused(encrypt_matroska(path, key_id)).reason == "encrypted"


def test_media_segments_without_their_initialisation_segment(tmp_path: Path) -> None:
    whole = encode_video(tmp_path / "s.mp4", 40)
    movflags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    parts = list(boxes(remux(whole, tmp_path / "f.mp4", options=movflags).read_bytes()))
    fragments = b"".join(data for kind, data in parts if kind in (b"moof", b"mdat"))
    segment_type = (16).to_bytes(4, "big") + b"stypmsdh" + bytes(4)
    for number, head in enumerate((b"", segment_type)):
        path = tmp_path / f"{number}.m4s"
        path.write_bytes(head + fragments)
        error = refused(path)
        assert error.reason == "missing_init_segment"
        assert "initialisation segment" in error.message


@pytest.mark.parametrize("size", [0, 3, 0x7FFFFFFF])
def test_a_malformed_box_before_the_index_is_not_a_file_that_ends(size: int, tmp_path: Path) -> None:
    whole = remux(encode_video(tmp_path / "s.mp4", 20), tmp_path / "a.mp4", options={"movflags": "faststart"})
    (_, head), *rest = boxes(whole.read_bytes())
    whole.write_bytes(head + size.to_bytes(4, "big") + b"free" + b"".join(data for _, data in rest))
    error = refused(whole)
    assert error.reason == "unreadable"
    assert "moov" in error.message


def test_a_file_that_ends_before_its_index_is_still_truncated(tmp_path: Path) -> None:
    whole = encode_video(tmp_path / "s.mp4", 20).read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: whole.index(b"moov") - 10])
    assert refused(tmp_path / "a.mp4").reason == "truncated"


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_an_avif_picture_is_no_video(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (200, 10, 10)).save(tmp_path / "a.avif")
    (tmp_path / "a.mp4").write_bytes((tmp_path / "a.avif").read_bytes())
    for name in ("a.avif", "a.mp4"):
        error = refused(tmp_path / name)
        assert error.reason == "not_a_video"
        assert "a picture" in error.message


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_an_animated_avif_is_one(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (64, 48), (40 * number, 10, 10)) for number in range(6)]
    pictures[0].save(tmp_path / "a.avif", save_all=True, append_images=pictures[1:], duration=100)
    assert scan(str(tmp_path / "a.avif")).num_frames == 6


def test_program_streams_by_their_suffix_are_media() -> None:
    assert ".ps" in MEDIA_SUFFIXES
