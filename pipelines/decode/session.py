"""Decoding videos in a child process that can be killed; the frames of all views come out as events, in order."""

import os
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.decode import memory_limit
from clipmill.pipelines.decode.process import ChildDiedError, ChildProcess, decoder_threads, start_child
from clipmill.pipelines.decode.scan import Timeline
from clipmill.pipelines.decode.wire import DONE, FAILED, FRAMES, FREE, REQUEST, RESTARTED, Message, pack
from clipmill.schemas.arrays import Pixels
from clipmill.schemas.errors import VideoError
from clipmill.schemas.recipe import Preprocess

REQUESTS_AHEAD = 1
"""So many further requests the child may begin while the consumer is busy with one."""
POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What one consumer wants of a video: these frames (sorted, unique), prepared like this."""

    preprocess: Preprocess
    frames: Sequence[int] | npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class DecodeRequest:
    """One decode pass over one video, for any number of views. `duration_seconds` lengthens its deadline."""

    path: str
    timeline: Timeline
    views: tuple[View, ...]
    decoder: Literal["auto", "decord", "pyav"] | str = "auto"
    duration_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DecodeSummary:
    """How a video was decoded.

    Attributes:
        decoder: ``decord`` or ``pyav``.
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
class _Pending:
    """A request given to the child. `waited_seconds` is what the deadline is held against."""

    number: int
    request: DecodeRequest
    attempts: int = 1
    waited_seconds: float = 0.0
    seen_frames: bool = False
    crash: str | None = None


@dataclass(slots=True)
class _State:
    """The requests a run has under way, oldest first."""

    queue: deque[_Pending] = field(default_factory=deque)
    num_sent: int = 0


