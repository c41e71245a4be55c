"""Which item of a batch a triplet takes as its negative."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class HardNegatives:
    """For each item of a batch, another item of the batch.

    Attributes:
        index: ``int64[B]``; any item where there is none.
        exists: ``bool[B]``.
    """

    index: Tensor
    exists: Tensor


def nearest_of_other_labels(vectors: Tensor, label: Tensor) -> HardNegatives:
    """Returns, for each item, the one of another label whose vector has the greatest cosine with its own.

    Args:
        vectors: ``[B, D]``; no gradient goes through the choice.
        label: ``int64[B]``.
    """
    # In half precision many cosines would be equal.
    with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
        unit = functional.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
        other = label[:, None] != label
        cosine = torch.where(other, unit @ unit.T, -torch.inf)
        return HardNegatives(cosine.argmax(dim=1), other.any(dim=1))
