"""Metrics of a build, scraped over HTTP and read from a file, with the client library's own parser."""

import os
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.jobs.prometheus_metrics import BuildMetrics
from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.run_progress import Beat
from clipmill.schemas.config import BuildConfig
from clipmill.schemas.errors import EngineError, UsageError
from tests.command_line import clipmill, refused
from tests.encoded_videos import encode_video

prometheus_client = pytest.importorskip("prometheus_client")


def _config(root: Path) -> dict[str, Any]:
    for number in range(3):
        encode_video(root / "videos" / f"{number}.mp4", num_frames=10, fps=10)
    lines = ["path,start_seconds,stop_seconds", "0.mp4,0,1", "1.mp4,0,1", "2.mp4,50,60"]
    (root / "videos" / "list.csv").write_text("\n".join(lines))
    return {
        "store": {"url": str(root / "store")},
        "videos": {"manifest": str(root / "videos" / "list.csv")},
        "clips": {"from": "annotations"},
        "features": {"squeezenet": {"sampling": {"fps": 2}, "weights": {"random": 0}}},
        "engine": {"device": "cpu", "threads": 1, "batch_windows": 4},
    }


def _samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(text)
    return {
        (sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


class Scraper:
    """Scrapes while a task has just ended and the run has not."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.text = ""

    def on_start(self, tasks: Any) -> None: ...

    def on_video(self, task: Any, video_id: str) -> None: ...

    def on_task(self, result: Any) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=60) as answer:
            self.text = answer.read().decode()


def test_a_running_build_is_scraped_and_its_end_is_in_the_file(tmp_path: Path) -> None:
    config = BuildConfig.model_validate(_config(tmp_path))
    metrics = BuildMetrics("https://user:hunter2@host/store", "local", str(tmp_path / "clipmill.prom"))
    with metrics.served("0") as port, metrics.ending():
        scraper = Scraper(port)
        report = build(config, [metrics, scraper], listeners=[metrics.on_beat])
        metrics.end(report.exit_code)
    running, ended = _samples(scraper.text), _samples((tmp_path / "clipmill.prom").read_text())
    assert "hunter2" not in scraper.text
    [key] = report.num_rows
    assert running["clipmill_build_videos", ()] == 3
    assert running["clipmill_build_videos_done_total", ()] == 3
    assert running["clipmill_build_tasks_done_total", ()] == 1
    assert running["clipmill_build_rows_total", (key,)] == report.num_rows[key] == 4
    assert running["clipmill_build_windows_total", (key,)] == 4
    assert running["clipmill_build_videos_quarantined_total", ("annotation_outside",)] == 1
    assert running["clipmill_build_frames_decoded_total", ()] == report.num_frames_decoded
    assert running["clipmill_build_written_bytes_total", ()] > 0
    assert running["clipmill_build_stage_seconds_total", ("device",)] > 0
    assert (running["clipmill_build_exit_code", ()], ended["clipmill_build_exit_code", ()]) == (-1, 3)
    assert ended["clipmill_build_completion_timestamp_seconds", ()] > 1.6e9
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60)


def test_names_follow_the_conventions() -> None:
    metrics = BuildMetrics("store", "local")
    for family in metrics.registry.collect():
        assert family.name.startswith("clipmill_build")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter" and not sample.name.endswith("_created"))
        assert not family.name.endswith(("_ms", "_minutes", "_percent", "_kb", "_mb"))


def test_heartbeats_count_within_tasks_and_never_backwards(tmp_path: Path) -> None:
    metrics = BuildMetrics("store", "local", str(tmp_path / "m.prom"))
    for number, done in enumerate((5, 9, 7, 12)):
        metrics.on_beat(Beat(number, 30.0 * number, 1, 0, 70, done, 0, 0, done / 70, 0.1, 60.0))
    found = _samples((tmp_path / "m.prom").read_text())
    assert found["clipmill_build_videos_done_total", ()] == 12
    assert found["clipmill_build_remaining_seconds", ()] == 60
    assert found["clipmill_build_progress_ratio", ()] == pytest.approx(12 / 70)


def test_a_run_that_fails_says_so(tmp_path: Path) -> None:
    metrics = BuildMetrics("store", "local", str(tmp_path / "m.prom"))
    with pytest.raises(EngineError), metrics.ending():
        raise EngineError("engine ray: all dead")
    assert _samples((tmp_path / "m.prom").read_text())["clipmill_build_exit_code", ()] == 4


def test_a_file_that_cannot_be_written_ends_no_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = BuildMetrics("store", "local", str(tmp_path / "none" / "m.prom"))
    metrics.end(0)
    metrics.end(0)
    assert capsys.readouterr().err.count("note: metrics file") == 1


@pytest.mark.parametrize("address", ["", "x", "host", "127.0.0.1:", "1.5", "127.0.0.1:99999"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"option --prometheus: expected \[HOST:\]PORT"):
        BuildMetrics("store", "local").served(address).__enter__()


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match=r"--prometheus: expected a free address, got Address already in use"):
            BuildMetrics("store", "local").served(str(taken.getsockname()[1])).__enter__()


def test_the_command_writes_the_file_and_without_the_library_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(_config(tmp_path)))
    build_it = ("build", "--config", str(tmp_path / "build.yaml"), "--prometheus-file", str(tmp_path / "m.prom"))
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "prometheus_client.py").write_text("raise ImportError('none here')")
    refused(clipmill(*build_it, site=tmp_path / "without"), "pip install clipmill[prometheus]")
    site = Path(prometheus_client.__file__).parents[1]
    done = clipmill(*build_it, "--prometheus", "0", site=site if str(site) in sys.path else None)
    assert done.returncode == 3, done.stderr
    assert "note: metrics are served at port " in done.stderr
    assert _samples((tmp_path / "m.prom").read_text())["clipmill_build_exit_code", ()] == 3
    assert not list(tmp_path.glob("m.prom.*"))
    assert os.stat(tmp_path / "m.prom").st_size > 0
