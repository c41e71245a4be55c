"""Logistic units over one or several groups of visible units, which the same weights reconstruct.

It has the form of a restricted Boltzmann machine, and infers as one by mean field, but is trained by gradients of its
reconstruction instead of contrastive divergence: nothing is sampled.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class TiedLayer(nn.Module):
    """One layer of hidden units.

    Args:
        dims: lengths of the groups of visible units.
        hidden_dim: number of hidden units.
        logistic: of each group, whether its units are reconstructed by the logistic function (from 0 to 1), or as they
            are, as those of a Gaussian machine.
    """

    def __init__(self, dims: Sequence[int], hidden_dim: int, logistic: Sequence[bool]) -> None:
        super().__init__()
        self.logistic = tuple(logistic)
        # As CMDN's release: normal, with the deviation 1 / sqrt(inputs).
        self.weights = nn.ParameterList([torch.randn(hidden_dim, dim) / dim**0.5 for dim in dims])
        self.hidden_bias = nn.Parameter(torch.zeros(hidden_dim))
        self.visible_biases = nn.ParameterList([torch.zeros(dim) for dim in dims])

    def forward(self, visible: Sequence[Tensor | None]) -> Tensor:
        """Returns the hidden units ``[B, hidden_dim]``, from 0 to 1; a group that is None adds nothing to them."""
        sums = [values @ weight.T for values, weight in zip(visible, self.weights, strict=True) if values is not None]
        return torch.sigmoid(torch.stack(sums).sum(dim=0) + self.hidden_bias)

    def reconstruct(self, hidden: Tensor, group: int) -> Tensor:
        """Returns ``[B, dim]``, the visible units of one group that hidden units ``[B, hidden_dim]`` stand for."""
        units = hidden @ self.weights[group] + self.visible_biases[group]
        return torch.sigmoid(units) if self.logistic[group] else units

    def reconstruction_loss(self, visible: Sequence[Tensor], given: Sequence[Tensor | None] | None = None) -> Tensor:
        """Returns ``[B]``: the mean squared difference of the units and their reconstruction, summed over the groups.

        Args:
            visible: what is to be reconstructed.
            given: what it is reconstructed from; None: `visible`.
        """
        hidden = self(visible if given is None else given)
        return torch.stack(
            [(self.reconstruct(hidden, group) - units).square().mean(dim=-1) for group, units in enumerate(visible)]
        ).sum(dim=0)

    def completed(self, values: Tensor, group: int, steps: int) -> Tensor:
        """Returns the hidden units of two groups of which only one is known: the other is inferred by mean field.

        Args:
            values: ``[B, dim]`` of the group that is known.
            steps: how often the missing group is inferred from the hidden units, and these from both.
        """
        known = values @ self.weights[group].T + self.hidden_bias
        hidden = torch.sigmoid(known)
        for _ in range(steps):
            hidden = torch.sigmoid(known + self.reconstruct(hidden, 1 - group) @ self.weights[1 - group].T)
        return hidden


class BimodalAutoencoder(nn.Module):
    """A layer of logistic units that both modalities share, each of which gives both back, and the label.

    Args:
        dim: length of either modality's vectors.
        hidden_dim: number of the units.
        logistic: whether vectors are given back by the logistic function.
    """

    def __init__(self, dim: int, hidden_dim: int, num_labels: int, logistic: bool) -> None:
        super().__init__()
        self.logistic = logistic
        self.encoders = nn.ModuleList([nn.Linear(dim, hidden_dim, bias=False) for _ in range(2)])
        self.bias = nn.Parameter(torch.zeros(hidden_dim))
        self.decoders = nn.ModuleList([nn.Linear(hidden_dim, dim) for _ in range(2)])
        self.classifier = nn.Linear(hidden_dim, num_labels)

    def forward(self, given: Sequence[Tensor | None]) -> Tensor:
        """Returns the units ``[B, hidden_dim]`` of an image's and a video's vectors, either of which may be None."""
        sums = [encode(values) for encode, values in zip(self.encoders, given, strict=True) if values is not None]
        return torch.sigmoid(torch.stack(sums).sum(dim=0) + self.bias)

    def loss(self, image: Tensor, video: Tensor, label: Tensor) -> Tensor:
        """Returns ``[B]``: the mean over image alone, video alone and both of what is missed of vectors and labels."""
        terms = []
        for given in ((image, None), (None, video), (image, video)):
            units = self(given)
            terms.append(functional.cross_entropy(self.classifier(units), label, reduction="none"))
            for decode, values in zip(self.decoders, (image, video), strict=True):
                decoded = torch.sigmoid(decode(units)) if self.logistic else decode(units)
                terms.append((decoded - values).square().mean(dim=-1))
        return torch.stack(terms).sum(dim=0) / 3
