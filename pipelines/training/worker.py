"""What every training worker does, alone or among others: start or go on, train, write down."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from clipmill.models import scaling
from clipmill.models.checkpoints import Origin, TrainedModel, checkpoint_path, checkpoints, load, save
from clipmill.models.registry import build, resolve_options
from clipmill.pipelines.datasets.pairs import PairedFeatures
from clipmill.pipelines.training.loop import TrainingRows, make_optimiser, train
from clipmill.pipelines.training.parallel import Parallel
from clipmill.pipelines.training.run_folder import RunFolder, data_fingerprint
from clipmill.schemas.config import TrainConfig
from clipmill.schemas.errors import UsageError, describe


@dataclass(frozen=True, slots=True)
class TrainJob:
    """Everything a worker needs; it reads no config file and no store.

    Attributes:
        identity: see `run_folder.identity`.
        folder: absolute path of the run, reachable from every worker.
        start_epoch: of the checkpoint to go on from; 0: start.
    """

    config: TrainConfig
    pairs: PairedFeatures
    identity: Mapping[str, Any]
    folder: str
    start_epoch: int


@dataclass(frozen=True, slots=True)
class EpochDone:
    """What an observer is told after each epoch.

    Attributes:
        epoch, num_epochs: done, and in all.
        losses: mean over the epoch's pairs, by name.
        seconds: of this epoch.
        num_pairs: trained on per epoch.
    """

    epoch: int
    num_epochs: int
    losses: Mapping[str, float]
    seconds: float
    num_pairs: int


def start(job: TrainJob) -> TrainedModel:
    """Returns the model to train: the checkpoint's, or a fresh one with its scaling fitted on the training pairs."""
    if job.start_epoch:
        return load(checkpoints(job.folder)[job.start_epoch])
    config, pairs = job.config, job.pairs
    options = resolve_options(config.model.name, config.model.options)
    dims = (pairs.image_source.dim, pairs.video_source.dim)
    model = build(config.model.name, options, *dims, len(pairs.label_names), config.loop.seed)
    training = ~pairs.is_test
    return TrainedModel(
        name=config.model.name,
        options=options.model_dump(mode="json"),
        model=model,
        image_scaling=scaling.fit(model.scaling, pairs.image[training]),
        video_scaling=scaling.fit(model.scaling, pairs.video[training]),
        origin=Origin(
            store_url=pairs.store_url,
            dataset=pairs.dataset,
            image=pairs.image_source,
            video=pairs.video_source,
            fingerprint=data_fingerprint(pairs),
            label_names=pairs.label_names,
            test_clip_ids=pairs.test_clip_ids,
            config=config.model_dump(mode="json", by_alias=True),
        ),
        epoch=0,
    )


def work(
    job: TrainJob,
    parallel: Parallel,
    device: torch.device,
    stop_requested: Callable[[], bool],
    on_epoch: Callable[[EpochDone], None] = lambda done: None,
) -> int:
    """Trains and returns the last epoch done; worker 0 writes metrics and checkpoints and decides when to stop.

    Args:
        stop_requested: asked after each epoch; True ends the training there, with a checkpoint.
    """
    config = job.config.loop
    trained = start(job)
    cast(nn.Module, trained.model).to(device)
    optimiser = make_optimiser(trained.model, config)
    if trained.epoch:
        optimiser.load_state_dict(dict(trained.training["optimiser"]))
        torch.set_rng_state(trained.training["torch_rng"])
    pairs = job.pairs.take(~job.pairs.is_test)
    image, video = trained.image_scaling.apply(pairs.image), trained.video_scaling.apply(pairs.video)
    rows = TrainingRows.on_device(image, video, pairs.label, device)
    folder, began = RunFolder(job.folder), time.monotonic()

    def after_epoch(epoch: int, losses: dict[str, float]) -> bool:
        nonlocal began
        flag = torch.tensor(float(parallel.rank == 0 and stop_requested()), device=device)
        stopping = bool(parallel.add_up(flag) > 0)
        _check_finite(epoch, losses)
        if parallel.rank == 0:
            done = EpochDone(epoch, config.epochs, losses, time.monotonic() - began, len(rows))
            # Before the checkpoint: a line too many is dropped when the run goes on, a missing one could not be filled.
            folder.add_metrics({"epoch": epoch, "seconds": round(done.seconds, 6), "losses": losses})
            if stopping or epoch == config.epochs or epoch % config.checkpoint_every_epochs == 0:
                _save(job, trained, optimiser, epoch)
            on_epoch(done)
            began = time.monotonic()
        return not stopping

    return train(trained.model, optimiser, rows, config, parallel, after_epoch, trained.epoch)


def _check_finite(epoch: int, losses: Mapping[str, float]) -> None:
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        raise UsageError(
            describe(
                "loss",
                wrong[0],
                "a finite number",
                f"{losses[wrong[0]]} in epoch {epoch}",
                "lower loop.learning_rate or set model.options.scaling; the last checkpoint stands",
            )
        )


def _save(job: TrainJob, trained: TrainedModel, optimiser: torch.optim.Optimizer, epoch: int) -> None:
    training = {
        "optimiser": optimiser.state_dict(),
        # The order of the pairs and the noise of epoch e are drawn from (seed, e): this is the whole position.
        "sampler": {"epoch": epoch, "seed": job.config.loop.seed, "batch": job.config.loop.batch},
        "torch_rng": torch.get_rng_state(),
        "identity": dict(job.identity),
    }
    save(checkpoint_path(job.folder, epoch), replace(trained, epoch=epoch, training=training))
    for older in list(checkpoints(job.folder).values())[: -job.config.loop.keep_checkpoints]:
        older.unlink(missing_ok=True)
