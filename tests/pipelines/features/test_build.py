"""A build from folder to rows: what is rebuilt, what is left alone, and that one decode pass feeds every recipe."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmill.pipelines.features.build import build
from clipmill.pipelines.features.build_report import BuildReport
from clipmill.pipelines.features.engines.local import LocalEngine
from clipmill.pipelines.features.planning import plan_build
from clipmill.schemas.config import BuildConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.task import RunReport, ShardTask, TaskResult, WorkerSpec
from clipmill.stores import FeatureStore
from clipmill.stores.store import Store
from tests.encoded_videos import encode_video

FEATURES: dict[str, Any] = {
    "slow": {"extractor": "squeezenet", "sampling": {"fps": 2}, "weights": {"random": 0}},
    "fast": {"extractor": "squeezenet", "sampling": {"fps": 5}, "weights": {"random": 0}},
}


def _config(root: Path, **changes: Any) -> BuildConfig:
    data: dict[str, Any] = {
        "store": {"url": str(root / "store")},
        "videos": {"folder": str(root / "videos"), "label": "parent_folder"},
        "features": FEATURES,
        "engine": {"device": "cpu", "threads": 1, "batch_windows": 4},
    }
    return BuildConfig.model_validate(data | changes)


class Watcher:
    """Remembers what an engine told."""

    def __init__(self) -> None:
        self.results: list[TaskResult] = []
        self.videos: list[str] = []

    def on_start(self, tasks: Any) -> None: ...

    def on_video(self, task: ShardTask, video_id: str) -> None:
        self.videos.append(video_id)

    def on_task(self, result: TaskResult) -> None:
        self.results.append(result)


class ElsewhereEngine:
    """Runs tasks in another working directory, as the workers of a cluster do that was started there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, tasks: Sequence[ShardTask], worker: WorkerSpec, observers: Sequence[Any]) -> RunReport:
        with contextlib.chdir(self._folder):
            return LocalEngine().run(tasks, worker, observers)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for label in ("a", "b"):
        (tmp_path / "videos" / label).mkdir(parents=True)
        encode_video(tmp_path / "videos" / label / "0.mp4", num_frames=20, fps=10)
    return tmp_path


def _objects(root: Path, *folders: str) -> dict[str, str]:
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for folder in folders
        for file in sorted((root / "store" / folder).rglob("*"))
        if file.is_file()
    }


def _made(report: BuildReport) -> int:
    return sum(report.num_rows.values())


def test_one_decode_pass_feeds_every_recipe(root: Path) -> None:
    watcher = Watcher()
    build(_config(root), [watcher])
    (result,) = watcher.results
    # Ticks at 5 fps show 10 of 20 frames, those at 2 fps 4, of which 2 (at 0 and 1 s) are the same frames.
    assert sum(result.num_rows.values()) == 2 * (10 + 4)
    assert result.num_frames_decoded <= 2 * 20
    assert watcher.videos == ["a/0.mp4", "b/0.mp4"]
    store = FeatureStore(str(root / "store"))
    slow, fast = store["slow"]["a/0.mp4"], store["fast"]["a/0.mp4"]
    assert slow.start_seconds.tolist() == [0, 0.5, 1, 1.5]
    # The same frames in other batches: equal up to the last bits of values of about 100.
    np.testing.assert_allclose(slow.values[[0, 2]], fast.values[[0, 5]], atol=1e-3)
    assert {store.videos()[video].label for video in store["slow"].video_ids} == {"a", "b"}


def test_a_plan_decodes_nothing_and_writes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("planning must not decode")

    monkeypatch.setattr("clipmill.pipelines.decode.session.DecodeSession.run", refuse)
    planned = plan_build(_config(root))
    assert planned.plan.num_pairs == 4
    assert not (root / "store").exists()


def test_a_second_build_executes_nothing_and_reads_no_video_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(_config(root))
    before = _objects(root, "shards", "commits")

    def refuse(path: str, stream: str | None) -> str:
        raise AssertionError("a known file must not be read again")

    monkeypatch.setattr("clipmill.pipelines.features.probing.video_fingerprint", refuse)
    again = build(_config(root))
    assert (again.num_tasks, again.num_complete) == (0, 4)
    assert _objects(root, "shards", "commits") == before


