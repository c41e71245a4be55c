import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill.pipelines.features.assemble import MOST_SHAPES, Batcher, Ticket, WindowAssembler
from clipmill.schemas.records import Window


def _window(*frames: int) -> Window:
    return Window(0, frames, 0.0, 1.0)


def _pixels(frame: int) -> np.ndarray:
    return np.full((2, 2, 3), frame, dtype=np.uint8)


def _assemble(windows: list[Window]) -> tuple[dict[int, list[int]], int]:
    assembler = WindowAssembler(windows)
    got: dict[int, list[int]] = {}
    most_held = 0
    for frame in sorted({frame for window in windows for frame in window.frames}):
        for index, window, frames in assembler.add(frame, _pixels(frame)):
            assert window is windows[index]
            got[index] = [int(pixels[0, 0, 0]) for pixels in frames]
        most_held = max(most_held, assembler.num_held_frames)
    assert assembler.num_held_frames == 0
    return got, most_held


def test_overlapping_windows_hold_no_more_than_one_window() -> None:
    windows = [_window(*range(start, start + 16)) for start in range(0, 200, 8)]
    got, most_held = _assemble(windows)
    assert got == {index: list(window.frames) for index, window in enumerate(windows)}
    assert most_held <= 16


@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=6), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_every_window_gets_its_own_frames(frames: list[list[int]]) -> None:
    windows = [_window(*sorted(item)) for item in frames]
    got, _ = _assemble(windows)
    assert got == {index: list(window.frames) for index, window in enumerate(windows)}


def test_batches_span_videos_and_keep_order() -> None:
    batcher = Batcher(3)
    batches = []
    for video in range(4):
        batches += batcher.add(Ticket(video, 0, 0, _window(0)), [_pixels(video)])
    batches += batcher.flush()
    assert [[ticket.video for ticket in tickets] for tickets, _ in batches] == [[0, 1, 2], [3]]
    assert batches[0][1].shape == (3, 1, 2, 2, 3)
    assert batches[0][1][:, 0, 0, 0, 0].tolist() == [0, 1, 2]


def _of_height(batcher: Batcher, video: int, height: int) -> list[tuple[list[int], tuple[int, ...]]]:
    found = batcher.add(Ticket(video, 0, 0, _window(0)), [np.zeros((height, 2, 3), np.uint8)])
    return [([ticket.video for ticket in tickets], batch.shape) for tickets, batch in found]


def test_windows_of_two_shapes_do_not_end_each_others_batches() -> None:
    batcher = Batcher(2)
    assert [_of_height(batcher, video, height) for video, height in enumerate((2, 3, 2, 3))] == [
        [],
        [],
        [([0, 2], (2, 1, 2, 2, 3))],
        [([1, 3], (2, 1, 3, 2, 3))],
    ]
    assert list(batcher.flush()) == []


def test_of_many_shapes_the_oldest_goes_first() -> None:
    batcher = Batcher(2)
    for height in range(1, MOST_SHAPES + 1):
        assert _of_height(batcher, height, height) == []
    assert _of_height(batcher, 9, 9) == [([1], (1, 1, 1, 2, 3))]
    assert [batch.shape[2] for _, batch in batcher.flush()] == [2, 3, 4, 9]
