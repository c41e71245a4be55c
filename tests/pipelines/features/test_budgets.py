"""Budgets of a build: quarantine, time, and shares of the videos for the jobs of an array."""

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.pipelines.features.budgets import (
    Budgets,
    JobShard,
    parse_deadline,
    parse_max_quarantine,
    parse_shard,
)
from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.stopping import StopRule
from clipmill.schemas.config import BuildConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video, VideoHeader
from clipmill.schemas.task import ShardTask, WorkerSpec
from clipmill.stores import FeatureStore
from clipmill.stores.store import Store
from tests.encoded_videos import encode_video

NOW = datetime(2026, 5, 1, 22, 30, tzinfo=UTC)


# What options mean.


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("7h30m", 27000), ("45s", 45), ("1.5h", 5400), ("1d2h", 93600), ("10min", 600)]
)
def test_a_deadline_may_be_a_duration(text: str, seconds: float) -> None:
    assert parse_deadline(text, NOW) == NOW + timedelta(seconds=seconds)


def test_a_time_of_day_is_the_next_one_on_the_local_clock() -> None:
    local = NOW.astimezone()
    for minutes in (-1, 1):
        wanted = local + timedelta(minutes=minutes)
        found = parse_deadline(f"{wanted:%H:%M}", NOW)
        assert found.astimezone(UTC) == NOW + timedelta(minutes=minutes, days=1 if minutes < 0 else 0)


def test_a_date_with_a_time_keeps_its_zone() -> None:
    assert parse_deadline("2026-05-02T06:00+02:00", NOW) == datetime(2026, 5, 2, 4, tzinfo=UTC)
    assert parse_deadline("2026-05-03 06:00", NOW) == datetime(2026, 5, 3, 6).astimezone()


@pytest.mark.parametrize(
    "text", ["", "soon", "5", "-5m", "25:00", "2026-05-02", "2020-01-01T00:00", "0s", "9" * 20 + "d"]
)
def test_what_is_no_time_to_come_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"option --deadline: expected a .*, got .*; write --deadline 7h30m"):
        parse_deadline(text, NOW)


def test_a_number_of_videos_and_a_share_of_them() -> None:
    found = [Budgets(max_quarantine=parse_max_quarantine(text)) for text in ("20", "0", "0.02", "2%", "1.0")]
    assert [item.max_quarantined(1000) for item in found] == [20, 0, 20, 20, 1000]
    assert Budgets().max_quarantined(1000) is None


@pytest.mark.parametrize("text", ["", "-1", "two", "101%", "1.5", "nan", "%"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="option --max-quarantine: expected a number of videos or a share"):
        parse_max_quarantine(text)


@pytest.mark.parametrize("text", ["", "0/8", "9/8", "1", "1/0", "-1/8", "1/8/2", "a/b"])
def test_what_is_no_share_of_a_job_array_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"option --shard: expected i/n with i from 1 to n"):
        parse_shard(text)


@given(st.sets(st.text(), max_size=30), st.integers(1, 9))
def test_shares_are_disjoint_and_whole(ids: set[str], count: int) -> None:
    shards = [parse_shard(f"{index}/{count}") for index in range(1, count + 1)]
    for video_id in ids:
        assert sum(shard.holds(video_id) for shard in shards) == 1


def test_shares_are_about_equal() -> None:
    held = [sum(JobShard(index, 8).holds(f"videos/{number}.mp4") for number in range(8000)) for index in range(1, 9)]
    assert sum(held) == 8000
    assert min(held) > 900


# When a worker stops.


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def _rule(clock: Clock, tmp_path: Path, **limits: Any) -> tuple[StopRule, Store]:
    store = Store.create(str(tmp_path / "store"), "zarr", "d")
    return StopRule(WorkerSpec(store.url, "zarr", "run", **limits), store, clock), store


def _video(name: str, seconds: float) -> Video:
    header = VideoHeader("mp4", "h264", 96, 64, 0, seconds, 25.0, round(25 * seconds))
    return Video(name, name, fingerprint=name, header=header)


