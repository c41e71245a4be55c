"""What limited a run: where the time of its workers went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipmill.schemas.task import RunReport, TaskResult

LOOKS = {
    "device": "in the networks",
    "decode": "waiting for the decoder",
    "scan": "opening files and scanning their packets",
    "shots": "finding shots",
    "store": "writing shards and commits",
    "load": "loading models",
    "other": "putting windows together and the rest",
    "idle": "without a task: workers that start, or too few tasks for them",
}
"""Stages of a worker's time, and what it does in them. One after the other, they make up all of it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the workers' time went.

    Attributes:
        stage: the one with the most of it: what to make faster first.
        seconds: by stage, over all workers; their sum is the run's time times the workers.
        mean_batches_ahead: decoded batches that wait for the networks when one more comes: 0 where the decoder limits.
    """

    stage: str
    seconds: Mapping[str, float]
    mean_batches_ahead: float | None

    def line(self) -> str:
        """Returns what limited the run, as one line."""
        total = sum(self.seconds.values()) or 1.0
        shares = sorted(((seconds / total, name) for name, seconds in self.seconds.items()), reverse=True)
        (share, name), (second, other) = shares[:2]
        queue = ""
        if self.mean_batches_ahead is not None:
            queue = f"; {self.mean_batches_ahead:.1f} decoded batches waited on average"
        return f"limited by {name}: {share:.0%} of the workers' time {LOOKS[name]}, {second:.0%} {LOOKS[other]}{queue}"

    def as_json(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        ahead = self.mean_batches_ahead
        return {
            "stage": self.stage,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "mean_batches_ahead": None if ahead is None else round(ahead, 2),
            "line": self.line(),
        }


def worker_seconds(results: Sequence[TaskResult]) -> dict[str, float]:
    """Returns the time of the tasks by stage, one after the other as a worker spends it: they sum to their total.

    ``decode`` is the wait for the decoder, which works beside the networks; what it works meanwhile costs no time.
    """
    found = dict.fromkeys(("device", "decode", "scan", "shots", "store", "load", "other"), 0.0)
    for result in results:
        seconds = result.seconds
        parts = {
            "device": seconds.get("forward", 0.0),
            # What is asked of the decoder next is scanned, and cut into shots, while one waits for it.
            "decode": seconds.get("decode_wait", 0.0) - seconds.get("scan", 0.0) - seconds.get("shots", 0.0),
            "scan": seconds.get("scan", 0.0),
            "shots": seconds.get("shots", 0.0),
            "store": seconds.get("write", 0.0),
            "load": seconds.get("load", 0.0),
        }
        parts["decode"] = max(parts["decode"], 0.0)
        parts["other"] = max(seconds.get("total", 0.0) - sum(parts.values()), 0.0)
        for name, value in parts.items():
            found[name] += value
    return found


def limits_of(report: RunReport, num_workers: int) -> Limits | None:
    """Returns what limited a run on `num_workers`, or None when it executed nothing."""
    done = [result for result in report.results if result.executed]
    if not done or report.seconds <= 0:
        return None
    seconds = worker_seconds(done)
    seconds["idle"] = max(report.seconds * num_workers - sum(seconds.values()), 0.0)
    num_batches = sum(result.num_batches_decoded for result in done)
    ahead = sum(result.num_batches_ahead for result in done) / num_batches if num_batches else None
    return Limits(max(seconds, key=lambda name: seconds[name]), seconds, ahead)
