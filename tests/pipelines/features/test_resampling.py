"""The rules of resampling against ffmpeg itself: which frame each tick shows, and how many ticks there are."""

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.features.resampling import BY_RULE, ffmpeg_r, nearest
from clipmill.pipelines.features.windows import clip_windows
from clipmill.schemas.recipe import Sampling
from clipmill.schemas.records import Clip
from tests.encoded_videos import encode_video
from tests.ffmpeg_frames import by_fps_filter

RATES = (1, 8, 15, 16, 24, 25)
REAL = (
    "clips/topics70/animals/0.mp4",
    "clips/single/v_GGSY1Qvo990.mp4",
    "clips/single/v_ZNVhz7ctTq0.mp4",
    "clips/single/flipping_a_pancake.mkv",
    "clips/falls/subject1_Fall_13.mp4",
    "field/rotated_phone.mp4",
    "torture/torchcodec/test_non_zero_start.mp4",
    "torture/torchcodec/av1_video.mkv",
)


def by_command(path: Path, *arguments: str) -> list[str]:
    """Returns the MD5 of each frame that the ffmpeg on PATH writes of the first video stream."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), "-map", "0:v:0", *arguments, "-f", "framemd5", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    return [line.split(",")[-1].strip() for line in done.stdout.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", REAL)
def test_nearest_is_the_fps_filter_on_real_videos(shared_data: Path, name: str) -> None:
    path = shared_data / name
    timeline = scan(str(path))
    for fps in RATES:
        ours = nearest(timeline.pts_seconds, timeline.stop_seconds, fps).tolist()
        assert ours == by_fps_filter(path, fps), fps


@pytest.mark.parametrize("seed", range(6))
def test_nearest_is_the_fps_filter_at_variable_rates(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    gaps = generator.integers(1, 9000, 40)
    pts = [Fraction(int(ticks), 90_000) for ticks in np.concatenate([[0], np.cumsum(gaps)])]
    path = encode_video(tmp_path / "variable.mkv", len(pts), pts=pts, max_b_frames=0)
    timeline = scan(str(path))
    for fps in (*RATES, 60):
        ours = nearest(timeline.pts_seconds, timeline.stop_seconds, fps).tolist()
        assert ours == by_fps_filter(path, fps), fps


def test_halves_round_up_and_the_count_rounds() -> None:
    pts = np.arange(30) / 30
    # 30 to 15 frames a second: every odd frame lies in the middle of two ticks, and is rounded to the later one.
    assert nearest(pts, 1.0, 15).tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28]
    assert len(nearest(pts, 1.0, 1.5)) == 2
    assert len(nearest(pts, 1.0, 0.4)) == 0
    assert nearest(np.array([5.0, 5.4, 5.6]), 6.0, 1).tolist() == [1]


def test_r_begins_with_two_frames_and_writes_two_more() -> None:
    # What ffmpeg 4.2 and 9.0 write with -r 1 of ten seconds at 30 frames a second, frame by frame.
    pts = np.arange(300) / 30
    assert ffmpeg_r(pts, 10.0, 1).tolist() == [0, 1, 26, 56, 86, 116, 146, 176, 206, 236, 266, 296]
    assert len(ffmpeg_r(pts, 10.0, 24)) == 242
    # Up from 20 to 30: frames are repeated, none is written twice at the start.
    assert ffmpeg_r(np.arange(20) / 20, 1.0, 30).tolist()[:6] == [0, 0, 1, 2, 2, 3]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on PATH")
@pytest.mark.parametrize("name", [name for name in REAL if "falls" not in name])
def test_both_rules_are_the_commands(shared_data: Path, name: str) -> None:
    """Left out: files whose audio begins before the video, from which ffmpeg counts."""
    path = shared_data / name
    timeline = scan(str(path))
    help_text = subprocess.run(
        ["ffmpeg", "-hide_banner", "-h", "full"], capture_output=True, text=True, check=True
    ).stdout
    if "fps_mode" not in help_text:
        pytest.skip("this ffmpeg is older than 5.1, whose -r rounds durations to whole ticks (docs/configuration.md)")
    frames = by_command(path, "-fps_mode", "passthrough")
    for fps in RATES:
        arguments = {
            "nearest": ("-vf", f"fps={fps}", "-fps_mode", "passthrough"),
            "ffmpeg_r": ("-r", str(fps), "-fps_mode", "cfr"),
        }
        for rule, given in arguments.items():
            ours = BY_RULE[rule](timeline.pts_seconds, timeline.stop_seconds, fps)
            assert [frames[index] for index in ours] == by_command(path, *given), (rule, fps)


def windows_of(clip: Clip, pts: npt.NDArray[np.float64], stop: float, sampling: Sampling) -> list[tuple[int, ...]]:
    return [window.frames for window in clip_windows(pts, stop, clip, sampling, "v").windows]


def test_a_clip_has_the_ticks_of_the_whole_video() -> None:
    pts = 3.0 + np.arange(300) / 30
    sampling = Sampling(fps=8, frames=1, rounding="nearest")
    whole = windows_of(Clip(0, 3.0, 13.0), pts, 13.0, sampling)
    assert len(whole) == 80
    assert windows_of(Clip(1, 5.0, 7.0), pts, 13.0, sampling) == whole[16:32]
    # The clip's own start is no tick: the first tick within it counts.
    assert windows_of(Clip(1, 5.06, 7.06), pts, 13.0, sampling) == whole[17:33]


def test_times_of_rows_are_the_ticks_and_end_with_the_video() -> None:
    pts = np.arange(300) / 30
    for rule in BY_RULE:
        sampling = Sampling(fps=4, frames=1, rounding=rule)
        found = clip_windows(pts, 10.0, Clip(0, 0.0, 10.0), sampling, "v").windows
        assert [window.start_seconds for window in found[:40]] == pytest.approx([tick / 4 for tick in range(40)])
        assert all(0 <= window.start_seconds < window.stop_seconds <= 10 for window in found)


def test_the_default_is_the_frame_on_display() -> None:
    assert Sampling(fps=4, rounding="display") == Sampling(fps=4)
    pts = np.arange(10) / 10
    shown = windows_of(Clip(0, 0.0, 1.0), pts, 1.0, Sampling(fps=4, frames=1))
    rounded = windows_of(Clip(0, 0.0, 1.0), pts, 1.0, Sampling(fps=4, frames=1, rounding="nearest"))
    assert (shown, rounded) == ([(0,), (2,), (5,), (7,)], [(1,), (3,), (6,), (8,)])
