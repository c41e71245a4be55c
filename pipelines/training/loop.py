"""The training loop. Everything random is a function of (seed, epoch, batch), so it can stop and go on at any epoch.

Order of the pairs: a permutation drawn per epoch. Noise of the latent samples: drawn per global batch. Each worker
draws the whole of both and takes its share, so the numbers of a global batch do not depend on the number of workers.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipmill.models.registry import RetrievalModel
from clipmill.pipelines.training.parallel import Parallel, share
from clipmill.schemas.config import LoopConfig


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The training pairs on the device: ``float32[n, Di]``, ``float32[n, Dv]`` (both scaled), ``int64[n]``."""

    image: Tensor
    video: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def on_device(
        cls,
        image: npt.NDArray[np.float32],
        video: npt.NDArray[np.float32],
        label: npt.NDArray[np.int64],
        device: torch.device,
    ) -> "TrainingRows":
        """Returns the arrays as tensors on `device`."""
        return cls(
            torch.from_numpy(image).to(device), torch.from_numpy(video).to(device), torch.from_numpy(label).to(device)
        )


def make_optimiser(model: RetrievalModel, config: LoopConfig) -> torch.optim.Optimizer:
    """Returns Adam over the model's weights.

    One fused kernel: on a CPU its step takes a tenth of the plain one's time, which outweighs forward and backward.
    """
    return torch.optim.Adam(model.parameters(), lr=config.learning_rate, betas=(config.beta1, 0.999), fused=True)


def train(
    model: RetrievalModel,
    optimiser: torch.optim.Optimizer,
    rows: TrainingRows,
    config: LoopConfig,
    parallel: Parallel,
    after_epoch: Callable[[int, dict[str, float]], bool],
    start_epoch: int = 0,
) -> int:
    """Trains epochs `start_epoch` + 1 to `config.epochs` and returns the last one done.

    Args:
        after_epoch: called on every worker with the number of epochs done and the mean of each loss over the epoch's
            pairs; False ends the training there.
    """
    epoch = start_epoch
    while epoch < config.epochs:
        means = train_epoch(model, optimiser, rows, config, parallel, epoch)
        epoch += 1
        if not after_epoch(epoch, means):
            break
    return epoch


def train_epoch(
    model: RetrievalModel,
    optimiser: torch.optim.Optimizer,
    rows: TrainingRows,
    config: LoopConfig,
    parallel: Parallel,
    epoch: int,
) -> dict[str, float]:
    """Takes one step per global batch of epoch `epoch` (from 0) and returns the mean of each loss over all pairs.

    The last batch of an epoch holds what is left. Means are of the losses as they were before each step.
    """
    device = rows.label.device
    order = torch.randperm(len(rows), generator=_generator(config.seed, epoch, -1))
    sums: dict[str, Tensor] = {}
    for step, start in enumerate(range(0, len(rows), config.batch)):
        batch = order[start : start + config.batch]
        noise = torch.randn(len(batch), model.noise_dim, generator=_generator(config.seed, epoch, step))
        mine = share(len(batch), parallel.rank, parallel.num_workers)
        take = batch[mine].to(device)
        losses = model.losses(rows.image[take], rows.video[take], rows.label[take], noise[mine].to(device))
        optimiser.zero_grad(set_to_none=True)
        (losses["total"].sum() / len(batch)).backward()  # type: ignore[no-untyped-call]
        parallel.add_up_gradients(model.parameters())
        optimiser.step()
        for name, values in losses.items():
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64, device=device)) + values.detach().sum()
    total = parallel.add_up(torch.stack(list(sums.values()))).tolist()
    return {name: value / len(rows) for name, value in zip(sums, total, strict=True)}


def _generator(seed: int, epoch: int, step: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed} {epoch} {step}".encode(), digest_size=8).digest()
    # 63 bits: what manual_seed takes without a sign.
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
