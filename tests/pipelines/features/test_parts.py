"""Tasks that take longer than planned are committed in parts; a second try goes on after them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmill.extractors import registry
from clipmill.extractors.base import EachWindow
from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.decode.probe import content_fingerprint
from clipmill.pipelines.features.plan import estimate
from clipmill.pipelines.features.worker import Worker
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import MachineFaultError
from clipmill.schemas.recipe import ClipRule, Recipe
from clipmill.schemas.records import Clip, Video
from clipmill.schemas.task import ShardTask, TaskResult, WorkerSpec
from clipmill.stores.reader import FeatureStore
from clipmill.stores.store import Store
from tests.encoded_videos import encode_video

NUM_VIDEOS = 7
NAMES = [f"{number}.mp4" for number in range(NUM_VIDEOS)]
NUM_WINDOWS = sum(-(-(8 + number) // 4) for number in range(NUM_VIDEOS))
"""Of all videos, the first of which has 8 frames, every fourth one being a window."""


class Clock:
    """Seconds that pass only where a network works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Ticks(Clock):
    """Seconds that pass whenever they are asked for."""

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class StandIn:
    """Gives each window the mean of its pixels; `work` is told of every forward pass first."""

    def __init__(self, work: Callable[[np.ndarray], None]) -> None:
        self._work = work

    def forward(self, frames: np.ndarray) -> Mapping[str, np.ndarray]:
        self._work(frames)
        means = frames.reshape(len(frames), -1).mean(axis=1, dtype=np.float64)
        return {"values": np.repeat(means[:, None], 512, axis=1).astype(np.float32)}

    def reducer(self, clip: Clip) -> EachWindow:
        return EachWindow(clip, "float32")


def _recipe(name: str, **written: Any) -> Recipe:
    feature = {
        "extractor": "squeezenet",
        "sampling": {"fps": None, "frames": 1, "step": 4},
        "weights": {"random": 0},
    } | written
    return resolve_recipe(name, FeatureConfig.model_validate(feature), ClipRule(), DecodeConfig())


RECIPES = (_recipe("a"), _recipe("b", weights={"random": 1}))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Video, ...]:
    folder = tmp_path_factory.mktemp("parts")
    found = []
    for number, name in enumerate(NAMES):
        path = encode_video(folder / name, num_frames=8 + number, fps=10, width=64, height=64)
        found.append(Video(name, str(path), content_fingerprint(str(path)), path.stat().st_size))
    return tuple(found)


class Run:
    """Tries of one task in one run on a store of its own."""

    def __init__(self, root: Path, task: ShardTask, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Store.create(str(root / "store"), "parquet", "d")
        self.store.write_manifest("run", task.videos)
        for recipe in task.recipes:
            self.store.write_recipe(recipe)
        self.task = task
        self._monkeypatch = monkeypatch

    def try_it(self, work: Callable[[np.ndarray], None], clock: Callable[[], float], **spec: Any) -> TaskResult:
        self._monkeypatch.setattr(registry, "build", lambda recipe, device: StandIn(work))
        settings = {"device": "cpu", "num_threads": 1, "batch_windows": 2} | spec
        with Worker(WorkerSpec(self.store.url, "parquet", "run", **settings), clock) as worker:
            return worker.run(self.task)

    def commits(self, recipe: Recipe) -> list[list[str]]:
        """The videos of each commit."""
        paths = [path for path in self.store.commit_paths() if f"/{recipe.name}-" in path]
        return [self.store.read_table(path).column("video_id").to_pylist() for path in paths]

    def rows(self) -> dict[tuple[str, str], bytes]:
        opened = FeatureStore(self.store.url)
        return {
            (recipe.name, name): opened[recipe.key][name].values.tobytes()
            for recipe in self.task.recipes
            for name in opened[recipe.key].video_ids
        }


@pytest.fixture
def run(tmp_path: Path, videos: tuple[Video, ...], monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, ShardTask(videos, RECIPES), monkeypatch)


def _nothing(frames: np.ndarray) -> None:
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, videos: tuple[Video, ...]) -> dict[tuple[str, str], bytes]:
    """The rows of the task made at one go."""
    with pytest.MonkeyPatch.context() as patch:
        run = Run(tmp_path_factory.mktemp("whole"), ShardTask(videos, RECIPES), patch)
        result = run.try_it(_nothing, Clock())
        assert result.num_videos == NUM_VIDEOS
        assert run.commits(RECIPES[0]) == [NAMES]
        assert list((Path(run.store.url) / "runs" / "run").glob("parts/*")) == []
        return run.rows()


def test_a_task_that_costs_far_more_than_planned_is_committed_every_five_minutes(
    run: Run, whole: dict[tuple[str, str], bytes]
) -> None:
    assert sum(estimate(video, RECIPES).seconds for video in run.task.videos) < 30
    clock = Clock()
    since_commit: list[float] = []

    def work(frames: np.ndarray) -> None:
        clock.now += 40.0
        since_commit.append(clock.now)

    result = run.try_it(work, clock)
    commits = run.commits(RECIPES[0])
    assert sorted(name for commit in commits for name in commit) == NAMES
    # Two windows, or up to four, of each video and recipe, two to a pass of 40 s: 80 to 160 s a video.
    assert all(1 <= len(commit) <= 3 for commit in commits)
    assert len(commits) >= 3
    assert result.num_videos == NUM_VIDEOS
    assert result.num_rows == {recipe.key: NUM_WINDOWS for recipe in RECIPES}
    assert result.seconds["total"] == pytest.approx(clock.now, abs=30)
    assert run.rows() == whole
    stored = run.store.task_results("run")
    assert stored == [result]


