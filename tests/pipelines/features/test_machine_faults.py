"""What is the machine's fault is not booked on videos: it is tried again, and too much of it ends the run."""

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.engines.local import LocalEngine
from clipmill.pipelines.features.machine_faults import failures_in_a_row, held_back, is_passing, next_try, run_time
from clipmill.pipelines.features.planning import plan_build
from clipmill.schemas.config import BuildConfig
from clipmill.schemas.errors import MachineFaultError
from clipmill.schemas.records import Quarantined
from clipmill.schemas.tables import QUARANTINE
from clipmill.schemas.task import RunReport
from clipmill.stores.store import Store
from clipmill.stores.tables import quarantine_table
from tests.command_line import invoke, invoked_result
from tests.encoded_videos import encode_video

NUM_VIDEOS = 7


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoded") / "video.mp4"
    encode_video(path, num_frames=6, fps=5)
    return path


@pytest.fixture
def root(tmp_path: Path, encoded: Path) -> Path:
    (tmp_path / "mount").mkdir()
    for number in range(NUM_VIDEOS):
        # Other bytes each: a trailing box that says nothing.
        free = b"\0\0\0\x09free" + bytes([number])
        (tmp_path / "mount" / f"{number}.mp4").write_bytes(encoded.read_bytes() + free)
    rows = "".join(f"{number},mount/{number}.mp4\n" for number in range(NUM_VIDEOS))
    (tmp_path / "videos.csv").write_text("id,path\n" + rows)
    return tmp_path


def _data(root: Path, **engine: Any) -> dict[str, Any]:
    return {
        "store": {"url": str(root / "store")},
        "videos": {"manifest": str(root / "videos.csv")},
        "features": {"rows": {"extractor": "squeezenet", "sampling": {"fps": 1}, "weights": {"random": 0}}},
        "engine": {"device": "cpu", "threads": 1, **engine},
    }


def _config(root: Path, **engine: Any) -> BuildConfig:
    return BuildConfig.model_validate(_data(root, **engine))


