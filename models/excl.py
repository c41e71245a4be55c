"""ExCL: extractive clip localisation with a bidirectional LSTM over a video and the last state of another's sentence.

h_Q = the last states, both ways, of a BiLSTM over the words; h_t = BiLSTM over the video's steps. First and last step
are scored by one of three predictors: an ``mlp`` of [h_t, h_Q]; ``tied``: a BiLSTM p over [h_t, h_Q], whose states both
MLPs of [p_t, h_t, h_Q] share; ``conditioned``: one BiLSTM for the first step, and another over its states for the last.
Loss = -log P(first) - log P(last). Source: S. Ghosh et al., NAACL 2019, from memory: its text was not at hand, nor was
there code, so this is a baseline in its style, and its numbers are no reproduction.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clipmill.models.base import Batch, Registration, Sizes, Spans, Values
from clipmill.models.masked_lstm import MaskedBiLstm
from clipmill.models.query_words import WordTable, shared_dropout
from clipmill.models.span_options import SpanOptions, seen, span_card
from clipmill.models.span_prediction import best_spans, boundary_losses


class ExclOptions(SpanOptions):
    """Options of ExCL, beside those of all models of spans.

    Attributes:
        dim: of the outputs of each BiLSTM, both directions together.
        predictor: see above.
        dropout: of what the predictor is given, the same for all steps of a video.
    """

    dim: int = Field(default=512, ge=2, multiple_of=2)
    predictor: Literal["mlp", "tied", "conditioned"] = "tied"
    dropout: float = Field(default=0.5, ge=0, lt=1)  # ours


class Excl(nn.Module):
    """The networks of ExCL.

    Args:
        sizes: length of a step of ``video``, and the size of the vocabulary of ``query``.
    """

    scaling = "none"

    def __init__(self, options: ExclOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        dim = options.dim
        self.words = WordTable(sizes.dims["query"], options.word_dim, options.word_vectors == "frozen")
        self.sentence, self.video = MaskedBiLstm(options.word_dim, dim), MaskedBiLstm(sizes.dims["video"], dim)
        joined = 2 * dim
        if options.predictor != "mlp":
            self.begin_state = MaskedBiLstm(joined, dim)
            if options.predictor == "conditioned":
                self.end_state = MaskedBiLstm(dim, dim)
            joined += dim
        self.begin, self.end = (nn.Sequential(nn.Linear(joined, dim), nn.Tanh(), nn.Linear(dim, 1)) for _ in range(2))

    def begin_with_words(self, name: str, vectors: Tensor, known: Tensor) -> None:
        """Sets the vectors of the words that are `known`."""
        self.words.begin_with(vectors, known)

    def draws(self) -> Mapping[str, tuple[int, ...]]:
        """Returns the noise that decides what is dropped of an item."""
        return {"joined": (2 * self.options.dim,)} if self.options.dropout else {}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``start``, ``end`` and ``total``, ``[B]`` each."""
        begin, end, mask = self._logits(batch.inputs, batch.draws if self.training else {})
        first, last = boundary_losses(begin, end, mask, batch.targets["span"])
        return {"start": first, "end": last, "total": first + last}

    def localise(self, inputs: Mapping[str, Values], num_answers: int) -> Spans:
        """Returns the pairs of first and last step of the highest probability."""
        return best_spans(*self._logits(inputs, {}), num_answers)

    def _logits(self, inputs: Mapping[str, Values], draws: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        steps, mask, words, word_mask = seen(self.options, inputs)
        states = self.sentence(self.words(words), word_mask)
        # The last state of each direction: at the last word, and at the first.
        last = (word_mask.sum(dim=1) - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[2])
        half = states.shape[2] // 2
        sentence = torch.cat([states.gather(1, last)[:, 0, :half], states[:, 0, half:]], dim=-1)
        video = self.video(steps, mask)
        joined = torch.cat([video, sentence[:, None].expand(-1, video.shape[1], -1) * mask[..., None]], dim=-1)
        joined = shared_dropout(joined, draws.get("joined"), self.options.dropout)
        begin = end = joined
        if self.options.predictor != "mlp":
            state = self.begin_state(joined, mask)
            after = self.end_state(state, mask) if self.options.predictor == "conditioned" else state
            begin, end = (torch.cat([found, joined], dim=-1) for found in (state, after))
        return self.begin(begin).squeeze(-1), self.end(end).squeeze(-1), mask


REGISTRATION = Registration(
    card=span_card(
        ExclOptions,
        "excl",
        "a bidirectional LSTM over a video beside the last state of its sentence's",
        "in the style of ExCL, NAACL 2019",
        # ours: all of it, as of CI-MHA, so that they can be compared
        {"epochs": 100, "batch": 100, "learning_rate": 1e-4, "max_gradient_norm": 1.0},
    ),
    build=Excl,
)
