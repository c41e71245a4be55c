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


def pair_losses(left: Tensor, right: Tensor, left_label: Tensor, right_label: Tensor) -> Tensor:
    """Returns ``[b, B]``, whose mean is a term of J2: how unlikely it is, by their cosine, which pairs share a label.

    Args:
        left, right: ``[b, D]`` and ``[B, D]``.
        left_label, right_label: ``int64[b]`` and ``int64[B]``.
    """
    half_cosine = functional.normalize(left, dim=-1) @ functional.normalize(right, dim=-1).T / 2
    same = (left_label[:, None] == right_label).to(half_cosine)
    return functional.softplus(half_cosine) - same * half_cosine


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
        o, workers = self.options, batch.workers
        ours_image, ours_video = self.encode(self.image, batch["image"]), self.encode(self.video, batch["video"])
        image, video, labels = (workers.gather(values) for values in (ours_image, ours_video, batch.labels))
        label = torch.stack([label_loss(self.classifier(side), labels) for side in (image, video)]).sum()
        # There are as many pairs as the batch squared: of each term a worker has those of its own items.
        pairs = ((ours_image, image), (ours_image, video), (ours_video, video))
        terms = [pair_losses(left, right, batch.labels, labels) for left, right in pairs]
        if workers.num_workers == 1:
            similarity = torch.stack([term.mean() for term in terms]).sum()
        else:
            similarity = workers.add_up(torch.stack([term.sum() for term in terms]).sum()) / len(labels) ** 2
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
