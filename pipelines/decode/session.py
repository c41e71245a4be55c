"""Decoding videos in child processes that can be killed; the frames of all views come out as events."""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

from clipmill.pipelines.decode import memory_limit
from clipmill.pipelines.decode.process import ChildDiedError, decoder_threads, start_child, wait_for_any
from clipmill.pipelines.decode.request import DecodeRequest, View
from clipmill.pipelines.decode.slots import FURTHER_SECONDS, Pending, Slot, Stretches, freest, pending_of, ring_share
from clipmill.pipelines.decode.wire import DONE, FAILED, FRAMES, FREE, RESTARTED, Message, pack
from clipmill.schemas.arrays import Pixels
from clipmill.schemas.errors import VideoError

__all__ = [
    "DecodeRequest",
    "DecodeSession",
    "DecodeSummary",
    "DecodedFrame",
    "Event",
    "Failed",
    "Finished",
    "Restarted",
    "View",
]

POLL_SECONDS = 1.0
BLIND_SECONDS = 0.01
"""Between two looks for what does not wake whoever waits for messages: a child that has started, a request (ours)."""


@dataclass(frozen=True, slots=True)
class DecodeSummary:
    """How a video was decoded.

    Attributes:
        decoder: ``decord`` or ``pyav``; of an image file ``pillow``.
        fallback_reason: why it was not decord; None where it was, or where PyAV was asked for.
        num_frames_decoded: frames that left the decoder, wanted or not.
        substituted: indices of wanted frames that do not decode, each replaced by the nearest earlier one that does.
        seconds: wall time in the child, waiting for the consumer included.
        scaler_flags: libswscale's, where frames have more than 8 bits (see `conversion`); None where they have not.
    """

    decoder: str
    decoder_version: str
    fallback_reason: str | None
    num_frames_decoded: int
    substituted: tuple[int, ...]
    seconds: float
    scaler_flags: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DecodedFrame:
    """One prepared frame of one view: ``uint8[h, w, c]``, a copy the consumer owns."""

    request: int
    view: int
    frame: int
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Restarted:
    """The request starts over with the second decoder: drop all frames of it seen so far."""

    request: int
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """All frames of the request have been given."""

    request: int
    summary: DecodeSummary


@dataclass(frozen=True, slots=True)
class Failed:
    """The request cannot be decoded: drop all frames of it seen so far."""

    request: int
    error: VideoError
    attempts: int


Event = DecodedFrame | Restarted | Finished | Failed


@dataclass(slots=True)
class _State:
    """A run's requests: those under way, and what was drawn and waits for room."""

    source: Iterator[DecodeRequest | None]
    slots: Sequence[Slot]
    held: deque[Pending] = field(default_factory=deque)
    num_drawn: int = 0
    exhausted: bool = False

    @property
    def busy(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.queue]


