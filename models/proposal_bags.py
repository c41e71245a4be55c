"""What is made of a bag of proposals: a graph over them, one vector by attention, and the subspace they span.

Bags are ``[B, L, D]`` with ``mask bool[B, L]``, True where there is a row; no result depends on the other rows or on L.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class GraphConvolution(nn.Module):
    """H' = S H W, where row i of S is the softmax of proposal i's similarity to each proposal of its bag.

    Args:
        dim: length of the rows of H and H'.
        similarity: of two rows, their ``cosine`` or their ``dot`` product.
    """

    def __init__(self, dim: int, similarity: Literal["cosine", "dot"]) -> None:
        super().__init__()
        self.similarity = similarity
        self.weight = nn.Linear(dim, dim, bias=False)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Returns H' ``[B, L, dim]`` of H `rows`."""
        compared = functional.normalize(rows, dim=-1) if self.similarity == "cosine" else rows
        neighbours = masked_softmax(compared @ compared.transpose(1, 2), mask[:, None, :])
        mixed: Tensor = self.weight(neighbours @ rows)
        return mixed


class BagAttention(nn.Module):
    """One vector of a bag: its proposals' values weighed by attention, both from one hidden layer.

    Args:
        dim: length of the rows and of the vector.
        hidden_dim: width of the hidden layer.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden_dim)
        self.values = nn.Linear(hidden_dim, dim)
        self.scores = nn.Linear(hidden_dim, 1)

    def forward(self, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the vectors ``[B, dim]`` and the weights of the proposals ``[B, L]``, which sum to 1."""
        hidden = torch.tanh(self.hidden(rows))
        weights = masked_softmax(self.scores(hidden)[..., 0], mask)
        return (weights[..., None] * self.values(hidden)).sum(dim=1), weights


def masked_softmax(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the softmax over the last dimension where `mask` is True, 0 elsewhere."""
    least = torch.finfo(values.dtype).min
    return torch.where(mask, values, least).softmax(dim=-1) * mask


def heaviest(rows: Tensor, weights: Tensor, mask: Tensor, number: int) -> Tensor:
    """Returns ``[B, K, D]``: the `number` proposals of the greatest weights, or all of a smaller bag, and rows of 0.

    Args:
        rows, weights, mask: ``[B, L, D]`` and ``[B, L]`` each; no gradient goes through the choice.
    """
    kept = min(number, rows.shape[1])
    chosen = torch.where(mask, weights.detach(), -1.0).topk(kept, dim=1).indices
    mask = mask.gather(1, chosen)
    return rows.gather(1, chosen[..., None].expand(-1, -1, rows.shape[-1])) * mask[..., None]


def filled_up(rows: Tensor, mask: Tensor, length: int) -> Tensor:
    """Returns ``[B, length, D]``: bags of at most `length` rows, the last of which is repeated."""
    last = mask.sum(dim=1, keepdim=True) - 1
    place = torch.minimum(torch.arange(length, device=rows.device), last.clamp(min=0))
    return rows.gather(1, place[..., None].expand(-1, -1, rows.shape[-1]))


def projector(rows: Tensor, ridge: float) -> Tensor:
    """Returns ``[B, D, D]``: X' (X X' + e I)^-1 X, which takes a point to its nearest in the span of the rows X.

    The ridge keeps rows that hardly differ from making a direction of their difference.

    Args:
        rows: X ``[B, K, D]``; rows of 0 span nothing.
        ridge: e over the sum of the rows' squared norms.
    """
    # In single precision at least: what the ridge adds would vanish in a half's.
    with torch.autocast(rows.device.type, enabled=False):
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        gram = rows @ rows.transpose(1, 2)
        squares = gram.diagonal(dim1=1, dim2=2).sum(dim=1)
        identity = torch.eye(gram.shape[1], dtype=rows.dtype, device=rows.device)
        softened = gram + (ridge * squares).clamp(min=torch.finfo(rows.dtype).eps)[:, None, None] * identity
        along: Tensor = torch.linalg.solve(softened, rows)
        return rows.transpose(1, 2) @ along


def squared_distance(points: Tensor, projectors: Tensor) -> Tensor:
    """Returns ``[B]``: ||u - P u||^2 of points ``[B, D]`` and projectors ``[B, D, D]``."""
    # The difference of nearly equal numbers, where a point lies in the span.
    with torch.autocast(points.device.type, enabled=False):
        points = points.to(projectors.dtype)
        return (points - (projectors @ points[..., None])[..., 0]).square().sum(dim=-1)
