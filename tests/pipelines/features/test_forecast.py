"""Forecasts of a build, by measurements that are given: what a machine takes is no matter of these tests."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.calibration import account_of, earlier_rates, foresee, measured_from
from clipmill.pipelines.features.forecast import (
    Forecast,
    Machines,
    Measured,
    bytes_text,
    forecast,
    forecast_lines,
    hours_text,
    measured_of,
    parse_prices,
    rates_of,
    rough_rates,
    work_of,
)
from clipmill.pipelines.features.limits import LOOKS, limits_of
from clipmill.pipelines.features.plan import cut, estimate
from clipmill.schemas.config import BuildConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video, VideoHeader
from clipmill.schemas.task import RunReport, ShardTask, TaskResult, WorkerSpec
from clipmill.stores.objects import Calls
from clipmill.stores.store import Store
from tests.encoded_videos import encode_video

FEATURES: dict[str, Any] = {
    "slow": {"extractor": "squeezenet", "sampling": {"fps": 1}, "weights": {"random": 0}},
    "fast": {"extractor": "squeezenet", "sampling": {"fps": 5}, "weights": {"random": 0}},
}


def _config(root: Path) -> BuildConfig:
    return BuildConfig.model_validate(
        {
            "store": {"url": str(root / "store")},
            "videos": {"folder": str(root / "videos")},
            "features": FEATURES,
            "engine": {"device": "cpu", "threads": 1},
        }
    )


@pytest.fixture
def recipes(tmp_path: Path) -> list[Recipe]:
    config = _config(tmp_path)
    return [resolve_recipe(name, feature, config.clip_rule, config.decode) for name, feature in config.features.items()]


def _tasks(recipes: Sequence[Recipe], durations: Sequence[float], task_seconds: float = 300) -> list[ShardTask]:
    videos = [
        Video(str(number), "x", fingerprint=f"{number}", num_bytes=10**9, header=_header(seconds))
        for number, seconds in enumerate(durations)
    ]
    return cut(recipes, videos, task_seconds)


def _header(seconds: float) -> VideoHeader:
    return VideoHeader("mp4", "h264", 96, 64, 0, seconds, 25.0, round(25 * seconds))


class Machine:
    """A machine of known speeds, by the work it truly has: 5 % fewer windows than planning thinks."""

    per_window = {"slow": 0.02, "fast": 0.03}
    per_frame, per_video, start, load = 0.004, 0.1, 2.0, 3.0

    def run(self, tasks: Sequence[ShardTask], num_workers: int = 1, slower: float = 1.0) -> RunReport:
        """Returns the report of a run in which all took `slower` times as long."""
        results = []
        for number, task in enumerate(tasks):
            windows = {
                recipe.key: round(0.95 * sum(estimate(video, [recipe]).num_windows for video in task.videos))
                for recipe in task.recipes
            }
            frames = sum(estimate(video, task.recipes).num_frames for video in task.videos)
            forward = {key: slower * count * self.per_window[key.split("-")[0]] for key, count in windows.items()}
            scan, wait = slower * self.per_video * len(task.videos), slower * self.per_frame * frames
            load = self.load if number == 0 else 0.0
            seconds = {"scan": scan, "decode_wait": wait + scan, "forward": sum(forward.values()), "load": load}
            seconds["write"] = 0.5
            total = scan + wait + sum(forward.values()) + load + 0.5
            seconds |= {"total": total} | {f"forward/{key}": value for key, value in forward.items()}
            results.append(
                TaskResult(
                    task.key,
                    True,
                    len(task.videos),
                    seconds=seconds,
                    num_windows=windows,
                    num_bytes_written=round(sum(windows.values()) * 512 * 4 * 0.6),
                    num_reads=4 * len(task.recipes),
                    num_writes=10 * len(task.recipes),
                    device="cpu",
                    num_batches_decoded=10,
                    num_batches_ahead=25,
                )
            )
        wall = self.start + sum(item.seconds["total"] for item in results) / num_workers
        return RunReport("local", len(tasks), tuple(results), wall)


def _measured(tasks: Sequence[ShardTask], report: RunReport, num_workers: int = 1) -> Measured:
    measured = measured_of(tasks, report.results, report.seconds, 1, num_workers, (7, 9))
    assert measured is not None
    return measured


def test_the_second_run_of_a_kind_is_foreseen_to_the_percent(recipes: list[Recipe]) -> None:
    first, second = _tasks(recipes, [100, 20, 300]), _tasks(recipes, [200, 5, 60, 60, 45, 7])
    rates = rates_of([_measured(first, Machine().run(first))], "by the last run")
    told = Machine().run(second)
    expected = forecast(work_of(second), rates, Machines(1, 4), len(second))
    assert expected.wall_hours * 3600 == pytest.approx(told.seconds, rel=0.02)
    assert expected.cpu_hours == pytest.approx(4 * expected.wall_hours)
    assert expected.num_windows == pytest.approx(sum(sum(item.num_windows.values()) for item in told.results), rel=0.02)
    assert expected.num_bytes == pytest.approx(sum(item.num_bytes_written for item in told.results), rel=0.02)
    assert expected.num_writes == sum(item.num_writes for item in told.results) + 9
    assert expected.num_reads == sum(item.num_reads for item in told.results) + 7
    assert (expected.video_hours * 3600, expected.gpu_hours) == (pytest.approx(377), 0)


@pytest.mark.parametrize("slower", [0.85, 1.0, 1.15])
def test_a_machine_that_varies_by_fifteen_percent_is_foreseen_within_twenty(
    slower: float, recipes: list[Recipe]
) -> None:
    first, second = _tasks(recipes, [60] * 10), _tasks(recipes, [90] * 30)
    rates = rates_of([_measured(first, Machine().run(first))], "by the last run")
    did = Machine().run(second, slower=slower).seconds
    assert forecast(work_of(second), rates, Machines(1, 1), 1).wall_hours * 3600 == pytest.approx(did, rel=0.2)


def test_workers_share_the_time_and_hold_their_cores_and_gpus(recipes: list[Recipe]) -> None:
    tasks = _tasks(recipes, [100] * 8, task_seconds=1)
    assert len(tasks) >= 8
    rates = rates_of([_measured(tasks, Machine().run(tasks, 4), 4)], "by the last run")
    item = forecast(work_of(tasks), rates, Machines(4, 2), len(tasks))
    assert item.wall_hours * 3600 == pytest.approx(Machine().run(tasks, 4).seconds, rel=0.05)
    assert item.cpu_hours == pytest.approx(8 * item.wall_hours)
    gpu = forecast(work_of(tasks), rough_rates(recipes, "cuda"), Machines(4, 2, 2.0), len(tasks))
    assert gpu.gpu_hours == pytest.approx(2 * gpu.wall_hours)


def test_what_a_budget_left_of_a_task_is_not_taken_for_done(recipes: list[Recipe]) -> None:
    [task] = _tasks(recipes, [10, 20, 30, 1000])
    whole = Machine().run([task]).results[0]
    half = {key: count // 2 for key, count in whole.num_windows.items()}
    seconds = {name: value / 2 for name, value in whole.seconds.items()} | {"load": 3.0}
    cut_short = TaskResult(task.key, True, 3, seconds=seconds, num_windows=half, num_videos_left=1, device="cpu")
    measured = measured_of([task], [cut_short], 100.0, 1, 1)
    assert measured is not None
    assert measured.work.num_frames == pytest.approx(0.475 * work_of([task]).num_frames, rel=0.01)


def test_the_newest_runs_with_these_features_and_conditions_calibrate(recipes: list[Recipe], tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "store"), "zarr", "d")
    assert earlier_rates(store, recipes, "cpu", 1, 1) is None
    tasks = _tasks(recipes, [60] * 4)
    for number, slower in enumerate((9.0, 1.0, 1.0, 1.0)):
        measured = _measured(tasks, Machine().run(tasks, slower=slower))
        text = json.dumps({"measured": asdict(measured)})
        store.write_run_file(f"2026010{number + 1}T000000000-aaaa", "report.json", text)
    store.write_run_file("20260109T000000000-aaaa", "report.json", json.dumps({"of": "an older version"}))
    rates = earlier_rates(store, recipes, "auto", 1, 1)
    assert rates is not None
    assert rates.source == "by the last 3 runs with these features"
    assert rates.seconds_per_window[recipes[0].key] == pytest.approx(0.02)
    other = earlier_rates(store, recipes, "cpu", 8, 1)
    assert other is not None
    assert "which had other threads" in other.source
    assert earlier_rates(store, recipes, "cuda", 1, 1) is None
    # A feature nobody made yet has no rate.
    unknown = recipes[0].model_copy(update={"layer": "logits"})
    assert earlier_rates(store, [*recipes, unknown], "cpu", 1, 1) is None


def test_what_report_json_keeps_is_read_as_it_was_and_anything_else_is_none(recipes: list[Recipe]) -> None:
    tasks = _tasks(recipes, [60] * 4)
    measured = _measured(tasks, Machine().run(tasks))
    assert measured_from(json.loads(json.dumps(asdict(measured)))) == measured
    assert [measured_from(item) for item in (None, {}, {"work": {"no": 1}}, "x")] == [None] * 4


def test_prices_are_of_units() -> None:
    prices = parse_prices("cpu_hour=0.04, gpu_hour=2.5,gb_month=0.02,write_1000=0.005,read_1000=0.0004")
    item = Forecast("by a test", 10, 100.0, 5, 3 * 10**12, 50.0, 200.0, 50.0, 10**6, 2 * 10**6)
    assert item.price(prices) == {
        "cpu_hour": 8.0,
        "gpu_hour": 125.0,
        "write_1000": 10.0,
        "read_1000": 0.4,
        "total": 143.4,
        "month": 60.0,
    }
    assert forecast_lines(item, prices)[2] == (
        "  price: 143.4 (cpu_hour 8, gpu_hour 125, write_1000 10, read_1000 0.4); stored, 60 a month"
    )
    assert item.price({"cpu_hour": 0.5}) == {"cpu_hour": 100.0, "total": 100.0}


@pytest.mark.parametrize("text", ["", "cpu_hour", "cpu_hour=x", "cpu_hour=-1", "cpu=1", "cpu_hour=1,cpu_hour=2"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="option --price: expected each unit once with its price"):
        parse_prices(text)


def test_sizes_and_times_are_written_for_people() -> None:
    assert [bytes_text(count) for count in (0, 999, 1000, 2.5e9, 4e18)] == [
        "0 B",
        "999 B",
        "1 kB",
        "2.5 GB",
        "4e+03 PB",
    ]
    assert [hours_text(hours) for hours in (0.001, 0.5, 30)] == ["3.6 s", "30 min", "30 h"]


# What limited a run.


def test_stages_of_a_run_sum_to_the_time_of_its_workers(recipes: list[Recipe]) -> None:
    tasks = _tasks(recipes, [100] * 8, task_seconds=1)
    report = Machine().run(tasks, num_workers=2)
    limits = limits_of(report, 2)
    assert limits is not None
    assert sum(limits.seconds.values()) == pytest.approx(2 * report.seconds)
    assert set(limits.seconds) == set(LOOKS)
    forward = sum(item.seconds["forward"] for item in report.results)
    assert limits.seconds["device"] == pytest.approx(forward)
    assert limits.stage == max(limits.seconds, key=lambda name: limits.seconds[name])
    assert limits.mean_batches_ahead == 2.5
    assert limits.line().startswith(f"limited by {limits.stage}: ")
    assert limits.line().endswith("2.5 decoded batches waited on average")


@pytest.mark.parametrize(
    ("seconds", "stage"),
    [
        ({"forward": 8, "decode_wait": 1, "scan": 0.5, "write": 0.5, "total": 10}, "device"),
        ({"forward": 1, "decode_wait": 8, "scan": 0.5, "write": 0.5, "total": 10}, "decode"),
        ({"forward": 1, "decode_wait": 8, "scan": 7, "write": 0.5, "total": 10}, "scan"),
        ({"forward": 1, "decode_wait": 1, "scan": 0.5, "write": 7, "total": 10}, "store"),
        ({"forward": 1, "decode_wait": 1, "scan": 0.5, "write": 0, "load": 6, "total": 10}, "load"),
        ({"forward": 1, "decode_wait": 8, "scan": 1, "shots": 6, "total": 10}, "shots"),
        ({"forward": 1, "decode_wait": 1, "total": 3}, "idle"),
    ],
)
def test_the_stage_with_most_of_the_time_limits(seconds: dict[str, float], stage: str) -> None:
    report = RunReport("local", 1, (TaskResult("k", True, 1, seconds=seconds),), 10.0)
    limits = limits_of(report, 1)
    assert limits is not None
    assert limits.stage == stage


def test_a_run_that_did_nothing_is_limited_by_nothing() -> None:
    assert limits_of(RunReport("local", 1, (TaskResult("k", False, 1),), 1.0), 1) is None


# Builds.


def test_a_build_prints_its_forecast_beside_what_it_cost_and_the_next_one_learns_from_it(tmp_path: Path) -> None:
    for number in range(3):
        encode_video(tmp_path / "videos" / f"{number}.mp4", num_frames=20, fps=10)
    config = _config(tmp_path)
    first = build(config).account
    assert first.forecast is not None
    assert first.actual is not None
    assert first.forecast.source == "rough figures for a small machine"
    assert first.actual.num_windows == 3 * (2 + 10)
    for number in range(3, 6):
        encode_video(tmp_path / "videos" / f"{number}.mp4", num_frames=20, fps=10)
    report = build(config)
    second = report.account
    assert second.forecast is not None
    assert second.actual is not None
    assert second.forecast.source == "by the last run with these features"
    # Exact where nothing is a matter of speed.
    assert (second.forecast.num_windows, second.forecast.num_videos) == (second.actual.num_windows, 3)
    # Videos that are alike are compressed together, so only the order of magnitude can be known here.
    assert 1 / 3 < second.forecast.num_bytes / second.actual.num_bytes < 3
    assert abs(second.forecast.num_writes - second.actual.num_writes) <= 4
    stored = json.loads((tmp_path / "store" / "runs" / report.run_id / "report.json").read_text())
    assert stored["actual"]["num_windows"] == second.actual.num_windows
    assert stored["limits"]["line"].startswith(f"limited by {stored['limits']['stage']}: ")
    assert stored["measured"]["num_bytes_written"] > 0
    third = build(config)
    assert third.account.actual is None


def test_without_anything_measured_a_sample_is_worked_on(tmp_path: Path) -> None:
    from clipmill.pipelines.features.build import worker_spec
    from clipmill.pipelines.features.planning import plan_build

    for number in range(3):
        encode_video(tmp_path / "videos" / f"{number}.mp4", num_frames=20, fps=10)
    config = _config(tmp_path)
    planned = plan_build(config)
    spec = worker_spec(config, "sample")
    expected = foresee(None, planned.plan.tasks, spec, config.engine, 60)
    assert expected.source.startswith("by a sample of ")
    assert expected.num_windows == 36
    assert expected.wall_hours > 0
    assert not (tmp_path / "store").exists()
    assert foresee(None, planned.plan.tasks, spec, config.engine).source == "rough figures for a small machine"


def test_an_account_of_nothing_is_empty(recipes: list[Recipe]) -> None:
    tasks = _tasks(recipes, [10])
    spec = WorkerSpec("s", "zarr", "r", "cpu", 1)
    config = _config(Path("x"))
    expected = foresee(None, tasks, spec, config.engine)
    report = RunReport("local", 1, (TaskResult(tasks[0].key, False, 1),), 1.0)
    assert account_of(expected, tasks, report, 1, config.engine, Calls()).as_json() == {
        "forecast": None,
        "actual": None,
        "measured": None,
        "limits": None,
    }