def test_added_videos_add_shards_and_touch_none_that_stand(root: Path) -> None:
    build(_config(root))
    before = _objects(root, "shards", "commits")
    encode_video(root / "videos" / "b" / "1.mp4", num_frames=20, fps=10)
    report = build(_config(root))
    assert _made(report) == 14
    after = _objects(root, "shards", "commits")
    assert {name: after[name] for name in before} == before
    assert FeatureStore(str(root / "store"))["fast"].video_ids == ["a/0.mp4", "b/0.mp4", "b/1.mp4"]


def test_a_changed_video_is_rebuilt_alone_and_readers_see_the_new_rows(root: Path) -> None:
    build(_config(root))
    encode_video(root / "videos" / "a" / "0.mp4", num_frames=30, fps=10)
    report = build(_config(root))
    assert _made(report) == 15 + 6
    store = FeatureStore(str(root / "store"))
    assert (len(store["fast"]["a/0.mp4"]), len(store["fast"]["b/0.mp4"])) == (15, 10)


def test_a_touched_video_is_read_but_not_rebuilt(root: Path) -> None:
    build(_config(root))
    path = root / "videos" / "a" / "0.mp4"
    path.write_bytes(path.read_bytes())
    assert build(_config(root)).num_tasks == 0


def test_a_moved_video_takes_its_new_label_without_a_rebuild_of_the_others(root: Path) -> None:
    build(_config(root))
    manifest = root / "videos.csv"
    manifest.write_text("id,path,label\na/0.mp4,videos/a/0.mp4,other\nb/0.mp4,videos/b/0.mp4,b\n")
    dataset = {"url": str(root / "store"), "dataset": "videos"}
    report = build(_config(root, videos={"manifest": str(manifest)}, store=dataset))
    assert report.num_tasks == 0
    assert FeatureStore(str(root / "store")).videos()["a/0.mp4"].label == "other"


def test_a_changed_recipe_is_built_beside_the_old_one(root: Path) -> None:
    build(_config(root))
    features = FEATURES | {"slow": FEATURES["slow"] | {"layer": "logits"}}
    report = build(_config(root, features=features))
    assert _made(report) == 2 * 4
    store = FeatureStore(str(root / "store"))
    assert (store["slow"].dim, store["fast"].dim) == (1000, 512)
    old = next(
        recipe
        for recipe in Store.open(str(root / "store")).recipes()
        if recipe.layer == "features" and recipe.name == "slow"
    )
    assert len(store[old.key]["a/0.mp4"]) == 4


def test_both_formats_hold_the_same_rows(root: Path) -> None:
    build(_config(root))
    build(_config(root, store={"url": str(root / "other"), "format": "parquet"}))
    zarr, parquet = FeatureStore(str(root / "store")), FeatureStore(str(root / "other"))
    for name in FEATURES:
        for video in zarr[name].video_ids:
            np.testing.assert_array_equal(zarr[name][video].values, parquet[name][video].values)


def test_passports_say_where_a_row_comes_from(root: Path) -> None:
    build(_config(root))
    passport = FeatureStore(str(root / "store"))["fast"].index().to_pylist()[0]["passport"]
    assert passport["weights"] == "random(0)"
    assert (passport["decoder"], passport["device"], passport["num_threads"]) == ("decord", "cpu", 1)
    assert (passport["num_frames"], passport["num_frames_substituted"]) == (20, 0)


def test_videos_of_a_manifest_may_be_urls(root: Path) -> None:
    manifest = root / "videos.csv"
    manifest.write_text(f"id,path\none,file://{root}/videos/a/0.mp4\n")
    build(_config(root, videos={"manifest": str(manifest)}))
    assert FeatureStore(str(root / "store"))["fast"].video_ids == ["one"]


def test_a_video_whose_times_span_years_is_refused_by_name(root: Path) -> None:
    times = [frame / 10 for frame in range(19)] + [3e6]
    encode_video(root / "videos" / "b" / "years.mkv", num_frames=20, fps=10, pts=times)
    report = build(_config(root))
    assert report.reasons == {"implausible_times": 1}


