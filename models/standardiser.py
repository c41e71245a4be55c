"""Standardising by the statistics of the training items, learned while training goes by."""

import torch
from torch import Tensor, nn

from clipmill.models.base import ALONE, Workers


class Standardiser(nn.Module):
    """Takes away the mean of each column and divides by its standard deviation, by 1 where that is 0.

    In training, where gradients are recorded, it first learns from the rows it is given. Its statistics are of all of
    them, whatever the batches they came in, but old batches fade: what it standardises moves while the layers before it
    are trained.

    Args:
        decay: by which a batch counts less with each one after it; 1: all alike.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int, decay: float = 0.99) -> None:  # ours
        super().__init__()
        self.decay = decay
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    @torch.no_grad()
    def learn(self, rows: Tensor, workers: Workers = ALONE) -> None:
        """Adds the rows of all workers, of which this one has ``[n, dim]``, to the statistics."""
        rows, alone = rows.to(self.mean.dtype), workers.num_workers == 1
        number = len(rows) if alone else int(workers.add_up(torch.tensor(len(rows), device=rows.device)))
        if not number:
            return
        mean = rows.mean(dim=0) if alone else workers.add_up(rows.sum(dim=0)) / number
        own = rows.var(dim=0, correction=0) if alone else workers.add_up((rows - mean).square().sum(dim=0)) / number
        before = self.count * self.decay
        after = before + number
        shift = mean - self.mean
        # Of two groups: the variance within both, and that between their means.
        within = (self.variance * before + own * number) / after
        self.variance.copy_(within + shift.square() * (before * number) / after.square())
        self.mean.add_(shift * (number / after))
        self.count.copy_(after)

    def forward(self, rows: Tensor, workers: Workers = ALONE) -> Tensor:
        """Returns rows ``[n, dim]`` standardised; as they are before anything was learned."""
        if self.training and torch.is_grad_enabled():
            self.learn(rows, workers)
        deviation = self.variance.sqrt()
        standardised: Tensor = (rows - self.mean) / torch.where(deviation > 0, deviation, 1.0)
        return standardised
