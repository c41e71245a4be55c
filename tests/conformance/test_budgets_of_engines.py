"""Budgets on every kind of engine: in this process, in processes of their own, on Ray, on Beam."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.pipelines.features.budgets import Budgets
from clipmill.pipelines.features.build import build, worker_spec
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.pipelines.features.engines.base import Engine
from clipmill.pipelines.features.engines.registry import make_engine
from clipmill.pipelines.features.planning import plan_build
from clipmill.schemas.config import BuildConfig
from clipmill.stores import FeatureStore
from clipmill.stores.store import Store
from tests.command_line import ROOT
from tests.encoded_videos import encode_video

ENGINES = [
    "local",
    pytest.param("process_pool", marks=pytest.mark.slow),
    pytest.param("ray", marks=pytest.mark.ray),
    pytest.param("beam", marks=[pytest.mark.beam, pytest.mark.slow]),
]
OUTSIDE = (1, 2, 3, 5)
"""Videos whose annotation lies outside of them."""


@pytest.fixture
def config(tmp_path: Path) -> BuildConfig:
    """A build of eight videos, each a task of its own."""
    lines = ["path,start_seconds,stop_seconds"]
    for index in range(8):
        encode_video(tmp_path / f"{index}.mp4", num_frames=10 + index, fps=10)
        lines.append(f"{index}.mp4,{'50,60' if index in OUTSIDE else '0,1'}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    data = {
        "store": {"url": str(tmp_path / "store")},
        "videos": {"manifest": str(tmp_path / "list.csv")},
        "clips": {"from": "annotations"},
        "features": {"squeezenet": {"sampling": {"fps": 2}, "weights": {"random": 0}}},
        "engine": {"device": "cpu", "threads": 1, "task_seconds": 0.01},
    }
    return parse_build_config(yaml.safe_dump(data))


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    name = request.param
    if name == "process_pool":
        monkeypatch.syspath_prepend(str(ROOT / "examples" / "extending_engine"))
        yield importlib.import_module("process_pool").ProcessPoolEngine(1)
    else:
        yield make_engine(parse_build_config(yaml.safe_dump(_of_engine(name))).engine)


def _of_engine(name: str) -> dict[str, Any]:
    feature = {"weights": {"random": 0}}
    return {
        "store": {"url": "s"},
        "videos": {"folder": "v"},
        "features": {"squeezenet": feature},
        "engine": {"name": name},
    }


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_a_run_ends_early_and_the_next_one_does_the_rest(engine: Engine, config: BuildConfig) -> None:
    first = build(config, engine=engine, budgets=Budgets(max_quarantine=1))
    assert (first.exit_code, first.ended_by) == (4, "max_quarantine")
    assert first.num_complete + first.num_quarantined + first.num_videos_left == 8
    assert first.num_videos_left > 0
    second = build(config)
    assert (second.exit_code, second.num_complete, second.num_quarantined) == (3, 4, len(OUTSIDE))
    assert FeatureStore(config.store.url)["squeezenet"].video_ids == ["0.mp4", "4.mp4", "6.mp4", "7.mp4"]
    assert Store.open(config.store.url).commits().num_rows == 4


@pytest.mark.parametrize(
    "engine",
    [
        "local",
        pytest.param("process_pool", marks=pytest.mark.slow),
        pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow]),
        pytest.param("beam", marks=[pytest.mark.beam, pytest.mark.slow]),
    ],
    indirect=True,
)
def test_when_the_time_is_up_no_task_is_begun(engine: Engine, config: BuildConfig) -> None:
    planned = plan_build(config)
    store = Store.create(config.store.url, config.store.format, planned.manifest.dataset)
    run_id = store.new_run_id()
    spec = replace(worker_spec(config, run_id), stop_at=1.0)
    report = engine.run(planned.plan.tasks, spec, [])
    assert [result.num_videos_left for result in report.results] == [len(task.videos) for task in planned.plan.tasks]
    assert not any(result.executed for result in report.results)
    assert store.commit_paths() == []
    assert store.task_results(run_id) == []