@pytest.mark.parametrize(
    "rule", [{"from": "whole"}, {"from": "windows", "length_seconds": 1}], ids=["whole", "windows"]
)
def test_annotations_that_no_clip_is_cut_by_hide_no_rows(rule: dict[str, Any], root: Path) -> None:
    listed = root / "videos" / "list.csv"
    listed.write_text("path,id,start_seconds,stop_seconds\na/0.mp4,v,0,1\na/0.mp4,v,1,2\n")
    config = _config(root, videos={"manifest": str(listed)}, clips=rule)
    assert _made(build(config)) == 10 + 4
    assert [len(FeatureStore(str(root / "store"))[name]["v"].values) for name in FEATURES] == [4, 10]
    # Other annotations change nothing of such clips, and cost nothing.
    listed.write_text("path,id,start_seconds,stop_seconds\na/0.mp4,v,0,0.5\n")
    assert build(config).num_tasks == 0
    assert FeatureStore(str(root / "store"))["fast"].video_ids == ["v"]


def test_corrected_annotations_are_tried_again_without_a_requeue(root: Path) -> None:
    (root / "videos" / "list.csv").write_text("path,start_seconds,stop_seconds\na/0.mp4,0,1\nb/0.mp4,50,60\n")
    config = _config(root, videos={"manifest": str(root / "videos" / "list.csv")}, clips={"from": "annotations"})
    assert build(config).reasons == {"annotation_outside": 1}
    second = build(config)
    assert (second.num_tasks, second.num_quarantined) == (0, 1)
    (root / "videos" / "list.csv").write_text("path,start_seconds,stop_seconds\na/0.mp4,0,1\nb/0.mp4,1,2\n")
    third = build(config)
    assert (third.num_tasks, third.num_quarantined) == (1, 0)
    assert FeatureStore(config.store.url)["slow"].video_ids == ["a/0.mp4", "b/0.mp4"]


def test_a_manifest_that_names_pipes_folders_and_dead_urls_loses_only_those(root: Path) -> None:
    os.mkfifo(root / "videos" / "pipe.mp4")
    (root / "videos" / "list.csv").write_text("path\na/0.mp4\npipe.mp4\nb\nnope://host/x.mp4\n/dev/zero\n")
    planned = plan_build(_config(root, videos={"manifest": str(root / "videos" / "list.csv")}))
    assert {item.video_id: item.reason for item in planned.unreadable} == dict.fromkeys(
        ["pipe.mp4", "b", "nope://host/x.mp4", "/dev/zero"], "unreadable"
    )
    assert planned.plan.num_videos == 1


def test_a_video_replaced_after_planning_gets_no_rows_under_its_old_fingerprint(root: Path) -> None:
    class Replacing(Watcher):
        def on_start(self, tasks: Any) -> None:
            encode_video(root / "videos" / "a" / "0.mp4", num_frames=30, fps=10)

    config = _config(root)
    assert build(config, [Replacing()]).reasons == {"changed_file": 1}
    assert FeatureStore(config.store.url)["slow"].video_ids == ["b/0.mp4"]
    assert build(config).num_quarantined == 0
    assert len(FeatureStore(config.store.url)["slow"]["a/0.mp4"].values) == 6


def test_clips_from_annotations_of_a_folder_are_refused_at_planning(root: Path) -> None:
    with pytest.raises(UsageError, match=r"clips from: expected a segment .*, got none of 2 videos; give videos: "):
        plan_build(_config(root, clips={"from": "annotations"}))


def test_workers_in_another_folder_find_a_store_and_videos_given_by_relative_paths(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    config = _config(root, store={"url": "store"}, videos={"folder": "videos"})
    report = build(config, engine=ElsewhereEngine(tmp_path_factory.mktemp("elsewhere")))
    assert report.num_quarantined == 0
    assert set(FeatureStore("store")["fast"].video_ids) == {"a/0.mp4", "b/0.mp4"}
