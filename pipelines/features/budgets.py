"""What a build may spend: videos in quarantine, time, and which share of the videos it is given."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.task import RunReport, ShardTask, TaskResult, WorkerSpec
from clipmill.stores.store import Store

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:d|h|min|m|s))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(d|h|min|m|s)")

MARGIN_SHARE = 0.05
MARGIN_SECONDS = (1.0, 60.0)
"""ours: of the time until a deadline so much, but at least and at most so many seconds, is kept for what a build does
when its tasks have ended: the last commits, the catalog and the reports."""


@dataclass(frozen=True, slots=True)
class JobShard:
    """One of `count` disjoint shares of a dataset's videos, `index` counting from 1: those of one job of an array.

    Which share a video belongs to follows from its id alone, so no job needs to know of the others, and a video that is
    added moves no other one.
    """

    index: int
    count: int

    def holds(self, video_id: str) -> bool:
        """Returns whether the video of this id belongs to the share."""
        digest = hashlib.blake2b(video_id.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, slots=True)
class Budgets:
    """The limits of one run.

    Attributes:
        max_quarantine: the run ends early once it has put more videos than this into quarantine: a number (int), or a
            share of the videos it was given (float).
        deadline: when it must have ended.
        shard: the share of the manifest's videos it is given.
    """

    max_quarantine: int | float | None = None
    deadline: datetime | None = None
    shard: JobShard | None = None

    def max_quarantined(self, num_videos: int) -> int | None:
        """Returns how many videos may go into quarantine, of `num_videos`; None: any number."""
        limit = self.max_quarantine
        return int(limit * num_videos) if isinstance(limit, float) else limit

    def stop_at(self, now: datetime) -> float | None:
        """Returns when work must stop (Unix seconds) so that a run that begins now ends by the deadline."""
        if self.deadline is None:
            return None
        least, most = MARGIN_SECONDS
        left = (self.deadline - now).total_seconds()
        return self.deadline.timestamp() - min(max(left * MARGIN_SHARE, least), most)

    def as_json(self) -> dict[str, Any]:
        """Returns the limits that were set."""
        found = {
            "max_quarantine": self.max_quarantine,
            "deadline": self.deadline and self.deadline.astimezone(UTC).isoformat(timespec="seconds"),
            "shard": self.shard and str(self.shard),
        }
        return {name: value for name, value in found.items() if value is not None}


class QuarantineLimit:
    """Observes an engine; asks the run's workers to stop once more than `limit` videos are in quarantine.

    Args:
        booked: ids of the videos that planning has put there.
    """

    def __init__(self, store: Store, run_id: str, limit: int, booked: Sequence[str]) -> None:
        self._store, self._run_id, self._limit = store, run_id, limit
        self._booked = set(booked)
        self.exceeded = False
        self._check()

    def on_start(self, tasks: Sequence[ShardTask]) -> None:
        """Nothing has been booked yet."""

    def on_video(self, task: ShardTask, video_id: str) -> None:
        """What is booked is known when the task is done."""

    def on_task(self, result: TaskResult) -> None:
        """Counts the task's videos in quarantine."""
        self._booked.update(item.video_id for item in result.quarantined)
        self._check()

    def _check(self) -> None:
        if len(self._booked) > self._limit and not self.exceeded:
            self.exceeded = True
            self._store.request_stop(self._run_id, f"more than {self._limit} videos in quarantine")


class Spending:
    """What one run has spent of its budgets.

    Args:
        num_videos: it was given.
        unreadable: ids of those that planning has put into quarantine.
    """

    def __init__(self, budgets: Budgets, store: Store, run_id: str, num_videos: int, unreadable: Sequence[str]) -> None:
        self.budgets = budgets
        self._stop_at = budgets.stop_at(datetime.now(UTC))
        self._max_quarantined = budgets.max_quarantined(num_videos)
        self._limit: QuarantineLimit | None = None
        if self._max_quarantined is not None:
            self._limit = QuarantineLimit(store, run_id, self._max_quarantined, unreadable)

    @property
    def observers(self) -> list[QuarantineLimit]:
        """Those of the engine that keep the account."""
        return [] if self._limit is None else [self._limit]

    @property
    def is_spent(self) -> bool:
        """Whether nothing more is to be begun."""
        late = self._stop_at is not None and datetime.now(UTC).timestamp() >= self._stop_at
        return late or (self._limit is not None and self._limit.exceeded)

    @property
    def name(self) -> str:
        """The budget that ended the run, if one did."""
        return "max_quarantine" if self._limit is not None and self._limit.exceeded else "deadline"

    def limited(self, spec: WorkerSpec) -> WorkerSpec:
        """Returns what workers need to know, with the limits they keep."""
        return replace(spec, stop_at=self._stop_at, max_quarantined=self._max_quarantined)

    def num_videos_left(self, tasks: Sequence[ShardTask], report: RunReport) -> int:
        """Returns how many videos of `tasks` were not worked on, task by task."""
        if not report.results:
            return sum(len(task.videos) for task in tasks) if self.is_spent else 0
        return sum(result.num_videos_left for result in report.results)


def parse_max_quarantine(text: str) -> int | float:
    """Returns a number of videos (``20``), or a share of them (``0.02``, ``2%``) as a float.

    Raises:
        UsageError: it is neither.
    """
    remedy = "write --max-quarantine 20, or a share of the videos: 0.02 or 2%"
    problem = UsageError(describe("option", "--max-quarantine", "a number of videos or a share", repr(text), remedy))
    try:
        if re.fullmatch(r"\d+", text):
            return int(text)
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise problem from None
    if not 0 <= share <= 1:
        raise problem
    return share


def parse_deadline(text: str, now: datetime) -> datetime:
    """Returns when `text` is; where it names no zone, in local time.

    It is so long after `now` (``90m``, ``7h30m``), the next such time of day (``06:00``), or a date with a time
    (``2026-05-01T06:00``).

    Raises:
        UsageError: it is none of them, or has passed.
    """
    remedy = "write --deadline 7h30m, 06:00 or 2026-05-01T06:00"
    try:
        then = _time_of(text, now)
    except (ValueError, OverflowError, OSError):
        raise UsageError(describe("option", "--deadline", "a duration or a time", repr(text), remedy)) from None
    if then <= now:
        raise UsageError(describe("option", "--deadline", "a time to come", repr(text), remedy))
    return then


def _time_of(text: str, now: datetime) -> datetime:
    if _DURATION.fullmatch(text):
        return now + timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)))
    if re.fullmatch(r"\d{1,2}:\d{2}", text):
        hour, minute = map(int, text.split(":"))
        then = now.astimezone().replace(hour=hour, minute=minute, second=0, microsecond=0)
        # The same time on the clock, also where summer time begins or ends in between.
        return then if then > now else (then.replace(tzinfo=None) + timedelta(days=1)).astimezone()
    if "T" not in text and " " not in text:
        raise ValueError(text)
    then = datetime.fromisoformat(text)
    return then if then.tzinfo is not None else then.astimezone()


def parse_shard(text: str) -> JobShard:
    """Returns the share that ``2/8`` means: the second of eight.

    Raises:
        UsageError: it is no such share.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found and 1 <= int(found[1]) <= int(found[2]):
        return JobShard(int(found[1]), int(found[2]))
    remedy = "write --shard 1/8 for the first of eight, up to 8/8 for the last"
    raise UsageError(describe("option", "--shard", "i/n with i from 1 to n", repr(text), remedy))
