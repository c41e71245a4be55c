"""Asymmetric spatio-temporal embeddings: one vector for a shot, found by one image (Garcia, Vogiatzis, BMVC 2018).

*Asymmetric Spatio-Temporal Embeddings for Large-Scale Image-to-Video Retrieval*. An image is its R-MAC vector, a shot
the sequence of its frames' R-MAC vectors, read by a recurrent network. Learned projections bring both into one space,
where a pair is compared by its cosine: of a matching pair the loss is 1 - cos, of any other max(0, cos - margin). Clips
are shots (``clips: {from: shots}``), so that a search compares one vector a shot.

What aggregates the frames without learning anything is scored beside it: the greatest cosine over all frames, their
mean, their greatest values, and the first frame. No code of the publication is public, and its sizes are not known: all
defaults are ours, after the same authors' SemArt code.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import Batch, ModelCard, Registration, Side, Sizes, Values
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import Sequence, Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine, PairScore, Space

MAX_FRAMES = 64


class ShotEmbeddingOptions(Model):
    """Options of shot embeddings. All defaults are ours.

    Attributes:
        encoder: the recurrent network.
        embedding_dim: length of the embedding; None: that of the frames' vectors.
        margin: cosine up to which a pair that does not match costs nothing.
        matching_share: share of matching pairs: their mean loss counts so much, that of the others the rest.
        start: ``pooled`` adds what is learned to the image's vector and to the shot's mean, so that training starts at
            them; ``random`` starts from random projections, far below.
        max_frames: of a longer shot, the means of so many equal stretches are read.
    """

    encoder: Literal["lstm", "gru"] = "lstm"
    embedding_dim: int | None = Field(default=None, ge=1)
    margin: float = Field(default=0.1, ge=-1, le=1)
    matching_share: float = Field(default=0.2, gt=0, lt=1)
    start: Literal["pooled", "random"] = "pooled"
    max_frames: int = Field(default=MAX_FRAMES, ge=1)


class ShotEmbedding(nn.Module):
    """The image's projection, and the recurrent network over a shot with its own.

    Args:
        sizes: lengths of the vectors ``image`` and of the rows of ``video``.

    Raises:
        UsageError: they differ, or differ from the embedding's where it is to start at them.
    """

    scaling = "l2"

    def __init__(self, options: ShotEmbeddingOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        image_dim, frame_dim = sizes.dims["image"], sizes.dims["video"]
        dim = options.embedding_dim or frame_dim
        if image_dim != frame_dim:
            got, remedy = f"{image_dim} and {frame_dim}", "give data.image and data.video features of one network"
            raise UsageError(describe("shot_embedding", "image and video", "vectors of one length", got, remedy))
        if options.start == "pooled" and dim != frame_dim:
            expected, remedy = f"{frame_dim}, the length of the vectors", "leave it out, or set start: random"
            raise UsageError(describe("model.options", "embedding_dim", expected, str(dim), remedy))
        self.image = nn.Linear(image_dim, dim)
        self.frames = (nn.LSTM if options.encoder == "lstm" else nn.GRU)(frame_dim, dim, batch_first=True)
        self.video = nn.Linear(dim, dim)
        if options.start == "pooled":
            for layer in (self.image, self.video):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def encode_image(self, vectors: Tensor) -> Tensor:
        """Returns unit vectors ``[B, d]`` of images ``[B, D]``."""
        learned = torch.tanh(self.image(vectors))
        return functional.normalize(vectors + learned if self.options.start == "pooled" else learned, dim=-1)

    def encode_video(self, frames: Values) -> Tensor:
        """Returns unit vectors ``[B, d]`` of the frames of shots ``[B, T, D]``."""
        mask = _mask(frames)
        # In single precision: recurrent layers have no half precision on every CPU.
        with torch.autocast(frames.values.device.type, enabled=False):
            states, _ = self.frames(frames.values.to(self.video.weight.dtype))
        last = mask.sum(dim=1).clamp(min=1) - 1
        state = states[torch.arange(len(last), device=last.device), last]
        learned = torch.tanh(self.video(state))
        return functional.normalize(_mean(frames) + learned if self.options.start == "pooled" else learned, dim=-1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the mean loss of matching pairs, that of others, and their weighted sum (``total``), as scalars.

        ours: each image of a batch makes a pair with each shot of it, which is what random pairs are in expectation.
        Where items have labels, two of one label are no pair that does not match.
        """
        image = batch.workers.gather(self.encode_image(batch["image"]))
        video = batch.workers.gather(self.encode_video(batch.inputs["video"]))
        label = None if batch.label is None else batch.workers.gather(batch.label)
        cosine = (image @ video.T).to(torch.promote_types(image.dtype, torch.float32))
        own = torch.eye(len(cosine), dtype=torch.bool, device=cosine.device)
        other = ~own if label is None else label[:, None] != label
        matching, different = pair_losses(cosine, own, self.options.margin)
        matching, different = matching[own].mean(), (different * other).sum() / other.sum().clamp(min=1)
        share = self.options.matching_share
        total = share * matching + (1 - share) * different
        return {"matching": matching, "different": different, "total": total}

    def spaces(self) -> Mapping[str, Space]:
        """Returns what aggregates frames without learning, and the embedding."""
        plain = {name: Cosine("vector", name) for name in ("first", "mean", "max")}
        return {**plain, "frame_max": PairScore(), "embedding": Cosine("embedding", "embedding")}

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns what the spaces compare: of queries ``vector`` and ``embedding``, of shots all else, and frames."""
        if side == "query":
            vectors = inputs["image"].values
            return {"vector": vectors, "embedding": self.encode_image(vectors)}
        frames, mask = inputs["video"], _mask(inputs["video"])
        # Of values that may be negative what only fills up must not be the greatest.
        greatest = frames.values.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
        return {
            "first": frames.values[:, 0],
            "mean": _mean(frames),
            "max": torch.where(mask.any(dim=1, keepdim=True), greatest, torch.zeros_like(greatest)),
            "frames": frames.values,
            "frames_mask": mask,
            "embedding": self.encode_video(frames),
        }

    def score(self, query: Mapping[str, Tensor], gallery: Mapping[str, Tensor]) -> Tensor:
        """Returns ``[Q, G]``, the greatest cosine of a query's vector over the frames of a shot."""
        vectors = functional.normalize(query["vector"], dim=-1)
        found = []
        for frames, mask in zip(gallery["frames"], gallery["frames_mask"].bool(), strict=True):
            shown = frames[mask] if mask.any() else frames[:1]
            found.append((vectors @ functional.normalize(shown, dim=-1).T).amax(dim=1))
        return torch.stack(found, dim=1) if found else vectors.new_zeros(len(vectors), 0)

    def bytes_per_shot(self, num_frames: float, value_bytes: int = 4) -> dict[str, float]:
        """Returns, by space, the bytes that an index holds of a shot of `num_frames` frames.

        Args:
            value_bytes: of a number.
        """
        rows = {"frame_max": num_frames * self.frames.input_size, "embedding": float(self.video.out_features)}
        rows |= dict.fromkeys(("first", "mean", "max"), float(self.frames.input_size))
        return {name: rows[name] * value_bytes for name in self.spaces()}


