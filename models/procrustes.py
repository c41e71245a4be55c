"""Orthogonal Procrustes (Schönemann, Psychometrika 1966): images are turned onto videos, a floor for what is trained.

Of centred image vectors X and video vectors Y it finds the W with orthonormal columns or rows, whichever are fewer,
that makes ``||X W - Y||`` least: ``W = U V'`` of the singular value decomposition ``X' Y = U S V'``.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch

from clipmill.models.base import Batch, ModelCard, Registration, Sizes
from clipmill.models.linear_map import LinearMap
from clipmill.schemas.inputs import Vector
from clipmill.schemas.model import Model


class ProcrustesOptions(Model):
    """Options of Procrustes.

    Attributes:
        scaling: of the input vectors; see models/scaling.py.
    """

    scaling: Literal["none", "l2"] = "l2"  # ours: so that each clip counts alike


class Procrustes(LinearMap):
    """The rotation, and the means of both sides."""

    def __init__(self, options: ProcrustesOptions, sizes: Sizes) -> None:
        super().__init__("procrustes", sizes, options.scaling)

    def solve(self, items: Batch) -> Iterator[Mapping[str, float]]:
        """Solves for W; yields ``total``, the mean square of ``c X W - Y`` under the best scale c.

        Directions in which the sides have nothing in common, as single precision sees it, are left out: of fewer clips
        than dimensions they would be arbitrary.
        """
        image, video = self.centre(items["image"], items["video"])
        left, strength, right = torch.linalg.svd(image.T @ video, full_matrices=False)
        kept = strength > strength[0] * max(image.shape[1], video.shape[1]) * torch.finfo(torch.float32).eps
        self.weights.copy_(left[:, kept] @ right[kept])
        mapped = image @ (left[:, kept] @ right[kept])
        scale = (mapped * video).sum() / mapped.square().sum()
        yield {"total": float((scale * mapped - video).square().mean()), "directions": int(kept.sum())}


REGISTRATION = Registration(
    card=ModelCard(
        name="procrustes",
        summary="images turned onto videos by a rotation: a floor",
        source="Schönemann, Psychometrika 1966",
        inputs={"image": Vector("first"), "video": Vector("mean")},
        options=ProcrustesOptions,
        needs_labels=False,
        closed_form=True,
    ),
    build=Procrustes,
)
