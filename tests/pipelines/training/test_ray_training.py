"""Ray Train: two processes give the numbers of one, also after Ctrl-C and going on."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from clipmill.models.checkpoints import checkpoints, find_checkpoint, load
from clipmill.pipelines.training.train import TrainReport, train_items
from clipmill.pipelines.training.worker import EpochDone
from clipmill.schemas.errors import EngineError, UsageError
from tests.pipelines.training.conftest import MakeConfig, MakePairs, with_values
from tests.pipelines.training.test_training_runs import assert_same_bits

pytestmark = pytest.mark.ray

TWO_WORKERS = {"name": "ray", "workers": 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray for this file alone, since starting one takes seconds."""
    from clipmill.pipelines.training import ray_train

    ray_train.ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray_train.ray.shutdown()


class _StopOnce:
    def __init__(self, times: int = 1) -> None:
        self.epochs: list[int] = []
        self.times = times

    def __call__(self, done: EpochDone) -> None:
        for _ in range(0 if self.epochs else self.times):
            signal.raise_signal(signal.SIGINT)
        self.epochs.append(done.epoch)


def assert_alike(ours: TrainReport, theirs: TrainReport, epochs: slice) -> None:
    """Asserts that losses agree to 1e-5.

    Both sum the same terms in another order, in single precision: 1e-7 of each gradient, which Adam's division by the
    gradient's own size makes as much of a step. Over the few epochs compared here that stays below 1e-5; a wrong weight
    of the uneven last batch shows as 1e-2 after one epoch.
    """
    for one, two in zip(ours.losses[epochs], theirs.losses[epochs], strict=True):
        assert one == pytest.approx(two, rel=1e-5, abs=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_workers_go_on_with_the_numbers_of_one_process(
    cluster: None, make_pairs: MakePairs, make_config: MakeConfig
) -> None:
    # 28 training pairs in batches of 9: the last batch has one pair, so one worker has none of it.
    pairs, seen = make_pairs(), _Epochs()
    alone = train_items(make_config("alone", epochs=6), pairs)
    train_items(make_config("ray", epochs=2), pairs)
    config = make_config("ray", epochs=6, trainer=TWO_WORKERS)
    report = train_items(config, pairs, [seen])

    assert (report.start_epoch, report.epoch, report.num_workers, report.device) == (2, 6, 2, "cpu")
    assert seen.epochs == [3, 4, 5, 6]
    assert_alike(report, alone, slice(None))
    one, two = (load(find_checkpoint(item.out)) for item in (report, alone))
    assert one.origin.fingerprint == two.origin.fingerprint
    steps = [item.training["optimiser"]["state"][0]["step"].item() for item in (one, two)]
    assert steps == [24, 24]
    weights = [np.concatenate([v.numpy().ravel() for v in item.model.state_dict().values()]) for item in (one, two)]
    assert np.abs(weights[0] - weights[1]).mean() < 1e-6
    # Nothing of Ray's own is left in the run's folder.
    files = sorted(path.name for path in Path(config.out).iterdir())
    assert files == ["checkpoints", "config.yaml", "metrics.jsonl", "report.json"]
    assert json.loads((Path(config.out) / "report.json").read_text())["trainer"] == "ray"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ctrl_c_under_ray_keeps_the_epoch_in_progress(
    cluster: None, make_pairs: MakePairs, make_config: MakeConfig
) -> None:
    pairs, stop = make_pairs(), _StopOnce()
    config = make_config("ray", epochs=100_000, trainer=TWO_WORKERS, checkpoint_every_epochs=100_000)
    with pytest.raises(KeyboardInterrupt, match="which is kept; run the same command again to go on"):
        train_items(config, pairs, [stop])
    (stopped,) = checkpoints(config.out)
    assert stop.epochs == list(range(1, stopped + 1))
    gone_on = train_items(make_config("ray", epochs=stopped + 1), pairs)
    assert gone_on.start_epoch == stopped
    num_early = min(stopped, 5)
    assert_alike(gone_on, train_items(make_config("alone", epochs=num_early), pairs), slice(num_early))


class _Epochs:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def __call__(self, done: EpochDone) -> None:
        self.epochs.append(done.epoch)


def test_more_workers_than_cpus_are_refused(cluster: None, make_pairs: MakePairs, make_config: MakeConfig) -> None:
    config = make_config(trainer={"name": "ray", "workers": 3})
    with pytest.raises(UsageError, match="trainer.workers 3: expected at most the cluster's 2 CPUs"):
        train_items(config, make_pairs())


def test_an_error_of_a_worker_keeps_its_type() -> None:
    from clipmill.pipelines.training.ray_train import _cause

    domain: Any = UsageError("loss total: expected a finite number, got nan in epoch 1; lower it")
    assert _cause(_Failed({0: domain})) is domain
    other = _cause(_Failed({0: RuntimeError("worker died\nSIGKILL")}))
    assert isinstance(other, EngineError)
    assert "got SIGKILL; the last checkpoint stands" in str(other)


def test_a_lost_worker_is_told_from_one_with_a_fault() -> None:
    from ray.exceptions import ActorDiedError

    from clipmill.pipelines.training.ray_train import LostWorkerError, _cause

    companion = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection closed by peer")
    lost = _cause(_Failed({0: companion, 1: ActorDiedError()}))
    assert isinstance(lost, LostWorkerError)
    assert "got worker 1 lost; the last checkpoint stands" in str(lost)
    # What the others see of a fault is the same; to start again would only show it once more.
    fault = _cause(_Failed({0: companion, 1: KeyError("image")}))
    assert not isinstance(fault, LostWorkerError)
    assert "got 'image'; the last checkpoint stands" in str(fault)


class _Failed(Exception):
    def __init__(self, worker_failures: dict[int, Exception]) -> None:
        super().__init__("failed")
        self.worker_failures = worker_failures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_observer_that_raises_ends_the_workers_with_a_checkpoint(
    cluster: None, make_pairs: MakePairs, make_config: MakeConfig
) -> None:
    def broken(done: EpochDone) -> None:
        raise RuntimeError("the terminal is gone")

    config = make_config(epochs=100_000, trainer=TWO_WORKERS, checkpoint_every_epochs=100_000)
    with pytest.raises(RuntimeError, match="the terminal is gone"):
        train_items(config, make_pairs(), [broken])
    assert len(checkpoints(config.out)) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_domain_error_crosses_rays_processes(cluster: None, make_pairs: MakePairs, make_config: MakeConfig) -> None:
    pairs = make_pairs()
    broken = with_values(pairs, video=np.full_like(pairs.inputs["video"].values, np.inf))
    with pytest.raises(UsageError, match=r"^loss \S+: expected a finite number, got nan in epoch 1; lower [^\n]*$"):
        train_items(make_config(options={"scaling": "none"}, trainer=TWO_WORKERS), broken)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # Seconds where a processor is free; minutes where many share it.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lost_workers_are_survived_with_the_numbers_of_an_undisturbed_run(
    cluster: None, make_pairs: MakePairs, make_config: MakeConfig
) -> None:
    pairs, kill, seen = make_pairs(), _KillWorkers(at=(20, 60)), _Epochs()
    loop: dict[str, Any] = {"epochs": 100, "checkpoint_every_epochs": 7, "keep_checkpoints": 99}
    undisturbed = train_items(make_config("undisturbed", trainer=TWO_WORKERS, **loop), pairs)
    report = train_items(make_config("disturbed", trainer=TWO_WORKERS, **loop), pairs, [kill, seen])
    assert len(kill.killed) == 2
    assert seen.epochs == list(range(1, 101))
    assert report.losses == undisturbed.losses
    one, two = (load(find_checkpoint(item.out)) for item in (report, undisturbed))
    assert_same_bits(one.model.state_dict(), two.model.state_dict())
    files = sorted(path.name for path in Path(report.out).iterdir())
    assert files == ["checkpoints", "config.yaml", "metrics.jsonl", "report.json"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_loss_too_many_is_retryable_and_the_last_checkpoint_stands(
    cluster: None, make_pairs: MakePairs, make_config: MakeConfig
) -> None:
    trainer = TWO_WORKERS | {"max_failures": 0}
    config = make_config(epochs=100_000, trainer=trainer, checkpoint_every_epochs=1)
    with pytest.raises(
        EngineError, match=r"^trainer ray: [^\n]*got worker \d lost; the last checkpoint stands"
    ) as caught:
        train_items(config, make_pairs(), [_KillWorkers(at=(1,))])
    assert caught.value.exit_code == 4
    last = max(checkpoints(config.out))
    assert train_items(make_config(epochs=last + 1), make_pairs()).start_epoch == last


class _KillWorkers:
    """Kills one of this test's own training processes in each of some epochs, and no other."""

    def __init__(self, at: tuple[int, ...]) -> None:
        self.at, self.killed = at, []  # type: tuple[int, ...], list[int]

    def __call__(self, done: EpochDone) -> None:
        if done.epoch in self.at:
            # The first of the two, then the second: one of them is worker 0, which writes.
            processes = _training_processes()
            self.killed.append(processes[len(self.killed) % len(processes)])
            os.kill(self.killed[-1], signal.SIGKILL)


def _training_processes() -> list[int]:
    """Process ids of the training workers among this process's own descendants; Ray titles them by what they run."""
    found = []
    for process in psutil.Process().children(recursive=True):
        # One that has just ended has no command line any more.
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_second_ctrl_c_under_ray_abandons_the_epoch(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    """Last in this file: it ends the cluster, which starts again with the next run."""
    config = make_config(epochs=100_000, trainer=TWO_WORKERS, checkpoint_every_epochs=1)
    with pytest.raises(KeyboardInterrupt):
        train_items(config, make_pairs(), [_StopOnce(times=2)])
    assert train_items(make_config(epochs=max(checkpoints(config.out)) + 1), make_pairs()).epoch > 1
    files = sorted(path.name for path in Path(config.out).iterdir())
    assert files == ["checkpoints", "config.yaml", "metrics.jsonl", "report.json"]
