"""DSCMR: deep supervised cross-modal retrieval (CVPR 2019, pp. 10394-10403), as its authors released it.

Each modality has a layer of its own; a layer that both share gives u_i of image i and v_i of video i in the common
space, and one linear classifier P, shared as well, predicts their labels. With one-hot labels y and S_ij = y_i' y_j:

- J1 = (1 / n) sum_i ||P u_i - y_i|| + ||P v_i - y_i||, the label space;
- J2 = the mean over pairs of log(1 + exp(t_ij)) - S_ij t_ij with t = cos / 2, of images with videos, images with images
  and videos with videos: the likelihood of S;
- J3 = (1 / n) sum_i ||u_i - v_i||, between the modalities.

The loss is J1 + lambda J2 + eta J3. Values without a mark are those of the release (penghu-cs/DSCMR).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import Batch, ModelCard, Registration, Side, Sizes, Values
from clipmill.models.perceptron import Width
from clipmill.schemas.inputs import Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine, Space


class DscmrOptions(Model):
    """Options of DSCMR.

    Attributes:
        hidden_dim: length of each modality's own layer.
        common_dim: length of u and v.
        similarity_weight: lambda, of J2.
        invariance_weight: eta, of J3.
        scaling: of the input vectors, fitted on the training clips; the release takes them as they are.
    """

    hidden_dim: Width = 2048
    common_dim: Width = 1024
    similarity_weight: float = Field(default=1e-3, ge=0)
    invariance_weight: float = Field(default=0.1, ge=0)
    scaling: Literal["min_max", "l2", "none"] = "none"


def label_loss(prediction: Tensor, label: Tensor) -> Tensor:
    """Returns the mean distance of predictions ``[B, num_labels]`` from the one-hot labels, one term of J1."""
    target = functional.one_hot(label, prediction.shape[-1]).to(prediction)
    distance: Tensor = torch.linalg.vector_norm(prediction - target, dim=-1)
    return distance.mean()


def similarity_loss(left: Tensor, right: Tensor, label: Tensor) -> Tensor:
    """Returns one term of J2: how unlikely it is, by the cosines of ``[B, D]`` each, which pairs share a label."""
    half_cosine = functional.normalize(left, dim=-1) @ functional.normalize(right, dim=-1).T / 2
    same = (label[:, None] == label).to(half_cosine)
    return (functional.softplus(half_cosine) - same * half_cosine).mean()


class Dscmr(nn.Module):
    """The network of DSCMR.

    Args:
        sizes: lengths of the vectors ``image`` and ``video``, and the number of labels.
    """

    def __init__(self, options: DscmrOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        self.image = nn.Linear(sizes.dims["image"], options.hidden_dim)
        self.video = nn.Linear(sizes.dims["video"], options.hidden_dim)
        self.common = nn.Linear(options.hidden_dim, options.common_dim)
        self.classifier = nn.Linear(options.common_dim, sizes.num_labels)

    @property
    def scaling(self) -> Literal["min_max", "l2", "none"]:
        """How the vectors it is given are scaled."""
        return self.options.scaling

    def encode(self, own: nn.Linear, vectors: Tensor) -> Tensor:
        """Returns ``[B, common_dim]`` of vectors ``[B, D]`` of the modality whose own layer is given."""
        common: Tensor = self.common(functional.relu(own(vectors)))
        return common

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns J1 (``label``), J2 (``similarity``), J3 (``invariance``) and their weighted sum, as scalars."""
        o, gather = self.options, batch.workers.gather
        labels = gather(batch.labels)
        image = gather(self.encode(self.image, batch["image"]))
        video = gather(self.encode(self.video, batch["video"]))
        label = torch.stack([label_loss(self.classifier(side), labels) for side in (image, video)]).sum()
        pairs = ((image, image), (image, video), (video, video))
        similarity = torch.stack([similarity_loss(left, right, labels) for left, right in pairs]).sum()
        invariance = torch.linalg.vector_norm(image - video, dim=-1).mean()
        total = label + o.similarity_weight * similarity + o.invariance_weight * invariance
        return {"label": label, "similarity": similarity, "invariance": invariance, "total": total}

    def spaces(self) -> Mapping[str, Space]:
        """Returns the common space."""
        return {"common": Cosine("common", "common")}

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``common [B, common_dim]`` of queries or gallery items."""
        if side == "query":
            return {"common": self.encode(self.image, inputs["image"].values)}
        return {"common": self.encode(self.video, inputs["video"].values)}


REGISTRATION = Registration(
    card=ModelCard(
        name="dscmr",
        summary="a common space in which labels can be predicted and pairs of one label are likely",
        source="DSCMR, CVPR 2019, pp. 10394-10403; github.com/penghu-cs/DSCMR",
        inputs={"image": Vector("first"), "video": Vector("mean")},
        options=DscmrOptions,
        loop={"epochs": 500, "batch": 100, "learning_rate": 1e-4, "beta1": 0.5},
        couples_batch=True,
        gathers=True,
    ),
    build=Dscmr,
)
