"""In which order an epoch's items come, and which of each global batch are one rank's: the order of ``clipmill train``.

Both are functions of (seed, epoch) and of the rank alone, so that the global batches are the same for any number of
ranks and workers.
"""

import hashlib

import torch


def epoch_order(num_items: int, seed: int, epoch: int) -> torch.Tensor:
    """Returns a permutation ``int64[num_items]``, drawn from (seed, epoch)."""
    digest = hashlib.blake2b(f"{seed} {epoch} -1".encode(), digest_size=8).digest()
    # 63 bits: what manual_seed takes without a sign.
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randperm(num_items, generator=generator)


def share(num_items: int, rank: int, num_ranks: int) -> slice:
    """Returns the part of a global batch that is `rank`'s: contiguous, sizes differing by at most one."""
    return slice(rank * num_items // num_ranks, (rank + 1) * num_items // num_ranks)
