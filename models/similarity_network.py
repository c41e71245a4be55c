"""Similarity networks: a learned, non-metric score of two vectors (Garcia, Vogiatzis, IMAVIS 2019).

*Learning Non-Metric Visual Similarity for Image Retrieval*. Of a query q and a gallery item x, unit vectors of one
network (R-MAC there), a perceptron on both gives s(q, x), an unbounded number that is not symmetric. It is trained in
three stages, each from the weights of the one before:

- ``warm_up``, the cosine itself: x uniform on [-1, 1]^D and scaled to norm 1, y = c x + sqrt(1 - c^2) u with u a random
  unit vector orthogonal to x, c uniform on [-1, 1], and the loss |s(x, y) - c|;
- ``random``, pairs of labelled items: |s - (cos + d)| where the labels agree and |s - (cos - d)| where they do not;
- ``difficult``, those pairs on which the network of the stage before is worse than the cosine: labels that agree with
  s < cos, or that do not with s > cos. The first two stages make SimNet, all three SimNet*.

The first layer is linear in each half of its input, so that part of a score is computed for an item, not for a pair.
Values without a mark are those of the release (noagarcia/SimNet).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import Batch, ModelCard, Phase, Registration, Side, Sizes, Values, Workers
from clipmill.models.perceptron import Width, perceptron
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine, PairScore, Reranked, Space

_EQUAL_COSINE = 1 - 1e-6
"""ours: vectors of a greater cosine are taken for one and the same, and a pair of them for none."""

_PRODUCT_ELEMENTS = 1 << 22
"""ours: numbers of a hidden layer that are held at a time while pairs are scored."""


class SimilarityNetworkOptions(Model):
    """Options of similarity networks.

    Attributes:
        hidden_dims: lengths of the hidden layers.
        margin: d of the stage ``random``.
        difficult_margin: d of the stage ``difficult``.
        warm_up, random, difficult: lengths of the stages in proportion to each other; 0 leaves a stage out.
        pairs_per_item: pairs of which an item of a batch is the query.
        matching_share: of the random pairs, where a batch has as many.
        easy_weight: in the stage ``difficult``, of the mean loss of the pairs that are not.
        initial_deviation: standard deviation of the initial weights.
        symmetric: score a pair by the mean of both orders.
        rerank: how many of the nearest by cosine the space ``reranked`` scores again.
    """

    hidden_dims: tuple[Width, ...] = Field(default=(4096, 4096), min_length=1)
    margin: float = Field(default=0.2, ge=0)
    difficult_margin: float = Field(default=0.8, ge=0)
    warm_up: int = Field(default=55, ge=0)
    random: int = Field(default=100, ge=0)
    difficult: int = Field(default=100, ge=0)  # ours: not stated
    pairs_per_item: int = Field(default=1, ge=1)  # ours: a batch of 100 items then is the release's of 100 pairs
    matching_share: float = Field(default=0.5, ge=0, le=1)  # ours: not stated
    # ours: not stated. With 0, a network that fits its pairs has hardly any difficult ones left and forgets the rest.
    easy_weight: float = Field(default=1.0, ge=0)
    initial_deviation: float = Field(default=0.01, gt=0)
    symmetric: bool = False
    rerank: int = Field(default=100, ge=1)  # ours: the release scores every item

    @model_validator(mode="after")
    def _some_stage(self) -> "SimilarityNetworkOptions":
        if not self.warm_up + self.random + self.difficult:
            raise ValueError("expected a stage, got warm_up, random and difficult of 0; leave one in")
        return self


class SimilarityNetwork(nn.Module):
    """The perceptron, and, for the stage ``difficult``, the one of the stage before in buffers.

    Args:
        sizes: lengths of the vectors ``image`` (of a query) and ``video`` (of a gallery item), which are equal.

    Raises:
        UsageError: they are not.
    """

    judge_is_set: Tensor

    scaling = "l2"

    def __init__(self, options: SimilarityNetworkOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        dims = sizes.dims["image"], sizes.dims["video"]
        if dims[0] != dims[1]:
            got, remedy = f"{dims[0]} and {dims[1]}", "give data.image and data.video features of one network"
            raise UsageError(describe("similarity_network", "image and video", "vectors of one length", got, remedy))
        self.dim = dims[0]
        self.network = perceptron((2 * self.dim, *options.hidden_dims, 1), "relu")
        for layer in self.network:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=options.initial_deviation)
                nn.init.zeros_(layer.bias)
        if options.difficult:
            self.register_buffer("judge_is_set", torch.tensor(False))
            for name, weights in self.network.named_parameters():
                self.register_buffer(_judge_name(name), torch.zeros_like(weights))

    def draws(self) -> Mapping[str, tuple[int, ...]]:
        """Returns the noise of an item's pairs: vectors and a cosine to warm up with, and what chooses a partner."""
        num = self.options.pairs_per_item
        return {"point": (num, self.dim), "direction": (num, self.dim), "cosine": (num,), "partner": (num, 2)}

    def phases(self, loop: LoopConfig) -> Sequence[Phase]:
        """Returns a phase for each stage, in proportion to its length; those too short for an epoch are left out."""
        o = self.options
        stages = [(name, getattr(o, name)) for name in ("warm_up", "random", "difficult") if getattr(o, name)]
        whole = sum(length for _, length in stages)
        done, start, phases = 0, 0, []
        for name, length in stages[:-1]:
            done += length
            # The last stage has one epoch at least.
            stop = min(round(loop.epochs * done / whole), loop.epochs - 1)
            if stop > start:
                phases.append(Phase(name, stop - start))
                start = stop
        return [*phases, Phase(stages[-1][0])]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the mean loss of the batch's pairs (``total``); of difficult ones their share, too."""
        if batch.phase == "warm_up":
            return self._warm_up_losses(batch)
        o, workers = self.options, batch.workers
        is_difficult = batch.phase == "difficult"
        query = batch["image"]
        gallery, label = workers.gather(batch["video"]), workers.gather(batch.labels)
        draws = batch.draws["partner"].to(query.dtype)
        # In half precision unequal cosines would be equal.
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            cosines = functional.normalize(query, dim=-1) @ functional.normalize(gallery, dim=-1).T
            partner, exists = random_partners(batch.labels, label, cosines, draws, o.matching_share)
            cosine = cosines.gather(1, partner)
            matches = batch.labels[:, None] == label[partner]
        pairs = torch.cat([query[:, None].expand(-1, partner.shape[1], -1), gallery[partner]], dim=-1)
        margin = o.difficult_margin if is_difficult else o.margin
        score = self.network(pairs)[..., 0].to(cosine.dtype)
        loss = pair_loss(score, cosine, matches, margin)
        if not is_difficult:
            return {"total": _mean_of(loss, exists, workers)[0]}
        worse = is_worse(self._judged(pairs), cosine, matches)
        difficult, num_difficult = _mean_of(loss, exists & worse, workers)
        easy, num_easy = _mean_of(loss, exists & ~worse, workers)
        share = num_difficult / (num_difficult + num_easy).clamp(min=1)
        return {
            "total": difficult + o.easy_weight * easy,
            "difficult": difficult,
            "easy": easy,
            "difficult_share": share,
        }

    def _warm_up_losses(self, batch: Batch) -> dict[str, Tensor]:
        weight = next(self.network.parameters())
        draws = {name: batch.draws[name].to(weight.dtype) for name in ("point", "direction", "cosine")}
        with torch.autocast(weight.device.type, enabled=False):
            left, right, cosine = cosine_pairs(**draws)
        loss = (self.network(torch.cat([left, right], dim=-1))[..., 0].to(cosine.dtype) - cosine).abs()
        return {"total": _mean_of(loss, torch.ones_like(loss, dtype=torch.bool), batch.workers)[0]}

    def _judged(self, pairs: Tensor) -> Tensor:
        """Returns the scores ``[B, P]`` of the network as it was when the stage began; of now, before it has."""
        if self.training and not self.judge_is_set:
            with torch.no_grad():
                for name, weights in self.network.named_parameters():
                    getattr(self, _judge_name(name)).copy_(weights)
                self.judge_is_set.fill_(True)
        with torch.no_grad():
            if not self.judge_is_set:
                scores: Tensor = self.network(pairs)
            else:
                kept = {name: getattr(self, _judge_name(name)) for name, _ in self.network.named_parameters()}
                scores = torch.func.functional_call(self.network, kept, (pairs,))
        return scores[..., 0]

    def spaces(self) -> Mapping[str, Space]:
        """Returns the cosine, its best scored again by the network, and every item scored by it."""
        return {
            "cosine": Cosine("vector", "vector"),
            "reranked": Reranked("cosine", self.options.rerank),
            "similarity": PairScore(),
        }

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``vector [B, D]``, the items' own."""
        return {"vector": inputs["image" if side == "query" else "video"].values}

    def score(self, query: Mapping[str, Tensor], gallery: Mapping[str, Tensor]) -> Tensor:
        """Returns s ``[Q, G]`` of every pair, of both orders their mean where the option says so."""
        scores = self._scores(query["vector"], gallery["vector"])
        if self.options.symmetric:
            scores = (scores + self._scores(gallery["vector"], query["vector"]).T) / 2
        return scores

    def _scores(self, first: Tensor, second: Tensor) -> Tensor:
        layer: Any = self.network[0]
        # What the first layer makes of each half: once for an item.
        left = first @ layer.weight[:, : self.dim].T
        right = second @ layer.weight[:, self.dim :].T + layer.bias
        rest = self.network[1:]
        rows = []
        for span in _spans(len(left), max(1, _PRODUCT_ELEMENTS // max(1, right.numel()))):
            columns = _spans(len(right), max(1, _PRODUCT_ELEMENTS // left.shape[1]))
            parts = [rest(left[span, None] + right[None, items])[..., 0] for items in columns]
            rows.append(torch.cat(parts, dim=1))
        return torch.cat(rows)


def cosine_pairs(point: Tensor, direction: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns unit vectors x and y ``[..., D]`` and their cosine ``[...]``, uniform on [-1, 1].

    Args:
        point, direction: standard normal noise ``[..., D]``.
        cosine: standard normal noise ``[...]``.
    """
    left = functional.normalize(_uniform(point) * 2 - 1, dim=-1)
    across = direction - (direction * left).sum(dim=-1, keepdim=True) * left
    wanted = _uniform(cosine) * 2 - 1
    away = (1 - wanted.square()).clamp(min=0).sqrt()
    right = wanted[..., None] * left + away[..., None] * functional.normalize(across, dim=-1)
    return left, right, wanted


def random_partners(
    label: Tensor, gallery_label: Tensor, cosines: Tensor, draws: Tensor, matching_share: float
) -> tuple[Tensor, Tensor]:
    """Returns the positions ``int64[b, P]`` of the queries' partners in the gallery, and whether there is one.

    A partner has the query's label with the probability `matching_share`, else another, and of these each is as likely.
    Where there is none of the wanted kind, one of the other kind is taken. A vector is no partner of itself.

    Args:
        label, gallery_label: ``int64[b]`` and ``int64[B]``.
        cosines: ``[b, B]``.
        draws: standard normal noise ``[b, P, 2]``.
    """
    same = label[:, None] == gallery_label
    other_vector = cosines < _EQUAL_COSINE
    kinds = torch.stack([~same & other_vector, same & other_vector], dim=1)
    num_of_kind = kinds.sum(dim=-1)
    wanted = (_uniform(draws[..., 0]) < matching_share).long()
    wanted = torch.where(num_of_kind.gather(1, wanted) > 0, wanted, 1 - wanted)
    num = num_of_kind.gather(1, wanted)
    place = (_uniform(draws[..., 1]) * num).long().minimum((num - 1).clamp(min=0))
    allowed = kinds.gather(1, wanted[..., None].expand(-1, -1, kinds.shape[-1]))
    before = (allowed.cumsum(dim=-1) <= place[..., None]).sum(dim=-1)
    return before.clamp(max=len(gallery_label) - 1), num > 0


def pair_loss(score: Tensor, cosine: Tensor, matches: Tensor, margin: float) -> Tensor:
    """Returns |s - (cos + d)| of pairs that match and |s - (cos - d)| of others, which are not clipped to [-1, 1]."""
    return (score - torch.where(matches, cosine + margin, cosine - margin)).abs()


def is_worse(score: Tensor, cosine: Tensor, matches: Tensor) -> Tensor:
    """Returns whether a score is worse than the cosine: less where a pair matches, greater where it does not."""
    return torch.where(matches, score < cosine, score > cosine)


def _mean_of(loss: Tensor, chosen: Tensor, workers: Workers) -> tuple[Tensor, Tensor]:
    """Returns the mean of the chosen pairs' losses over all workers, 0 where there are none, and their number."""
    num = workers.add_up(chosen.sum().to(loss.dtype))
    return workers.add_up((loss * chosen).sum()) / num.clamp(min=1), num


def _uniform(noise: Tensor) -> Tensor:
    """Returns numbers uniform on [0, 1] of standard normal ones."""
    return (1 + torch.erf(noise / math.sqrt(2))) / 2


def _judge_name(parameter: str) -> str:
    return f"judge_{parameter.replace('.', '_')}"


def _spans(length: int, size: int) -> Iterator[slice]:
    # One span even of no items, which gives the scores their shape.
    for start in range(0, max(1, length), size):
        yield slice(start, min(start + size, length))


REGISTRATION = Registration(
    card=ModelCard(
        name="similarity_network",
        summary="a network that scores pairs of vectors of one kind, better than their cosine",
        source="Garcia and Vogiatzis, Image and Vision Computing 2019; github.com/noagarcia/SimNet",
        inputs={"image": Vector("first"), "video": Vector("mean")},
        options=SimilarityNetworkOptions,
        # ours: the release's rate is 1e-3, of SGD; Adam moves further with it.
        loop={"epochs": 255, "batch": 100, "learning_rate": 1e-4},
        couples_batch=True,
        gathers=True,
    ),
    build=SimilarityNetwork,
)
