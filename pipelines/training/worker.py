"""What every training worker does, alone or among others: start or go on, train, write down."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from clipmill.models import registry, scaling
from clipmill.models.base import BeginsWithWords, ModelCard, Prepares, Sizes
from clipmill.models.checkpoints import Origin, TrainedModel, checkpoint_path, checkpoints, load, save
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.training.event_files import event_files
from clipmill.pipelines.training.loop import Training, TrainingItems, num_batches, train, validation_losses
from clipmill.pipelines.training.optimiser import Optimiser, learning_rate_factor
from clipmill.pipelines.training.parallel import Parallel
from clipmill.pipelines.training.phases import Turns, planned_phases
from clipmill.pipelines.training.run_folder import RunFolder, better, data_fingerprint, has_run_out
from clipmill.schemas.config import ModelTrainConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import InputRows, Tokens


@dataclass(frozen=True, slots=True)
class TrainJob:
    """Everything a worker needs; it reads no config file and no store.

    Attributes:
        config: resolved, see `train.resolve`.
        identity: see `run_folder.identity`.
        folder: absolute path of the run, reachable from every worker.
        start_epoch: of the checkpoint to go on from; 0: start.
    """

    config: ModelTrainConfig
    items: Items
    identity: Mapping[str, Any]
    folder: str
    start_epoch: int

    @property
    def num_items(self) -> int:
        """How many are trained on."""
        return int((self.items.part == "train").sum())

    def work(self, parallel: Parallel, device: torch.device, stop_requested: Callable[[], bool]) -> int:
        """Trains as one of several workers."""
        return work(self, parallel, device, stop_requested)

    @property
    def card(self) -> ModelCard:
        """The card of the model as its options make it."""
        model = self.config.model
        return registry.card(model.name, registry.resolve_options(model.name, model.options))

    @property
    def swap_patience(self) -> tuple[int, ...]:
        """When parts of the model that learn in turns change places; see `Turns`."""
        return ()

    def start(self, device: torch.device) -> TrainedModel:
        """Returns the model to train, on its device; see `start`."""
        trained = start(self)
        trained.model.to(device)
        return trained

    def save(self, trained: TrainedModel) -> None:
        """Writes the checkpoint of an epoch."""
        save(checkpoint_path(self.folder, trained.epoch), trained)

    def delete(self, epoch: int) -> None:
        """Deletes the checkpoint of an epoch."""
        checkpoint_path(self.folder, epoch).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class EpochDone:
    """What an observer is told after each epoch, or iteration of a solution.

    Attributes:
        epoch, num_epochs: done, and in all.
        losses: mean over the epoch's items, by name.
        seconds: of this epoch.
        num_items: trained on per epoch.
    """

    epoch: int
    num_epochs: int
    losses: Mapping[str, float]
    seconds: float
    num_items: int


def start(job: TrainJob) -> TrainedModel:
    """Returns the model to train: the checkpoint's, or a fresh one with its scaling fitted on the training items."""
    if job.start_epoch:
        return load(checkpoints(job.folder)[job.start_epoch])
    config, items = job.config, job.items
    options = registry.resolve_options(config.model.name, config.model.options)
    sizes = Sizes({name: source.dim for name, source in items.sources.items()}, len(items.label_names))
    model = registry.build(config.model.name, options, sizes, config.loop.seed)
    training = items.of("train")
    if isinstance(model, Prepares):
        model.prepare(training.inputs, items.vocabularies)
    kind: scaling.Kind = getattr(model, "scaling", "none")
    for name, (vectors, known) in items.word_vectors.items():
        if not isinstance(model, BeginsWithWords):
            raise ValueError(f"model {config.model.name}: expected begin_with_words, as its tokens have vector_dim")
        model.begin_with_words(name, torch.from_numpy(vectors), torch.from_numpy(known))
    floats = [name for name, given in job.card.inputs.items() if not isinstance(given, Tokens)]
    return TrainedModel(
        name=config.model.name,
        options=options.model_dump(mode="json"),
        sizes=sizes,
        model=model,
        scalings={name: _fitted(kind, training.inputs[name]) for name in floats},
        origin=Origin(
            store_url=items.store_url,
            dataset=items.dataset,
            inputs=items.sources,
            fingerprint=data_fingerprint(items, config.loop.select),
            label_names=items.label_names,
            test_clip_ids=items.test_clip_ids,
            config=config.model_dump(mode="json", by_alias=True),
            vocabularies=items.vocabularies,
        ),
        epoch=0,
    )


