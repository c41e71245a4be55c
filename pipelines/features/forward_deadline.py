"""The end of a worker whose network hangs: nothing else ends a call that does not return."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clipmill.extractors.registry import card_of
from clipmill.pipelines.features.plan import COMPUTE_GMAC_PER_SECOND
from clipmill.schemas.recipe import Recipe

DEADLINE_FACTOR = 10.0
"""ours: a forward pass may take so many times what planning takes it to cost, beyond `forward_deadline_seconds`."""


def longest_seconds(recipe: Recipe, batch_windows: int, deadline_seconds: float) -> float:
    """Returns how long one forward pass of so many windows may take."""
    gmac = card_of(recipe).gmac_of(recipe.sampling) * batch_windows
    return deadline_seconds + DEADLINE_FACTOR * gmac / COMPUTE_GMAC_PER_SECOND


class ForwardDeadline:
    """Calls `on_expiry`, in a thread of its own, when what is watched does not end in time; a context manager.

    Args:
        on_expiry: is given what hung; it is not expected to return.
    """

    def __init__(self, on_expiry: Callable[[str], None]) -> None:
        self._on_expiry = on_expiry
        self._changed = threading.Condition()
        self._watched: tuple[str, float] | None = None
        self._number = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="forward-deadline")

    def __enter__(self) -> "ForwardDeadline":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        # A worker that could not be entered has not started it.
        if self._thread.is_alive():
            self._thread.join()

    @contextmanager
    def watching(self, what: str, seconds: float) -> Iterator[None]:
        """Watches the block: it must end within `seconds`."""
        self._set((what, seconds))
        try:
            yield
        finally:
            self._set(None)

    def _set(self, watched: tuple[str, float] | None) -> None:
        with self._changed:
            self._watched = watched
            self._number += 1
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                number, watched = self._number, self._watched
                if watched is None:
                    self._changed.wait()
                    continue
                what, seconds = watched
                ends_at = time.monotonic() + seconds
                while not self._closed and self._number == number:
                    left = ends_at - time.monotonic()
                    if left <= 0:
                        self._watched = None
                        self._on_expiry(f"{what} within {seconds:.0f} s")
                        break
                    self._changed.wait(left)