class _Killed(BaseException):
    """What no handler of a worker takes for a failure of a video."""


@pytest.mark.parametrize("fatal_pass", [8, *(pytest.param(number, marks=pytest.mark.slow) for number in (3, 12))])
def test_a_second_try_makes_only_what_the_first_one_did_not_commit(
    run: Run, whole: dict[tuple[str, str], bytes], fatal_pass: int
) -> None:
    passes: list[int] = []

    def work(frames: np.ndarray) -> None:
        passes.append(len(frames))
        if len(passes) == fatal_pass:
            raise _Killed

    with pytest.raises(_Killed):
        run.try_it(work, Ticks(), commit_seconds=1e-9)
    first = {name for commit in run.commits(RECIPES[0]) for name in commit}
    assert len(first) < NUM_VIDEOS
    result = run.try_it(_nothing, Ticks(), commit_seconds=1e-9)
    for recipe in RECIPES:
        assert sorted(name for commit in run.commits(recipe) for name in commit) == NAMES, "each video once"
    assert (result.num_videos, result.num_videos_left) == (NUM_VIDEOS, 0)
    assert result.num_rows == {recipe.key: NUM_WINDOWS for recipe in RECIPES}
    assert run.rows() == whole
    again = run.try_it(work, Ticks(), commit_seconds=1e-9)
    assert again.num_rows == result.num_rows


def test_a_part_of_which_one_recipe_was_committed_is_finished(run: Run, whole: dict[tuple[str, str], bytes]) -> None:
    run.try_it(_nothing, Ticks(), commit_seconds=1e-9)
    commits = [path for path in run.store.commit_paths() if "/b-" in path]
    assert len(commits) == NUM_VIDEOS
    for path in commits[2:4]:
        run.store.withdraw_commit(path)
    made: list[int] = []
    result = run.try_it(lambda frames: made.append(len(frames)), Ticks(), commit_seconds=1e-9)
    assert run.rows() == whole
    assert [path for path in run.store.commit_paths() if "/b-" in path] == commits
    assert 2 <= len(made) <= 4, "two videos, one recipe"
    assert result.num_videos == NUM_VIDEOS
    assert result.num_rows == {recipe.key: NUM_WINDOWS for recipe in RECIPES}


def test_a_video_in_quarantine_belongs_to_a_part(run: Run, videos: tuple[Video, ...], tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"no video" * 100)
    bad = Video("bad", str(garbage), content_fingerprint(str(garbage)), garbage.stat().st_size)
    run.task = ShardTask((videos[0], bad, *videos[1:3]), RECIPES[:1])
    passes: list[int] = []

    def work(frames: np.ndarray) -> None:
        passes.append(len(frames))
        if len(passes) == 4:
            raise _Killed

    with pytest.raises(_Killed):
        run.try_it(work, Ticks(), commit_seconds=1e-9)
    assert run.store.quarantine().column("video_id").to_pylist() == ["bad"]
    result = run.try_it(_nothing, Ticks(), commit_seconds=1e-9)
    assert [item.video_id for item in result.quarantined] == ["bad"]
    assert result.num_videos == 4


def test_memory_that_does_not_suffice_halves_the_batch_and_no_video_has_rows_of_two_sizes(
    run: Run, whole: dict[tuple[str, str], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    sizes: list[int] = []

    def work(frames: np.ndarray) -> None:
        sizes.append(len(frames))
        # There is room for eight windows at first, later for two.
        if len(frames) > (8 if len(sizes) < 3 else 2):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    result = run.try_it(work, Clock(), batch_windows=8)
    assert result.num_videos == NUM_VIDEOS
    assert result.quarantined == ()
    assert run.rows() == whole
    # Each recipe's own.
    assert result.lowered_batch_windows == {recipe.key: 2 for recipe in RECIPES}
    assert {8, 4, 2} == set(sizes)
    assert "no memory for 8 windows: CUDA out of memory. Tried to allocate 2.00 GiB; from now on 4" in caplog.text
    for recipe in RECIPES:
        table = run.store.commits(recipe.fingerprint)
        assert sorted(table.column("video_id").to_pylist()) == NAMES
        told = {row["video_id"]: row["passport"]["batch_windows"] for row in table.to_pylist()}
        assert set(told.values()) <= {8, 2}
        assert told[NAMES[-1]] == 2


def test_a_batch_of_one_that_does_not_fit_is_booked_as_passing(run: Run) -> None:
    def work(frames: np.ndarray) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    result = run.try_it(work, Clock(), max_fault_share=1.0)
    assert {(item.stage, item.reason) for item in result.quarantined} == {("extract", "out_of_memory")}
    assert {item.video_id for item in result.quarantined} == set(NAMES)


def test_a_network_that_does_not_fit_the_device_is_the_machines_fault(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(recipe: Recipe, device: str) -> StandIn:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")

    monkeypatch.setattr(registry, "build", build)
    with (
        Worker(WorkerSpec(run.store.url, "parquet", "run", device="cpu", num_threads=1)) as worker,
        pytest.raises(MachineFaultError, match="feature a: expected memory for the network on cpu, got CUDA out of"),
    ):
        worker.run(run.task)
    assert run.store.quarantine_history().num_rows == 0
