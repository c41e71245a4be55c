"""A model from outside the project whose losses compare the items of a batch and whose score is a network of its own.

It reads texts as queries and bags of rows as gallery items.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import Batch, ModelCard, Phase, Registration, Sizes, Step
from clipmill.schemas.inputs import Bag, Tokens
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import PairScore


class Options(Model):
    dim: int = 8


class PairScorer(nn.Module):
    scaling = "l2"

    def __init__(self, options: Options, sizes: Sizes) -> None:
        super().__init__()
        self.words = nn.Embedding(sizes.dims["text"], options.dim, padding_idx=0)
        self.rows = nn.Linear(sizes.dims["video"], options.dim)
        self.bilinear = nn.Parameter(torch.eye(options.dim))

    def phases(self, loop: object) -> list[Phase]:
        return [
            Phase("words", 1, (Step(rates={"words": 1.0}),)),
            Phase("both", None, (Step(rates={"": 1.0, "bilinear": 0.1}), Step("distance", {"rows": 0.5}))),
        ]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        query = self.embed("query", batch.inputs)
        gallery = self.embed("gallery", batch.inputs)
        target = torch.arange(len(query["text"]))
        contrast = functional.cross_entropy(self.score(query, gallery), target)
        return {"total": contrast, "distance": (query["text"].detach() - gallery["bag"]).square().mean()}

    def spaces(self) -> dict[str, PairScore]:
        return {"bilinear": PairScore()}

    def embed(self, side: str, inputs: dict) -> dict[str, Tensor]:
        name = "text" if side == "query" else "video"
        values, mask = inputs[name].values, inputs[name].mask
        encoded = self.words(values) if side == "query" else self.rows(values)
        weights = mask.to(encoded.dtype)[..., None]
        mean = (encoded * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return {"text" if side == "query" else "bag": mean}

    def score(self, query: dict[str, Tensor], gallery: dict[str, Tensor]) -> Tensor:
        return query["text"] @ self.bilinear @ gallery["bag"].T


REGISTRATION = Registration(
    card=ModelCard(
        name="pair_scorer",
        summary="a bilinear score of texts and bags",
        source="made for a test",
        inputs={"text": Tokens(max_tokens=5), "video": Bag(max_rows=3)},
        options=Options,
        sides={"query": ("text",), "gallery": ("video",)},
        loop={"epochs": 3, "batch": 6, "learning_rate": 0.02},
        couples_batch=True,
        needs_labels=False,
    ),
    build=PairScorer,
)
