"""A bidirectional LSTM over sequences of several lengths, in which no output depends on what only fills up."""

import torch
from torch import Tensor, nn


class MaskedBiLstm(nn.Module):
    """One layer; states begin at 0.

    The backward direction reads each sequence turned round within its own length, so it begins at its last step. (With
    packed sequences PyTorch does the same on CPUs step by step, several times slower.)

    Args:
        input_dim: length of a step.
        output_dim: of the outputs, both directions together: an even number.
    """

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.output_dim = output_dim
        self.forwards = nn.LSTM(input_dim, output_dim // 2, batch_first=True)
        self.backwards = nn.LSTM(input_dim, output_dim // 2, batch_first=True)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Returns ``[B, L, output_dim]`` of `values` ``[B, L, D]``; zeros where `mask` ``[B, L]`` is False.

        Steps of a mask come first.
        """
        if not len(values):
            # A worker without an item of the last batch: its gradients are 0, but all are there to be added up.
            reached = values.sum() + torch.stack([weight.sum() for weight in self.parameters()]).sum()
            return values.new_zeros((*values.shape[:2], self.output_dim)) + 0.0 * reached
        turned = turned_round(mask)
        # In single precision always: on CPUs there is no LSTM in halves.
        with torch.autocast(values.device.type, enabled=False):
            values = values.to(next(self.forwards.parameters()).dtype)
            there, _ = self.forwards(values)
            back, _ = self.backwards(_taken(values, turned))
        return torch.cat([there, _taken(back, turned)], dim=-1) * mask[..., None]


def turned_round(mask: Tensor) -> Tensor:
    """Returns ``int64[B, L]``: of each place the one it changes with where each sequence is turned round."""
    place = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, mask.sum(dim=1, keepdim=True) - 1 - place, place)


def _taken(values: Tensor, places: Tensor) -> Tensor:
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))
