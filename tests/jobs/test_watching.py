"""What a build tells and leaves: the log file, the table of runs, and following a run."""

import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.jobs.log_file import LogFile, LoggedStream
from clipmill.jobs.runs import run_runs
from clipmill.jobs.watch import watch
from clipmill.pipelines.features.run_records import recorded_end
from clipmill.schemas.errors import EngineError, UsageError
from clipmill.stores.store import Store
from tests.command_line import clipmill, invoke, invoked_result, refused, result
from tests.encoded_videos import encode_video

CANARY = "hunter2canary"


# The log file.


def _log(path: Path) -> LogFile:
    return LogFile(str(path), lambda: datetime(2026, 5, 1, 6, tzinfo=UTC))


def test_lines_are_logged_whole_with_the_time_and_without_secrets(tmp_path: Path) -> None:
    screen = io.StringIO()
    stream = LoggedStream(screen, _log(tmp_path / "log"))
    for text in ("read https://user:hunter2", "canary@host/a.mp4?sig=abc&x=1\nsecond", " line\n", "no end"):
        stream.write(text)
    time = "2026-05-01T06:00:00.000+00:00"
    assert (tmp_path / "log").read_text().splitlines() == [
        f"{time} read https://user:***@host/a.mp4?sig=***&x=1",
        f"{time} second line",
    ]
    assert screen.getvalue().endswith("second line\nno end")