def test_a_video_is_not_begun_that_would_not_be_done_in_time(tmp_path: Path, recipe: Recipe) -> None:
    clock = Clock()
    rule, _ = _rule(clock, tmp_path, stop_at=clock.seconds + 100)
    rule.begin_task()
    # Nothing has been measured: the first one is begun whatever planning thinks of it.
    assert not rule.refuses_video(_video("first", 10), [recipe])
    clock.seconds += 30
    rule.end_video("first")
    # 3 seconds for each of the video's, 70 are left.
    assert rule.refuses_video(_video("long", 30), [recipe])
    assert not rule.refuses_video(_video("short", 20), [recipe])
    # The one under way needs its 60.
    assert rule.refuses_video(_video("behind", 5), [recipe])
    assert not rule.gives_up()
    clock.seconds += 70
    assert rule.gives_up()
    assert rule.refuses_task()


def test_a_worker_stops_when_it_has_booked_more_than_the_run_may(tmp_path: Path, recipe: Recipe) -> None:
    rule, _ = _rule(Clock(), tmp_path, max_quarantined=1)
    rule.begin_task()
    for name, refused in (("a", False), ("b", False), ("c", True)):
        assert rule.refuses_video(_video(name, 1), [recipe]) is refused
        rule.end_video(name)
        rule.book([name, name])
    assert rule.refuses_task()


def test_a_worker_hears_within_a_task_that_the_run_was_told_to_stop(tmp_path: Path, recipe: Recipe) -> None:
    clock = Clock()
    rule, store = _rule(clock, tmp_path, max_quarantined=5)
    assert not rule.refuses_task()
    store.request_stop("run", "enough")
    assert not rule.refuses_video(_video("a", 1), [recipe])
    clock.seconds += 10
    assert rule.refuses_video(_video("b", 1), [recipe])


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    from clipmill.extractors.resolve import resolve_recipe

    config = BuildConfig.model_validate(
        {
            "store": {"url": str(tmp_path / "store")},
            "videos": {"folder": str(tmp_path)},
            "features": {"squeezenet": {"sampling": {"fps": 2}, "weights": {"random": 0}}},
        }
    )
    return resolve_recipe("squeezenet", config.features["squeezenet"], config.clip_rule, config.decode)


# Builds.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six videos, of which the second to fourth are annotated with segments that lie outside of them."""
    lines = ["path,start_seconds,stop_seconds"]
    for index in range(6):
        encode_video(tmp_path / "videos" / f"{index}.mp4", num_frames=10 + index, fps=10)
        lines.append(f"{index}.mp4,{'50,60' if index in (1, 2, 3) else '0,1'}")
    (tmp_path / "videos" / "list.csv").write_text("\n".join(lines))
    return tmp_path


def _config(root: Path, name: str = "store") -> BuildConfig:
    return BuildConfig.model_validate(
        {
            "store": {"url": str(root / name)},
            "videos": {"manifest": str(root / "videos" / "list.csv")},
            "clips": {"from": "annotations"},
            "features": {"squeezenet": {"sampling": {"fps": 2}, "weights": {"random": 0}}},
            "engine": {"device": "cpu", "threads": 1, "batch_windows": 4},
        }
    )


def _ids(config: BuildConfig) -> list[str]:
    return FeatureStore(config.store.url)["squeezenet"].video_ids


def test_a_run_ends_early_once_too_many_videos_are_in_quarantine_and_the_next_one_goes_on(root: Path) -> None:
    config = _config(root)
    first = build(config, budgets=Budgets(max_quarantine=1))
    assert (first.exit_code, first.ended_by, first.num_quarantined, first.num_videos_left) == (
        4,
        "max_quarantine",
        2,
        3,
    )
    assert _ids(config) == ["0.mp4"]
    second = build(config, budgets=Budgets(max_quarantine=1))
    assert (second.exit_code, second.ended_by, second.num_quarantined) == (3, None, 3)
    assert _ids(config) == ["0.mp4", "4.mp4", "5.mp4"]
    # No row was lost, none is there twice.
    whole = build(_config(root, "whole"))
    assert sum(first.num_rows.values()) + sum(second.num_rows.values()) == sum(whole.num_rows.values()) > 0
    assert Store.open(config.store.url).commits().num_rows == 3


