"""Frames that are kept only to refer to are not shown, and an intact file has nothing substituted."""

import os
from pathlib import Path

import av
import pytest
from altered_files import hide_vp9_key_frame
from av.bitstream import BitStreamFilterContext
from decoded_events import request, run
from encoded_videos import encode_video, read_frame_number

from clipmill.pipelines.decode.hidden_frames import shown_test
from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.decode.session import DecodeSession

NUM_FRAMES = 36


def _decoded(path: Path) -> tuple[list[int], tuple[int, ...]]:
    with DecodeSession() as session:
        (outcome,) = run(session, [request(path)], read_frame_number)
    assert outcome.summary is not None, outcome.error
    return list(outcome.frames.values()), outcome.summary.substituted


@pytest.mark.parametrize("suffix", ["webm", "mkv", "mp4", "ivf"])
@pytest.mark.parametrize("superframe", [False, True], ids=["packets of their own", "superframe"])
def test_vp9_key_frame_that_a_later_frame_shows(suffix: str, superframe: bool, tmp_path: Path) -> None:
    options = {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0", "lag-in-frames": "0"}
    source = encode_video(tmp_path / "s.webm", NUM_FRAMES, codec="libvpx-vp9", max_b_frames=0, options=options)
    path = hide_vp9_key_frame(source, tmp_path / f"a.{suffix}", 12, superframe)
    assert scan(str(path)).num_frames == NUM_FRAMES
    assert _decoded(path) == (list(range(NUM_FRAMES)), ())


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ivf"])
def test_av1_frames_in_packets_of_their_own(suffix: str, tmp_path: Path) -> None:
    source = encode_video(tmp_path / "s.mp4", NUM_FRAMES, codec="libsvtav1", max_b_frames=0, options={"preset": "10"})
    path = tmp_path / f"a.{suffix}"
    num_packets = 0
    with av.open(str(source)) as read, av.open(str(path), "w", options={"fflags": "-autobsf"}) as written:
        stream = written.add_stream_from_template(read.streams.video[0], opaque=True)
        split = BitStreamFilterContext("av1_frame_split", read.streams.video[0], stream)
        last = -1
        for packet in read.demux(video=0):
            for part in split.filter(packet if packet.size else None):
                # A muxer wants increasing times; hidden frames come just before the one they are for.
                part.dts = max(part.dts if part.dts is not None else last + 1, last + 1)
                part.pts = max(part.pts if part.pts is not None else part.dts, part.dts)
                last = part.dts
                part.stream = stream
                written.mux(part)
                num_packets += 1
    assert num_packets > NUM_FRAMES, "the encoder keeps frames to refer to"
    frames, substituted = _decoded(path)
    assert (frames, substituted) == (list(range(NUM_FRAMES)), ())


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_recording_begun_in_mid_stream_begins_with_what_is_shown(codec: str, tmp_path: Path) -> None:
    whole = encode_video(tmp_path / "s.ts", 40, codec=codec, max_b_frames=2, pattern="noise").read_bytes()
    path = tmp_path / "a.ts"
    path.write_bytes(whole[len(whole) // 5 // 188 * 188 :])
    with av.open(str(path)) as container:
        shown = [frame for frame in container.decode(video=0) if not frame.is_corrupt]
    frames, substituted = _decoded(path)
    assert (frames, substituted) == (list(range(40 - len(shown), 40)), ())
    assert 20 < len(shown) < 40


def test_every_vp9_and_av1_file_of_the_torture_set_shows_all_its_packets(shared_data: Path) -> None:
    for name, num_frames in (("testsrc2_vp9.webm", 30), ("testsrc2_av1_10bit.mp4", 25), ("av1_video.mkv", 125)):
        assert scan(str(shared_data / "torture" / "torchcodec" / name)).num_frames == num_frames


def test_damaged_packets_are_for_the_decoder_to_judge() -> None:
    for codec in ("vp8", "vp9", "av1"):
        shows = shown_test(codec, None)
        assert shows is not None
        for size in (1, 2, 3, 17, 200):
            shows(os.urandom(size))
        assert codec == "vp8" or shows(b"\x00") or codec == "av1"
    assert shown_test("h264", None) is None
