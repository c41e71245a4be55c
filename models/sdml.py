"""SDML: scalable deep multimodal learning for cross-modal retrieval (SIGIR 2019, pp. 635-644), as it was released.

The common space is fixed beforehand: the columns of W, one for each label, are columns of a random orthogonal matrix,
so labels are as far apart as they can be. A network f_m for each modality m, with a decoder g_m, is trained alone
against it:

    alpha ||g_m(f_m(x)) - x||  +  (1 - alpha) ||f_m(x) W - y||,    y one-hot, ||f_m(x)|| = 1

No parameter is shared, so modalities could be added later. The loss of an item depends on that item alone. Values
without a mark are those of the release (penghu-cs/SDML).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import Batch, ModelCard, Phase, Registration, Side, Sizes, Step, Values
from clipmill.models.perceptron import Width, perceptron
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine, Space

_MODALITIES = ("image", "video")


class SdmlOptions(Model):
    """Options of SDML.

    Attributes:
        subspace_dim: length of f_m(x), at least the number of labels.
        hidden: widths of the hidden layers of both networks; the decoders have them the other way round.
        alpha: weight of the reconstruction; 0 drops it.
        decoder_output: ``unit`` is the release's, whose decoders end like its networks, in a vector of norm 1. So they
            can only reconstruct vectors of norm 1: scale by ``l2``, or take ``linear``.
        video_rate: learning rate of the video's networks over that of the image's, which is ``loop.learning_rate``.
        scaling: of the input vectors, fitted on the training clips; the release takes them as they are.
    """

    subspace_dim: Width = 512
    hidden: tuple[Width, ...] = (1024, 1024)
    alpha: float = Field(default=0.5, ge=0, lt=1)
    decoder_output: Literal["unit", "linear"] = "unit"
    video_rate: float = Field(default=2.0, gt=0)
    scaling: Literal["min_max", "l2", "none"] = "l2"  # ours: what the decoders' outputs of norm 1 can meet


def row_distance(left: Tensor, right: Tensor) -> Tensor:
    """Returns ``[B]``: the distance of each pair of rows; its slope is 0 where they are the same."""
    distance: Tensor = torch.linalg.vector_norm(left - right, dim=-1)
    return distance


class Sdml(nn.Module):
    """The networks of SDML and the fixed W.

    Args:
        sizes: lengths of the vectors ``image`` and ``video``, and the number of labels.

    Raises:
        UsageError: there are more labels than the subspace has dimensions.
    """

    directions: Tensor

    def __init__(self, options: SdmlOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        dim = options.subspace_dim
        if sizes.num_labels > dim:
            expected = f"at least the number of labels, {sizes.num_labels}"
            remedy = "raise it: each label has a direction of its own"
            raise UsageError(describe("model.options", "subspace_dim", expected, str(dim), remedy))
        orthogonal = nn.init.orthogonal_(torch.empty(dim, dim))
        self.register_buffer("directions", orthogonal[:, : sizes.num_labels].clone())
        widths = {name: (sizes.dims[name], *options.hidden, dim) for name in _MODALITIES}
        self.networks = nn.ModuleDict({name: perceptron(widths[name], "relu") for name in _MODALITIES})
        self.decoders = nn.ModuleDict({name: perceptron(widths[name][::-1], "relu") for name in _MODALITIES})

    @property
    def scaling(self) -> Literal["min_max", "l2", "none"]:
        """How the vectors it is given are scaled."""
        return self.options.scaling

    def phases(self, loop: LoopConfig) -> Sequence[Phase]:
        """Returns one phase in which each modality has its own learning rate."""
        rates = {"networks.image": 1.0, "decoders.image": 1.0}
        rates |= {name.replace("image", "video"): self.options.video_rate for name in rates}
        return [Phase(steps=(Step(rates=rates),))]

    def encode(self, modality: str, vectors: Tensor) -> Tensor:
        """Returns f_m of vectors ``[B, D]``: ``[B, subspace_dim]`` of norm 1."""
        return functional.normalize(self.networks[modality](vectors), dim=-1)

    def decode(self, modality: str, encoded: Tensor) -> Tensor:
        """Returns g_m of ``[B, subspace_dim]``: ``[B, D]``."""
        decoded: Tensor = self.decoders[modality](encoded)
        return functional.normalize(decoded, dim=-1) if self.options.decoder_output == "unit" else decoded

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``subspace`` and ``reconstruction``, unweighted sums over the modalities, and ``total``: ``[B]``."""
        alpha = self.options.alpha
        target = functional.one_hot(batch.labels, self.directions.shape[1]).to(self.directions)
        encoded = {name: self.encode(name, batch[name]) for name in _MODALITIES}
        subspace = torch.stack([row_distance(rows @ self.directions, target) for rows in encoded.values()]).sum(dim=0)
        if not alpha:
            return {"subspace": subspace, "total": subspace}
        distances = [row_distance(self.decode(name, rows), batch[name]) for name, rows in encoded.items()]
        reconstruction = torch.stack(distances).sum(dim=0)
        total = alpha * reconstruction + (1 - alpha) * subspace
        return {"subspace": subspace, "reconstruction": reconstruction, "total": total}

    def spaces(self) -> Mapping[str, Space]:
        """Returns the fixed space."""
        return {"subspace": Cosine("subspace", "subspace")}

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``subspace [B, subspace_dim]`` of queries or gallery items."""
        name = "image" if side == "query" else "video"
        return {"subspace": self.encode(name, inputs[name].values)}


REGISTRATION = Registration(
    card=ModelCard(
        name="sdml",
        summary="one network per modality, trained alone towards fixed orthogonal directions of the labels",
        source="SDML, SIGIR 2019, pp. 635-644; github.com/penghu-cs/SDML",
        inputs={"image": Vector("first"), "video": Vector("mean")},
        options=SdmlOptions,
        loop={"epochs": 200, "batch": 100, "learning_rate": 1e-4, "beta1": 0.5},
    ),
    build=Sdml,
)
