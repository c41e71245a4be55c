"""Scaled dot-product attention of several heads, in which what a mask leaves out is neither seen nor computed with."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """MHA(Q, K, V) of A. Vaswani et al., NIPS 2017, whose keys and values are one sequence.

    Args:
        dim: of queries, keys and outputs; a multiple of `num_heads`.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, queries: Tensor, query_mask: Tensor, keys: Tensor, key_mask: Tensor) -> Tensor:
        """Returns ``[B, Q, dim]``, zeros where `query_mask` is False.

        Args:
            queries: ``[B, Q, dim]``.
            keys: ``[B, K, dim]``; each item has at least one that `key_mask` leaves in.
        """
        heads = (self._split(self.query(queries)), self._split(self.key(keys)), self._split(self.value(keys)))
        found = functional.scaled_dot_product_attention(*heads, attn_mask=key_mask[:, None, None, :])
        joined = found.transpose(1, 2).flatten(2)
        attended: Tensor = self.output(joined) * query_mask[..., None]
        return attended

    def _split(self, values: Tensor) -> Tensor:
        return values.view(*values.shape[:2], self.num_heads, values.shape[2] // self.num_heads).transpose(1, 2)


def attention_pool(values: Tensor, mask: Tensor, scorer: nn.Module) -> Tensor:
    """Returns ``[B, D]``, the mean of the steps of ``[B, L, D]`` weighted by softmax(`scorer`) over `mask`."""
    scores = scorer(values).squeeze(-1)
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=1) * mask
    return (weights[..., None] * values).sum(dim=1)
