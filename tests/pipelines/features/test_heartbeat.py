"""The heartbeat of a run: within tasks, on every kind of engine, without waiting for any clock."""

import importlib
import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.progress import Progress
from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.engines.local import LocalEngine
from clipmill.pipelines.features.heartbeat import Heartbeat, TaskNotes
from clipmill.pipelines.features.run_progress import Beat, RunProgress, progress_line
from clipmill.pipelines.features.throughput import throughput
from clipmill.schemas.config import BuildConfig
from clipmill.schemas.errors import StorageUnavailableError
from clipmill.schemas.records import Quarantined, Video
from clipmill.schemas.task import RunReport, ShardTask, TaskProgress, TaskResult, WorkerSpec
from clipmill.stores.objects import Objects
from clipmill.stores.store import Store
from tests.command_line import ROOT
from tests.encoded_videos import encode_video


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def _task(name: str, num_videos: int, cost: float, num_windows: int = 0) -> ShardTask:
    videos = tuple(Video(f"{name}{number}", "x", fingerprint=f"{name}{number}") for number in range(num_videos))
    return ShardTask(videos, (), num_windows, cost)


def _quarantined(video_id: str) -> Quarantined:
    return Quarantined(video_id, "f", "u", ("r",), "decode", "undecodable", "message", 1)


