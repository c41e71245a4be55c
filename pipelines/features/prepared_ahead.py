"""Positions videos on threads, ahead of what decodes them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from clipmill.pipelines.features.prepare import PreparedVideo
from clipmill.schemas.records import Video


class PreparedAhead:
    """The prepared form of `videos`, in their order, a few of them before they are asked for. Close it at the end.

    Args:
        prepare: called on threads, several at a time.
        num_threads: so many.
    """

    def __init__(self, videos: Iterable[Video], prepare: Callable[[Video], PreparedVideo], num_threads: int) -> None:
        self._videos = iter(videos)
        self._prepare = prepare
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="prepare")
        # What is prepared and not taken holds a timeline, and of a remote video a copy: so one more for each thread.
        self._most = 2 * num_threads
        self._waiting: deque[tuple[Video, Future[PreparedVideo]]] = deque()

    def __iter__(self) -> Iterator[tuple[Video, Future[PreparedVideo]]]:
        while self._filled():
            yield self._waiting[0]
            self._waiting.popleft()

    def _filled(self) -> bool:
        for video in islice(self._videos, self._most - len(self._waiting)):
            self._waiting.append((video, self._pool.submit(self._prepare, video)))
        return bool(self._waiting)

    def close(self) -> None:
        """Gives up what nobody took."""
        for _, found in self._waiting:
            found.cancel()
            found.add_done_callback(_release)
        self._waiting.clear()
        self._pool.shutdown(wait=False)


def _release(found: "Future[PreparedVideo]") -> None:
    if not found.cancelled() and found.exception() is None:
        found.result().release()
