"""The training loop. Everything random is a function of (seed, epoch, batch), so it can stop and go on at any epoch.

Order of the items: a permutation drawn per epoch. Noise that a model draws: drawn per global batch. Each worker draws
the whole of both and takes its share, so the numbers of a global batch do not depend on the number of workers.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clipmill.models.base import ALONE, Batch, MeasuresValidation, Side, Step, Values
from clipmill.pipelines.training.optimiser import Optimiser, autocast, learning_rate_factor
from clipmill.pipelines.training.parallel import Parallel, share
from clipmill.pipelines.training.phases import PlannedPhase, Turns
from clipmill.schemas.arrays import Array, Ints
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.inputs import InputRows


@dataclass(frozen=True, slots=True)
class DeviceRows:
    """One input of all items on the device: rows one entry after the other, and where each entry's begin.

    Attributes:
        entry: ``int64[n]``, the entry of each item, where items share rows; None: item i has those of entry i.
    """

    values: Tensor
    offsets: Tensor | None
    entry: Tensor | None = None

    def take(self, items: Tensor, length: int) -> Values:
        """Returns the rows of the items `items` ``int64[B]``, filled up to `length` where items have several."""
        if self.offsets is None:
            return Values(self.values[items])
        first, lengths = self._extent(self.offsets, items)
        place = torch.arange(length, device=items.device)
        mask = place < lengths[:, None]
        rows = torch.where(mask, first[:, None] + place, 0)
        found = self.values[rows] if len(self.values) else self.values.new_zeros((*rows.shape, *self.values.shape[1:]))
        return Values(found * mask.view(*mask.shape, *[1] * (found.ndim - 2)), mask)

    def longest(self, items: Tensor) -> int:
        """Returns the number of rows of the longest of `items`, at least 1."""
        if self.offsets is None:
            return 1
        _, lengths = self._extent(self.offsets, items)
        return max(1, int(lengths.max()))

    def _extent(self, offsets: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Returns where the rows of each of `items` begin, and how many they are."""
        entries = items if self.entry is None else self.entry[items]
        return offsets[entries], offsets[entries + 1] - offsets[entries]


@dataclass(frozen=True, slots=True)
class TrainingItems:
    """Items on the device, scaled: their inputs by name, and ``int64[n]`` labels, or None where there are none.

    Attributes:
        targets: ``[n, ...]`` by name.
    """

    inputs: Mapping[str, DeviceRows]
    label: Tensor | None
    num_items: int
    targets: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.num_items

    @classmethod
    def on_device(
        cls,
        inputs: Mapping[str, InputRows],
        label: Ints | None,
        device: torch.device,
        targets: Mapping[str, Array] | None = None,
    ) -> "TrainingItems":
        """Returns the items as tensors on `device`."""

        def there(values: Array | None) -> Tensor | None:
            return None if values is None else torch.from_numpy(values).to(device)

        rows = {
            name: DeviceRows(torch.from_numpy(item.values).to(device), there(item.offsets), there(item.entry))
            for name, item in inputs.items()
        }
        num_items = len(next(iter(inputs.values())))
        wanted = {name: torch.from_numpy(values).to(device) for name, values in (targets or {}).items()}
        return cls(rows, there(label), num_items, wanted)

    def lengths(self, items: Tensor) -> dict[str, int]:
        """Returns, by input, the rows of the longest of `items`."""
        return {name: rows.longest(items) for name, rows in self.inputs.items()}

    def batch(self, items: Tensor, lengths: Mapping[str, int], **rest: Any) -> Batch:
        """Returns the items at `items` ``int64[B]``, their inputs filled up to `lengths`."""
        inputs = {name: rows.take(items, lengths[name]) for name, rows in self.inputs.items()}
        targets = {name: values[items] for name, values in self.targets.items()}
        return Batch(inputs, None if self.label is None else self.label[items], targets=targets, **rest)


@dataclass(frozen=True, slots=True)
class Training:
    """What an epoch needs: the model, its optimiser, the items, and how the work is shared.

    Attributes:
        couples_batch: the losses are scalars over the whole batch, the same numbers on every worker.
        gathers: then each worker has its share alone and the losses gather what they compare; else each has all of it.
        turns: whose turn it is, where parts of the model learn in turns.
    """

    model: Any
    optimiser: Optimiser
    items: TrainingItems
    config: LoopConfig
    phases: Sequence[PlannedPhase]
    parallel: Parallel
    couples_batch: bool = False
    gathers: bool = False
    turns: Turns = field(default_factory=Turns)

    @property
    def device(self) -> torch.device:
        """Where the items are."""
        return next(iter(self.items.inputs.values())).values.device


def train(training: Training, after_epoch: Callable[[int, dict[str, float]], bool], start_epoch: int = 0) -> int:
    """Trains epochs `start_epoch` + 1 to the last and returns the last one done.

    Args:
        after_epoch: called on every worker with the number of epochs done and the mean of each loss over the epoch's
            items; False ends the training there.
    """
    epoch = start_epoch
    while epoch < training.config.epochs:
        means = train_epoch(training, epoch)
        epoch += 1
        if not after_epoch(epoch, means):
            break
    return epoch


