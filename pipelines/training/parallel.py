"""How a global batch is shared: one process, or several that add up gradients.

Each worker divides the sum of its pairs' losses by the size of the *global* batch; adding up the workers' gradients
then gives the gradient of the global mean, however unevenly the batch was cut. (Averaging per-worker means, as
DistributedDataParallel does, would weigh the pairs of a short share more.)
"""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn


class Parallel(Protocol):
    """One worker's view of all workers."""

    @property
    def rank(self) -> int:
        """This worker, from 0; worker 0 writes the files."""
        ...

    @property
    def num_workers(self) -> int: ...

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces every gradient by its sum over the workers, the same bits on each."""
        ...

    def add_up(self, values: Tensor) -> Tensor:
        """Returns the sum of `values` over the workers."""
        ...


class OneProcess:
    """No other workers."""

    rank = 0
    num_workers = 1

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Leaves the gradients as they are."""

    def add_up(self, values: Tensor) -> Tensor:
        """Returns `values`."""
        return values


class ProcessGroup:
    """The workers of an initialised ``torch.distributed`` process group (gloo, nccl)."""

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.num_workers = torch.distributed.get_world_size()

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Adds all gradients in one message; a parameter that no loss reaches has none on any worker."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def add_up(self, values: Tensor) -> Tensor:
        """Returns the sum of `values` over the workers."""
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total


def share(num_items: int, rank: int, num_workers: int) -> slice:
    """Returns the part of a global batch that worker `rank` computes: contiguous, sizes differing by at most one."""
    return slice(rank * num_items // num_workers, (rank + 1) * num_items // num_workers)
