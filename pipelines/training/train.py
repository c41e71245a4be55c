"""``clipmill train``: from a config to a run folder with checkpoints and a report.

report = train(config, [print])
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

from clipmill.models import registry
from clipmill.models.base import ModelCard, resolved_loop
from clipmill.models.checkpoints import TrainedModel, checkpoint_path, load
from clipmill.pipelines.datasets.items import Items, read_items
from clipmill.pipelines.datasets.queries import read_query_items
from clipmill.pipelines.training.event_files import check_installed
from clipmill.pipelines.training.interruption import Interruption
from clipmill.pipelines.training.parallel import OneProcess
from clipmill.pipelines.training.phases import planned_phases
from clipmill.pipelines.training.run_folder import RunFolder, has_run_out, identity, rows_changed
from clipmill.pipelines.training.solve import check_config, solve
from clipmill.pipelines.training.worker import EpochDone, TrainJob, work
from clipmill.schemas.config import DataConfig, LoopConfig, ModelTrainConfig, TrainConfig
from clipmill.schemas.errors import UsageError, describe

EpochObserver = Callable[[EpochDone], None]
"""Is told of each epoch, in the process that called `train`; must not raise."""


C = TypeVar("C", bound=ModelTrainConfig)


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
        num_only: by input, clips left out because they have it but not all others.
        num_validation: clips that are neither trained on nor tested.
        selected_epoch: the epoch the run is used by.
        stopped_early: whether `loop.patience` came to its end before `loop.epochs` did.
        notes: what to know of how it was trained.
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
    num_only: Mapping[str, int]
    num_validation: int
    selected_epoch: int
    stopped_early: bool
    notes: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """Returns the report as plain types, for JSON."""
        plain = asdict(self)
        return plain | {f"num_only_{name}": count for name, count in plain.pop("num_only").items()}


def train(config: TrainConfig, observers: Sequence[EpochObserver] = ()) -> TrainReport:
    """Returns the report of a finished run; goes on from the newest checkpoint in `config.out` where there is one.

    Ctrl-C finishes the epoch in progress, writes a checkpoint and raises KeyboardInterrupt; a second one abandons the
    epoch, and the last checkpoint stands. Either way the same command goes on from it.

    Raises:
        UsageError: the config, the store or the run's folder cannot be used as given; see `read_items`, `RunFolder`.
        StorageUnavailableError: the folder cannot be written.
        EngineError: Ray lost a worker; the last checkpoint stands.
        KeyboardInterrupt: after Ctrl-C.
    """
    config = resolve(config)
    card = registry.card(config.model.name, registry.resolve_options(config.model.name, config.model.options))
    return train_items(config, items_for(config.data, card), observers)


def items_for(data: DataConfig, card: ModelCard) -> Items:
    """Returns what the model of `card` is trained on: clips, or, of one that localises, queries.

    Raises:
        UsageError: `data` does not serve the model; see `read_items` and `read_query_items`.
    """
    if card.task == "moments":
        return read_query_items(data, card.inputs)
    if data.queries is not None:
        expected = f"none, as {card.name} is no model of moments"
        raise UsageError(describe("data", "queries", expected, data.queries.train.file, "leave it out"))
    return read_items(data, card.inputs, card.needs_labels)


def resolve(config: C) -> C:
    """Returns `config` with the loop as the model's publication has it, where the job says nothing else.

    Raises:
        UsageError: there is no such model.
        ConfigError: an option of the model does not fit.
    """
    options = registry.resolve_options(config.model.name, config.model.options)
    card = registry.card(config.model.name, options)
    if card.closed_form:
        check_config(config)
    return config.model_copy(update={"loop": resolved_loop(card, config.loop)})


def train_items(
    config: ModelTrainConfig,
    items: Items,
    observers: Sequence[EpochObserver] = (),
    job_of: Callable[[ModelTrainConfig, Items, Mapping[str, Any], str, int], TrainJob] = TrainJob,
    moved: tuple[str, ...] = (),
) -> TrainReport:
    """Returns the report of a finished run on `items` as they are; see `train`.

    Args:
        job_of: what makes the job of the attributes of `TrainJob`.
        moved: beginnings of keys of the config that may change while a run goes on, beside `MAY_CHANGE`.
    """
    started = time.monotonic()
    config = resolve(config)
    options = registry.resolve_options(config.model.name, config.model.options)
    card = registry.card(config.model.name, options)
    plain = options.model_dump(mode="json")
    folder = RunFolder(config.out)
    _check_validation(config, items)
    if not card.closed_form:
        _check_batch(config, card, items)
    if config.tensorboard:
        check_installed()
    wanted = {key: value for key, value in identity(config, plain, items).items() if not key.startswith(moved)}
    on_ray = config.trainer.name == "ray"
    device = "ray" if on_ray else "cpu" if card.closed_form else str(resolve_device(config.loop.device))
    checkpoint = folder.open(
        config, wanted, load, card.closed_form, lambda newest, differ: rows_changed(newest, items.sources, differ)
    )
    if checkpoint is not None and not card.closed_form:
        _check_same_phases(config, checkpoint)
    job = job_of(config, items, wanted, str(folder.path), checkpoint.epoch if checkpoint else 0)

    def tell(done: EpochDone) -> None:
        for observer in observers:
            observer(done)

    def is_finished(epoch: int) -> bool:
        return epoch >= config.loop.epochs or has_run_out(folder.best(config.loop.select), epoch, config.loop.patience)

    epoch = job.start_epoch
    if card.closed_form:
        if not epoch:
            with use_threads(config.loop.threads):
                epoch = solve(job, tell)
    elif not is_finished(epoch):
        if on_ray:
            from clipmill.pipelines.training.ray_train import run_on_ray

            epoch, device = run_on_ray(job, tell)
        else:
            epoch = run_here(job, tell)
    best = folder.best(config.loop.select)
    if best is not None:
        folder.select(best.epoch)  # Once more: a run may have been killed between a checkpoint and this.
    stopped_early = not card.closed_form and epoch < config.loop.epochs and is_finished(epoch)
    report = TrainReport(
        out=config.out,
        checkpoint=str(checkpoint_path(config.out, epoch)),
        epoch=epoch,
        start_epoch=job.start_epoch,
        seconds=time.monotonic() - started,
        losses=tuple(line["losses"] for line in folder.metrics()),
        model=config.model.name,
        options=plain,
        trainer=config.trainer.name,
        num_workers=config.trainer.workers if on_ray else 1,
        device=device,
        num_train=int((items.part == "train").sum()),
        num_test=len(items.test_clip_ids),
        num_labels=len(items.label_names),
        labels_without_training=items.labels_without_training,
        labels_without_test=items.labels_without_test,
        num_only=items.num_only,
        num_validation=int((items.part == "validation").sum()),
        selected_epoch=epoch if best is None else best.epoch,
        stopped_early=stopped_early,
        notes=(*items.notes, *_notes(card, config, items, stopped_early)),
    )
    folder.write_report(report.to_plain())
    if not (card.closed_form or stopped_early) and epoch < config.loop.epochs:
        raise KeyboardInterrupt(
            f"stopped after epoch {epoch} of {config.loop.epochs}, which is kept; run the same command again to go on"
        )
    return report


def _check_validation(config: ModelTrainConfig, items: Items) -> None:
    if config.loop.select != "last" and not (items.part == "validation").any():
        raise UsageError(
            describe(
                "loop.select",
                config.loop.select,
                "clips to validate on",
                "none",
                "set data.split.validation_fraction, or mark videos of the manifest as validation",
            )
        )


def _check_batch(config: ModelTrainConfig, card: ModelCard, items: Items) -> None:
    """Makes sure that a batch the job asks for is there; of fewer items than the publication's it is all of them."""
    num_items, batch = int((items.part == "train").sum()), config.loop.batch
    if batch > num_items and batch != resolved_loop(card, LoopConfig()).batch:
        expected = f"at most the {num_items} clips there are to train on"
        remedy = "lower it, or leave it out: the model's own is cut down to what there is"
        raise UsageError(describe("loop", "batch", expected, str(batch), remedy))