class DecodeSession:
    """Decodes requests in a child process, in order. Use it as a context manager; the child starts with the first run.

    Args:
        deadline_seconds: longest this process waits for one attempt at a video, beyond
        deadline_factor: times the video's duration. Time the consumer spends does not count.
        memory_bytes: ceiling of the child's address space; this process's own limit where that is less.
        videos_per_child: the child is replaced after this many videos.
        ring_bytes: shared memory for frames; what the child can be ahead of the consumer.
        max_attempts: tries for one video; from the second on with PyAV, in a fresh child.
        num_threads: of the decoder; None: as `decoder_threads` says.

    Attributes:
        num_batches, num_batches_ahead: batches of frames that came, and over them the sum of those that waited already.
    """

    def __init__(
        self,
        deadline_seconds: float = 60.0,
        deadline_factor: float = 4.0,
        memory_bytes: int = 4 << 30,
        videos_per_child: int = 200,
        ring_bytes: int = 64 << 20,
        max_attempts: int = 2,
        num_threads: int | None = None,
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self._deadline_factor = deadline_factor
        self._memory_bytes = memory_bytes
        self._videos_per_child = videos_per_child
        self._ring_bytes = ring_bytes
        self._max_attempts = max_attempts
        self._num_threads = num_threads or decoder_threads()
        self._child: ChildProcess | None = None
        self.num_batches = self.num_batches_ahead = 0

    def __enter__(self) -> "DecodeSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._kill()

    def run(self, requests: Iterable[DecodeRequest]) -> Generator[Event]:
        """Yields the events of every request, in the order of `requests`; request i is the i-th of them.

        A request ends with one `Finished` or `Failed`. `requests` is drawn from as the child has room for more. Closed
        before its end, it ends the child.

        Raises:
            MachineFaultError: no child could be started.
        """
        source = iter(requests)
        state = _State()
        exhausted = False
        try:
            while True:
                while not exhausted and len(state.queue) <= REQUESTS_AHEAD and self._has_room(state):
                    request = next(source, None)
                    exhausted = request is None
                    if request is not None:
                        state.queue.append(_Pending(state.num_sent, request))
                        state.num_sent += 1
                        self._send(state.queue[-1])
                if not state.queue:
                    return
                yield from self._advance(state)
        finally:
            if state.queue:
                # Left half way (an error, or the consumer stopped): what the child still sends belongs to nobody.
                self._kill()

    def _has_room(self, state: _State) -> bool:
        """Tells whether the child may be given one more request; an idle one that has served enough is replaced."""
        if self._child is None or self._child.num_requests < self._videos_per_child:
            return True
        if state.queue:
            return False
        self._child.close()
        self._child = None
        return True

    def _send(self, pending: _Pending) -> None:
        if self._child is not None and not self._child.is_alive and self._child.num_requests == 0:
            self._kill()
        if self._child is None:
            self._child = start_child(self._memory_bytes, self._num_threads, self._ring_bytes, decodes=True)
        self._child.num_requests += 1
        self._child.send(_message(pending))

    def _advance(self, state: _State) -> Iterator[Event]:
        """Waits for the child's next message about the oldest request, and yields what it means."""
        pending = state.queue[0]
        request = pending.request
        # A broken file may claim to last for years: no frame earns more than a second.
        duration = min(request.duration_seconds, float(request.timeline.num_frames))
        limit = self._deadline_seconds + self._deadline_factor * duration
        started = time.monotonic()
        try:
            message = self._open_child().receive(min(POLL_SECONDS, max(limit - pending.waited_seconds, 0.001)))
        except ChildDiedError:
            yield from self._died(state)
            return
        pending.waited_seconds += time.monotonic() - started
        if message is None:
            if pending.waited_seconds >= limit:
                line = self._open_child().stderr_line()
                yield from self._again(state, "deadline", f"no frame within {limit:.0f} s{_quoted(line)}")
            return
        if message.kind == FRAMES:
            pending.seen_frames = True
            yield from self._frames(pending, message)
        elif message.kind == RESTARTED:
            pending.seen_frames = False
            yield Restarted(pending.number, message.data["reason"])
        elif message.kind == DONE:
            state.queue.popleft()
            yield Finished(pending.number, _summary(message))
        elif message.kind == FAILED:
            yield from self._refused(state, message)

    def _frames(self, pending: _Pending, message: Message) -> Iterator[Event]:
        child = self._open_child()
        self.num_batches += 1
        self.num_batches_ahead += message.data["ahead"]
        for view, frame, offset, height, width, channels in message.arrays["frames"].tolist():
            yield DecodedFrame(pending.number, view, frame, child.ring.read(offset, (height, width, channels)))
        child.send(pack(FREE))

    def _refused(self, state: _State, message: Message) -> Iterator[Event]:
        pending = state.queue[0]
        reason, text = message.data["reason"], message.data["message"]
        if reason == "out_of_memory" and pending.attempts < self._max_attempts:
            yield from self._again(state, reason, "more memory than it may have")
            return
        state.queue.popleft()
        yield Failed(pending.number, VideoError("decode", reason, text), pending.attempts)

    def _died(self, state: _State) -> Iterator[Event]:
        ending, line, starved = self._open_child().death()
        reason = "out_of_memory" if starved else "decoder_crashed"
        yield from self._again(state, reason, f"{ending} in the decoder{_quoted(line)}")

    def _again(self, state: _State, reason: str, got: str) -> Iterator[Event]:
        """Ends the child; tries the oldest request once more with PyAV in a fresh one, or gives it up."""
        self._kill()
        pending = state.queue[0]
        path = pending.request.path
        if pending.attempts < self._max_attempts and pending.request.decoder != "decord":
            pending.attempts += 1
            pending.waited_seconds = 0.0
            pending.crash = f"{reason}: {got}"
            if pending.seen_frames:
                pending.seen_frames = False
                yield Restarted(pending.number, pending.crash)
        else:
            state.queue.popleft()
            remedy = {
                "deadline": "raise decode.deadline_seconds, or re-encode it",
                "out_of_memory": f"{memory_limit.remedy(self._memory_bytes, killed='SIGKILL' in got)}, or re-encode it",
            }.get(reason, "re-encode it")
            error = VideoError("decode", reason, f"video {path}: expected it to decode, got {got}; {remedy}")
            yield Failed(pending.number, error, pending.attempts)
        for waiting in state.queue:
            self._send(waiting)

    def _open_child(self) -> ChildProcess:
        if self._child is None:
            raise RuntimeError("a decode child must be running here")
        return self._child

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


def _message(pending: _Pending) -> bytes:
    request = pending.request
    timeline = request.timeline
    names = ("pts_seconds", "key_frames", "part_packets", "part_offsets")
    arrays = {name: getattr(timeline, name) for name in names}
    for number, view in enumerate(request.views):
        arrays[f"view{number}"] = np.asarray(view.frames, dtype=np.int64)
    return pack(
        REQUEST,
        {
            "operation": "decode",
            "path": os.path.abspath(request.path),
            "decoder": request.decoder if pending.crash is None else "pyav",
            "careful": pending.crash is not None,
            "fallback_reason": pending.crash,
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


def _summary(message: Message) -> DecodeSummary:
    data = message.data
    return DecodeSummary(
        decoder=data["decoder"],
        decoder_version=data["decoder_version"],
        fallback_reason=data["fallback_reason"],
        num_frames_decoded=data["num_frames_decoded"],
        substituted=tuple(message.arrays["substituted"].tolist()),
        seconds=data["seconds"],
        scaler_flags=data["scaler_flags"],
    )


def _quoted(line: str) -> str:
    return f" ({line})" if line else ""
