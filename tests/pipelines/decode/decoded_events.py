"""Runs a decode session in tests and keeps what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.decode.scan import Timeline, scan
from clipmill.pipelines.decode.session import (
    DecodedFrame,
    DecodeRequest,
    DecodeSession,
    DecodeSummary,
    Failed,
    Finished,
    Restarted,
    View,
)
from clipmill.schemas.errors import VideoError
from clipmill.schemas.recipe import Preprocess

Pixels = npt.NDArray[np.uint8]


@dataclass
class Outcome:
    """What one request ended with. `frames` is keyed by view and index."""

    frames: dict[tuple[int, int], Any] = field(default_factory=dict)
    restarts: list[str] = field(default_factory=list)
    summary: DecodeSummary | None = None
    error: VideoError | None = None
    attempts: int = 1

    def indices(self, view: int = 0) -> list[int]:
        """Returns the frames of a view in the order they came."""
        return [index for number, index in self.frames if number == view]


def request(
    path: Path | str,
    frames: Sequence[int] | None = None,
    decoder: str = "auto",
    views: Sequence[View] = (),
    timeline: Timeline | None = None,
) -> DecodeRequest:
    """Returns a request for `frames` (default: all) as they are, or for `views`."""
    timeline = timeline or scan(str(path))
    wanted = np.arange(timeline.num_frames) if frames is None else np.array(frames, dtype=np.int64)
    return DecodeRequest(
        path=str(path),
        timeline=timeline,
        views=tuple(views) or (View(Preprocess(), wanted),),
        decoder=decoder,
        duration_seconds=timeline.stop_seconds - float(timeline.pts_seconds[0]),
    )


def run(
    session: DecodeSession, requests: Sequence[DecodeRequest], keep: Callable[[Pixels], Any] = lambda pixels: pixels
) -> list[Outcome]:
    """Returns the outcome of every request; of each frame what `keep` makes of it."""
    outcomes = [Outcome() for _ in requests]
    for event in session.run(requests):
        outcome = outcomes[event.request]
        assert outcome.summary is None, "an event after the end of its request"
        assert outcome.error is None, "an event after the end of its request"
        if isinstance(event, DecodedFrame):
            assert (event.view, event.frame) not in outcome.frames, "a frame came twice"
            outcome.frames[event.view, event.frame] = keep(event.pixels)
        elif isinstance(event, Restarted):
            outcome.restarts.append(event.reason)
            outcome.frames.clear()
        elif isinstance(event, Finished):
            outcome.summary = event.summary
        elif isinstance(event, Failed):
            outcome.error, outcome.attempts = event.error, event.attempts
            outcome.frames.clear()
    assert all(outcome.summary or outcome.error for outcome in outcomes), "a request without an end"
    return outcomes
