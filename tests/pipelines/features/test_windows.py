"""Windows against a brute-force reading of their definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill.pipelines.features.windows import clip_windows
from clipmill.schemas.recipe import Sampling
from clipmill.schemas.records import Clip


def _pts(num_frames: int, fps: float = 10.0, start: float = 0.0) -> np.ndarray:
    return start + np.arange(num_frames) / fps


def _whole(num_frames: int, fps: float = 10.0, start: float = 0.0) -> Clip:
    return Clip(0, start, start + num_frames / fps)


def _frames(sampling: Sampling, num_frames: int, fps: float = 10.0) -> list[tuple[int, ...]]:
    found = clip_windows(_pts(num_frames, fps), num_frames / fps, _whole(num_frames, fps), sampling, "v")
    return [window.frames for window in found.windows]


def test_windows_of_sixteen_each_eight_drop_the_tail() -> None:
    found = clip_windows(_pts(20), 2.0, _whole(20), Sampling(frames=16, step=8), "v")
    assert [window.frames for window in found.windows] == [tuple(range(16))]
    assert (found.num_tail_windows_dropped, found.num_tail_windows_padded) == (1, 0)
    assert found.windows[0].start_seconds == 0.0
    assert found.windows[0].stop_seconds == pytest.approx(1.6)


def test_tail_repeat_repeats_the_last_frame() -> None:
    found = clip_windows(_pts(20), 2.0, _whole(20), Sampling(frames=16, step=8, tail="repeat"), "v")
    assert found.windows[1].frames == (*range(8, 20), 19, 19, 19, 19)
    assert found.windows[1].num_padded_frames == 4
    assert found.num_tail_windows_padded == 1
    assert found.windows[1].stop_seconds == pytest.approx(2.0)


def test_tail_overlap_ends_with_the_clip() -> None:
    assert _frames(Sampling(frames=16, step=8, tail="overlap"), 20)[-1] == tuple(range(4, 20))


def test_overlap_of_a_clip_shorter_than_one_window_repeats() -> None:
    assert _frames(Sampling(frames=4, tail="overlap"), 3) == [(0, 1, 2, 2)]


def test_exact_fit_has_no_tail() -> None:
    for tail in ("drop", "repeat", "overlap"):
        found = clip_windows(_pts(24), 2.4, _whole(24), Sampling(frames=16, step=8, tail=tail), "v")
        assert len(found.windows) == 2
        assert (found.num_tail_windows_dropped, found.num_tail_windows_padded) == (0, 0)


def test_clip_shorter_than_one_window_is_dropped_and_counted() -> None:
    found = clip_windows(_pts(15), 1.5, _whole(15), Sampling(frames=16), "v")
    assert found.windows == ()
    assert found.num_tail_windows_dropped == 1


def test_every_second_frame() -> None:
    assert _frames(Sampling(frames=3, every=2, step=2), 8) == [(0, 2, 4), (2, 4, 6)]


def test_fps_takes_the_frame_on_display_at_each_tick() -> None:
    # 10 fps video resampled to 4 fps: ticks at 0, .25, .5, .75 show frames 0, 2, 5, 7.
    assert _frames(Sampling(fps=4, frames=1), 10) == [(0,), (2,), (5,), (7,)]


def test_fps_above_the_native_rate_repeats_frames() -> None:
    assert _frames(Sampling(fps=20, frames=4), 4) == [(0, 0, 1, 1), (2, 2, 3, 3)]


def test_fps_rows_cover_the_clip_without_gaps() -> None:
    found = clip_windows(_pts(25), 2.5, _whole(25), Sampling(fps=1, frames=1), "v")
    assert [(window.start_seconds, window.stop_seconds) for window in found.windows] == [(0, 1), (1, 2), (2, 2.5)]


def test_variable_frame_rate_follows_presentation_times() -> None:
    pts = np.array([0.0, 0.1, 0.2, 1.0, 1.05])
    found = clip_windows(pts, 1.1, Clip(0, 0.0, 1.1), Sampling(fps=2, frames=1), "v")
    assert [window.frames[0] for window in found.windows] == [0, 2, 3]


def test_a_clip_takes_only_frames_that_start_within_it() -> None:
    found = clip_windows(_pts(30), 3.0, Clip(2, 1.0, 2.0), Sampling(frames=5), "v")
    assert [window.frames for window in found.windows] == [tuple(range(10, 15)), tuple(range(15, 20))]
    assert {window.clip for window in found.windows} == {2}


def test_start_time_that_is_not_zero() -> None:
    found = clip_windows(_pts(10, start=5.0), 6.0, _whole(10, start=5.0), Sampling(fps=2, frames=1), "v")
    assert [window.frames[0] for window in found.windows] == [0, 5]
    assert found.windows[0].start_seconds == 5.0


def test_random_frames_depend_on_seed_video_and_clip_alone() -> None:
    def draw(seed: int, video: str, clip: int) -> tuple[int, ...]:
        sampling = Sampling(random_frames=1, seed=seed, frames=1)
        found = clip_windows(_pts(1000), 100.0, Clip(clip, 0.0, 100.0), sampling, video)
        return found.windows[0].frames

    assert draw(0, "a", 0) == draw(0, "a", 0)
    assert len({draw(0, "a", 0), draw(1, "a", 0), draw(0, "b", 0), draw(0, "a", 1)}) == 4


def test_random_frames_are_spread_evenly() -> None:
    sampling = Sampling(random_frames=1, frames=1)
    drawn = [
        clip_windows(_pts(100), 10.0, _whole(100), sampling, f"video {index}").windows[0].frames[0]
        for index in range(2000)
    ]
    counts = np.histogram(drawn, bins=10, range=(0, 100))[0]
    # 200 expected in each tenth; five standard deviations of a binomial are 67.
    assert counts.min() > 133
    assert counts.max() < 267


def test_random_frames_do_not_repeat_while_there_are_enough() -> None:
    assert sorted(frame for (frame,) in _frames(Sampling(random_frames=10, frames=1), 10)) == list(range(10))


@given(
    num_frames=st.integers(1, 60),
    frames=st.integers(1, 9),
    every=st.integers(1, 3),
    step=st.integers(1, 12),
    tail=st.sampled_from(["drop", "repeat", "overlap"]),
)
@settings(max_examples=300, deadline=None)
def test_grid_against_its_definition(num_frames: int, frames: int, every: int, step: int, tail: str) -> None:
    sampling = Sampling(frames=frames, every=every, step=step, tail=tail)
    found = clip_windows(_pts(num_frames), num_frames / 10, _whole(num_frames), sampling, "v")
    full = []
    start = 0
    while start + (frames - 1) * every < num_frames:
        full.append(tuple(range(start, start + (frames - 1) * every + 1, every)))
        start += step
    assert [window.frames for window in found.windows][: len(full)] == full
    extra = found.windows[len(full) :]
    assert len(extra) + found.num_tail_windows_dropped <= 1
    assert all(max(window.frames) == num_frames - 1 or frames == 1 or every > 1 for window in extra)
    if tail == "drop":
        assert not extra
    else:
        assert found.num_tail_windows_dropped == 0
        assert found.windows
    for window in found.windows:
        assert len(window.frames) == frames
        assert list(window.frames) == sorted(window.frames)
        assert 0 <= window.start_seconds < window.stop_seconds <= num_frames / 10 + 1e-9
