"""A linear map from images to videos, both centred: what Procrustes and ridge regression solve for."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from clipmill.models.base import Side, Sizes, Values
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.spaces import Cosine, Space


class LinearMap(nn.Module):
    """Compares ``(x - mean) W`` of an image x with ``y - mean`` of a video y, by cosine.

    Args:
        name: of the model, for messages.
        scaling: of the input vectors.
    """

    image_mean: Tensor
    video_mean: Tensor
    weights: Tensor

    def __init__(self, name: str, sizes: Sizes, scaling: Literal["none", "l2"]) -> None:
        super().__init__()
        self.name, self.scaling = name, scaling
        image_dim, video_dim = sizes.dims["image"], sizes.dims["video"]
        self.register_buffer("image_mean", torch.zeros(image_dim))
        self.register_buffer("video_mean", torch.zeros(video_dim))
        self.register_buffer("weights", torch.zeros(image_dim, video_dim))

    def centre(self, image: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps the means of both sides, and returns the sides without them, ``float64[n, D]``.

        Raises:
            UsageError: the vectors of a side are all alike.
        """
        centred = []
        for name, values, kept in (("image", image, self.image_mean), ("video", video, self.video_mean)):
            if not (values != values[:1]).any():
                expected, got = "training clips that differ", f"{len(values)} alike"
                raise UsageError(describe(self.name, f"{name} vectors", expected, got, "give it more clips"))
            mean = values.double().mean(dim=0)
            kept.copy_(mean)
            centred.append(values.double() - mean)
        return centred[0], centred[1]

    def spaces(self) -> Mapping[str, Space]:
        """Returns the one space it ranks in."""
        return {"mapped": Cosine("mapped", "centred")}

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``mapped [B, video_dim]`` of images, ``centred [B, video_dim]`` of videos."""
        if side == "query":
            return {"mapped": (inputs["image"].values - self.image_mean) @ self.weights}
        return {"centred": inputs["video"].values - self.video_mean}
