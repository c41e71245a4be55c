"""Recordings joined end to end come out one after the other, or with a reason that names where they meet."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from altered_files import boxes, remux
from decoded_events import request, run
from encoded_videos import encode_video, read_frame_number

from clipmill.pipelines.decode.continuity import lay_out
from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.decode.session import DecodeSession
from clipmill.schemas.errors import VideoError

FIRST, SECOND = 50, 20


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two recordings, of 50 and of 20 frames at 25 a second."""
    return encode_video(tmp_path / "first.mp4", FIRST), encode_video(tmp_path / "second.mp4", SECOND)


def _bytes(parts: list[Path]) -> bytes:
    return b"".join(part.read_bytes() for part in parts)


def _shown(path: Path) -> tuple[list[int], tuple[int, ...]]:
    with DecodeSession() as session:
        (outcome,) = run(session, [request(path)], read_frame_number)
    assert outcome.summary is not None, outcome.error
    return list(outcome.frames.values()), outcome.summary.substituted


JOINS: dict[str, Callable[[Path, Path, Path], bytes]] = {
    "ts": lambda a, b, out: _bytes([remux(a, out / "a.ts"), remux(b, out / "b.ts")]),
    "ts, later clock": lambda a, b, out: _bytes([remux(a, out / "a.ts"), remux(b, out / "b.ts", shift_seconds=7200)]),
    "ts, earlier clock": lambda a, b, out: _bytes([remux(a, out / "a.ts", shift_seconds=500), remux(b, out / "b.ts")]),
    "flv": lambda a, b, out: remux(a, out / "a.flv").read_bytes() + remux(b, out / "b.flv").read_bytes()[13:],
    "mkv": lambda a, b, out: _bytes([remux(a, out / "a.mkv"), remux(b, out / "b.mkv")]),
    "mkv, one segment": lambda a, b, out: (
        remux(a, out / "a.mkv", "matroska", live=True).read_bytes()
        + (second := remux(b, out / "b.mkv", "matroska", live=True).read_bytes())[second.index(b"\x1f\x43\xb6\x75") :]
    ),
}


