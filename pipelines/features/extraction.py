"""One recipe over the videos of one task: windows in, rows out."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clipmill.extractors import registry
from clipmill.extractors.base import Extractor, FilesExtractor, Outputs, QueueingExtractor, Reducer, WindowExtractor
from clipmill.extractors.flow_files import FlowFiles
from clipmill.extractors.runtime import RuntimeUse, runtime_use_of
from clipmill.pipelines.features.assemble import MOST_SHAPES, Batcher, Ticket, WindowAssembler
from clipmill.pipelines.features.device_memory import BatchTooLargeError, empty_cache, is_out_of_memory
from clipmill.pipelines.features.pooling import pool
from clipmill.pipelines.features.windows import ClipWindows
from clipmill.schemas.arrays import Pixels
from clipmill.schemas.errors import UsageError, VideoError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Clip, Window
from clipmill.schemas.rows import Rows, concatenate


def resolve_device(device: str, num_threads: int) -> str:
    """Returns the device to run on (``auto``: a GPU where there is one) and sets the number of compute threads.

    Those of OpenCV too, which else takes all cores, in every worker of a machine.

    Raises:
        UsageError: a GPU was asked for where there is none.
    """
    import cv2
    import torch

    torch.set_num_threads(num_threads)
    cv2.setNumThreads(num_threads)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    return device


def check_device(device: str) -> None:
    """Raises a `UsageError` where `device` is a GPU and this machine has none."""
    if not device.startswith("cuda"):
        return
    import torch

    if not torch.cuda.is_available():
        raise UsageError(describe("engine", "device", "a CUDA GPU", "none on this machine", "use device: auto or cpu"))


MOST_UNDER_WAY = 2
"""ours: so many batches wait on a device that works on its own. With two it has one to work at while the host does what
a network leaves to it in the middle of a pass (R-C3D's choice of proposals), and the rest of that pass afterwards."""

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Loading:
    """An extractor that is being loaded: `result` waits for it."""

    result: Callable[[], Extractor]


@dataclass(slots=True)
class _VideoState:
    """What one attempt at one video has come to."""

    name: str
    clips: Sequence[Clip]
    groups: Sequence[ClipWindows]
    files: FlowFiles | None = None
    attempt: int = 0
    dropped: bool = False
    error: VideoError | None = None
    windows: list[Window] = field(default_factory=list)
    assembler: WindowAssembler | None = None
    reducers: dict[int, Reducer] = field(default_factory=dict)
    # Outputs that came before those of an earlier window of their clip (windows are batched by their last frame).
    early: dict[int, Mapping[str, npt.NDArray[np.generic]]] = field(default_factory=dict)
    next_window: int = 0
    rows: Rows | None = None

    def start(self) -> None:
        self.windows = [window for group in self.groups for window in group.windows]
        self.assembler = WindowAssembler(self.windows)
        self.reducers = {}
        self.early = {}
        self.next_window = 0
        self.error = None
        self.rows = None


class RecipeExtraction:
    """Runs one recipe over the videos of a task, in batches that span videos and have one size, filled up where needed.

    Args:
        extractor: one that is being loaded is waited for when the first batch is full.
        watching: makes what each forward pass runs in, of the recipe, the batch size and the names of the videos.
        num_decoders: so many videos come at a time.

    Rows of a video are final when its last window has been through the network; a restarted video begins anew and what
    its first attempt still has in a batch is thrown away. `add_frame` and `flush` raise BatchTooLargeError where the
    device has no memory for a batch of several windows.
    """

    def __init__(
        self,
        recipe: Recipe,
        extractor: Extractor | Loading,
        batch_windows: int | None,
        watching: Callable[[Recipe, int, Sequence[str]], AbstractContextManager[None]] | None = None,
        num_decoders: int = 1,
    ) -> None:
        self.recipe = recipe
        self.seconds = self.load_seconds = 0.0
        self.num_windows = 0
        card = registry.card_of(recipe)
        self.batch_windows = batch_windows or card.batch_windows
        self._fills_batches = card.fills_batches
        self._watching = watching
        self._given = extractor
        self._under_way: deque[tuple[Sequence[Ticket], Pixels, Callable[[], Outputs]]] = deque()
        self._batcher = Batcher(self.batch_windows, MOST_SHAPES + num_decoders - 1)
        self._videos: dict[int, _VideoState] = {}

    @cached_property
    def _extractor(self) -> Extractor:
        if not isinstance(self._given, Loading):
            return self._given
        started = time.monotonic()
        try:
            return self._given.result()
        finally:
            self.load_seconds += time.monotonic() - started

    @cached_property
    def _queue(self) -> QueueingExtractor | None:
        extractor = self._extractor
        return extractor if isinstance(extractor, QueueingExtractor) and extractor.queues else None

    @property
    def runtime_use(self) -> RuntimeUse | None:
        """What its runtime was measured to be; None under PyTorch."""
        return runtime_use_of(self._extractor)

    def start_video(
        self,
        position: int,
        clips: Sequence[Clip],
        groups: Sequence[ClipWindows],
        files: FlowFiles | None = None,
        name: str = "",
    ) -> None:
        """Begins the video at `position` of the task, with the windows of each of its clips.

        Args:
            files: what the recipe reads beside the video.
            name: of the video, for messages.
        """
        state = _VideoState(name, clips, groups, files)
        state.start()
        self._videos[position] = state

    def restart_video(self, position: int) -> None:
        """Forgets all that came of the video so far."""
        state = self._videos[position]
        state.attempt += 1
        state.start()

    def drop_video(self, position: int) -> None:
        """Gives the video up."""
        self._videos[position].dropped = True

    def add_frame(self, position: int, frame: int, pixels: Pixels) -> None:
        """Takes one decoded frame; runs the network whenever a batch is full."""
        state = self._videos[position]
        if state.assembler is None or state.error is not None:
            return
        for index, window, frames in state.assembler.add(frame, pixels):
            ticket = Ticket(position, state.attempt, index, window)
            for tickets, batch in self._batcher.add(ticket, frames):
                self._forward(tickets, batch)

    def flush(self) -> None:
        """Runs the network over what is left."""
        for tickets, batch in self._batcher.flush():
            self._forward(tickets, batch)
        self._collect()

    def finished(self) -> dict[int, Rows]:
        """Returns the rows of every video that is complete, by its position in the task."""
        return {
            position: state.rows
            for position, state in self._videos.items()
            if state.rows is not None and not state.dropped
        }

    def is_settled(self, position: int) -> bool:
        """Tells whether nothing more can come of the video: it has its rows, failed, or was given up."""
        state = self._videos[position]
        return state.dropped or state.error is not None or state.rows is not None

    def take(self, position: int) -> Rows | VideoError | None:
        """Returns the video's rows, or why there are none, and forgets it; None where it was given up."""
        state = self._videos.pop(position, None)
        if state is None or state.dropped:
            return None
        return state.error if state.error is not None else state.rows

    def take_counts(self) -> tuple[float, float, int]:
        """Returns what came since this was asked last: seconds in the network, those it was waited for, windows."""
        counts = self.seconds, self.load_seconds, self.num_windows
        self.seconds = self.load_seconds = 0.0
        self.num_windows = 0
        return counts

    def failures(self) -> list[tuple[int, VideoError]]:
        """Returns the videos the extractor could not handle."""
        return [
            (position, state.error)
            for position, state in self._videos.items()
            if state.error is not None and not state.dropped
        ]

    def _forward(self, tickets: Sequence[Ticket], batch: Pixels, at_once: bool = False) -> None:
        live = [index for index, ticket in enumerate(tickets) if self._is_live(ticket)]
        if not live:
            return
        if len(live) < len(tickets):
            tickets, batch = [tickets[index] for index in live], batch[live]
        filled = self._filled(tickets, batch)
        queue = self._queue
        if queue is None or at_once:
            self._end(tickets, batch, self._attempt(tickets, lambda: self._outputs(*filled)))
            return
        # The device has this batch before the outputs of earlier ones are waited for, so that it never waits itself.
        submitted = self._attempt(tickets, lambda: queue.submit(filled[1], *self._whose(filled[0])))
        if isinstance(submitted, Exception):
            self._collect()
            self._end(tickets, batch, submitted)
            return
        self._under_way.append((tickets, batch, submitted))
        self._collect(MOST_UNDER_WAY)

    def _collect(self, num_left: int = 0) -> None:
        """Waits for the batches that the device has, the oldest first, up to the last `num_left` of them."""
        while len(self._under_way) > num_left:
            tickets, batch, outputs = self._under_way.popleft()
            self._end(tickets, batch, self._attempt(tickets, outputs))

    def _attempt(self, tickets: Sequence[Ticket], run: Callable[[], _Found]) -> _Found | Exception:
        """Returns what `run` does, watched and timed, or what it raised."""
        started = time.monotonic()
        try:
            with self._watched(tickets):
                return run()
        except Exception as error:
            # Without its traceback, whose frames hold tensors on the device.
            return error.with_traceback(None)
        finally:
            self.seconds += time.monotonic() - started

    def _end(self, tickets: Sequence[Ticket], batch: Pixels, outputs: Outputs | Exception) -> None:
        if isinstance(outputs, Exception):
            if is_out_of_memory(outputs):
                self._make_room(outputs)
            self._isolate(tickets, batch, outputs)
            return
        self.num_windows += len(tickets)
        for index, ticket in enumerate(tickets):
            # A video may have been given up while the device was at its windows.
            if self._is_live(ticket):
                self._deliver(ticket, outputs, index)

    def _watched(self, tickets: Sequence[Ticket]) -> AbstractContextManager[None]:
        if self._watching is None:
            return nullcontext()
        names = [self._videos[ticket.video].name for ticket in tickets]
        return self._watching(self.recipe, self.batch_windows, names)

    def _filled(self, tickets: Sequence[Ticket], batch: Pixels) -> tuple[Sequence[Ticket], Pixels]:
        """Returns the batch with its last window repeated up to the batch size.

        Libraries choose the order of a sum by the shape of a batch: with one shape a row has the same bits whatever
        windows are beside it, and however many.
        """
        missing = self.batch_windows - len(tickets)
        if missing <= 0 or not self._fills_batches:
            return tickets, batch
        return [*tickets, *([tickets[-1]] * missing)], np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])

    def _outputs(self, tickets: Sequence[Ticket], batch: Pixels) -> Outputs:
        windows, files = self._whose(tickets)
        if files and isinstance(self._extractor, FilesExtractor):
            return self._extractor.forward_files(batch, windows, files)
        if isinstance(self._extractor, WindowExtractor):
            return self._extractor.forward_windows(batch, windows)
        return self._extractor.forward(batch)

    def _whose(self, tickets: Sequence[Ticket]) -> tuple[list[Window], list[FlowFiles] | None]:
        """Returns the windows, and what their videos have beside them, if anything."""
        files = [found for ticket in tickets if (found := self._videos[ticket.video].files) is not None]
        return [ticket.window for ticket in tickets], files or None

    def _is_live(self, ticket: Ticket) -> bool:
        state = self._videos.get(ticket.video)
        return state is not None and not state.dropped and state.error is None and state.attempt == ticket.attempt

    def _make_room(self, error: Exception) -> None:
        """Gives memory back to the device.

        Raises:
            BatchTooLargeError: a smaller batch may fit.
        """
        empty_cache()
        if self.batch_windows > 1:
            raise BatchTooLargeError(self.recipe, self.batch_windows, _first_line(error))

    def _isolate(self, tickets: Sequence[Ticket], batch: Pixels, error: Exception) -> None:
        """Halves a batch that failed until the window at fault stands alone."""
        if len(tickets) > 1:
            middle = len(tickets) // 2
            self._forward(tickets[:middle], batch[:middle], at_once=True)
            self._forward(tickets[middle:], batch[middle:], at_once=True)
            return
        ticket = tickets[0]
        state = self._videos[ticket.video]
        place = f"{type(error).__name__} in the window at {ticket.window.start_seconds:.3f} s: {_first_line(error)}"
        if isinstance(error, VideoError):
            state.error = error
        elif is_out_of_memory(error):
            remedy = "take smaller frames, shorter windows, or a device with more memory"
            state.error = VideoError("extract", "out_of_memory", f"{self.recipe.name}: {place}; {remedy}")
        else:
            remedy = "run clipmill requeue after fixing it"
            state.error = VideoError("extract", "extractor_failed", f"{self.recipe.name}: {place}; {remedy}")

    def _deliver(self, ticket: Ticket, outputs: Outputs, index: int) -> None:
        state = self._videos[ticket.video]
        state.early[ticket.window_index] = {name: array[index] for name, array in outputs.items()}
        try:
            while state.next_window in state.early:
                window = state.windows[state.next_window]
                self._reducers(state)[window.clip].add(window, state.early.pop(state.next_window))
                state.next_window += 1
            if state.next_window == len(state.windows):
                state.rows = self._rows(state)
                state.reducers = {}
        except VideoError as error:
            state.error = error

    def _reducers(self, state: _VideoState) -> dict[int, Reducer]:
        if not state.reducers:
            state.reducers = {clip.index: self._extractor.reducer(clip) for clip in state.clips}
        return state.reducers

    def _rows(self, state: _VideoState) -> Rows:
        parts = [pool(self._reducers(state)[clip.index].rows(), self.recipe.pooling, clip) for clip in state.clips]
        parts = [part for part in parts if len(part)]
        if not parts:
            raise VideoError("extract", "no_rows", f"{self.recipe.name}: expected rows, got none from this video")
        rows = concatenate(parts)
        if not np.isfinite(rows.values).all():
            bad = int(np.flatnonzero(~np.isfinite(rows.values).all(axis=1))[0])
            raise VideoError(
                "extract",
                "non_finite_values",
                f"{self.recipe.name}: expected finite numbers, got NaN or infinity in row {bad} "
                f"({rows.start_seconds[bad]:.3f} s); check the weights, or use precision: float32",
            )
        return rows


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0][:200]
