"""Where decode children run: each slot has a child, its successor, and the requests the child was given."""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np

from clipmill.pipelines.decode.choice import bytes_ahead, why_not_decord
from clipmill.pipelines.decode.process import ChildProcess
from clipmill.pipelines.decode.request import DecodeRequest, View
from clipmill.pipelines.decode.scan import Timeline
from clipmill.pipelines.decode.wire import REQUEST, Message, pack

REQUESTS_AHEAD = 1
"""So many further requests a child may begin while the consumer is busy with one."""
FURTHER_SECONDS = 0.25
FURTHER_FRAMES = 500
"""A further child is started once those there had so many seconds of work, or have so many frames before them: as much
as a start costs (ours)."""
MIN_STRETCH_FRAMES, MAX_STRETCH_FRAMES = 250, 2000
"""A stretch costs a file's opening and a seek: it has at least so many frames, and cuts are sought from so many on
(ours)."""
FRAMES_PER_CHILD = 200_000
"""A child is replaced after so many frames, too: 200 videos of 40 s (ours)."""
SUCCESSOR_SHARE, SUCCESSOR_VIDEOS = 4, 50
"""A child's successor starts when it has this part of its videos or frames left, or so many videos, so that none waits
for a start (ours)."""
MIN_RING_BYTES = 16 << 20
FULL_RINGS = 4
"""So many rings have their full size; more children share as much memory, down to `MIN_RING_BYTES` each (ours)."""


@dataclass(slots=True)
class Stretches:
    """A request that is decoded in stretches, each from where a video begins anew.

    Attributes:
        whole: the request as it was asked.
        reason: why decord does not serve it, for its summary.
        left: those not done, in order.
        done: what the child said at the end of each of the others.
        shapes: view, height, width and channels of the frames that came.
    """

    whole: DecodeRequest
    reason: str | None
    left: "deque[Pending]" = field(default_factory=deque)
    done: list[Message] = field(default_factory=list)
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    seen_frames: bool = False


@dataclass(slots=True)
class Pending:
    """A request given to a child, or a stretch of one.

    Attributes:
        bytes_ahead: of frames that the child may hold, beside the ring.
        waited_seconds: what the deadline is held against.
        stretches: of the request, where this is one of them.
        is_abandoned: what the child still sends of it is thrown away.
    """

    number: int
    request: DecodeRequest
    bytes_ahead: int = 0
    attempts: int = 1
    waited_seconds: float = 0.0
    seen_frames: bool = False
    crash: str | None = None
    stretches: Stretches | None = None
    is_abandoned: bool = False

    @property
    def has_its_turn(self) -> bool:
        """Whether its frames are due: those of a stretch come when all stretches before it are done."""
        return self.stretches is None or self.is_abandoned or self.stretches.left[0] is self

    @property
    def num_frames(self) -> int:
        """Frames that are decoded for it, as far as the packets tell."""
        return self.request.timeline.num_frames if self.stretches is None else len(self.request.wanted)

    def message(self) -> bytes:
        """Returns what the child is sent."""
        request, timeline = self.request, self.request.timeline
        names = ("pts_seconds", "key_frames", "part_packets", "part_offsets")
        arrays = {name: getattr(timeline, name) for name in names}
        for number, view in enumerate(request.views):
            arrays[f"view{number}"] = np.asarray(view.frames, dtype=np.int64)
        return pack(
            REQUEST,
            {
                "operation": "decode",
                "path": os.path.abspath(request.path),
                "decoder": request.decoder if self.crash is None else "pyav",
                "careful": self.crash is not None,
                "fallback_reason": self.crash or (self.stretches and self.stretches.reason),
                "is_stretch": self.stretches is not None,
                "timeline": {
                    "counted": timeline.counted,
                    "decord_refusal": timeline.decord_refusal,
                    "frame_bytes": timeline.frame_bytes,
                    "stream_index": timeline.stream_index,
                    "num_packets": timeline.num_packets,
                },
                "views": [view.preprocess.model_dump(mode="json") for view in request.views],
            },
            arrays,
        )


def pending_of(
    number: int, request: DecodeRequest, memory_bytes: int, ring_bytes: int, is_alone: bool
) -> list[Pending]:
    """Returns what children are given of a request: the whole, or its stretches.

    Args:
        memory_bytes: ceiling of a child's address space.
        ring_bytes: of a child's ring.
        is_alone: there is one child.
    """
    held = 0 if is_alone else bytes_ahead(request.decoder, request.timeline, request.wanted, memory_bytes)
    cuts = [] if is_alone or held or request.decoder == "decord" else _cuts(request, ring_bytes)
    if len(cuts) < 2:
        return [Pending(number, request, held)]
    reason = why_not_decord(request.decoder, request.timeline, request.wanted, memory_bytes)
    stretches = Stretches(request, reason)
    for start, stop in zip(cuts, [*cuts[1:], request.timeline.num_frames], strict=True):
        views = []
        for view in request.views:
            frames = np.asarray(view.frames, dtype=np.int64)
            views.append(View(view.preprocess, frames[(frames >= start) & (frames < stop)]))
        part = replace(request, views=tuple(views), decoder="pyav")
        if len(part.wanted):
            stretches.left.append(Pending(number, part, stretches=stretches))
    return list(stretches.left)


