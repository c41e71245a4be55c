"""How a global batch is shared: one process, or several that add up gradients.

Each worker divides the sum of its pairs' losses by the size of the *global* batch; adding up the workers' gradients
then gives the gradient of the global mean, however unevenly the batch was cut. (Averaging per-worker means, as
DistributedDataParallel does, would weigh the pairs of a short share more.)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clipmill.models.base import ALONE, Workers


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

    def sharing(self, num_items: int) -> Workers:
        """Returns the workers as the losses of a global batch of `num_items` see them."""
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

    def sharing(self, num_items: int) -> Workers:
        """Returns one worker."""
        return ALONE


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
        return _sum_over_workers(values)

    def sharing(self, num_items: int) -> Workers:
        """Returns the workers as the losses of a global batch of `num_items` see them."""
        return SharedBatch(self.rank, self.num_workers, num_items)


@dataclass(frozen=True, slots=True)
class SharedBatch:
    """The workers of the process group, of which each has its `share` of `num_items`; see `models.base.Workers`.

    What a worker does with a gathered value may differ from what others do: its gradient is the sum of all of theirs.
    So losses that are computed whole on every worker are divided by the number of workers.
    """

    rank: int
    num_workers: int
    num_items: int

    def gather(self, values: Tensor) -> Tensor:
        """Returns ``[num_items, ...]`` of the workers' `values`."""
        shares = [share(self.num_items, rank, self.num_workers) for rank in range(self.num_workers)]
        gathered: Tensor = _Gather.apply(values, shares, self.rank)  # type: ignore[no-untyped-call]
        return gathered

    def add_up(self, values: Tensor) -> Tensor:
        """Returns the sum of `values` over the workers."""
        total: Tensor = _AddUp.apply(values)  # type: ignore[no-untyped-call]
        return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, shares: Sequence[slice], rank: int) -> Tensor:
        context.ours = shares[rank]
        sent = _as_sent(values)
        # Shares differ in length by one item, and all_gather wants equal ones.
        lengths = [part.stop - part.start for part in shares]
        received = [sent.new_zeros((max(lengths), *sent.shape[1:])) for _ in shares]
        own = received[rank].clone()
        own[: len(sent)] = sent
        torch.distributed.all_gather(received, own)
        gathered = torch.cat([part[:length] for part, length in zip(received, lengths, strict=True)])
        return gathered.to(values.dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _sum_over_workers(gradients[0])[context.ours], None, None


class _AddUp(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return _sum_over_workers(values)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return _sum_over_workers(gradients[0])


def _sum_over_workers(values: Tensor) -> Tensor:
    total = _as_sent(values).clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total)
    return total.to(values.dtype)


def _as_sent(values: Tensor) -> Tensor:
    """Returns `values`, of half precision in single: not every backend adds up or sends halves."""
    is_half = values.dtype in (torch.float16, torch.bfloat16)
    return values.float() if is_half else values


def share(num_items: int, rank: int, num_workers: int) -> slice:
    """Returns the part of a global batch that worker `rank` computes: contiguous, sizes differing by at most one."""
    return slice(rank * num_items // num_workers, (rank + 1) * num_items // num_workers)