class DecodeSession:
    """Decodes requests in child processes. Use it as a context manager; children start when there is work for them.

    Args:
        deadline_seconds: longest this process waits for one attempt at a video, beyond
        deadline_factor: times the video's duration. Time the consumer spends does not count.
        memory_bytes: ceiling of a child's address space; this process's own limit where that is less. Together the
            children hold no more than this of frames that were decoded ahead.
        videos_per_child: a child is replaced after this many videos.
        ring_bytes: shared memory for frames; what a child can be ahead of the consumer. With many children each has
            less, see `slots.ring_share`.
        max_attempts: tries for one video; from the second on with PyAV, in a fresh child.
        num_threads: of a decoder; None: as `decoder_threads` says, shared by the children.
        num_children: so many videos are decoded at a time.

    Attributes:
        num_batches, num_batches_ahead: batches of frames that came, and over them the sum of those that waited already.
    """

    def __init__(
        self,
        deadline_seconds: float = 60.0,
        deadline_factor: float = 4.0,
        memory_bytes: int = 4 << 30,
        videos_per_child: int = 1000,
        ring_bytes: int = 64 << 20,
        max_attempts: int = 2,
        num_threads: int | None = None,
        num_children: int = 1,
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self._deadline_factor = deadline_factor
        self._memory_bytes = memory_bytes
        self._max_attempts = max_attempts
        threads = num_threads or decoder_threads(num_children)
        self._ring_bytes = ring_share(ring_bytes, num_children)
        start = partial(start_child, memory_bytes, threads, self._ring_bytes, decodes=True)
        self._slots = [Slot(start, videos_per_child) for _ in range(num_children)]
        self.num_batches = self.num_batches_ahead = 0

    def __enter__(self) -> "DecodeSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._kill()

    def warm(self) -> None:
        """Has the first child start in the background, for whoever will have work for it soon."""
        self._slots[0].warm()

    @property
    def pids(self) -> list[int]:
        """Process ids of the children there are."""
        return [slot.child.pid for slot in self._slots if slot.child is not None]

    def run(self, requests: Iterable[DecodeRequest | None], at_a_time: int | None = None) -> Generator[Event]:
        """Yields the events of every request; request i is the i-th of `requests`.

        A request's frames come in order, and it ends with one `Finished` or `Failed`. With several children the events
        of several requests come mixed. `requests` is drawn from as a child has room for more; None in it means that
        there is none at hand yet, while others are under way. Closed before its end, it ends the children.

        Args:
            at_a_time: decode no more videos than this at a time.

        Raises:
            MachineFaultError: no child could be started.
        """
        state = _State(iter(requests), self._slots[:at_a_time])
        started = time.monotonic()
        try:
            while True:
                self._fill(state, started)
                if not state.busy:
                    return
                yield from self._advance(state)
        finally:
            if state.busy:
                # Left half way (an error, or the consumer stopped): what children still send belongs to nobody.
                self._kill()

    def _fill(self, state: _State, started: float) -> None:
        """Gives the children requests while they have room."""
        while state.held or not state.exhausted:
            slot = freest(state.slots, time.monotonic() - started)
            if slot is None:
                return
            if not state.held:
                try:
                    request = next(state.source)
                except StopIteration:
                    state.exhausted = True
                    return
                if request is None:
                    return
                is_alone = len(state.slots) == 1
                state.held += pending_of(state.num_drawn, request, self._memory_bytes, self._ring_bytes, is_alone)
                state.num_drawn += 1
            held_bytes = sum(pending.bytes_ahead for busy in state.busy for pending in busy.queue)
            if state.busy and held_bytes + state.held[0].bytes_ahead > self._memory_bytes:
                return
            slot.give(state.held.popleft(), in_background=bool(state.busy))

    def _advance(self, state: _State) -> Iterator[Event]:
        """Takes what the children have to say about the oldest request of each, and yields what it means."""
        busy = [slot for slot in state.busy if slot.queue[0].has_its_turn]
        has_news = False
        for slot in busy:
            # One message of each in turn, so that none waits for the others.
            if not slot.has_started():
                continue
            try:
                message = slot.running.receive(0.0)
            except ChildDiedError:
                yield from self._died(slot, state)
                has_news = True
                continue
            if message is not None:
                has_news = True
                yield from self._understood(slot, message, state)
        if not has_news:
            yield from self._wait(busy, state)

    def _wait(self, busy: Sequence[Slot], state: _State) -> Iterator[Event]:
        """Waits until a child says something; ends those whose time is up."""
        limits = {id(slot): self._limit_seconds(slot.queue[0].request) for slot in busy}
        left = min(limits[id(slot)] - slot.queue[0].waited_seconds for slot in busy)
        # Neither a child that has started nor a request that has come to hand wakes what waits for messages.
        is_blind = any(slot.child is None for slot in busy) or (
            not state.held and not state.exhausted and freest(state.slots, FURTHER_SECONDS) is not None
        )
        seconds = min(BLIND_SECONDS if is_blind else POLL_SECONDS, max(left, 0.001))
        started = time.monotonic()
        ready = wait_for_any([slot.child for slot in busy if slot.child is not None], seconds)
        waited = time.monotonic() - started
        for slot in busy:
            pending = slot.queue[0]
            if slot.child is None:
                continue
            pending.waited_seconds += waited
            limit = limits[id(slot)]
            if pending.waited_seconds >= limit and slot.child.answer not in ready:
                line = slot.child.stderr_line()
                yield from self._again(slot, state, "deadline", f"no frame within {limit:.0f} s{_quoted(line)}")

    def _limit_seconds(self, request: DecodeRequest) -> float:
        # A broken file may claim to last for years: no frame earns more than a second.
        duration = min(request.duration_seconds, float(request.timeline.num_frames))
        return self._deadline_seconds + self._deadline_factor * duration

    def _understood(self, slot: Slot, message: Message, state: _State) -> Iterator[Event]:
        pending = slot.queue[0]
        if pending.is_abandoned:
            if message.kind == FRAMES:
                slot.running.send(pack(FREE))
            elif message.kind in (DONE, FAILED):
                slot.queue.popleft()
        elif message.kind == FRAMES:
            pending.seen_frames = True
            yield from self._frames(slot, pending, message)
        elif message.kind == RESTARTED:
            pending.seen_frames = False
            yield Restarted(pending.number, message.data["reason"])
        elif pending.stretches is not None:
            yield from self._stretch_ended(slot, pending.stretches, message, state)
        elif message.kind == DONE:
            slot.queue.popleft()
            yield Finished(pending.number, _summary([message]))
        elif message.kind == FAILED:
            yield from self._refused(slot, message, state)

    def _frames(self, slot: Slot, pending: Pending, message: Message) -> Iterator[Event]:
        child, stretches = slot.running, pending.stretches
        self.num_batches += 1
        self.num_batches_ahead += message.data["ahead"]
        frames = message.arrays["frames"].tolist()
        if stretches is not None:
            stretches.seen_frames = True
            for view, _, _, *shape in frames:
                stretches.shapes.add((view, *shape))
        for view, frame, offset, height, width, channels in frames:
            yield DecodedFrame(pending.number, view, frame, child.ring.read(offset, (height, width, channels)))
        child.send(pack(FREE))

    def _stretch_ended(self, slot: Slot, stretches: Stretches, message: Message, state: _State) -> Iterator[Event]:
        pending = slot.queue.popleft()
        if message.kind == FAILED:
            yield from self._as_a_whole(pending, stretches, message.data["message"], state)
            return
        stretches.left.popleft()
        stretches.done.append(message)
        orientations = {said for done in stretches.done for said in done.data["orientations"]}
        if len(orientations) > 1 or len(stretches.shapes) > len({view for view, *_ in stretches.shapes}):
            yield from self._as_a_whole(pending, stretches, "frames that are not alike throughout", state)
        elif not stretches.left:
            yield Finished(pending.number, _summary(stretches.done))

    def _as_a_whole(self, pending: Pending, stretches: Stretches, reason: str, state: _State) -> Iterator[Event]:
        """Starts a request over that cannot be decoded in stretches."""
        whole = Pending(pending.number, stretches.whole)
        self._abandon(stretches, state)
        state.held.appendleft(whole)
        if stretches.seen_frames:
            yield Restarted(pending.number, reason)

    def _abandon(self, stretches: Stretches, state: _State) -> None:
        for part in stretches.left:
            part.is_abandoned = True
        state.held = deque(part for part in state.held if not part.is_abandoned)

    def _refused(self, slot: Slot, message: Message, state: _State) -> Iterator[Event]:
        pending = slot.queue[0]
        reason, text = message.data["reason"], message.data["message"]
        if reason == "out_of_memory" and pending.attempts < self._max_attempts:
            yield from self._again(slot, state, reason, "more memory than it may have")
            return
        slot.queue.popleft()
        yield Failed(pending.number, VideoError("decode", reason, text), pending.attempts)

    def _died(self, slot: Slot, state: _State) -> Iterator[Event]:
        ending, line, starved = slot.running.death()
        reason = "out_of_memory" if starved else "decoder_crashed"
        yield from self._again(slot, state, reason, f"{ending} in the decoder{_quoted(line)}")

    def _again(self, slot: Slot, state: _State, reason: str, got: str) -> Iterator[Event]:
        """Ends the child; tries its oldest request once more with PyAV in a fresh one, or gives it up."""
        slot.kill()
        pending = slot.queue[0]
        path = pending.request.path
        if pending.is_abandoned:
            slot.queue.popleft()
        elif pending.attempts < self._max_attempts and pending.request.decoder != "decord":
            crash = f"{reason}: {got}"
            if pending.stretches is not None:
                slot.queue.popleft()
                yield from self._as_a_whole(pending, pending.stretches, crash, state)
                pending = state.held[0]
            pending.attempts += 1
            pending.waited_seconds = 0.0
            pending.crash = crash
            if pending.seen_frames:
                pending.seen_frames = False
                yield Restarted(pending.number, pending.crash)
        else:
            slot.queue.popleft()
            if pending.stretches is not None:
                self._abandon(pending.stretches, state)
            remedy = {
                "deadline": "raise decode.deadline_seconds, or re-encode it",
                "out_of_memory": f"{memory_limit.remedy(self._memory_bytes, killed='SIGKILL' in got)}, or re-encode it",
            }.get(reason, "re-encode it")
            error = VideoError("decode", reason, f"video {path}: expected it to decode, got {got}; {remedy}")
            yield Failed(pending.number, error, pending.attempts)
        # The fresh child has nothing to end of what was abandoned.
        slot.queue = deque(waiting for waiting in slot.queue if not waiting.is_abandoned)
        slot.send_all()

    def _kill(self) -> None:
        for slot in self._slots:
            slot.queue.clear()
            slot.kill()


def _summary(messages: Sequence[Message]) -> DecodeSummary:
    """Returns how a video was decoded, in one go or in several stretches."""
    data = messages[0].data
    flags = [message.data["scaler_flags"] for message in messages]
    return DecodeSummary(
        decoder=data["decoder"],
        decoder_version=data["decoder_version"],
        fallback_reason=data["fallback_reason"],
        num_frames_decoded=sum(message.data["num_frames_decoded"] for message in messages),
        substituted=tuple(frame for message in messages for frame in message.arrays["substituted"].tolist()),
        seconds=sum(message.data["seconds"] for message in messages),
        scaler_flags=next((found for found in flags if found is not None), None),
    )


def _quoted(line: str) -> str:
    return f" ({line})" if line else ""