def test_a_line_that_is_drawn_over_is_logged_as_it_ends_and_now_and_then(tmp_path: Path) -> None:
    seconds = [0.0]
    stream = LoggedStream(io.StringIO(), _log(tmp_path / "log"), lambda: seconds[0])
    for number in range(100):
        seconds[0] += 1
        stream.write(f"\r{number}%   ")
    stream.write("\r100%\n")
    lines = [line.partition(" ")[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == ["29%", "59%", "89%", "100%"]


def test_a_full_disk_ends_the_log_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    stream = LoggedStream(screen, LogFile("/dev/full"))
    stream.write("one\ntwo\n")
    assert screen.getvalue() == "one\ntwo\n"
    assert capfd.readouterr().err.count("note: log file /dev/full: expected to write to it, got No space left") == 1


# Runs.


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that three runs were made in: one ended early, one ended well, one with a shard."""
    root = tmp_path_factory.mktemp("runs")
    for index in range(3):
        encode_video(root / "videos" / f"{index}.mp4", num_frames=10, fps=10)
    (root / "videos" / "bad.mp4").write_bytes(b"no video")
    lines = ["path,id", *(f"{index}.mp4,{index}" for index in range(3)), "bad.mp4,bad"]
    lines.append(f"https://user:{CANARY}@127.0.0.1:9/x.mp4?token={CANARY},far")
    (root / "videos" / "list.csv").write_text("\n".join(lines))
    config = {
        "store": {"url": str(root / "store"), "attempts": 1},
        "videos": {"manifest": str(root / "videos" / "list.csv")},
        "features": {"squeezenet": {"sampling": {"fps": 2}, "weights": {"random": 0}}},
        "engine": {"device": "cpu", "threads": 1, "max_fault_share": 1},
    }
    (root / "build.yaml").write_text(yaml.safe_dump(config))
    build = ("build", "--config", str(root / "build.yaml"))
    log = ("--log-file", str(root / "build.log"))
    first = result(*build, "--max-quarantine", "1", *log, code=4)
    assert (first["ended_by"], first["num_complete"], first["num_videos_left"]) == ("max_quarantine", 0, 3)
    done = clipmill(*build, "--deadline", "9h", *log)
    assert done.returncode == 3, done.stderr
    assert "ended early" not in done.stdout
    invoked_result(*build, "--shard", "1/2", code=3)
    return root


def test_the_log_of_a_build_holds_all_lines_and_no_secret(built: Path) -> None:
    text = (built / "build.log").read_text()
    assert CANARY not in text
    lines = text.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", line) for line in lines)
    assert sum("$ clipmill build --config" in line for line in lines) == 2
    for part in ('"event": "task"', "warning: random weights", "quarantined 2", '"ended_by": "max_quarantine"'):
        assert part in text


def test_a_log_that_cannot_be_opened_is_one_line(built: Path) -> None:
    done = invoke("build", "--config", str(built / "build.yaml"), "--log-file", str(built / "none" / "log"))
    refused(done, "option --log-file: expected a file to append to, got No such file")


@pytest.mark.parametrize("option", ["--max-quarantine=two", "--deadline=soon", "--shard=0/2"])
def test_a_budget_that_is_none_is_one_line(option: str, built: Path) -> None:
    refused(invoke("build", "--config", str(built / "build.yaml"), option), option.split("=")[0])


def test_runs_are_listed_with_who_where_and_how_they_ended(built: Path) -> None:
    data = result("runs", str(built / "store"))
    first, second, third = data["runs"]
    assert [item["exit_code"] for item in data["runs"]] == [4, 3, 3]
    assert [item["ended_by"] for item in data["runs"]] == ["max_quarantine", None, None]
    assert (second["num_videos"], second["num_pairs_made"], second["num_quarantined"]) == (5, 3, 2)
    assert (third["shard"], first["shard"], first["num_videos_left"]) == ("1/2", None, 3)
    for item in data["runs"]:
        assert all((item["user"], item["host"], item["engine"] == "local", item["seconds"] > 0))
        assert item["run"].startswith(datetime.fromisoformat(item["began_at"]).strftime("%Y%m%dT%H%M%S"))
    text = invoke("runs", str(built / "store"), "--last", "2").stdout.splitlines()
    assert text[0].endswith("3 runs, the newest 2 of them")
    assert [line.split()[0] for line in text[1:]] == ["run", second["run"], third["run"]]
    assert text[2].split()[-1] == "3"


def test_a_killed_run_an_old_one_and_one_that_failed(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "store"), "zarr", "d")
    old = {"num_quarantined": 1, "num_complete": 2, "num_complete_before": 0, "seconds": {"wall": 90}, "engine": "ray"}
    store.write_run_file("20260101T000000000-aaaa", "report.json", json.dumps(old))
    store.write_run_file("20260102T000000000-aaaa", "run.json", json.dumps({"user": "u", "engine": "local"}))
    store.write_run_file("20260102T000000000-aaaa", "heartbeat.json", json.dumps({"number": 7, "at": "then"}))
    features = [{"num_imported": 3}, {"num_imported": 4}]
    imported = {"num_items": 5, "seconds": 61.5, "features": features}
    store.write_run_file("20260101T000001000-aaaa", "import.json", json.dumps(imported))
    ended = {"exit_code": 4, "ended_by": "error", "message": "store: no answer", "seconds": 5.0}
    store.write_run_file("20260103T000000000-aaaa", "end.json", json.dumps(ended))
    outcome = run_runs(store.url, 0)
    assert [item["exit_code"] for item in outcome.data["runs"]] == [3, 0, None, 4]
    lines = outcome.text.splitlines()
    assert lines[2].split()[-2:] == ["01:30", "3"]
    assert lines[3].split()[-7:] == ["import", "-", "5", "7", "-", "01:02", "0"]
    assert lines[4].endswith("no end recorded, last heartbeat then")
    assert lines[5].endswith("4 error")
    assert lines[6] == "  20260103T000000000-aaaa: store: no answer"


@pytest.mark.parametrize(
    ("error", "code", "ended_by"),
    [
        (EngineError("engine ray: all dead\nmore"), 4, "error"),
        (KeyboardInterrupt(), 4, "interrupted"),
        (UsageError("weights x: none"), 2, "error"),
        (RuntimeError("https://user:hunter2@host/ is wrong"), 1, "error"),
    ],
)
def test_a_run_records_the_error_that_ends_it(error: BaseException, code: int, ended_by: str, tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "store"), "zarr", "d")
    with pytest.raises(type(error)), recorded_end(store, RUN):
        raise error
    [run] = run_runs(store.url, 0).data["runs"]
    assert (run["exit_code"], run["ended_by"]) == (code, ended_by)
    assert "hunter2" not in json.dumps(run)
    assert "more" not in json.dumps(run)


# Following a run.


class Time:
    """A clock that moves when somebody sleeps, and does something at each sleep."""

    def __init__(self, *steps: Callable[[], Any]) -> None:
        self.seconds = 0.0
        self._steps = list(steps)

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        if self._steps:
            self._steps.pop(0)()


RUN = "20260501T000000000-aaaa"


def _beat(store: Store, number: int) -> None:
    counts = {"num_tasks": 2, "tasks_done": 0, "num_videos": 9, "videos_done": number, "num_quarantined": 0}
    rates = {"share_done": number / 9, "videos_per_second": 0.1, "eta_seconds": 60.0}
    data = {"number": number, "every_seconds": 30, **counts, **rates}
    store.write_run_file(RUN, "heartbeat.json", json.dumps(data))


def test_a_run_is_followed_until_it_ends(tmp_path: Path) -> None:
    store, out = Store.create(str(tmp_path / "store"), "zarr", "d"), io.StringIO()
    store.write_run_file(RUN, "run.json", "{}")
    time = Time(
        lambda: _beat(store, 1),
        lambda: None,
        lambda: _beat(store, 2),
        lambda: store.write_run_file(RUN, "end.json", json.dumps({"exit_code": 4, "ended_by": "deadline"})),
    )
    watch(store.url, 5, out, time.sleep, time)
    assert [line.removeprefix(f"run {RUN}: ") for line in out.getvalue().splitlines()] == [
        "no heartbeat yet",
        " 11%  1/9 videos, 0/2 tasks  0.10 videos/s  ETA 01:00",
        " 22%  2/9 videos, 0/2 tasks  0.10 videos/s  ETA 01:00",
        "ended with exit code 4 (deadline)",
    ]


def test_a_run_without_a_heartbeat_is_not_followed_for_ever(tmp_path: Path) -> None:
    store, out = Store.create(str(tmp_path / "store"), "zarr", "d"), io.StringIO()
    store.write_run_file(RUN, "run.json", "{}")
    time = Time(lambda: _beat(store, 1))
    watch(store.url, 5, out, time.sleep, time)
    assert out.getvalue().splitlines()[-1].endswith("no heartbeat for 125 s: killed, or without one")


def test_following_what_has_ended_ends_at_once_with_the_status(built: Path) -> None:
    done = invoke("status", str(built / "store"), "--watch")
    assert "ended with exit code 3" in done.stderr
    assert "squeezenet" in done.stdout
