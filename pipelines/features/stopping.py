"""When a worker stops before its tasks are done: time is up, or too many videos went into quarantine."""

import time
from collections.abc import Callable, Iterable, Sequence

from clipmill.pipelines.features.plan import estimate
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.schemas.task import WorkerSpec
from clipmill.stores.store import Store

ASK_SECONDS = 10.0
"""ours: how often a worker looks, within a task, whether its run was told to stop."""


class StopRule:
    """Decides for one worker, over all its tasks.

    Time a video takes is planning's estimate times what this worker's videos took of theirs so far. The first one is
    always begun: what planning guesses of a machine it does not know is too rough to refuse it.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, spec: WorkerSpec, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._spec, self._store, self._clock = spec, store, clock
        self._stopped = False
        self._asked_at = float("-inf")
        self._booked: set[str] = set()
        self._under_way: dict[str, float] = {}
        self._estimated = self._spent = 0.0
        self._since = 0.0

    def refuses_task(self) -> bool:
        """Returns whether no further task is begun."""
        return self._is_over() or self._was_told(0.0)

    def begin_task(self) -> None:
        """The models are loaded and the first video comes next."""
        self._under_way.clear()
        self._since = self._clock()

    def refuses_video(self, video: Video, recipes: Sequence[Recipe]) -> bool:
        """Returns whether `video` is not begun; else it is under way from now on."""
        cost = estimate(video, recipes).seconds
        if self._is_over() or self._is_too_late(cost) or self._was_told(ASK_SECONDS):
            return True
        self._under_way[video.id] = cost
        return False

    def end_video(self, video_id: str) -> None:
        """A video that was begun is done, well or not."""
        now = self._clock()
        self._estimated += self._under_way.pop(video_id, 0.0)
        self._spent += now - self._since
        self._since = now

    def book(self, video_ids: Iterable[str]) -> None:
        """These videos go into quarantine."""
        self._booked.update(video_ids)

    def gives_up(self) -> bool:
        """Returns whether what is under way is abandoned: time is up."""
        return self._spec.stop_at is not None and self._clock() >= self._spec.stop_at

    def _is_over(self) -> bool:
        limit = self._spec.max_quarantined
        return self._stopped or self.gives_up() or (limit is not None and len(self._booked) > limit)

    def _is_too_late(self, cost: float) -> bool:
        if self._spec.stop_at is None or not self._estimated:
            return False
        needed = (sum(self._under_way.values()) + cost) * self._spent / self._estimated
        return self._clock() + needed > self._spec.stop_at

    def _was_told(self, every_seconds: float) -> bool:
        """Asks the store, where anybody could have told; a run without such a limit costs no request."""
        now = self._clock()
        if self._spec.max_quarantined is not None and now - self._asked_at >= every_seconds:
            self._asked_at = now
            self._stopped = self._stopped or self._store.stop_requested(self._spec.run_id)
        return self._stopped
