"""TF-IDF of texts that are given as positions in a vocabulary (scikit-learn's defaults): what texts are to SemArt.

Of n training texts, df of which hold a word, a text that holds it tf times has ``tf (ln((1 + n) / (1 + df)) + 1)``
there, and each row is divided by its norm. Words are kept by the order of the vocabulary, the most frequent first.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import Values
from clipmill.schemas.inputs import InputRows

NUM_RESERVED = 2
"""Positions before the first word: what fills up, and unknown words."""

Words = Literal["content", "all"]

STOP_WORDS = frozenset(
    """
    i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it
    its itself they them their theirs themselves what which who whom this that these those am is are was were be been
    being have has had having do does did doing a an the and but if or because as until while of at by for with about
    against between into through during before after above below to from up down in out on off over under again further
    then once here there when where why how all any both each few more most other some such no nor not only own same so
    than too very s t can will just don should now d ll m o re ve y ain aren couldn didn doesn hadn hasn haven isn ma
    mightn mustn needn shan shouldn wasn weren won wouldn
    """.split()
)
"""English words without content; ours: which ones, from a list of the same kind as NLTK's, which is not shipped."""


class TfIdf(nn.Module):
    """The words that are kept, and what each weighs.

    Args:
        num_positions: size of the vocabulary, reserved positions included.
        max_words: most words that are kept.
    """

    column: Tensor
    weight: Tensor

    def __init__(self, num_positions: int, max_words: int) -> None:
        super().__init__()
        self.width = max(1, min(max_words, num_positions - NUM_RESERVED))
        # Until it is prepared: the first words, all alike. The last column takes what is left out.
        column = torch.full((num_positions,), self.width)
        column[NUM_RESERVED : NUM_RESERVED + self.width] = torch.arange(len(column[NUM_RESERVED:][: self.width]))
        self.register_buffer("column", column)
        self.register_buffer("weight", torch.ones(self.width))

    def prepare(self, texts: InputRows, vocabulary: Sequence[str], words: Words) -> None:
        """Chooses the words and weighs them by the training texts.

        Args:
            vocabulary: the words of the positions from 2 on, the most frequent first.
            words: ``content`` leaves out words with other than letters, and `STOP_WORDS`.
        """
        kept = [
            position
            for position, word in enumerate(vocabulary, start=NUM_RESERVED)
            if words == "all" or (word.isalpha() and word not in STOP_WORDS)
        ][: self.width]
        self.column.fill_(self.width)
        self.column[kept] = torch.arange(len(kept))
        column = self.column.numpy()
        # Each word of a text once.
        text = np.repeat(np.arange(len(texts)), texts.lengths())
        once = np.unique(np.stack([text, column[texts.values]]), axis=1)[1]
        frequency = np.bincount(once, minlength=self.width + 1)[: self.width]
        self.weight.copy_(torch.from_numpy(np.log((1 + len(texts)) / (1 + frequency)) + 1))

    def forward(self, texts: Values) -> Tensor:
        """Returns ``[B, width]`` of positions ``int64[B, L]``; of a text without a known word, zeros."""
        counts = self.weight.new_zeros(len(texts.values), self.width + 1)
        columns = self.column[texts.values]
        counts.scatter_add_(1, columns, torch.ones_like(columns, dtype=counts.dtype))
        return functional.normalize(counts[:, : self.width] * self.weight, dim=1)