def test_videos_that_planning_books_count_and_no_task_is_begun(root: Path) -> None:
    for index in (0, 5):
        (root / "videos" / f"{index}.mp4").write_bytes(b"no video" * 100)
    config = _config(root)
    report = build(config, budgets=Budgets(max_quarantine=0.2))
    assert (report.exit_code, report.num_quarantined, report.num_tasks_executed) == (4, 2, 0)
    assert report.num_videos_left == 4
    assert build(config).exit_code == 3


def _stopping_clock(monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float]) -> None:
    monkeypatch.setattr("clipmill.pipelines.features.worker.StopRule", functools.partial(StopRule, clock=clock))


class LateAfter:
    """Moves a clock past every deadline when the first video is done."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_start(self, tasks: Any) -> None: ...

    def on_video(self, task: ShardTask, video_id: str) -> None:
        self._clock.seconds = float("inf")

    def on_task(self, result: Any) -> None: ...


def test_at_the_deadline_what_is_done_is_committed_and_the_next_run_goes_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    _stopping_clock(monkeypatch, clock)
    config = _config(root)
    first = build(config, [LateAfter(clock)], budgets=Budgets(deadline=datetime.now(UTC) + timedelta(days=1)))
    assert (first.exit_code, first.ended_by) == (4, "deadline")
    assert _ids(config) == ["0.mp4"]
    assert first.num_videos_left == 6 - 1 - first.num_quarantined > 0
    second = build(config)
    assert (second.exit_code, second.num_quarantined) == (3, 3)
    assert _ids(config) == ["0.mp4", "4.mp4", "5.mp4"]
    assert Store.open(config.store.url).commits().num_rows == 3


def test_a_deadline_that_is_not_reached_changes_nothing(root: Path) -> None:
    config = _config(root)
    report = build(config, budgets=Budgets(deadline=datetime.now(UTC) + timedelta(days=1)))
    assert (report.exit_code, report.ended_by, report.num_videos_left) == (3, None, 0)
    build(_config(root, "other"))
    store, other = Store.open(config.store.url), Store.open(str(root / "other"))
    assert store.commit_paths() == other.commit_paths()


def test_jobs_of_an_array_share_the_videos_and_commit_each_once(root: Path) -> None:
    config = _config(root)
    reports = [build(config, budgets=Budgets(shard=JobShard(index, 3))) for index in (1, 2, 3)]
    assert sum(report.num_videos for report in reports) == 6
    assert [report.budgets["shard"] for report in reports] == ["1/3", "2/3", "3/3"]
    assert len({report.run_id for report in reports}) == 3
    assert _ids(config) == ["0.mp4", "4.mp4", "5.mp4"]
    store = Store.open(config.store.url)
    assert store.commits().num_rows == 3
    assert set(store.manifest()) == {f"{index}.mp4" for index in range(6)}
    # A video more changes nothing for the others.
    encode_video(root / "videos" / "new.mp4", num_frames=10, fps=10)
    with (root / "videos" / "list.csv").open("a") as file:
        file.write("\nnew.mp4,0,1")
    again = [build(config, budgets=Budgets(shard=JobShard(index, 3))) for index in (1, 2, 3)]
    assert sum(report.num_tasks for report in again) == 1
    assert store.commits().num_rows == 4


def test_a_share_without_videos_is_complete(root: Path) -> None:
    [empty] = [index for index in range(1, 200) if not any(JobShard(index, 200).holds(f"{n}.mp4") for n in range(6))][
        :1
    ]
    report = build(_config(root), budgets=Budgets(shard=JobShard(empty, 200)))
    assert (report.exit_code, report.num_videos) == (0, 0)