class _GoneWhenItStarts:
    """An engine before whose work the folder of the videos goes away, as a mount that drops."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def run(self, tasks: Any, worker: Any, observers: Any) -> RunReport:
        (self._root / "mount").rename(self._root / "dropped")
        return LocalEngine().run(tasks, worker, observers)


def test_a_folder_that_goes_away_while_a_build_runs_ends_it_and_books_nothing(root: Path) -> None:
    with pytest.raises(MachineFaultError, match="expected those that planning read, got none of 7") as caught:
        build(_config(root), engine=_GoneWhenItStarts(root))
    assert caught.value.exit_code == 4
    store = Store.open(str(root / "store"))
    assert store.quarantine_history().num_rows == 0
    (root / "dropped").rename(root / "mount")
    assert build(_config(root)).num_complete == NUM_VIDEOS


def test_a_folder_that_is_gone_before_planning_is_one_line_and_the_next_run_goes_on(root: Path) -> None:
    (root / "build.yaml").write_text(yaml.safe_dump(_data(root)))
    (root / "mount").rename(root / "dropped")
    done = invoke("build", "--config", str(root / "build.yaml"))
    assert done.returncode == 4, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("clipmill: ")]
    assert "missing_file 7" in line
    assert not (root / "store").exists()
    (root / "dropped").rename(root / "mount")
    assert invoked_result("build", "--config", str(root / "build.yaml"))["num_complete"] == NUM_VIDEOS


def test_files_that_come_back_are_built_by_the_next_run_and_leave_quarantine(root: Path) -> None:
    for number in (2, 5):
        (root / "mount" / f"{number}.mp4").rename(root / f"{number}.mp4")
    first = build(_config(root))
    assert (first.num_complete, first.reasons) == (NUM_VIDEOS - 2, {"missing_file": 2})
    (root / "2.mp4").rename(root / "mount" / "2.mp4")
    second = build(_config(root))
    assert (second.num_complete, second.reasons) == (NUM_VIDEOS - 1, {"missing_file": 1})
    (root / "5.mp4").rename(root / "mount" / "5.mp4")
    third = build(_config(root))
    assert (third.num_complete, third.num_quarantined, third.reasons) == (NUM_VIDEOS, 0, {})
    store = Store.open(str(root / "store"))
    assert store.quarantine().num_rows == 0
    assert build(_config(root)).num_tasks == 0


def test_files_a_manifest_names_that_never_were_there_are_no_fault_of_the_machine(root: Path) -> None:
    for number in range(1, NUM_VIDEOS):
        (root / "mount" / f"{number}.mp4").unlink()
    report = build(_config(root))
    assert (report.num_complete, report.reasons) == (1, {"missing_file": NUM_VIDEOS - 1})


def test_a_share_of_one_goes_on_all_the_same(root: Path) -> None:
    (root / "mount").rename(root / "dropped")
    assert build(_config(root, max_fault_share=1)).reasons == {"missing_file": NUM_VIDEOS}


@pytest.mark.parametrize(
    ("stream", "recheck_bytes"),
    [
        (None, False),
        ("0", True),
        pytest.param(None, True, marks=pytest.mark.slow),
        pytest.param("0", False, marks=pytest.mark.slow),
    ],
)
def test_files_that_were_seen_and_have_vanished_end_the_run(
    root: Path, stream: str | None, recheck_bytes: bool
) -> None:
    data = _data(root)
    data["videos"]["stream"] = stream
    config = BuildConfig.model_validate(data)
    assert build(config).num_complete == NUM_VIDEOS
    for path in (root / "mount").iterdir():
        path.unlink()
    with pytest.raises(MachineFaultError, match="7 of 7: .*missing_file 7"):
        build(config, recheck_bytes=recheck_bytes)
    assert Store.open(str(root / "store")).quarantine_history().num_rows == 0


@pytest.fixture
def unreadable(root: Path) -> Iterator[Path]:
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    for path in (root / "mount").iterdir():
        path.chmod(0)
    yield root
    for path in (root / "mount").iterdir():
        path.chmod(0o600)


def test_files_nobody_may_read_end_the_run(unreadable: Path) -> None:
    with pytest.raises(MachineFaultError, match="unreadable 7"):
        plan_build(_config(unreadable))


def _failed(reason: str, video_id: str = "v") -> Quarantined:
    return Quarantined(video_id, "f", "/v.mp4", ("recipe",), "decode", reason, "line", 1)


def _history(*rows: tuple[str, Quarantined, bool]) -> pa.Table:
    tables = [quarantine_table(run_id, [item], released) for run_id, item, released in rows]
    return pa.concat_tables(tables) if tables else QUARANTINE.empty_table()


def _run(when: datetime) -> str:
    return when.strftime("%Y%m%dT%H%M%S%f")[:-3] + "-abcd"


def test_pauses_grow_with_failures_in_a_row_and_start_again_after_a_release() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    runs = [_run(begin + timedelta(hours=hours)) for hours in range(4)]
    assert run_time(runs[1]) == begin + timedelta(hours=1)
    failed = _failed("missing_file")
    rows = [(runs[0], failed, False), (runs[1], failed, False)]
    assert failures_in_a_row(_history(*rows)) == {("v", "f", "recipe"): 2}
    last = begin + timedelta(hours=1)
    assert held_back(_history(*rows), last + timedelta(minutes=9)) == {"recipe": {("v", "f")}}
    assert held_back(_history(*rows), last + timedelta(minutes=11)) == {}
    rows += [(runs[2], failed, True), (runs[3], failed, False)]
    assert failures_in_a_row(_history(*rows)) == {("v", "f", "recipe"): 1}
    assert held_back(_history(*rows), begin + timedelta(hours=3)) == {}


@pytest.mark.parametrize(
    ("reason", "pauses"),
    [
        ("missing_file", (timedelta(0), timedelta(minutes=10), timedelta(hours=1), timedelta(hours=6))),
        ("deadline", (timedelta(hours=1), timedelta(days=1), timedelta(days=7), timedelta(days=7))),
    ],
)
def test_the_pause_after_each_failure(reason: str, pauses: tuple[timedelta, ...]) -> None:
    failed_at = datetime(2026, 1, 1, tzinfo=UTC)
    assert tuple(next_try(reason, failed_at, count) for count in range(1, 5)) == tuple(
        failed_at + pause for pause in pauses
    )


def test_reasons_of_the_video_are_never_tried_again_by_themselves() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    assert not is_passing("undecodable")
    assert next_try("undecodable", begin, 1) is None
    history = _history((_run(begin), _failed("undecodable"), False))
    assert held_back(history, begin + timedelta(days=999)) == {"recipe": {("v", "f")}}


def test_status_says_when_a_video_is_tried_again(root: Path) -> None:
    (root / "mount" / "3.mp4").unlink()
    (root / "mount" / "4.mp4").write_bytes(b"no video at all")
    build(_config(root))
    items: dict[str, Mapping[str, Any]] = {
        item["video_id"]: item for item in invoked_result("status", str(root / "store"))["quarantine"]
    }
    assert items["4"]["next_try"] is None
    assert items["3"]["next_try"] is not None
    assert items["3"]["num_runs_failed"] == 1
    text = invoke("status", str(root / "store")).stdout
    assert text.count("tried again by builds from") == 1
