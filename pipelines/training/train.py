"""``clipmill train``: from a config to a run folder with checkpoints and a report.

report = train(config, [print])
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from clipmill.models.checkpoints import checkpoint_path
from clipmill.models.registry import resolve_options
from clipmill.pipelines.datasets.pairs import PairedFeatures, read_pairs
from clipmill.pipelines.training.interruption import Interruption
from clipmill.pipelines.training.parallel import OneProcess
from clipmill.pipelines.training.run_folder import RunFolder, identity
from clipmill.pipelines.training.worker import EpochDone, TrainJob, work
from clipmill.schemas.config import TrainConfig
from clipmill.schemas.errors import UsageError, describe

EpochObserver = Callable[[EpochDone], None]
"""Is told of each epoch, in the process that called `train`; must not raise."""


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a run did. report.json holds the same.

    Attributes:
        out: the run's folder.
        checkpoint: the last one.
        epoch, start_epoch: epochs done, and where this call began (0: at the start).
        seconds: of this call.
        losses: mean of each loss per epoch, from the first epoch on.
        device: of worker 0.
        num_train, num_test: clips.
        labels_without_training, labels_without_test: labels that have no clip on that side.
        num_only_image, num_only_video, num_validation: clips left out, see `PairedFeatures`.
        scaling, reconstruction: what the size of the losses depends on.
    """

    out: str
    checkpoint: str
    epoch: int
    start_epoch: int
    seconds: float
    losses: tuple[Mapping[str, float], ...]
    model: str
    options: Mapping[str, Any]
    trainer: str
    num_workers: int
    device: str
    num_train: int
    num_test: int
    num_labels: int
    labels_without_training: tuple[str, ...]
    labels_without_test: tuple[str, ...]
    num_only_image: int
    num_only_video: int
    num_validation: int

    def to_plain(self) -> dict[str, Any]:
        """Returns the report as plain types, for JSON."""
        return asdict(self)


def train(config: TrainConfig, observers: Sequence[EpochObserver] = ()) -> TrainReport:
    """Returns the report of a finished run; goes on from the newest checkpoint in `config.out` where there is one.

    Ctrl-C finishes the epoch in progress, writes a checkpoint and raises KeyboardInterrupt; a second one abandons the
    epoch, and the last checkpoint stands. Either way the same command goes on from it.

    Raises:
        UsageError: the config, the store or the run's folder cannot be used as given; see `read_pairs`, `RunFolder`.
        StorageUnavailableError: the folder cannot be written.
        EngineError: Ray lost a worker; the last checkpoint stands.
        KeyboardInterrupt: after Ctrl-C.
    """
    return train_pairs(config, read_pairs(config.data), observers)


def train_pairs(config: TrainConfig, pairs: PairedFeatures, observers: Sequence[EpochObserver] = ()) -> TrainReport:
    """Returns the report of a finished run on `pairs` as they are; see `train`."""
    started = time.monotonic()
    options = resolve_options(config.model.name, config.model.options).model_dump(mode="json")
    folder = RunFolder(config.out)
    wanted = identity(config, options, pairs)
    device = "ray" if config.trainer.name == "ray" else str(resolve_device(config.loop.device))
    checkpoint = folder.open(config, wanted)
    job = TrainJob(config, pairs, wanted, str(folder.path), checkpoint.epoch if checkpoint else 0)

    def tell(done: EpochDone) -> None:
        for observer in observers:
            observer(done)

    epoch = job.start_epoch
    if epoch < config.loop.epochs:
        if config.trainer.name == "ray":
            from clipmill.pipelines.training.ray_train import run_on_ray

            epoch, device = run_on_ray(job, tell)
        else:
            epoch = run_here(job, tell)
    report = TrainReport(
        out=config.out,
        checkpoint=str(checkpoint_path(config.out, epoch)),
        epoch=epoch,
        start_epoch=job.start_epoch,
        seconds=time.monotonic() - started,
        losses=tuple(line["losses"] for line in folder.metrics()),
        model=config.model.name,
        options=options,
        trainer=config.trainer.name,
        num_workers=config.trainer.workers if config.trainer.name == "ray" else 1,
        device=device,
        num_train=len(pairs) - len(pairs.test_clip_ids),
        num_test=len(pairs.test_clip_ids),
        num_labels=len(pairs.label_names),
        labels_without_training=pairs.labels_without_training,
        labels_without_test=pairs.labels_without_test,
        num_only_image=pairs.num_only_image,
        num_only_video=pairs.num_only_video,
        num_validation=pairs.num_validation,
    )
    folder.write_report(report.to_plain())
    if epoch < config.loop.epochs:
        raise KeyboardInterrupt(
            f"stopped after epoch {epoch} of {config.loop.epochs}, which is kept; run the same command again to go on"
        )
    return report


def run_here(job: TrainJob, on_epoch: EpochObserver) -> int:
    """Trains in this process and returns the last epoch done."""
    with Interruption() as interruption, _threads(job.config.loop.threads):
        device = resolve_device(job.config.loop.device)
        return work(job, OneProcess(), device, lambda: interruption.requested, on_epoch)


def resolve_device(name: str) -> torch.device:
    """Returns the device called `name`; ``auto`` is a GPU where there is one.

    Raises:
        UsageError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = next(iter(str(error).splitlines()), "no message")
        raise UsageError(
            describe("loop.device", name, "auto, cpu or a GPU here", first, "set loop.device=auto")
        ) from None
    return device


@contextmanager
def _threads(num_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
