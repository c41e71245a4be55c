"""DSPE: learning deep structure-preserving image-text embeddings (CVPR 2016, pp. 5005-5013), for images and videos.

Two branches of two layers take an image to x and a video to y, both of norm 1. With d the Euclidean distance, margin m,
and N(x) the neighbours of x, which share its label:

    sum of max(0, m + d(x_i, y_j) - d(x_i, y_k))                y_j matches image x_i, y_k does not
    + lambda_1 sum of max(0, m + d(x_j, y_i) - d(x_k, y_i))     the same of a video
    + lambda_2 sum of max(0, m + d(x_i, x_j) - d(x_i, x_k))     x_j in N(x_i), x_k not: structure among images
    + lambda_3 sum of max(0, m + d(y_i, y_j) - d(y_i, y_k))     the same among videos

Of the negatives of each anchor only the nearest K of the batch count. Values without a mark are those of the release
(lwwang/Two_branch_network, of the later paper by the same authors).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import ALONE, Batch, ModelCard, Registration, Side, Sizes, Values, Workers
from clipmill.models.dropout import dropout
from clipmill.models.perceptron import Width
from clipmill.schemas.inputs import Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine, Space


class DspeOptions(Model):
    """Options of DSPE.

    Attributes:
        hidden_dim: length of each branch's first layer, which has batch normalisation, ReLU and dropout.
        embedding_dim: length of x and y.
        positives: what matches: items of one ``label``, or an image and the video it was taken from alone (``pair``).
            With pairs no item has neighbours, so lambda_2 and lambda_3 count for nothing, and labels are not needed.
        margin: m.
        num_negatives: K.
        video_query_weight: lambda_1.
        image_structure_weight, video_structure_weight: lambda_2 and lambda_3.
        dropout: share of the first layer's outputs that is dropped.
        norm_momentum: share of a batch's statistics in those that batch normalisation keeps for retrieval.
        scaling: of the input vectors, fitted on the training clips; the release takes them as they are.
    """

    hidden_dim: Width = 2048
    embedding_dim: Width = 512
    positives: Literal["label", "pair"] = "label"  # ours: relevance is the label here; there an image has its sentences
    margin: float = Field(default=0.05, ge=0)
    num_negatives: int = Field(default=10, ge=1)
    video_query_weight: float = Field(default=1.5, ge=0)
    image_structure_weight: float = Field(default=0.05, ge=0)  # ours: as the videos'; there an image has no neighbours
    video_structure_weight: float = Field(default=0.05, ge=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    norm_momentum: float = Field(default=0.1, gt=0, le=1)  # ours: the release's 0.9 hangs on the last batch
    scaling: Literal["min_max", "l2", "none"] = "none"


def distances(left: Tensor, right: Tensor) -> Tensor:
    """Returns ``[N, M]``, the Euclidean distances of rows ``[N, D]`` and ``[M, D]``.

    As released, 1e-4 is added to their squares, so that the slope is finite where rows are the same.
    """
    squares = left.square().sum(dim=1)[:, None] - 2 * left @ right.T + right.square().sum(dim=1)
    return (squares.clamp(min=0) + 1e-4).sqrt()


def ranking_loss(distance: Tensor, positive: Tensor, margin: float, num_negatives: int) -> Tensor:
    """Returns the mean of max(0, margin + d(a, p) - d(a, n)) over anchors, their positives and their negatives.

    Args:
        distance: ``[A, N]`` of each anchor and each item.
        positive: ``bool[A, N]``; the other items are the negatives.
        num_negatives: only so many of the nearest negatives of each anchor count.
    """
    nearest = _nearest_negatives(distance, positive, num_negatives)
    hinges = functional.relu(margin + distance[:, :, None] - nearest[:, None, :]) * positive[:, :, None]
    return hinges.sum() / (positive.sum(dim=1) * nearest.isfinite().sum(dim=1)).sum().clamp(min=1)


def structure_loss(distance: Tensor, neighbour: Tensor, margin: float, num_negatives: int) -> Tensor:
    """Returns the mean of max(0, margin + d(a, p) - d(a, n)) over anchors and negatives, p the farthest neighbour.

    If the farthest keeps the margin, all do; the release writes it so.

    Args:
        distance: ``[A, A]`` among the anchors.
        neighbour: ``bool[A, A]``, True on the diagonal.
        num_negatives: see `ranking_loss`.
    """
    nearest = _nearest_negatives(distance, neighbour, num_negatives)
    farthest = torch.where(neighbour, distance, -torch.inf).amax(dim=1, keepdim=True)
    return functional.relu(margin + farthest - nearest).sum() / nearest.isfinite().sum().clamp(min=1)


def _nearest_negatives(distance: Tensor, positive: Tensor, num_negatives: int) -> Tensor:
    """Returns ``[A, K]``, ascending; infinite where an anchor has fewer negatives."""
    kept = min(num_negatives, distance.shape[1])
    return torch.where(positive, torch.inf, distance).topk(kept, dim=1, largest=False).values


class Branch(nn.Module):
    """Two layers that take vectors ``[B, D]`` to embeddings of norm 1."""

    def __init__(self, dim: int, options: DspeOptions) -> None:
        super().__init__()
        self.rate = options.dropout
        self.first = nn.Linear(dim, options.hidden_dim)
        self.norm = nn.BatchNorm1d(options.hidden_dim, momentum=options.norm_momentum)
        self.second = nn.Linear(options.hidden_dim, options.embedding_dim)

    def forward(self, vectors: Tensor, noise: Tensor | None = None, workers: Workers = ALONE) -> Tensor:
        """Returns ``[B, embedding_dim]``.

        Args:
            noise: ``[B, hidden_dim]`` of the dropout, which is for training alone.
            workers: over all of whose items a batch is normalised.
        """
        hidden = functional.relu(self._normalised(self.first(vectors), workers))
        if noise is not None and self.training:
            hidden = dropout(hidden, noise, self.rate)
        return functional.normalize(self.second(hidden), dim=-1)

    def _normalised(self, hidden: Tensor, workers: Workers) -> Tensor:
        norm = self.norm
        alone = workers.num_workers == 1
        num_items = len(hidden) if alone else _count(hidden, workers)
        if self.training and num_items == 1:  # An item alone, the last of an epoch, has no variance of its own.
            mean, variance = norm.running_mean, norm.running_var
            return functional.batch_norm(hidden, mean, variance, norm.weight, norm.bias, eps=norm.eps)
        if self.training and not alone:
            return normalised_over_workers(hidden, num_items, norm, workers)
        normalised: Tensor = norm(hidden)
        return normalised


def _count(rows: Tensor, workers: Workers) -> int:
    return int(workers.add_up(torch.tensor(len(rows), device=rows.device)))


def normalised_over_workers(hidden: Tensor, num_items: int, norm: nn.BatchNorm1d, workers: Workers) -> Tensor:
    """Returns ``[b, D]`` normalised by the statistics of the global batch, which `norm` keeps its share of.

    Args:
        hidden: ``[b, D]``, this worker's items of `num_items`.
    """
    hidden = hidden.to(norm.weight.dtype)
    mean = workers.add_up(hidden.sum(dim=0)) / num_items
    variance = workers.add_up((hidden - mean).square().sum(dim=0)) / num_items
    with torch.no_grad():
        unbiased = variance * (num_items / (num_items - 1))
        norm.get_buffer("running_mean").lerp_(mean, norm.momentum or 0.0)
        norm.get_buffer("running_var").lerp_(unbiased, norm.momentum or 0.0)
        norm.get_buffer("num_batches_tracked").add_(1)
    return (hidden - mean) * (variance + norm.eps).rsqrt() * norm.weight + norm.bias


class Dspe(nn.Module):
    """The two branches of DSPE.

    Args:
        sizes: lengths of the vectors ``image`` and ``video``.
    """

    def __init__(self, options: DspeOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        self.image = Branch(sizes.dims["image"], options)
        self.video = Branch(sizes.dims["video"], options)

    @property
    def scaling(self) -> Literal["min_max", "l2", "none"]:
        """How the vectors it is given are scaled."""
        return self.options.scaling

    def draws(self) -> Mapping[str, tuple[int, ...]]:
        """Returns the shape of the noise one pair takes: that of the two branches' dropout."""
        o = self.options
        return {"image": (o.hidden_dim,), "video": (o.hidden_dim,)} if o.dropout else {}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the losses, unweighted, and their weighted sum ``total``, as scalars.

        ``image_query`` and ``video_query`` rank videos for an image and images for a video; ``image_structure`` and
        ``video_structure`` are left out where their weights are 0 or items have no neighbours.
        """
        o, workers = self.options, batch.workers
        image = workers.gather(self.image(batch["image"], batch.draws.get("image"), workers))
        video = workers.gather(self.video(batch["video"], batch.draws.get("video"), workers))
        of_labels = o.positives == "label"
        code = workers.gather(batch.labels) if of_labels else torch.arange(len(image), device=image.device)
        same, across = code[:, None] == code, distances(image, video)
        kept = (o.margin, o.num_negatives)
        terms = {
            "image_query": (1.0, ranking_loss(across, same, *kept)),
            "video_query": (o.video_query_weight, ranking_loss(across.T, same, *kept)),
        }
        if of_labels and o.image_structure_weight:
            loss = structure_loss(distances(image, image), same, *kept)
            terms["image_structure"] = (o.image_structure_weight, loss)
        if of_labels and o.video_structure_weight:
            loss = structure_loss(distances(video, video), same, *kept)
            terms["video_structure"] = (o.video_structure_weight, loss)
        total = torch.stack([weight * term for weight, term in terms.values()]).sum()
        return {name: term for name, (_, term) in terms.items()} | {"total": total}

    def spaces(self) -> Mapping[str, Space]:
        """Returns the embedding: of vectors of norm 1 the cosine ranks as the distance does."""
        return {"embedding": Cosine("embedding", "embedding")}

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``embedding [B, embedding_dim]`` of queries or gallery items."""
        if side == "query":
            return {"embedding": self.image(inputs["image"].values)}
        return {"embedding": self.video(inputs["video"].values)}


def _variant(options: DspeOptions) -> ModelCard:
    return replace(_CARD, needs_labels=options.positives == "label")


_CARD = ModelCard(
    name="dspe",
    summary="two branches to one embedding, ranked both ways, in which neighbours of either side stay neighbours",
    source="DSPE, CVPR 2016, pp. 5005-5013; github.com/lwwang/Two_branch_network",
    inputs={"image": Vector("first"), "video": Vector("mean")},
    options=DspeOptions,
    loop={"epochs": 20, "batch": 500, "learning_rate": 1e-4},
    couples_batch=True,
    gathers=True,
    variant=_variant,
)

REGISTRATION = Registration(card=_CARD, build=Dspe)
