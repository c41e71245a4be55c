"""Ctrl-C during training: the epoch in progress is finished and kept; a second Ctrl-C abandons it."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType


class Interruption:
    """Within its ``with`` block the first SIGINT sets `requested`, the second raises KeyboardInterrupt at once.

    Outside the main thread, where Python delivers no signals, it changes nothing.

    Args:
        on_request: called at the first one.
    """

    def __init__(self, on_request: Callable[[], None] = lambda: None) -> None:
        self.requested = False
        self._on_request = on_request
        self._previous: object = None
        self._active = False

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
            self._active = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._active:
            signal.signal(signal.SIGINT, self._previous)  # type: ignore[arg-type]
            self._active = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._on_request()
