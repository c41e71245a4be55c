import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill.pipelines.features.assemble import Batcher, Ticket, WindowAssembler
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


def test_a_window_of_another_shape_starts_a_new_batch() -> None:
    batcher = Batcher(8)
    batches = list(batcher.add(Ticket(0, 0, 0, _window(0)), [np.zeros((2, 2, 3), np.uint8)]))
    batches += batcher.add(Ticket(1, 0, 0, _window(0)), [np.zeros((3, 2, 3), np.uint8)])
    batches += batcher.flush()
    assert [batch.shape for _, batch in batches] == [(1, 1, 2, 2, 3), (1, 1, 3, 2, 3)]
