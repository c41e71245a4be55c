"""The words of a sentence as a model reads them: a table of vectors, and two layers of a bidirectional LSTM."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.dropout import dropout
from clipmill.models.masked_lstm import MaskedBiLstm

PADDING, UNKNOWN, NUM_RESERVED = 0, 1, 2
"""Positions of `schemas.inputs.Tokens`."""


class WordTable(nn.Module):
    """A vector for each position of a vocabulary.

    Padding is 0. `frozen` vectors of a file stay as they are, and only those of other words are trained: those of
    unknown words alone, where the vocabulary has none without a vector (VSLNet).

    Args:
        num_words: of the vocabulary, padding and unknown words among them.
    """

    def __init__(self, num_words: int, dim: int, frozen: bool) -> None:
        super().__init__()
        self.frozen = frozen
        self.vectors = nn.Parameter(torch.randn(num_words, dim) * dim**-0.5)  # ours: norms of about 1
        self.register_buffer("fixed", torch.zeros(num_words, dtype=torch.bool))
        self.fixed: Tensor
        with torch.no_grad():
            self.vectors[PADDING] = 0.0
        self.fixed[PADDING] = True

    def begin_with(self, vectors: Tensor, known: Tensor) -> None:
        """Sets the vectors of the positions that are `known` ``bool[V]``."""
        with torch.no_grad():
            self.vectors[known] = vectors[known].to(self.vectors)
        if self.frozen:
            self.fixed |= known

    def forward(self, words: Tensor) -> Tensor:
        """Returns ``[B, L, dim]`` of the positions ``int64[B, L]``."""
        found = functional.embedding(words, self.vectors)
        return torch.where(self.fixed[words][..., None], found.detach(), found)


class QueryEncoder(nn.Module):
    """Words to ``[B, L, dim]``: their vectors, then two layers of a bidirectional LSTM (LGI, CVPR 2020).

    Args:
        rate: of dropout before either layer. ours: what is dropped is the same for all words of a sentence (Y. Gal and
            Z. Ghahramani, NIPS 2016), so that an item draws few numbers.
    """

    def __init__(self, num_words: int, word_dim: int, dim: int, rate: float, frozen: bool) -> None:
        super().__init__()
        self.rate = rate
        self.words = WordTable(num_words, word_dim, frozen)
        self.layers = nn.ModuleList([MaskedBiLstm(word_dim, dim), MaskedBiLstm(dim, dim)])
        self.widths = (word_dim, dim)

    def draws(self) -> dict[str, tuple[int, ...]]:
        """Returns the noise of an item that `forward` takes."""
        return {f"words_{number}": (width,) for number, width in enumerate(self.widths)} if self.rate else {}

    def forward(self, words: Tensor, mask: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Returns ``[B, L, dim]``, zeros where `mask` is False; without `draws` nothing is dropped."""
        values: Tensor = self.words(words)
        for number, layer in enumerate(self.layers):
            values = shared_dropout(values, draws.get(f"words_{number}"), self.rate)
            values = layer(values, mask)
        return values


def shared_dropout(values: Tensor, noise: Tensor | None, rate: float) -> Tensor:
    """Returns `values` ``[B, L, D]`` with the same elements of all steps of an item dropped.

    Args:
        noise: standard normal ``[B, D]``; None: nothing is dropped.
    """
    return values if noise is None or not rate else dropout(values, noise[:, None], rate)
