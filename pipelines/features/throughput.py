"""How fast a run was while it went on, by its heartbeats."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipmill.pipelines.features.run_progress import Beat
from clipmill.schemas.task import RunReport

MOST_SPANS = 60
"""ours: points of the curve."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Mean rates of a run in equal spans of its time, over all workers.

    Attributes:
        span_seconds: length of each.
        windows_per_second: through the networks.
        videos_per_second: done, those that went into quarantine among them.
    """

    span_seconds: float
    windows_per_second: tuple[float, ...]
    videos_per_second: tuple[float, ...]


def throughput(beats: Sequence[Beat], report: RunReport) -> Throughput | None:
    """Returns the rates between the beats of a run, and from the last one to its end.

    What workers do between two beats counts as evenly spread. No span is shorter than the mean interval of the beats.

    Returns:
        None where the run had no beat: its mean is told elsewhere.
    """
    done = [result for result in report.results if result.executed]
    if not beats or not done:
        return None
    windows = [0, *(beat.num_windows for beat in beats), sum(sum(result.num_windows.values()) for result in done)]
    videos = [0, *(beat.videos_done for beat in beats), sum(result.num_videos for result in done)]
    stop = max(report.seconds, beats[-1].seconds)
    seconds = [0.0, *(beat.seconds for beat in beats), stop]
    edges = np.linspace(0.0, stop, min(MOST_SPANS, len(beats) + 1) + 1)
    span = stop / (len(edges) - 1)

    def rates(counts: Sequence[int]) -> tuple[float, ...]:
        # A task that is tried again may be told to have done less than was noted of its first try.
        reached = np.interp(edges, seconds, np.maximum.accumulate(counts))
        return tuple(round(float(rate), 6) for rate in np.diff(reached) / span)

    return Throughput(round(span, 6), rates(windows), rates(videos))
