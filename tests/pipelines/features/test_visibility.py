"""A worker that does not see what planning saw says what it lacks, and where."""

import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from clipmill.pipelines.features.build import worker_spec
from clipmill.pipelines.features.build_config import parse_build_config
from clipmill.pipelines.features.planning import plan_build
from clipmill.pipelines.features.visibility import MOST_VIDEOS, open_seen_store, with_witnesses
from clipmill.pipelines.features.worker import Worker
from clipmill.schemas.errors import MachineFaultError, StoreError, WeightsError
from clipmill.schemas.task import WorkerSpec
from clipmill.stores.store import Store
from clipmill.stores.stored_runs import BUILD_FILE
from tests.encoded_videos import encode_video

NODE = f"on node {socket.gethostname()}"
CONFIG = """
store: {url: store}
videos: {folder: videos}
features: {squeezenet: {weights: {random: 0}}}
engine: {device: cpu, threads: 1}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerSpec:
    """As `build` makes it, of two videos and a relative store URL."""
    monkeypatch.chdir(tmp_path)
    for index in range(2):
        encode_video(tmp_path / "videos" / f"{index}.mp4", num_frames=10, fps=10)
    config = parse_build_config(CONFIG)
    planned = plan_build(config)
    store = Store.create("store", "zarr", "videos")
    run_id = store.new_run_id()
    store.write_build(run_id, {}, is_full=True, listed=())
    return with_witnesses(worker_spec(config, run_id), planned.recipes, planned.videos_to_do, BUILD_FILE)


def test_what_is_there_is_seen_from_any_folder(
    spec: WorkerSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spec.videos == (str(tmp_path / "videos/0.mp4"), str(tmp_path / "videos/1.mp4"))
    monkeypatch.chdir("/")
    assert open_seen_store(spec).url == str(tmp_path / "store")


def test_no_store_there(spec: WorkerSpec, tmp_path: Path) -> None:
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError) as caught:
        Worker(spec).__enter__()
    assert str(caught.value).startswith(
        f"store {tmp_path}/store {NODE}: expected the store of this run, got nothing; let all nodes share that folder, "
    )


def test_another_store_at_that_path(spec: WorkerSpec, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "store")
    Store.create("store", "zarr", "videos")
    with pytest.raises(StoreError, match=f"{NODE}: expected run .*, got another store at that path; let all nodes"):
        Worker(spec).__enter__()


def test_a_store_in_memory_is_seen_by_its_own_process_alone(spec: WorkerSpec) -> None:
    with pytest.raises(StoreError, match=f"store memory://lost {NODE}: expected the store of this run, got nothing"):
        Worker(replace(spec, store_url="memory://lost")).__enter__()


def test_weights_that_are_elsewhere(spec: WorkerSpec, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"weights {tmp_path}/c3d.pth {NODE}: expected the file planning read, got"):
        Worker(replace(spec, weights=(f"{tmp_path}/c3d.pth",))).__enter__()


def test_one_video_may_have_gone_but_not_all(spec: WorkerSpec, tmp_path: Path) -> None:
    (tmp_path / "videos" / "0.mp4").unlink()
    open_seen_store(spec)
    shutil.rmtree(tmp_path / "videos")
    with pytest.raises(MachineFaultError, match=f"videos {NODE}: expected those .* got none of 2, such as {tmp_path}"):
        Worker(spec).__enter__()


def test_of_many_videos_some_are_looked_for(spec: WorkerSpec, tmp_path: Path) -> None:
    planned = plan_build(parse_build_config(CONFIG))
    many = with_witnesses(spec, (), planned.videos_to_do * 500, BUILD_FILE)
    assert len(many.videos) == MOST_VIDEOS