def test_a_task_of_seventy_videos_is_not_silent() -> None:
    clock, stream = Clock(), io.StringIO()
    task = _task("v", 70, cost=140, num_windows=1400)
    progress, shown = RunProgress(clock), Progress(stream, clock=clock)
    progress.on_start([task])
    for number in range(7):
        clock.seconds += 30
        progress.note(TaskProgress(task.key, num_videos=number, num_quarantined=number // 3, num_windows=number * 20))
        shown.on_beat(progress.beat())
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["heartbeat"] * 7
    assert [line["videos_done"] for line in lines] == list(range(7))
    assert (lines[0]["eta_seconds"], lines[0]["num_quarantined"]) == (None, 0)
    # 120 of 1,400 windows in 210 s: the other 1,280 take 2,240.
    assert lines[-1]["eta_seconds"] == pytest.approx(210 * 1280 / 120, abs=0.1)
    assert lines[-1]["videos_per_second"] == pytest.approx(6 / 210, abs=1e-3)
    assert (lines[-1]["num_quarantined"], lines[-1]["num_windows"]) == (2, 120)


def test_windows_show_progress_within_one_long_video() -> None:
    clock = Clock()
    task = _task("long", 1, cost=100, num_windows=1000)
    progress = RunProgress(clock)
    progress.on_start([task])
    clock.seconds = 60
    progress.note(TaskProgress(task.key, num_windows=250))
    beat = progress.beat()
    assert (beat.videos_done, beat.share_done, beat.eta_seconds) == (0, 0.25, 180)
    # An estimate that was too low does not make more of it than a whole.
    progress.note(TaskProgress(task.key, num_windows=5000))
    assert progress.beat().share_done == 1


def test_an_eta_weighs_tasks_by_their_cost_and_counts_a_video_in_quarantine_once() -> None:
    clock = Clock()
    cheap, dear = _task("a", 10, cost=10), _task("b", 10, cost=90)
    progress = RunProgress(clock)
    progress.on_start([cheap, dear])
    clock.seconds = 5
    twice = (_quarantined("a0"), _quarantined("a0"), _quarantined("a1"))
    progress.on_task(TaskResult(cheap.key, True, 10, quarantined=twice))
    beat = progress.beat()
    assert (beat.eta_seconds, beat.share_done, beat.num_quarantined) == (45, 0.1, 2)
    # Notes that come late, or of tasks nobody knows, change nothing.
    progress.note(TaskProgress(cheap.key, 3, 1))
    progress.note(TaskProgress("unknown", 3, 1))
    assert progress.beat().videos_done == 10
    assert progress_line(progress.beat()) == " 10%  10/20 videos, 1/2 tasks, 2 quarantined  2.00 videos/s  ETA 00:45"


def test_a_task_that_a_budget_left_undone_does_not_count_as_done() -> None:
    progress = RunProgress(Clock())
    tasks = [_task("a", 10, cost=50), _task("b", 10, cost=50)]
    progress.on_start(tasks)
    progress.on_task(TaskResult(tasks[0].key, True, num_videos=5, num_videos_left=5))
    progress.on_task(TaskResult(tasks[1].key, False, num_videos=0, num_videos_left=10))
    assert (progress.beat().share_done, progress.beat().videos_done) == (0.25, 5)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(str(tmp_path / "store"), "zarr", "d")


def test_notes_of_workers_reach_the_heartbeat_through_the_store(store: Store) -> None:
    clock = Clock()
    task = _task("v", 4, cost=4)
    heard: list[Beat] = []
    heartbeat = Heartbeat(store, "run", 30, [heard.append], clock)
    heartbeat.on_start([task])
    notes = TaskNotes(store, "run", 15, clock)
    notes.begin_task()
    assert not notes.is_due
    clock.seconds = 15
    assert notes.is_due
    notes.write(TaskProgress(task.key, 1, 1))
    assert not notes.is_due
    assert heartbeat.beat().videos_done == 1
    stored = json.loads(store.read_run_file("run", "heartbeat.json"))
    assert (stored["number"], stored["videos_done"], stored["every_seconds"]) == (1, 1, 30)
    heartbeat.on_task(TaskResult(task.key, True, 4))
    assert heartbeat.beat().videos_done == 4
    assert [beat.number for beat in heard] == [1, 2]


def test_storage_that_does_not_answer_ends_no_run_by_its_heartbeat(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise StorageUnavailableError("store: down")

    for name in ("write", "names", "read"):
        monkeypatch.setattr(Objects, name, refuse)
    heard: list[Beat] = []
    Heartbeat(store, "run", 30, [heard.append]).beat()
    TaskNotes(store, "run", 15).write(TaskProgress("key"))
    assert len(heard) == 1


# Builds.


def _config(root: Path) -> BuildConfig:
    for index in range(3):
        encode_video(root / "videos" / f"{index}.mp4", num_frames=10, fps=10)
    return BuildConfig.model_validate(
        {
            "store": {"url": str(root / "store")},
            "videos": {"folder": str(root / "videos")},
            "features": {"squeezenet": {"sampling": {"fps": 2}, "weights": {"random": 0}}},
            "engine": {"device": "cpu", "threads": 1},
        }
    )


class HeldEngine:
    """Runs tasks, and ends only when a beat has been heard: so none can be missed, however slow the machine."""

    def __init__(self, inner: Any, heard: threading.Event) -> None:
        self._inner, self._heard = inner, heard

    def run(self, tasks: Sequence[ShardTask], worker: WorkerSpec, observers: Sequence[Any]) -> RunReport:
        report: RunReport = self._inner.run(tasks, worker, observers)
        assert self._heard.wait(60)
        return report


@pytest.mark.parametrize(
    "name",
    [
        "local",
        pytest.param("process_pool", marks=pytest.mark.slow),
        pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow]),
    ],
)
def test_a_build_beats_on_every_engine_and_leaves_no_notes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = threading.Event()
    engine: Any = LocalEngine()
    if name == "process_pool":
        monkeypatch.syspath_prepend(str(ROOT / "examples" / "extending_engine"))
        engine = importlib.import_module("process_pool").ProcessPoolEngine(1)
    elif name == "ray":
        from clipmill.pipelines.features.engines.ray_actors import RayEngine

        engine = RayEngine()
    noted: list[int] = []

    def listen(beat: Beat) -> None:
        # Workers note what is under way, and the last beat is heard when all is done.
        noted.append(beat.videos_done)
        if beat.tasks_done == beat.num_tasks > 0:
            heard.set()

    report = build(_config(tmp_path), engine=HeldEngine(engine, heard), listeners=[listen], heartbeat_seconds=0.01)
    assert (report.num_complete, noted[-1]) == (3, 3)
    run = tmp_path / "store" / "runs" / report.run_id
    assert json.loads((run / "heartbeat.json").read_text())["tasks_done"] == 1
    assert not (run / "progress").exists()
    rates = json.loads((run / "report.json").read_text())["throughput"]
    made = [sum(rates[f"{name}_per_second"]) * rates["span_seconds"] for name in ("videos", "windows")]
    assert made == pytest.approx([3, sum(report.num_rows.values())], rel=0.01)


def test_without_a_heartbeat_nothing_is_noted(tmp_path: Path) -> None:
    report = build(_config(tmp_path), heartbeat_seconds=0)
    assert not (tmp_path / "store" / "runs" / report.run_id / "heartbeat.json").exists()
    assert report.throughput is None


def _beat(seconds: float, videos: int, windows: int) -> Beat:
    return Beat(1, seconds, 2, 0, 9, videos, 0, windows, 0.0, 0.0, None)


def test_rates_are_those_between_the_beats_and_up_to_the_end() -> None:
    results = [TaskResult(key, True, 3, num_windows={"a": 30, "b": 20}) for key in "xy"]
    idle = TaskResult("z", False, 3, num_windows={})
    beats = [_beat(10.0, 2, 40), _beat(20.0, 2, 40), _beat(30.0, 4, 50)]
    found = throughput(beats, RunReport("ray", 3, (*results, idle), 40.0))
    assert found is not None
    assert found.span_seconds == 10.0
    assert found.windows_per_second == (4.0, 0.0, 1.0, 5.0)
    assert found.videos_per_second == (0.2, 0.0, 0.2, 0.2)


def test_a_task_tried_again_gives_no_negative_rate_and_a_long_run_few_spans() -> None:
    results = (TaskResult("x", True, 9_000, num_windows={"a": 9_000}),)
    beats = [_beat(10.0 * number, 10 * number, 10 * number - (50 if number == 500 else 0)) for number in range(1, 1000)]
    found = throughput(beats, RunReport("local", 1, results, 10_000.0))
    assert found is not None
    assert len(found.windows_per_second) == 60
    assert min(found.windows_per_second) >= 0
    assert sum(found.windows_per_second) * found.span_seconds == pytest.approx(9_990, rel=1e-3)


def test_a_run_without_a_beat_or_without_work_has_no_rates() -> None:
    done = TaskResult("x", True, 1, num_windows={"a": 1})
    assert throughput([], RunReport("local", 1, (done,), 5.0)) is None
    assert throughput([_beat(1.0, 0, 0)], RunReport("local", 1, (), 5.0)) is None


def test_probing_off_a_terminal_tells_how_far_it_is() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(stream, clock=clock)
    for done in range(1, 101):
        clock.seconds += 1
        progress.on_probed(done, 100)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line.get("videos_done")) for line in lines] == [
        ("probing", 30),
        ("probing", 60),
        ("probing", 90),
        ("probed", None),
    ]
