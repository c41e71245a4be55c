"""What every worker that trains on videos does, alone or among others: start or go on, train, write down.

Order of the items, places of windows and crops, mirroring, dropout and sampled regions are functions of (seed, epoch,
item), so a run can stop and go on at any epoch and ends with the same bits. A step's loss is the mean over the global
batch; each worker adds up its share of it, and gradients are added up over the workers.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clipmill.extractors import registry
from clipmill.extractors.learner import Learner, Learning
from clipmill.models.checkpoints import checkpoint_path, checkpoints
from clipmill.pipelines.datasets.epoch_order import epoch_order
from clipmill.pipelines.training.parallel import Parallel, share
from clipmill.pipelines.training.run_folder import RunFolder, better, has_run_out
from clipmill.pipelines.training.videos.checkpoints import VideoCheckpoint, load, save
from clipmill.pipelines.training.videos.frames import Drawing, Drawn, FrameSource, Shown
from clipmill.pipelines.training.videos.items import VideoItems
from clipmill.pipelines.training.worker import EpochDone, check_finite
from clipmill.schemas.config_videos import VideoLoopConfig, VideoTrainConfig
from clipmill.schemas.model import validate
from clipmill.schemas.recipe import Recipe


@dataclass(frozen=True, slots=True)
class VideoTrainJob:
    """Everything a worker needs; it reads no config file, no manifest and no annotations.

    Attributes:
        config: resolved, see `videos.train.resolve`.
        recipe: of the network that is trained.
        feature: see `VideoCheckpoint`.
        identity: what must be equal for a run to go on.
        folder: absolute path of the run, reachable from every worker.
        start_epoch: of the checkpoint to go on from; 0: start.
    """

    config: VideoTrainConfig
    recipe: Recipe
    items: VideoItems
    feature: Mapping[str, Any]
    identity: Mapping[str, Any]
    folder: str
    start_epoch: int

    @property
    def num_items(self) -> int:
        """How many are trained on."""
        return len(self.items)

    @property
    def learner(self) -> Learner:
        """How the network is trained."""
        return registry.learner(self.config.model.name)

    @property
    def validates(self) -> bool:
        """Whether an epoch is selected by its losses on the validation split."""
        return self.config.loop.select != "last"

    def work(self, parallel: Parallel, device: torch.device, stop_requested: Callable[[], bool]) -> int:
        """Trains as one of several workers."""
        return work(self, parallel, device, stop_requested)


class Descent:
    """Stochastic gradient descent with momentum over a network's groups of parameters.

    Attributes:
        optimiser: PyTorch's.
    """

    def __init__(self, learning: Learning, loop: VideoLoopConfig) -> None:
        self._loop = loop
        groups = learning.groups()
        self._rates = [group.rate for group in groups]
        self.optimiser = torch.optim.SGD(
            [
                {"params": list(group.parameters), "weight_decay": loop.weight_decay if group.decays else 0.0}
                for group in groups
            ],
            lr=loop.learning_rate,
            momentum=loop.momentum,
        )
        moving = {id(parameter) for group in groups for parameter in group.parameters}
        for parameter in learning.network.parameters():
            parameter.requires_grad_(id(parameter) in moving)
        self.parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group.parameters]

    def begin(self) -> None:
        """Sets all gradients to zero: a worker without an item of the batch has them too."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()

    def step(self, epoch: int) -> None:
        """Moves the parameters, whose gradients are those of the global batch by now."""
        if self._loop.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self._loop.max_gradient_norm)
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = learning_rate(self._loop, epoch) * rate
        self.optimiser.step()


def learning_rate(loop: VideoLoopConfig, epoch: int) -> float:
    """Returns the learning rate of epoch `epoch`, from 0."""
    lowered = loop.learning_rate * loop.gamma ** sum(epoch >= milestone for milestone in loop.milestones)
    return max(lowered, min(loop.least_learning_rate, loop.learning_rate))


def work(
    job: VideoTrainJob,
    parallel: Parallel,
    device: torch.device,
    stop_requested: Callable[[], bool],
    on_epoch: Callable[[EpochDone], None] = lambda done: None,
) -> int:
    """Trains and returns the last epoch done; worker 0 writes metrics and checkpoints and decides when to stop.

    Raises:
        UsageError: a loss is not finite, or a video does not decode.
        MachineFaultError: no decode child could be started.
    """
    learner, loop = job.learner, job.config.loop
    options = validate(learner.options, job.config.model.training, "model.training")
    learning = learner.start(job.recipe, options, job.items.classes, device)
    descent = Descent(learning, loop)
    if job.start_epoch:
        checkpoint = load(checkpoints(job.folder)[job.start_epoch])
        learning.load(checkpoint.weights)
        descent.optimiser.load_state_dict(dict(checkpoint.training["optimiser"]))
    augmentation = learner.augmentation(job.recipe, options)
    drawing = Drawing(job.items, job.recipe, augmentation, loop.seed)
    wanted = _wanted(job, parallel, drawing)
    folder, epoch = RunFolder(job.folder), job.start_epoch
    best = folder.best(loop.select)
    with FrameSource(job.items, job.recipe, job.config.decode, wanted) as source:
        while epoch < loop.epochs:
            began = time.monotonic()
            means = _train_epoch(job, learning, descent, parallel, source, epoch)
            epoch += 1
            check_finite(epoch, means)
            line: dict[str, Any] = {"epoch": epoch, "losses": means}
            if job.validates:
                line["validation"] = _validation_losses(job, learning, parallel, source)
                best = better(best, epoch, line["validation"], loop.select)
            stopping = parallel.rank == 0 and (stop_requested() or has_run_out(best, epoch, loop.patience))
            stopping = bool(parallel.add_up(torch.tensor(float(stopping), device=device)) > 0)
            if parallel.rank == 0:
                done = EpochDone(epoch, loop.epochs, means, time.monotonic() - began, len(job.items))
                # Before the checkpoint: a line too many is dropped when the run goes on, a missing one could not.
                folder.add_metrics(line | {"seconds": round(done.seconds, 6)})
                used = None if best is None else best.epoch
                if stopping or used == epoch or epoch == loop.epochs or epoch % loop.checkpoint_every_epochs == 0:
                    _save(job, learning, descent, epoch, used)
                on_epoch(done)
            if stopping:
                break
    return epoch


