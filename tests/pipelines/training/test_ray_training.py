"""Ray Train: two processes give the numbers of one, also after Ctrl-C and going on."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.checkpoints import checkpoints, find_checkpoint, load
from pipelines.training.train import train_pairs
from pipelines.training.worker import EpochDone
from schemas.errors import EngineError, UsageError
from tests.pipelines.training.conftest import MakeConfig, MakePairs

pytestmark = pytest.mark.ray

TWO_WORKERS = {"name": "ray", "workers": 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray for this file alone, since starting one takes seconds."""
    from pipelines.training import ray_train

    ray_train.ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray_train.ray.shutdown()


class _StopOnce:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def __call__(self, done: EpochDone) -> None:
        if not self.epochs:
            signal.raise_signal(signal.SIGINT)
        self.epochs.append(done.epoch)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_workers_give_the_numbers_of_one_process_through_a_stop(
    cluster: None, make_pairs: MakePairs, make_config: MakeConfig, tmp_path: Path
) -> None:
    # 28 training pairs in batches of 9: the last batch has one pair, so one worker has none of it.
    pairs, stop = make_pairs(), _StopOnce()
    config = make_config("ray", epochs=100_000, trainer=TWO_WORKERS, checkpoint_every_epochs=100_000)
    with pytest.raises(KeyboardInterrupt, match="which is kept; run the same command again to go on"):
        train_pairs(config, pairs, [stop])
    (stopped,) = checkpoints(config.out)
    assert stop.epochs == list(range(1, stopped + 1))

    shutil.copytree(config.out, tmp_path / "copy")
    more, seen = {"epochs": stopped + 3}, _Epochs()
    resumed = train_pairs(make_config("ray", trainer=TWO_WORKERS, **more), pairs, [seen])
    assert (resumed.start_epoch, resumed.num_workers, resumed.device) == (stopped, 2, "cpu")
    assert seen.epochs == [stopped + 1, stopped + 2, stopped + 3]
    num_early = min(stopped, 5)
    begun = train_pairs(make_config("alone", epochs=num_early), pairs)
    gone_on = train_pairs(make_config("copy", **more), pairs)
    assert gone_on.start_epoch == stopped

    # Both sum the same terms in another order, in single precision: 1e-7 of each gradient, which Adam's division by the
    # gradient's own size makes as much of a step. A wrong weight of the uneven batch shows as 1e-2 after one epoch.
    # A few epochs from the start and three from one checkpoint: over hundreds such differences would grow.
    for alone, part in ((begun, slice(num_early)), (gone_on, slice(stopped, None))):
        for ours, theirs in zip(resumed.losses[part], alone.losses[part], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    one, two = (load(find_checkpoint(report.out)) for report in (resumed, gone_on))
    assert one.training["optimiser"]["state"][0]["step"] == two.training["optimiser"]["state"][0]["step"]
    assert one.origin.fingerprint == two.origin.fingerprint
    assert one.image_scaling == two.image_scaling
    # Nothing of Ray's own is left in the run's folder.
    files = sorted(path.name for path in Path(config.out).iterdir())
    assert files == ["checkpoints", "config.yaml", "metrics.jsonl", "report.json"]
    assert json.loads((Path(config.out) / "report.json").read_text())["trainer"] == "ray"
    weights = [np.concatenate([v.numpy().ravel() for v in item.model.state_dict().values()]) for item in (one, two)]
    assert np.abs(weights[0] - weights[1]).mean() < 1e-6


class _Epochs:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def __call__(self, done: EpochDone) -> None:
        self.epochs.append(done.epoch)


def test_more_workers_than_cpus_are_refused(cluster: None, make_pairs: MakePairs, make_config: MakeConfig) -> None:
    config = make_config(trainer={"name": "ray", "workers": 3})
    with pytest.raises(UsageError, match="trainer.workers 3: expected at most the cluster's 2 CPUs"):
        train_pairs(config, make_pairs())


def test_an_error_of_a_worker_keeps_its_type() -> None:
    from pipelines.training.ray_train import _cause

    domain: Any = UsageError("loss total: expected a finite number, got nan in epoch 1; lower it")
    assert _cause(_Failed({0: domain})) is domain
    other = _cause(_Failed({0: RuntimeError("worker died\nSIGKILL")}))
    assert isinstance(other, EngineError)
    assert "got SIGKILL; the last checkpoint stands" in str(other)


class _Failed(Exception):
    def __init__(self, worker_failures: dict[int, Exception]) -> None:
        super().__init__("failed")
        self.worker_failures = worker_failures