def _fitted(kind: scaling.Kind, rows: InputRows) -> scaling.Scaling:
    # Rows that items share may be others' than theirs, too; only one kind looks at them.
    return scaling.fit(kind, rows.unshared().values if kind == "min_max" else rows.values)


def scaled_inputs(trained: TrainedModel, items: Items) -> dict[str, Any]:
    """Returns the inputs of `items` as the model takes them."""
    return {name: trained.scaled(name, rows) for name, rows in items.inputs.items()}


def placed(trained: TrainedModel, items: Items, device: torch.device) -> TrainingItems:
    """Returns `items` on the device, scaled as the model takes them."""
    label = items.label if items.label_names else None
    return TrainingItems.on_device(scaled_inputs(trained, items), label, device, items.targets)


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

    Raises:
        UsageError: a loss is not finite, or the model has no loss `loop.select`; TensorBoard is wanted and not there.
    """
    config = job.config.loop
    trained = job.start(device)
    phases = planned_phases(trained.model, config)
    optimiser = Optimiser(trained.model, config, phases)
    if trained.epoch:
        optimiser.load_state(trained.training)
        torch.set_rng_state(trained.training["torch_rng"])
    items, card = placed(trained, job.items.of("train"), device), job.card
    validation = None if config.select == "last" else placed(trained, job.items.of("validation"), device)
    folder, began = RunFolder(job.folder), time.monotonic()
    best = folder.best(config.select)
    turns = Turns(job.swap_patience, (line["validation"][config.select] for line in folder.validated()))
    training = Training(
        trained.model, optimiser, items, config, phases, parallel, card.couples_batch, card.gathers, turns
    )

    def after_epoch(epoch: int, losses: dict[str, float]) -> bool:
        nonlocal began, best
        check_finite(epoch, losses)
        line: dict[str, Any] = {"epoch": epoch, "losses": losses}
        if job.swap_patience:
            line["turn"] = turns.number
        stopping = False
        if parallel.rank == 0:
            if validation is not None:
                line["validation"] = validation_losses(training, validation)
                best = better(best, epoch, line["validation"], config.select)
                turns.add(line["validation"][config.select])
            stopping = stop_requested() or has_run_out(best, epoch, config.patience)
        told = torch.tensor([stopping, turns.number if parallel.rank == 0 else 0], dtype=torch.float32, device=device)
        told = parallel.add_up(told)
        stopping, turns.number = bool(told[0] > 0), int(told[1])
        if parallel.rank == 0:
            done = EpochDone(epoch, config.epochs, losses, time.monotonic() - began, len(items))
            # Before the checkpoint: a line too many is dropped when the run goes on, a missing one could not be filled.
            line["seconds"] = round(done.seconds, 6)
            folder.add_metrics(line)
            used = None if best is None else best.epoch
            if stopping or used == epoch or epoch == config.epochs or epoch % config.checkpoint_every_epochs == 0:
                save_epoch(job, replace(trained, epoch=epoch), optimiser.state(), used)
            events.add(line, config.learning_rate * learning_rate_factor(config, epoch - 1, 0, num_batches(training)))
            on_epoch(done)
            began = time.monotonic()
        return not stopping

    wanted = job.config.tensorboard and parallel.rank == 0
    with event_files(job.folder, trained.epoch, wanted) as events:
        return train(training, after_epoch, trained.epoch)


def check_finite(epoch: int, losses: Mapping[str, float]) -> None:
    """Makes sure that all losses are finite.

    Raises:
        UsageError: one is not.
    """
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


def save_epoch(job: TrainJob, trained: TrainedModel, state: Mapping[str, Any], best: int | None) -> None:
    """Writes the checkpoint of an epoch and deletes those that are no longer kept.

    Args:
        state: what going on needs besides the position and the random state.
        best: the epoch the run is used by so far; None: the last.
    """
    training = {
        **state,
        # The order of the items and the noise of epoch e are drawn from (seed, e): this is the whole position.
        "sampler": {"epoch": trained.epoch, "seed": job.config.loop.seed, "batch": job.config.loop.batch},
        "torch_rng": torch.get_rng_state(),
        "identity": dict(job.identity),
    }
    job.save(replace(trained, training=training))
    if best is not None:
        RunFolder(job.folder).select(best)
    for epoch in list(checkpoints(job.folder))[: -job.config.loop.keep_checkpoints]:
        if epoch != best:
            job.delete(epoch)
