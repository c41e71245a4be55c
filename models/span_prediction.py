"""Where a moment begins and ends: losses and answers of models that score each step as either.

A moment's first step i and last step j are scored by two vectors of logits over the steps of its video. Its probability
is softmax(begin)_i softmax(end)_j with i <= j (C. Ghosh et al., ExCL, NAACL 2019; H. Zhang et al., VSLNet, ACL 2020).
"""

import torch
from torch import Tensor
from torch.nn import functional

from clipmill.models.base import Spans


def masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Returns `logits` ``[B, N]`` with the least finite number where `mask` is False."""
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


def boundary_losses(begin: Tensor, end: Tensor, mask: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
    """Returns -log softmax(begin)_i and -log softmax(end)_j, ``[B]`` each.

    Args:
        begin, end: logits ``[B, N]``.
        span: ``int64[B, 2]``, i and j.
    """
    return (
        functional.cross_entropy(masked(begin, mask), span[:, 0], reduction="none"),
        functional.cross_entropy(masked(end, mask), span[:, 1], reduction="none"),
    )


def inside_loss(logits: Tensor, mask: Tensor, span: Tensor) -> Tensor:
    """Returns ``[B]``, the mean over an item's steps of the cross entropy of being inside its moment or not.

    Args:
        logits: ``[B, N]`` of being inside.
    """
    place = torch.arange(logits.shape[1], device=logits.device)
    inside = (place >= span[:, :1]) & (place <= span[:, 1:])
    # By logits: autocast refuses the cross entropy of probabilities in half precision.
    each = functional.binary_cross_entropy_with_logits(logits, inside.to(logits.dtype), reduction="none")
    return (each * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def best_spans(begin: Tensor, end: Tensor, mask: Tensor, num_answers: int) -> Spans:
    """Returns the pairs of begin and end, i <= j, of the highest probability, which is their score.

    Args:
        begin, end: logits ``[B, N]``.
    """
    first, last = (functional.log_softmax(masked(side, mask).float(), dim=1) for side in (begin, end))
    num_steps = begin.shape[1]
    pairs = first[:, :, None] + last[:, None, :]
    allowed = torch.ones(num_steps, num_steps, dtype=torch.bool, device=mask.device).triu()
    allowed = allowed & mask[:, :, None] & mask[:, None, :]
    flat = pairs.masked_fill(~allowed, -torch.inf).flatten(1)
    found = flat.topk(min(num_answers, flat.shape[1]), dim=1)
    begins, ends = found.indices // num_steps, found.indices % num_steps
    score = found.values.exp().masked_fill(found.values == -torch.inf, -torch.inf)
    return Spans(torch.stack([begins, ends + 1], dim=-1).float(), score)
