"""The rules of windows beside the plain grid, each against a plain re-reading of the code that has it."""

import numpy as np
import pytest

from clipmill.pipelines.features.assemble import WindowAssembler
from clipmill.pipelines.features.windows import clip_windows
from clipmill.schemas.recipe import Sampling
from clipmill.schemas.records import Clip, Window


def windows(sampling: Sampling, length: int, fps: float = 10.0) -> list[Window]:
    pts = np.arange(length) / fps
    return list(clip_windows(pts, length / fps, Clip(0, 0.0, length / fps), sampling, "v").windows)


def frames(sampling: Sampling, length: int) -> list[list[int]]:
    return [list(window.frames) for window in windows(sampling, length)]


def vslnet(length: int, window: int, block: int) -> list[list[int]]:
    """The loops of VSLNet's extraction scripts: ranges of frame numbers, blocks of images counted from 1."""
    found = []
    pieces = [(1, length)] if length < block else []
    if not pieces:
        for first in range(1, length, block):
            count = min(first + block, length + 1) - first
            if count < window:
                first, count = first + count - window, window
            pieces.append((first, count))
    for first, count in pieces:
        for start in range(0, count, window):
            end = min(count - 1, start + window)
            if end - start < window:
                start = max(0, end - window)
            found.append([first - 1 + index for index in range(start, end)])
    return found


@pytest.mark.parametrize("length", [10, 15, 16, 17, 31, 32, 33, 34, 99, 100, 101, 115, 116, 117, 199, 200, 201, 417])
def test_before_last_with_blocks_is_vslnets(length: int) -> None:
    sampling = Sampling(frames=16, step=16, tail="before_last", block_frames=100)
    assert frames(sampling, length) == vslnet(length, 16, 100)
    charades = Sampling(frames=24, step=24, tail="before_last")
    assert frames(charades, length) == vslnet(length, 24, 10**9)


def test_before_last_of_one_frame_has_no_window() -> None:
    found = clip_windows(np.zeros(1), 0.1, Clip(0, 0.0, 0.1), Sampling(frames=16, tail="before_last"), "v")
    assert (found.windows, found.num_tail_windows_dropped) == ((), 1)


@pytest.mark.parametrize("length", [1, 9, 10, 11, 20, 21, 22, 30, 31])
def test_frames_after_is_video_features_stack(length: int) -> None:
    """A stack is run when it has one frame more than it needs; then `step` of its frames are dropped."""
    for size, step in ((10, 10), (10, 4)):
        stack: list[int] = []
        expected = []
        for number in range(length):
            stack.append(number)
            if len(stack) - 1 == size:
                expected.append(stack[:-1])
                stack = stack[step:]
        assert frames(Sampling(frames=size, step=step, frames_after=1), length) == expected
        if size == step:
            assert len(expected) == (length - 1) // size


@pytest.mark.parametrize("length", [1, 5, 7, 16, 17, 40, 64, 65])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_uniform_windows_that_loop_are_cpnets(length: int, count: int) -> None:
    num, every = 8, 2
    needed = num * every
    spare = max(0, length - needed)
    starts = [spare // 2] if count == 1 else [min(length - 1, int(j * (spare / (count - 1)))) for j in range(count)]
    expected = []
    for start in starts:
        clip = list(range(length))[start : start + needed : every]
        for index in range(num):
            if len(clip) >= num:
                break
            clip.append(clip[index])
        expected.append(clip)
    assert frames(Sampling(frames=num, every=every, uniform_windows=count, tail="loop"), length) == expected


@pytest.mark.parametrize("length", [3, 40, 47, 48, 49, 60, 63, 64, 100])
def test_both_ways_is_r_c3ds(length: int) -> None:
    num, every = 12, 4
    win, step = num * every, 12
    found = set()
    for start in range(0, max(1, length - win + 1), step):
        found.add((start, min(start + win, length)))
    for end in range(length, win - 1, -step):
        found.add((end - win, end))
    expected = []
    for start, end in sorted(found):
        video = list(range(start, end, every))
        expected.append(video + [video[-1]] * (num - len(video)))
    assert frames(Sampling(frames=num, every=every, step=step, tail="both_ways"), length) == expected


def test_centred_windows_repeat_the_ends() -> None:
    padded = [0, 0, 0, 0, *range(20), 19, 19, 19, 19]
    for num in (4, 5, 8):
        expected = [padded[4 + centre - num // 2 :][:num] for centre in range(20)]
        assert frames(Sampling(frames=num, step=1, centred=True), 20) == expected
        assert frames(Sampling(frames=num, step=3, centred=True), 20) == expected[::3]
    found = windows(Sampling(frames=5, step=1, centred=True), 20)
    assert [window.num_padded_frames for window in found[:4]] == [2, 1, 0, 0]
    assert (found[0].start_seconds, found[19].stop_seconds) == (0.0, 2.0)


@pytest.mark.parametrize("tail", ["drop", "repeat", "overlap", "loop"])
def test_first_frame_is_the_grid_of_the_rest(tail: str) -> None:
    for length in (4, 12, 19, 20, 21, 27, 28):
        rest = frames(Sampling(frames=8, step=8, tail=tail), length - 3)
        moved = [[number + 3 for number in window] for window in rest]
        assert frames(Sampling(frames=8, step=8, tail=tail, first_frame=3), length) == moved
    assert frames(Sampling(frames=8, tail="repeat", first_frame=9), 9) == []


def test_loop_repeats_a_short_video_as_a_whole() -> None:
    assert frames(Sampling(frames=8, tail="loop"), 3) == [[0, 1, 2, 0, 1, 2, 0, 1]]
    assert frames(Sampling(frames=4, tail="loop"), 6) == [[0, 1, 2, 3], [4, 5, 4, 5]]


def test_windows_that_loop_are_put_together_from_frames_in_order() -> None:
    found = windows(Sampling(frames=4, step=2, tail="loop"), 7)
    assembler = WindowAssembler(found)
    made = {}
    for number in range(7):
        pixels = np.full((1, 1, 3), number, np.uint8)
        for index, _, parts in assembler.add(number, pixels):
            made[index] = [int(part[0, 0, 0]) for part in parts]
    assert [made[index] for index in range(len(found))] == [list(window.frames) for window in found]
    assert assembler.num_held_frames == 0