def _check_same_phases(config: ModelTrainConfig, checkpoint: TrainedModel) -> None:
    """Makes sure that the epochs behind a checkpoint were those that `config` would have given.

    The phases of a model, and a cosine, are laid over all epochs, so another number of them moves what is done already.
    """
    now, then = config.loop, LoopConfig.model_validate(checkpoint.origin.config["loop"])
    if now.epochs == then.epochs:
        return
    names = [
        [
            next(phase.name for phase in planned_phases(checkpoint.model, loop) if epoch < phase.stop)
            for epoch in range(checkpoint.epoch)
        ]
        for loop in (now, then)
    ]
    if names[0] != names[1] or now.schedule == "cosine":
        what = "cosine is" if now.schedule == "cosine" else f"phases of {checkpoint.name} are"
        expected = f"the {then.epochs} that the run began with, over which the {what} laid"
        remedy = "give another out folder, or resume: false to start again"
        raise UsageError(describe("loop", "epochs", expected, str(now.epochs), remedy))


def _notes(card: ModelCard, config: ModelTrainConfig, items: Items, stopped_early: bool) -> tuple[str, ...]:
    notes, num_items = [], int((items.part == "train").sum())
    if card.couples_batch and not card.gathers and config.trainer.name == "ray" and config.trainer.workers > 1:
        notes.append(
            f"the losses of {card.name} compare the items of a batch, so each worker computed whole batches: "
            "the numbers are those of one worker, and so is the time"
        )
    if not card.closed_form and config.loop.batch > num_items:
        notes.append(
            f"all {num_items} clips were one batch: there are fewer than the {config.loop.batch} of {card.name}"
        )
    if stopped_early:
        notes.append(
            f"stopped early: {config.loop.patience} epochs without a smaller {config.loop.select} in validation"
        )
    return tuple(notes)


def run_here(job: TrainJob, on_epoch: EpochObserver) -> int:
    """Trains in this process and returns the last epoch done."""
    with Interruption() as interruption, use_threads(job.config.loop.threads):
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
def use_threads(num_threads: int) -> Iterator[None]:
    """Has PyTorch compute with so many threads; 0: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
