"""A report's totals are those of the commits, whichever tries lived to tell what they did."""

from collections.abc import Iterator, Sequence
from contextlib import chdir
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with three videos, in which this process is."""
    root = tmp_path_factory.mktemp("made")
    for index in range(3):
        encode_video(root / "videos" / f"{index}.mp4", num_frames=20 + index, fps=10)
    with chdir(root):
        yield root


@pytest.fixture(scope="module")
def clean(folder: Path) -> BuildReport:
    return build(parse_build_config(CONFIG % "clean"))


@pytest.mark.parametrize("has_told", [True, False])
def test_lost_tries_change_no_total(has_told: bool, clean: BuildReport, folder: Path) -> None:
    name = f"lost {has_told}"
    report = build(parse_build_config(CONFIG % name), engine=LosesTries(has_told))
    store = FeatureStore(str(folder / name))
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