def _wanted(job: VideoTrainJob, parallel: Parallel, drawing: Drawing) -> Iterator[Drawn]:
    """Yields this worker's items, from the first epoch that is left to the last."""
    for epoch in range(job.start_epoch, job.config.loop.epochs):
        for _, ours in _batches(job, parallel, epoch):
            for number in ours:
                yield drawing(epoch, number)
        if job.validates:
            for number in _validated(job, parallel):
                yield drawing.validation(number)


def _validated(job: VideoTrainJob, parallel: Parallel) -> range:
    """Returns the items of the validation split that are this worker's."""
    return range(len(job.items.validation))[share(len(job.items.validation), parallel.rank, parallel.num_workers)]


def _batches(job: VideoTrainJob, parallel: Parallel, epoch: int) -> Iterator[tuple[int, list[int]]]:
    """Yields, of each global batch of an epoch, its size and the items of it that are this worker's."""
    order = epoch_order(len(job.items), job.config.loop.seed, epoch)
    for start in range(0, len(order), job.config.loop.batch):
        taken = order[start : start + job.config.loop.batch]
        yield len(taken), taken[share(len(taken), parallel.rank, parallel.num_workers)].tolist()


def _train_epoch(
    job: VideoTrainJob,
    learning: Learning,
    descent: Descent,
    parallel: Parallel,
    source: FrameSource,
    epoch: int,
) -> dict[str, float]:
    """Takes the steps of epoch `epoch` (from 0); returns the mean of each loss over all items, as before each step."""
    names, loop = job.learner.losses, job.config.loop
    learning.begin_epoch(epoch, loop)
    device = descent.parameters[0].device
    sums = torch.zeros(len(names), dtype=torch.float64, device=device)
    for num_items, ours in _batches(job, parallel, epoch):
        descent.begin()
        at_once = loop.at_once or len(ours) or 1
        for start in range(0, len(ours), at_once):
            losses = _losses(learning, [next(source) for _ in ours[start : start + at_once]])
            (losses["total"].sum() / num_items).backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([losses[name].detach().sum().double() for name in names])
        parallel.add_up_gradients(descent.parameters)
        descent.step(epoch)
        if parallel.num_workers > 1:
            _average_statistics(learning.network, parallel, len(ours) / num_items)
    total = parallel.add_up(sums).tolist()
    return {name: value / len(job.items) for name, value in zip(names, total, strict=True)}


def _validation_losses(
    job: VideoTrainJob, learning: Learning, parallel: Parallel, source: FrameSource
) -> dict[str, float]:
    """Returns the mean of each loss over the validation split's items, and moves nothing."""
    names, ours = job.learner.losses, _validated(job, parallel)
    device = next(learning.network.parameters()).device
    sums = torch.zeros(len(names), dtype=torch.float64, device=device)
    learning.network.eval()
    at_once = job.config.loop.at_once or job.config.loop.batch
    with torch.no_grad():
        for start in range(0, len(ours), at_once):
            losses = _losses(learning, [next(source) for _ in ours[start : start + at_once]])
            sums += torch.stack([losses[name].sum().double() for name in names])
    total = parallel.add_up(sums).tolist()
    return {name: value / len(job.items.validation) for name, value in zip(names, total, strict=True)}


def _losses(learning: Learning, shown: Sequence[Shown]) -> Mapping[str, Tensor]:
    return learning.losses(
        [item.pixels for item in shown], [item.target for item in shown], [item.generator for item in shown]
    )


def _average_statistics(network: nn.Module, parallel: Parallel, weight: float) -> None:
    """Makes the running statistics of batch norm those of all workers, weighed by their shares of the batch."""
    buffers: Sequence[Tensor] = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    flat = parallel.add_up(torch.cat([buffer.reshape(-1) for buffer in buffers]) * weight)
    start = 0
    for buffer in buffers:
        buffer.copy_(flat[start : start + buffer.numel()].view_as(buffer))
        start += buffer.numel()


def _save(job: VideoTrainJob, learning: Learning, descent: Descent, epoch: int, best: int | None) -> None:
    """Writes the checkpoint of an epoch and deletes those that are no longer kept.

    Args:
        best: the epoch the run is used by so far; None: the last.
    """
    training = {"identity": dict(job.identity), "optimiser": descent.optimiser.state_dict()}
    checkpoint = VideoCheckpoint(learning.published(), job.feature, job.items.classes, epoch, training)
    save(checkpoint_path(job.folder, epoch), checkpoint)
    if best is not None:
        RunFolder(job.folder).select(best)
    for other, path in list(checkpoints(job.folder).items())[: -job.config.loop.keep_checkpoints]:
        if other != best:
            path.unlink(missing_ok=True)