def pair_losses(cosine: Tensor, own: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Returns the losses of all pairs as matching ones, 1 - cos, and as others, max(0, cos - margin).

    That of a pair is `torch.nn.functional.cosine_embedding_loss`.
    """
    return torch.where(own, 1 - cosine, 0), (cosine - margin).clamp(min=0)


def _mask(frames: Values) -> Tensor:
    if frames.mask is None:
        raise ValueError("shots: expected a sequence of frames with its mask, got vectors; give a Sequence")
    return frames.mask


def _mean(frames: Values) -> Tensor:
    weights = _mask(frames).to(frames.values.dtype)[..., None]
    return (frames.values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _card(options: Any) -> ModelCard:
    """Returns the card for shots of so many frames."""
    return ModelCard(
        name="shot_embedding",
        summary="one vector of a shot by a recurrent network, found by one image",
        source="Garcia and Vogiatzis, BMVC 2018",
        inputs={"image": Vector("first"), "video": Sequence(options.max_frames, "mean")},
        options=ShotEmbeddingOptions,
        loop={"epochs": 100, "batch": 32, "learning_rate": 1e-4},  # ours: not stated
        couples_batch=True,
        gathers=True,
        needs_labels=False,
        variant=_card,
    )


REGISTRATION = Registration(card=_card(ShotEmbeddingOptions()), build=ShotEmbedding)