def train_epoch(training: Training, epoch: int) -> dict[str, float]:
    """Takes the steps of every global batch of epoch `epoch` (from 0) and returns the mean of each loss over all items.

    The last batch of an epoch holds what is left. Means are of the losses as they were before each step; of a batch
    with several steps, before the first.
    """
    items, config = training.items, training.config
    phase = next(phase for phase in training.phases if epoch < phase.stop)
    order = torch.randperm(len(items), generator=_generator(config.seed, epoch, -1))
    batches = num_batches(training)
    sums: dict[str, Tensor] = {}
    training.model.train()
    for number in range(batches):
        taken = order[number * config.batch : (number + 1) * config.batch]
        progress = (epoch + number / batches) / config.epochs
        batch = _share_of(training, taken, epoch, number, progress, phase.name)
        factor = learning_rate_factor(config, epoch, number, batches)
        for place, step in enumerate(phase.steps_of(training.turns.number)):
            losses = _step(training, batch, step, factor, len(taken))
            if place == 0:
                _add(sums, losses, len(taken), training)
    total = training.parallel.add_up(torch.stack(list(sums.values()))).tolist()
    return {name: value / len(items) for name, value in zip(sums, total, strict=True)}


def num_batches(training: Training) -> int:
    """Returns the global batches of an epoch."""
    return -(-len(training.items) // training.config.batch)


def validation_losses(training: Training, items: TrainingItems) -> dict[str, float]:
    """Returns the mean of each loss over `items`, with the same noise each time, and moves nothing.

    And what else the model says of all of them, if it does: see `MeasuresValidation`.
    """
    sums: dict[str, float] = {}
    embedded: dict[Side, list[Mapping[str, Tensor]]] = {"query": [], "gallery": []}
    measured = isinstance(training.model, MeasuresValidation)
    training.model.eval()
    device = training.device
    with torch.no_grad(), autocast(training.config, device):
        for number, start in enumerate(range(0, len(items), training.config.batch)):
            taken = torch.arange(start, min(start + training.config.batch, len(items)))
            draws = _draws(training, len(taken), -1, number)
            placed = taken.to(device)
            batch = items.batch(
                placed,
                items.lengths(placed),
                draws={name: noise.to(device) for name, noise in draws.items()},
                progress=1.0,
                phase=training.phases[-1].name,
            )
            for name, values in training.model.losses(batch).items():
                mean = values.double().mean().item()
                sums[name] = sums.get(name, 0.0) + mean * len(taken)
            for side, blocks in embedded.items() if measured else ():
                blocks.append(training.model.embed(side, batch.inputs))
        found = {name: value / len(items) for name, value in sums.items()}
        if measured:
            query, gallery = (
                {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
                for blocks in embedded.values()
            )
            found |= training.model.measures(query, gallery)
    return found


def _share_of(training: Training, taken: Tensor, epoch: int, number: int, progress: float, phase: str) -> Batch:
    """Returns this worker's share of the global batch `taken`, all of it where the losses couple the batch."""
    items, parallel, device = training.items, training.parallel, training.device
    draws = _draws(training, len(taken), epoch, number)
    is_whole = training.couples_batch and not training.gathers
    ours = slice(None) if is_whole else share(len(taken), parallel.rank, parallel.num_workers)
    placed = taken.to(device)
    return items.batch(
        placed[ours],
        # Filled up alike on all workers, so that a share's numbers are those of the whole batch.
        items.lengths(placed),
        draws={name: noise[ours].to(device) for name, noise in draws.items()},
        progress=progress,
        phase=phase,
        turn=training.turns.number,
        workers=ALONE if is_whole else parallel.sharing(len(taken)),
    )


def _draws(training: Training, num_items: int, epoch: int, number: int) -> dict[str, Tensor]:
    shapes = training.model.draws() if hasattr(training.model, "draws") else {}
    generator = _generator(training.config.seed, epoch, number)
    return {name: torch.randn(num_items, *shapes[name], generator=generator) for name in sorted(shapes)}


def _step(training: Training, batch: Batch, step: Step, factor: float, num_items: int) -> Mapping[str, Tensor]:
    parallel, optimiser = training.parallel, training.optimiser
    with autocast(training.config, training.device):
        losses: Mapping[str, Tensor] = training.model.losses(batch)
    # A coupled loss is the whole batch's on every worker: of equal gradients the mean is taken.
    divisor = parallel.num_workers if training.couples_batch else num_items
    optimiser.begin()
    optimiser.backward(losses[step.loss].sum(dtype=_summed(losses[step.loss])) / divisor)
    parallel.add_up_gradients(optimiser.moved(step))
    optimiser.update(step, factor)
    return losses


def _add(sums: dict[str, Tensor], losses: Mapping[str, Tensor], num_items: int, training: Training) -> None:
    for name, values in losses.items():
        value = values.detach().sum(dtype=_summed(values))
        if training.couples_batch:
            value = value * num_items / training.parallel.num_workers
        sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64, device=values.device)) + value


def _summed(values: Tensor) -> torch.dtype:
    """Returns the precision in which `values` are added up: theirs, but single at least."""
    return torch.promote_types(values.dtype, torch.float32)


def _generator(seed: int, epoch: int, step: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed} {epoch} {step}".encode(), digest_size=8).digest()
    # 63 bits: what manual_seed takes without a sign.
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
