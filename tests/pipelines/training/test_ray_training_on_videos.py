"""Ray Train on videos: two processes that decode for themselves give the numbers of one, also after one was lost."""

from pathlib import Path

import pytest

from clipmill.pipelines.features.windows import clip_windows
from clipmill.pipelines.training.videos.train import train_on_videos
from clipmill.schemas.config import TrainerConfig
from tests.pipelines.training.test_ray_training import _KillWorkers
from tests.pipelines.training.video_runs import RC3D, config_of, make_videos, run

pytestmark = pytest.mark.ray


@pytest.mark.slow
@pytest.mark.timeout(1200)  # Seconds where a processor is free; minutes where many share it.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_workers_of_which_one_is_lost_give_the_numbers_of_one(tmp_path: Path) -> None:
    from clipmill.pipelines.training import ray_train

    videos = make_videos(tmp_path / "videos")
    # Four buffers in batches of three: one worker has none of the last one.
    loop = {"epochs": 2, "batch": 3, "learning_rate": 1e-3, "max_gradient_norm": 10.0}
    alone = run(config_of(videos, tmp_path / "alone", RC3D, **loop))
    config = config_of(videos, tmp_path / "ray", RC3D, **loop)
    config = config.model_copy(update={"trainer": TrainerConfig(name="ray", workers=2)})
    kill = _KillWorkers(at=(1,))
    ray_train.ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        report = train_on_videos(config, clip_windows, [kill])
    finally:
        ray_train.ray.shutdown()
    assert len(kill.killed) == 1
    assert (report.epoch, report.num_workers) == (2, 2)
    # Not the weights: the last bits of a sum decide which of nearly equal regions are sampled, in the second epoch on.
    for one, two in zip(report.losses, alone.losses, strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-5)
