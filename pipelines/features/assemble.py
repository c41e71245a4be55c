"""From decoded frames to batches of windows, in bounded memory.

Frames of a view arrive in increasing order. A window is complete when its last frame has come; a frame is dropped when
no later window starts at or before it. So what is held is bounded by the longest window, not by the video.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clipmill.schemas.arrays import Pixels
from clipmill.schemas.records import Window


class WindowAssembler:
    """Turns one video's frames of one view into the windows of one recipe.

    Args:
        windows: in any order; they come out ordered by their last frame, ties in the order given.
    """

    def __init__(self, windows: Sequence[Window]) -> None:
        # A short window that repeats its own frames from the first does not end with its last one.
        needed_until = [max(window.frames) for window in windows]
        order = sorted(range(len(windows)), key=lambda index: (needed_until[index], index))
        self._waiting = deque((needed_until[index], index, windows[index]) for index in order)
        needed_from = [min(windows[index].frames) for index in order]
        # For each waiting window: the first frame that it or any later one still needs.
        self._needed_from = deque(np.minimum.accumulate(needed_from[::-1])[::-1].tolist() if needed_from else [])
        self._wanted = {frame for window in windows for frame in window.frames}
        self._held: dict[int, Pixels] = {}

    def add(self, frame: int, pixels: Pixels) -> Iterator[tuple[int, Window, list[Pixels]]]:
        """Takes frame number `frame`; yields (position in the windows given, window, its frames) of those complete."""
        if frame not in self._wanted:
            return
        self._held[frame] = pixels
        while self._waiting and self._waiting[0][0] <= frame:
            _, index, window = self._waiting.popleft()
            yield index, window, [self._held[wanted] for wanted in window.frames]
            self._needed_from.popleft()
            self._forget()

    def _forget(self) -> None:
        keep_from = self._needed_from[0] if self._needed_from else None
        for held in [held for held in self._held if keep_from is None or held < keep_from]:
            del self._held[held]

    @property
    def num_held_frames(self) -> int:
        """How many frames are in memory."""
        return len(self._held)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Whose window it is: the video's position in its task, the attempt at it, and the window's position."""

    video: int
    attempt: int
    window_index: int
    window: Window


MOST_SHAPES = 4
"""ours: so many shapes of windows wait for their batch where one video comes at a time; it bounds memory."""


class Batcher:
    """Collects windows of many videos into batches ``uint8[N, T, H, W, C]`` of one shape.

    Windows of several shapes are collected side by side, so that videos of two sizes do not end each other's batches.

    Args:
        most_shapes: so many at a time.
    """

    def __init__(self, batch_windows: int, most_shapes: int = MOST_SHAPES) -> None:
        self._batch_windows = batch_windows
        self._most_shapes = most_shapes
        self._waiting: dict[tuple[int, ...], tuple[list[Ticket], list[Pixels]]] = {}

    def add(self, ticket: Ticket, frames: Sequence[Pixels]) -> Iterator[tuple[list[Ticket], Pixels]]:
        """Takes one window; yields full batches, and what there is of the oldest shape where there are too many."""
        stacked = np.stack(frames)
        shape = stacked.shape
        if shape not in self._waiting and len(self._waiting) >= self._most_shapes:
            yield self._take(next(iter(self._waiting)))
        tickets, windows = self._waiting.setdefault(shape, ([], []))
        tickets.append(ticket)
        windows.append(stacked)
        if len(tickets) >= self._batch_windows:
            yield self._take(shape)

    def flush(self) -> Iterator[tuple[list[Ticket], Pixels]]:
        """Yields what is left, if anything."""
        while self._waiting:
            yield self._take(next(iter(self._waiting)))

    def _take(self, shape: tuple[int, ...]) -> tuple[list[Ticket], Pixels]:
        tickets, windows = self._waiting.pop(shape)
        return tickets, np.stack(windows)
