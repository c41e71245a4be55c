"""How long the last frame is on display."""

from pathlib import Path

import pytest
from altered_files import overwrite, remux
from encoded_videos import encode_video

from clipmill.pipelines.decode.scan import scan

TIMES = [0.0, 4.0, 10.0, 19.0, 30.0, 41.5, 42.0]


def test_the_lecture_ends_with_its_container(shared_data: Path) -> None:
    timeline = scan(str(shared_data / "field" / "last_frame_lecture.mp4"))
    assert timeline.stop_seconds == pytest.approx(421.0)


@pytest.mark.parametrize("last_seconds", [0.5, 7.25])
def test_the_edit_list_says_when_display_ends(last_seconds: float, tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 7, pts=TIMES, max_b_frames=2, options={"x264-params": "b-adapt=0"})
    overwrite(path, b"elst", 4 + 8, round((TIMES[-1] + last_seconds) * 1000).to_bytes(4, "big"))
    assert scan(str(path)).stop_seconds == pytest.approx(TIMES[-1] + last_seconds)


def test_a_claim_beyond_reason_is_not_believed(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 7, pts=TIMES, max_b_frames=2, options={"x264-params": "b-adapt=0"})
    overwrite(path, b"elst", 4 + 8, (3_000_000_000).to_bytes(4, "big"))
    assert scan(str(path)).stop_seconds < 60


def test_without_an_edit_list_the_end_is_plausible(tmp_path: Path) -> None:
    source = encode_video(tmp_path / "s.mp4", 7, pts=TIMES, max_b_frames=2, options={"x264-params": "b-adapt=0"})
    for number, options in enumerate(({"use_editlist": "0"}, {"movflags": "frag_keyframe+empty_moov"})):
        timeline = scan(str(remux(source, tmp_path / f"{number}.mp4", options=options)))
        last = timeline.stop_seconds - timeline.pts_seconds[-1]
        assert 0 < last <= 11.5


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
def test_a_constant_rate_ends_one_step_after_its_last_frame(suffix: str, tmp_path: Path) -> None:
    timeline = scan(str(encode_video(tmp_path / f"a.{suffix}", 31, fps=10, max_b_frames=3)))
    assert timeline.stop_seconds - timeline.pts_seconds[0] == pytest.approx(3.1, abs=2e-3)
