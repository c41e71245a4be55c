"""Ray Train on videos: two processes that decode for themselves give the numbers of one, also after one was lost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipmill.pipelines.features.windows import clip_windows
from clipmill.pipelines.training.train import EpochObserver, TrainReport
from clipmill.pipelines.training.videos.train import train_on_videos
from clipmill.schemas.config import TrainerConfig
from tests.pipelines.training.test_ray_training import _KillWorkers
from tests.pipelines.training.video_runs import C3D, CPNET, RC3D, config_of, make_videos, run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # Seconds where a processor is free; minutes where many share it.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    from clipmill.pipelines.training import ray_train

    with pytest.MonkeyPatch.context() as patch:
        # Two processes import PyTorch: where many share the processors, not within Ray's minute.
        patch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
        ray_train.ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray_train.ray.shutdown()


def shared(videos: Path, out: Path, model: dict[str, Any], *observers: EpochObserver, **loop: Any) -> TrainReport:
    """Trains on two workers."""
    config = config_of(videos, out, model, **loop)
    config = config.model_copy(update={"trainer": TrainerConfig(name="ray", workers=2)})
    return train_on_videos(config, clip_windows, observers)


@pytest.mark.parametrize(
    ("model", "loop"),
    [
        # Four buffers in batches of three: one worker has none of the last one.
        (RC3D, {"batch": 3, "learning_rate": 1e-3, "max_gradient_norm": 10.0}),
        (C3D, {"batch": 2, "learning_rate": 1e-4}),
        (CPNET, {"batch": 2}),
    ],
    ids=lambda given: given.get("name", ""),
)
def test_two_workers_of_which_one_is_lost_give_the_numbers_of_one(
    cluster: None, tmp_path: Path, model: dict[str, Any], loop: dict[str, Any]
) -> None:
    videos, loop = make_videos(tmp_path / "videos"), {"epochs": 2, **loop}
    # Batch norm that learns takes the statistics of a worker's share, so CPNet's numbers are those of two workers.
    undisturbed = shared if model is CPNET else lambda *given, **keys: run(config_of(*given, **keys))
    alone = undisturbed(videos, tmp_path / "alone", model, **loop)
    kill = _KillWorkers(at=(1,))
    report = shared(videos, tmp_path / "ray", model, kill, **loop)
    assert len(kill.killed) == 1
    assert (report.epoch, report.num_workers) == (2, 2)
    # Not the weights: the last bits of a sum decide which of nearly equal regions are sampled, in the second epoch on.
    # C3D's convolutions of one clip are summed in another order than those of two: 5e-4 apart after a step of it.
    for one, two in zip(report.losses, alone.losses, strict=True):
        assert one == pytest.approx(two, rel=1e-3 if model is C3D else 1e-4, abs=1e-5)
