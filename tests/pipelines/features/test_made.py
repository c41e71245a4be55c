"""A report's totals are those of the commits, whichever tries lived to tell what they did."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.pipelines.features.build_report import BuildReport
from clipmill.pipelines.features.engines.base import Observer
from clipmill.pipelines.features.engines.local import LocalEngine
from clipmill.pipelines.features.worker import Worker
from clipmill.schemas.task import RunReport, ShardTask, WorkerSpec
from clipmill.stores import FeatureStore
from clipmill.stores.store import Store
from tests.encoded_videos import encode_video

CONFIG = """
store: {url: %s}
videos: {folder: videos}
features:
  squeezenet: {weights: {random: 0}, sampling: {fps: 4}}
  scores: {extractor: squeezenet, layer: logits, weights: {random: 1}, sampling: {fps: 2}}
engine: {device: cpu, threads: 1, task_seconds: 0.05}
"""


class LosesTries:
    """Runs each task twice. The first try is lost once it has committed: after it told what it did, or before."""

    def __init__(self, has_told: bool) -> None:
        self._has_told = has_told

    def run(self, tasks: Sequence[ShardTask], worker: WorkerSpec, observers: Sequence[Observer]) -> RunReport:
        store = Store.open(worker.store_url)
        with Worker(worker) as running:
            for task in tasks:
                running.run(task)
                if not self._has_told:
                    store.objects.delete(f"runs/{worker.run_id}/tasks/{task.key}.json")
        return LocalEngine().run(tasks, worker, observers)


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildReport:
    monkeypatch.chdir(tmp_path)
    for index in range(3):
        encode_video(tmp_path / "videos" / f"{index}.mp4", num_frames=20 + index, fps=10)
    return build(parse_build_config(CONFIG % "clean"))


@pytest.mark.parametrize("has_told", [True, False])
def test_lost_tries_change_no_total(has_told: bool, clean: BuildReport, tmp_path: Path) -> None:
    report = build(parse_build_config(CONFIG % "lost"), engine=LosesTries(has_told))
    store = FeatureStore(str(tmp_path / "lost"))
    stored = [sum(store[name].index().column("num_rows").to_pylist()) for name in store.features]
    assert sorted(report.num_rows.values()) == sorted(stored)
    for name in ("num_rows", "num_tail_windows_padded", "num_tail_windows_dropped", "num_frames_substituted"):
        assert getattr(report, name) == getattr(clean, name), name
    if has_told:
        assert report.num_tasks_executed == report.num_tasks == clean.num_tasks
        assert report.num_frames_decoded == clean.num_frames_decoded


def test_a_second_run_made_nothing(clean: BuildReport) -> None:
    again = build(parse_build_config(CONFIG % "clean"))
    assert (again.num_tasks, again.num_rows) == (0, {})