def _cuts(request: DecodeRequest, ring_bytes: int) -> list[int]:
    """Returns the first frames of stretches that are long enough to pay, and fit into a ring as far as possible."""
    timeline = request.timeline
    length = max(MIN_STRETCH_FRAMES, ring_bytes // max(sum(_bytes_of(view, timeline) for view in request.views), 1))
    cuts = [0]
    for frame in timeline.fresh_frames.tolist():
        if frame - cuts[-1] >= min(length, MAX_STRETCH_FRAMES) and timeline.num_frames - frame >= MIN_STRETCH_FRAMES:
            cuts.append(frame)
    return cuts


def _bytes_of(view: View, timeline: Timeline) -> int:
    preprocess = view.preprocess
    size = preprocess.crop or (preprocess.size if preprocess.resize == "exact" else None)
    return timeline.frame_bytes if size is None else 3 * size[0] * size[1]


class Slot:
    """A place for one child at a time. `queue` holds its requests, oldest first.

    Args:
        start: returns a child that has started.
        videos_per_child: a child is replaced after this many, or `FRAMES_PER_CHILD`.
    """

    def __init__(self, start: Callable[[], ChildProcess], videos_per_child: int) -> None:
        self._start = start
        self._videos_per_child = videos_per_child
        self._next: Future[ChildProcess] | None = None
        self.child: ChildProcess | None = None
        self.queue: deque[Pending] = deque()

    @property
    def running(self) -> ChildProcess:
        """The child; there must be one."""
        if self.child is None:
            raise RuntimeError("a decode child must be running here")
        return self.child

    @property
    def has_room(self) -> bool:
        """Whether it may be given one more request; an idle child that has served enough is replaced."""
        return not self.queue or (len(self.queue) <= REQUESTS_AHEAD and not self._is_used_up)

    @property
    def is_ready(self) -> bool:
        """Whether a child waits for requests."""
        return self.child is not None and not self.queue and not self._is_used_up

    @property
    def num_frames(self) -> int:
        """Frames of the videos before it."""
        return sum(pending.request.timeline.num_frames for pending in self.queue)

    @property
    def _is_used_up(self) -> bool:
        child = self.child
        if child is None:
            return False
        return child.num_requests >= self._videos_per_child or child.num_frames >= FRAMES_PER_CHILD

    def give(self, pending: Pending, in_background: bool) -> None:
        """Gives it a request.

        Args:
            in_background: do not wait for a child that has to be started first; see `has_started`.

        Raises:
            MachineFaultError: no child could be started.
        """
        if not self.queue and self.child is not None and (self._is_used_up or self._is_stillborn):
            self.child.kill()
            self.child = None
        self.queue.append(pending)
        if self.child is not None:
            self._send(pending)
        elif in_background:
            self._start_next()
        else:
            self.send_all()

    def warm(self) -> None:
        """Has its child start in the background."""
        if self.child is None:
            self._start_next()

    def has_started(self) -> bool:
        """Tells whether its child is there; one that has just started is sent what waits for it.

        Raises:
            MachineFaultError: it could not be started.
        """
        if self.child is None and self._next is not None and self._next.done():
            self.send_all()
        return self.child is not None

    def send_all(self) -> None:
        """Gives all its requests to a child; starts one where there is none.

        Raises:
            MachineFaultError: none could be started.
        """
        if self.queue and self.child is None:
            successor, self._next = self._next, None
            self.child = self._start() if successor is None else successor.result()
        for pending in self.queue:
            self._send(pending)

    def kill(self) -> None:
        """Ends its child, and the one that starts, at once. The requests stay."""
        if self.child is not None:
            self.child.kill()
            self.child = None
        if self._next is not None:
            if self._next.exception() is None:
                self._next.result().kill()
            self._next = None

    @property
    def _is_stillborn(self) -> bool:
        return self.child is not None and self.child.num_requests == 0 and not self.child.is_alive

    def _send(self, pending: Pending) -> None:
        child = self.running
        child.num_requests += 1
        child.num_frames += pending.num_frames
        child.send(pending.message())
        videos_left = self._videos_per_child - child.num_requests
        frames_left = FRAMES_PER_CHILD - child.num_frames
        ends_soon = videos_left <= min(self._videos_per_child // SUCCESSOR_SHARE, SUCCESSOR_VIDEOS)
        if (ends_soon or frames_left <= FRAMES_PER_CHILD // SUCCESSOR_SHARE) and min(videos_left, frames_left) > 0:
            self._start_next()

    def _start_next(self) -> None:
        if self._next is not None:
            return
        starting: Future[ChildProcess] = Future()

        def start() -> None:
            try:
                starting.set_result(self._start())
            except BaseException as error:
                starting.set_exception(error)

        self._next = starting
        threading.Thread(target=start, daemon=True, name="decoder-start").start()


def freest(slots: Sequence[Slot], seconds: float) -> Slot | None:
    """Returns the slot that the next request goes to; None where it has to wait.

    Args:
        seconds: since the first request.
    """
    ready = next((slot for slot in slots if slot.is_ready), None)
    if ready is not None:
        return ready
    busy = [slot for slot in slots if slot.queue]
    empty = next((slot for slot in slots if not slot.queue), None)
    is_worth_it = seconds >= FURTHER_SECONDS or all(slot.num_frames >= FURTHER_FRAMES for slot in busy)
    if empty is not None and (is_worth_it or not busy):
        return empty
    ahead = [slot for slot in busy if slot.child is not None and slot.has_room]
    return min(ahead, key=lambda slot: slot.num_frames, default=None)


def ring_share(ring_bytes: int, num_children: int) -> int:
    """Returns the size of each ring of `num_children`: `ring_bytes` for a few, less where there are many."""
    share = max(ring_bytes * FULL_RINGS // num_children, MIN_RING_BYTES)
    return min(ring_bytes, share)
