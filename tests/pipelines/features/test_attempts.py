"""Who is blamed when workers die: decided from what the tries of a task have committed."""

from dataclasses import replace
from pathlib import Path

import pytest

from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.features.attempts import Attempts, write_last_words
from clipmill.pipelines.features.task_progress import progress_of
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import EngineError, MachineFaultError
from clipmill.schemas.recipe import ClipRule
from clipmill.schemas.records import Video
from clipmill.schemas.task import ShardTask, TaskPart, TaskResult, WorkerSpec
from clipmill.stores.store import Store

RECIPE = resolve_recipe(
    "squeezenet", FeatureConfig(extractor="squeezenet", weights=WeightsConfig(random=0)), ClipRule(), DecodeConfig()
)
TASK = ShardTask(tuple(Video(f"v{n}", f"/videos/v{n}.mp4", f"{n:032x}", 1000) for n in range(7)), (RECIPE,))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(str(tmp_path / "store"), "parquet", "d")


def _spec(store: Store, share: float = 0.2) -> WorkerSpec:
    return WorkerSpec(store.url, "parquet", "run", max_fault_share=share)


def _do(store: Store, *ids: str) -> None:
    """Leaves what a worker leaves of videos that have no rows to commit: a part each."""
    for video in TASK.videos:
        if video.id in ids:
            key = replace(TASK, videos=(video,)).key
            store.write_task_part(
                "run", TaskPart(TASK.key, key, (video.id,), (), TaskResult(key, executed=True, num_videos=1))
            )


def _booked(store: Store) -> dict[str, str]:
    return {row["video_id"]: row["reason"] for row in store.quarantine().to_pylist()}


def test_three_deaths_blame_the_video_that_was_twice_the_first_left(store: Store) -> None:
    attempts = Attempts(_spec(store))
    assert not attempts.is_careful(TASK)
    attempts.died(TASK, "a worker killed by SIGKILL")
    assert attempts.is_careful(TASK)
    _do(store, "v0", "v1")
    attempts.died(TASK, "a worker killed by SIGKILL")
    assert _booked(store) == {}
    attempts.died(TASK, "a worker killed by SIGKILL")
    assert _booked(store) == {"v2": "worker_died"}
    [(left, recipes)] = progress_of(store, "run", TASK).left
    assert [video.id for video in left] == ["v3", "v4", "v5", "v6"]
    assert recipes == [RECIPE]
    # The next one of the task: two more.
    attempts.died(TASK, "a worker killed by SIGKILL")
    assert len(_booked(store)) == 1
    attempts.died(TASK, "a worker killed by SIGKILL")
    assert _booked(store) == {"v2": "worker_died", "v3": "worker_died"}


def test_a_machine_that_takes_workers_away_now_and_then_blames_nobody(store: Store) -> None:
    attempts = Attempts(_spec(store))
    for number in range(6):
        attempts.died(TASK, "a node that was taken away")
        _do(store, f"v{number}")
    assert _booked(store) == {}


def test_a_worker_that_ended_itself_says_why(store: Store) -> None:
    attempts = Attempts(_spec(store))
    for _ in range(3):
        write_last_words(store, "run", TASK.key, "c3d of v0: no end of a forward pass within 600 s")
        attempts.died(TASK, "a worker that ended itself")
    [row] = store.quarantine().to_pylist()
    assert (row["video_id"], row["reason"], row["attempts"]) == ("v0", "forward_deadline", 3)
    assert "got c3d of v0: no end of a forward pass within 600 s" in row["message"]
    assert row["recipes"] == [RECIPE.fingerprint]


def test_where_every_video_kills_its_worker_the_machine_is_at_fault(store: Store) -> None:
    def die_until_nothing_is_left(attempts: Attempts) -> None:
        while progress_of(store, "run", TASK).left:
            attempts.died(TASK, "a worker killed by SIGKILL")

    with pytest.raises(MachineFaultError, match="5 of 7: .*worker_died 5.*max_fault_share"):
        die_until_nothing_is_left(Attempts(_spec(store)))
    assert len(_booked(store)) == 4
    die_until_nothing_is_left(Attempts(_spec(store, share=1.0)))
    assert len(_booked(store)) == 7


def test_a_task_of_which_nothing_is_left_is_not_tried_for_ever(store: Store) -> None:
    _do(store, *(video.id for video in TASK.videos))
    attempts = Attempts(_spec(store))
    attempts.died(TASK, "a dead worker")
    attempts.died(TASK, "a dead worker")
    with pytest.raises(EngineError, match="got 3 dead workers"):
        attempts.died(TASK, "a dead worker")
