"""CI-MHA: cross interaction multi-head attention for natural-language moment retrieval (SIGIR 2021, Amazon).

Steps v0 of a video and words q0 of a sentence attend to themselves, then to each other in both directions:

- v = MHA(v0, v0, v0) + v0, v^ = FF(v) + PE(v); q = MHA(q0, q0, q0) + q0, q^ = FF(q);
- vq = MHA(Q = q^, K = V = v^), one row for each word; qv = MHA(Q = v^, K = V = q^), one for each step;
- s = [vq, qv]; h_start = BiLSTM(s), h_end = BiLSTM(h_start); each step is scored by an MLP of [h, s] as the moment's
  first and as its last one, and by an MLP of s as inside of it or not.

Loss = -log P(first) - log P(last) + lambda BCE(inside). vq and qv have different lengths, and the publication does not
say how they are joined: `fusion` has four readings. Its text was not at hand, the slides were: what they do not say is
marked ours here, and follows LGI (J. Mun et al., CVPR 2020), on whose features and settings it is built; see
docs/models/ci-mha.md. MHA is its baseline of one direction, without the last loss.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from clipmill.models.attention import Attention, attention_pool
from clipmill.models.base import Batch, Registration, Sizes, Spans, Values
from clipmill.models.masked_lstm import MaskedBiLstm
from clipmill.models.query_words import QueryEncoder, shared_dropout
from clipmill.models.span_options import SpanOptions, seen, span_card
from clipmill.models.span_prediction import best_spans, boundary_losses, inside_loss


class CiMhaOptions(SpanOptions):
    """Options of CI-MHA, beside those of all models of spans.

    Attributes:
        dim: D, of all states between the inputs and the scores.
        num_heads: of each attention.
        cross_attention: ``both`` directions, or ``one_way``: s = qv alone, the baseline MHA.
        fusion: how vq of L words and qv of N steps become s of N steps. ``pool``: the mean of vq weighted by a learned
            attention, repeated. ``pad``: the words are filled up with zeros to N, so that step t stands beside word t.
            ``back``: vq is brought to the steps by softmax(v^ q^T). ``seq``: one after the other in time; the LSTMs run
            over words and steps, and the steps are kept.
        segmentation_weight: lambda; 0 drops the loss (``w/o MS``).
        dropout: of the video's steps once they are projected, and in the encoder of words.
        attention_dropout: of the outputs of the attentions.
    """

    dim: int = Field(default=512, ge=4, multiple_of=4)  # ours: the length of LGI's words
    num_heads: int = Field(default=4, ge=1)  # ours: as LGI
    cross_attention: Literal["both", "one_way"] = "both"
    fusion: Literal["pool", "pad", "back", "seq"] = "pool"  # ours: it makes no assumption on lengths
    segmentation_weight: float = Field(default=1.0, ge=0)  # ours: not given; VSLNet has 5
    dropout: float = Field(default=0.5, ge=0, lt=1)  # ours: as LGI
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)  # ours

    @model_validator(mode="after")
    def _heads_share_dim(self) -> "CiMhaOptions":
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} must be a multiple of num_heads {self.num_heads}")
        return self


class CiMha(nn.Module):
    """The networks of CI-MHA.

    Args:
        sizes: length of a step of ``video``, and the size of the vocabulary of ``query``.
    """

    scaling = "none"

    def __init__(self, options: CiMhaOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        dim, heads = options.dim, options.num_heads
        self.project = nn.Sequential(nn.Linear(sizes.dims["video"], dim), nn.ReLU())
        # LGI's positions of the steps; CI-MHA adds positions once more after the attention.
        self.position = nn.Parameter(torch.randn(options.max_steps, dim) * 0.02)
        self.position_after = nn.Parameter(torch.randn(options.max_steps, dim) * 0.02)
        self.query = QueryEncoder(
            sizes.dims["query"], options.word_dim, dim, options.dropout, options.word_vectors == "frozen"
        )
        self.video_self, self.query_self = Attention(dim, heads), Attention(dim, heads)
        self.video_feed, self.query_feed = _feed_forward(dim), _feed_forward(dim)
        self.to_words = Attention(dim, heads)
        joined = dim
        if options.cross_attention == "both":
            self.to_steps = Attention(dim, heads)
            joined = dim if options.fusion == "seq" else 2 * dim
            if options.fusion == "pool":
                self.pool = nn.Linear(dim, 1)
        self.begin_state, self.end_state = MaskedBiLstm(joined, dim), MaskedBiLstm(dim, dim)
        self.begin, self.end = _scores(dim + joined, dim), _scores(dim + joined, dim)
        if options.segmentation_weight:
            self.inside = _scores(joined, dim)

    def begin_with_words(self, name: str, vectors: Tensor, known: Tensor) -> None:
        """Sets the vectors of the words that are `known`."""
        self.query.words.begin_with(vectors, known)

    def draws(self) -> Mapping[str, tuple[int, ...]]:
        """Returns the noise that decides what is dropped of an item."""
        o = self.options
        names = {"steps": o.dropout} | dict.fromkeys(("video_self", "query_self", "cross"), o.attention_dropout)
        return self.query.draws() | {name: (o.dim,) for name, rate in names.items() if rate}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``start``, ``end``, ``inside`` where it counts, and ``total``, ``[B]`` each.

        In single precision always: in bfloat16 the gradients of the positions, differences of near equals, are off by
        half of their length.
        """
        with torch.autocast(batch["video"].device.type, enabled=False):
            return self._losses(batch)

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        fused, begin, end, mask = self._states(batch.inputs, batch.draws if self.training else {})
        span = batch.targets["span"]
        first, last = boundary_losses(*self._logits(fused, begin, end), mask, span)
        losses = {"start": first, "end": last, "total": first + last}
        if self.options.segmentation_weight:
            losses["inside"] = inside_loss(self.inside(fused).squeeze(-1), mask, span)
            losses["total"] = losses["total"] + self.options.segmentation_weight * losses["inside"]
        return losses

    def localise(self, inputs: Mapping[str, Values], num_answers: int) -> Spans:
        """Returns the pairs of first and last step of the highest probability."""
        fused, begin, end, mask = self._states(inputs, {})
        return best_spans(*self._logits(fused, begin, end), mask, num_answers)

    def _logits(self, fused: Tensor, begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        first = self.begin(torch.cat([begin, fused], dim=-1)).squeeze(-1)
        return first, self.end(torch.cat([end, fused], dim=-1)).squeeze(-1)

    def _states(
        self, inputs: Mapping[str, Values], draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns s, h_start and h_end of the steps, ``[B, N, ...]`` each, and their mask."""
        steps, words, step_mask, word_mask = self._attended(inputs, draws)
        rate, cross = self.options.attention_dropout, draws.get("cross")
        of_steps = shared_dropout(self.to_words(steps, step_mask, words, word_mask), cross, rate)
        if self.options.cross_attention == "one_way":
            return *self._boundaries(of_steps, step_mask), step_mask
        of_words = shared_dropout(self.to_steps(words, word_mask, steps, step_mask), cross, rate)
        if self.options.fusion == "seq":
            joined, mask, places = in_sequence(of_words, word_mask, of_steps, step_mask)
            _, begin, end = self._boundaries(joined, mask)
            return of_steps, begin.gather(1, places), end.gather(1, places), step_mask
        if self.options.fusion == "pool":
            pooled = attention_pool(of_words, word_mask, self.pool)
            beside = pooled[:, None] * step_mask[..., None]
        elif self.options.fusion == "pad":
            beside = _filled_up(of_words, steps.shape[1]) * step_mask[..., None]
        else:
            alike = (steps @ words.transpose(1, 2)).masked_fill(~word_mask[:, None], torch.finfo(steps.dtype).min)
            beside = (torch.softmax(alike, dim=-1).to(of_words.dtype) @ of_words) * step_mask[..., None]
        return *self._boundaries(torch.cat([beside, of_steps], dim=-1), step_mask), step_mask

    def _boundaries(self, fused: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        begin = self.begin_state(fused, mask)
        return fused, begin, self.end_state(begin, mask)

    def _attended(
        self, inputs: Mapping[str, Values], draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns v^ and q^, and their masks."""
        steps, step_mask, words, word_mask = seen(self.options, inputs)
        place = torch.arange(steps.shape[1], device=steps.device).clamp(max=self.options.max_steps - 1)
        projected = shared_dropout(self.project(steps), draws.get("steps"), self.options.dropout)
        video = (projected + self.position[place]) * step_mask[..., None]
        query = self.query(words, word_mask, draws)
        rate = self.options.attention_dropout
        video = video + shared_dropout(
            self.video_self(video, step_mask, video, step_mask), draws.get("video_self"), rate
        )
        query = query + shared_dropout(
            self.query_self(query, word_mask, query, word_mask), draws.get("query_self"), rate
        )
        video = (self.video_feed(video) + self.position_after[place]) * step_mask[..., None]
        return video, self.query_feed(query) * word_mask[..., None], step_mask, word_mask


def in_sequence(words: Tensor, word_mask: Tensor, steps: Tensor, step_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns each item's words and then its steps, without a gap: ``[B, L + N, D]``, its mask, and the places of the
    steps as ``gather`` takes them, ``int64[B, N, D]``."""
    num_words, length = words.shape[1], words.shape[1] + steps.shape[1]
    own_words, own_steps = word_mask.sum(dim=1, keepdim=True), step_mask.sum(dim=1, keepdim=True)
    place = torch.arange(length, device=words.device)
    mask = place < own_words + own_steps
    source = torch.where(place < own_words, place, (num_words + place - own_words).clamp(max=length - 1))
    wide = (-1, -1, words.shape[2])
    joined = torch.cat([words, steps], dim=1).gather(1, source[..., None].expand(wide)) * mask[..., None]
    places = (own_words + torch.arange(steps.shape[1], device=words.device)).clamp(max=length - 1)
    return joined, mask, places[..., None].expand(wide)


def _filled_up(words: Tensor, num_steps: int) -> Tensor:
    """Returns ``[B, N, D]``, words cut off or filled up with zeros to N."""
    lacking = num_steps - words.shape[1]
    return nn.functional.pad(words, (0, 0, 0, lacking)) if lacking > 0 else words[:, :num_steps]


def _feed_forward(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))  # ours: of one width


def _scores(input_dim: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(input_dim, dim), nn.ReLU(), nn.Linear(dim, 1))


REGISTRATION = Registration(
    card=span_card(
        CiMhaOptions,
        "ci_mha",
        "video and sentence attend to each other both ways; first and last step, and what lies inside, are learned",
        "CI-MHA, SIGIR 2021; github.com/JonghwanMun/LGI4temporalgrounding for what it leaves open",
        # ours: epochs and the clipping of gradients (VSLNet's); batch and learning rate are given
        {"epochs": 100, "batch": 100, "learning_rate": 1e-4, "max_gradient_norm": 1.0},
    ),
    build=CiMha,
)