@pytest.mark.parametrize("kind", JOINS)
def test_parts_lie_one_after_the_other(kind: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / f"joined.{kind[:3].rstrip(',')}"
    path.write_bytes(JOINS[kind](*pair, tmp_path))
    timeline = scan(str(path))
    assert (timeline.num_parts, timeline.truncated) == (2, None)
    np.testing.assert_allclose(np.diff(timeline.pts_seconds), 0.04, atol=1.1e-3)
    assert timeline.stop_seconds - timeline.pts_seconds[0] == pytest.approx((FIRST + SECOND) / 25, abs=2e-3)
    assert _shown(path) == ([*range(FIRST), *range(SECOND)], ())


def test_program_streams_lie_one_after_the_other(tmp_path: Path) -> None:
    parts = [encode_video(tmp_path / f"{n}.mpg", n, codec="mpeg2video") for n in (SECOND, FIRST, SECOND)]
    path = tmp_path / "joined.mpg"
    path.write_bytes(_bytes(parts))
    timeline = scan(str(path))
    assert timeline.num_parts == 3
    # A frame whose packet states no time is placed by libavformat's guess, at times two frames off where parts meet.
    np.testing.assert_allclose(np.diff(timeline.pts_seconds), 0.04, atol=0.081)
    assert timeline.stop_seconds - timeline.pts_seconds[0] == pytest.approx((FIRST + 2 * SECOND) / 25, abs=0.17)
    assert _shown(path) == ([*range(SECOND), *range(FIRST), *range(SECOND)], ())


def test_the_joined_field_file_is_red_then_blue(shared_data: Path) -> None:
    path = shared_data / "field" / "joined_red8_blue3.ts"
    timeline = scan(str(path))
    assert (timeline.num_frames, timeline.num_parts) == (275, 2)
    assert timeline.stop_seconds - timeline.pts_seconds[0] == pytest.approx(11.0, abs=1e-6)
    with DecodeSession() as session:
        (outcome,) = run(session, [request(path)], lambda pixels: "red" if pixels[..., 0].mean() > 128 else "blue")
    assert list(outcome.frames.values()) == ["red"] * 200 + ["blue"] * 75


def test_few_frames_of_a_joined_recording_are_the_right_ones(pair: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "joined.ts"
    path.write_bytes(JOINS["ts"](*pair, tmp_path))
    with DecodeSession() as session:
        (outcome,) = run(session, [request(path, [3, 49, 50, 66])], read_frame_number)
    assert list(outcome.frames.values()) == [3, 49, 0, 16]


def test_a_clock_that_wraps_goes_on(pair: tuple[Path, Path], tmp_path: Path) -> None:
    # 33 bits of 90 kHz: the clock begins anew a second after the start.
    start = float(Fraction(1 << 33, 90_000)) - 1
    path = remux(pair[0], tmp_path / "wrap.ts", shift_seconds=start)
    timeline = scan(str(path))
    assert timeline.num_parts == 1
    np.testing.assert_allclose(np.diff(timeline.pts_seconds), 0.04, atol=1e-6)
    assert _shown(path) == (list(range(FIRST)), ())


def _reason(path: Path) -> tuple[str, str]:
    with pytest.raises(VideoError) as caught:
        scan(str(path))
    assert caught.value.stage == "scan"
    return caught.value.reason, caught.value.message


def test_what_libavformat_leaves_unread_is_not_passed_over(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for suffix in ("mp4", "flv", "avi"):
        codec = "mpeg4" if suffix == "avi" else "libx264"
        parts = [encode_video(tmp_path / f"{n}.{suffix}", n, codec=codec) for n in (FIRST, SECOND)]
        path = tmp_path / f"joined.{suffix}"
        path.write_bytes(_bytes(parts))
        reason, message = _reason(path)
        assert reason == "joined_files"
        assert f"from byte {len(parts[0].read_bytes())} on" in message or suffix == "mp4"


def test_fragments_whose_clock_goes_back_are_refused_by_the_jump(pair: tuple[Path, Path], tmp_path: Path) -> None:
    movflags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    first, second = (remux(part, tmp_path / f"f{number}.mp4", options=movflags) for number, part in enumerate(pair))
    kept = [data for kind, data in boxes(first.read_bytes()) if kind != b"mfra"]
    kept += [data for kind, data in boxes(second.read_bytes()) if kind in (b"moof", b"mdat")]
    (tmp_path / "joined.mp4").write_bytes(b"".join(kept))
    reason, message = _reason(tmp_path / "joined.mp4")
    assert reason == "timestamps_jump"
    assert "a jump from" in message


def test_times_without_order_are_no_joined_recordings() -> None:
    times = np.array([0, 900, 100, 800, 200, 700, 300, 600] * 4, dtype=np.int64) * 1000
    ones = np.ones(len(times), dtype=np.int64)
    layout = lay_out(times, times, ones, ones.astype(bool), 1e-3, "flv")
    assert layout.problem is not None
    assert "jumps in 32 packets" in layout.problem


def test_a_clock_that_is_set_back_in_mid_stream_goes_on(tmp_path: Path) -> None:
    source = encode_video(tmp_path / "a.flv", 60, max_b_frames=2)
    data = bytearray(source.read_bytes())
    place, number = 13, 0
    while place < len(data):
        size = int.from_bytes(data[place + 1 : place + 4], "big")
        if data[place] == 9 and number > 30:
            milliseconds = int.from_bytes(data[place + 4 : place + 7], "big") - 600
            data[place + 4 : place + 7] = milliseconds.to_bytes(3, "big")
        number += data[place] == 9
        place += 15 + size
    path = tmp_path / "back.flv"
    path.write_bytes(data)
    timeline = scan(str(path))
    assert timeline.num_parts == 2
    assert timeline.stop_seconds - timeline.pts_seconds[0] == pytest.approx(60 / 25, abs=0.17)
    frames, substituted = _shown(path)
    assert (frames, substituted) == (list(range(60)), ())


def test_a_clock_that_stands_still_is_refused_by_name(tmp_path: Path) -> None:
    source = encode_video(tmp_path / "a.flv", 30, max_b_frames=0)
    data = bytearray(source.read_bytes())
    place = 13
    while place < len(data):
        size = int.from_bytes(data[place + 1 : place + 4], "big")
        if data[place] == 9:
            data[place + 4 : place + 8] = bytes(4)
        place += 15 + size
    (tmp_path / "still.flv").write_bytes(data)
    assert _reason(tmp_path / "still.flv")[0] == "timestamps_repeat"


def test_slides_a_minute_apart_are_no_jumps(shared_data: Path, tmp_path: Path) -> None:
    lecture = shared_data / "field" / "last_frame_lecture.mp4"
    for name in ("a.ts", "a.mkv", "a.flv"):
        timeline = scan(str(remux(lecture, tmp_path / name)))
        assert (timeline.num_parts, timeline.num_frames) == (1, 7)
        np.testing.assert_allclose(timeline.pts_seconds - timeline.pts_seconds[0], [0, 40, 100, 190, 300, 415, 420])


def test_a_still_picture_within_a_fluent_recording_is_no_jump(tmp_path: Path) -> None:
    times = [number / 25 for number in range(30)] + [60 + number / 25 for number in range(30)]
    timeline = scan(str(encode_video(tmp_path / "a.mp4", 60, pts=times)))
    assert timeline.num_parts == 1
    np.testing.assert_allclose(timeline.pts_seconds, times, atol=1e-4)
