"""ACMR: adversarial cross-modal retrieval (ACM Multimedia 2017, pp. 154-162), with an adversary that works.

Projectors f_V and f_T take an image and a video to v and t in a common space. With a classifier of labels that both
share, a triplet loss and a classifier D of modalities:

- L_imd = -(1 / n) sum_i log p(v_i)_y + log p(t_i)_y;
- L_imi: t_i is nearer to v_i than the t of a hard negative, and v_i to t_i than the v of one;
- L_adv = -(1 / n) sum_i log D(v_i) + log (1 - D(t_i)).

The projectors minimise alpha L_imi + beta L_imd - lambda(p) L_adv, D minimises L_adv, and the two take turns: k steps
of the projectors, one of D. The sign is turned by a reversal of the gradient, whose factor lambda grows with the
progress p of the training. Values without a mark are those of the release (sunpeng981712364/ACMR_demo), in which the
reversed gradient reaches nothing and the classifier of labels is never trained; see docs/models/acmr.md.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import Batch, ModelCard, Phase, Registration, Side, Sizes, Step, Values
from clipmill.models.gradient_reversal import ModalityClassifier, reversal_factor
from clipmill.models.hard_negatives import HardNegatives, nearest_of_other_labels
from clipmill.models.perceptron import Activation, Width, perceptron
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.inputs import Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine, Space


class AcmrOptions(Model):
    """Options of ACMR.

    Attributes:
        common_dim: length of v and t.
        image_hidden, video_hidden: widths of the projectors' hidden layers.
        modality_hidden, modality_activation: of D; without an activation D is linear, as in the release.
        class_weight: beta, of L_imd.
        triplet_weight: alpha, of L_imi.
        margin: of the triplets.
        positive_weight: of the distance to the positive within a triplet.
        hinge: each ``item`` has a hinge of its own, or one hinge is taken of the sums over the ``batch``, as released.
        adversary_weight: of L_adv for the projectors, times the factor; 0 switches D off.
        projector_steps: k.
        scaling: of the input vectors, fitted on the training clips; the release takes them as they are.
    """

    common_dim: Width = 40
    image_hidden: tuple[Width, ...] = (512, 100)
    video_hidden: tuple[Width, ...] = (512, 100)  # ours: as the image's; the release's second modality is words
    modality_hidden: tuple[Width, ...] = (20, 10)
    modality_activation: Activation = "none"
    class_weight: float = Field(default=100.0, ge=0)
    triplet_weight: float = Field(default=1.0, ge=0)
    margin: float = Field(default=0.1, ge=0)
    positive_weight: float = Field(default=5.0, ge=0)
    hinge: Literal["item", "batch"] = "item"  # ours: the paper has it per triplet; the release has one for the batch
    adversary_weight: float = Field(default=1.0, ge=0)
    projector_steps: int = Field(default=1, ge=1)  # ours: not given; the release takes both steps at once
    scaling: Literal["min_max", "l2", "none"] = "none"


def triplet_loss(
    anchor: Tensor, positive: Tensor, negatives: HardNegatives, margin: float, weight: float, hinge: str = "item"
) -> Tensor:
    """Returns the sum over anchors of max(0, margin + weight d(anchor, positive) - d(anchor, negative)).

    d is half the squared distance. Anchors without a negative add nothing.

    Args:
        anchor: ``[B, D]`` of one modality.
        positive: ``[B, D]`` of the other, item by item; the negatives are among them.
        hinge: ``batch`` takes the greater of 0 and the whole sum instead.
    """
    near = (anchor - positive).square().sum(dim=-1) / 2
    far = (anchor - positive[negatives.index]).square().sum(dim=-1) / 2
    exists = negatives.exists.to(near)
    if hinge == "batch":
        return functional.relu(margin + ((weight * near - far) * exists).sum())
    return (functional.relu(margin + weight * near - far) * exists).sum()


class Acmr(nn.Module):
    """The networks of ACMR.

    Args:
        sizes: lengths of the vectors ``image`` and ``video``, and the number of labels.
    """

    def __init__(self, options: AcmrOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        dim = options.common_dim
        self.image = perceptron((sizes.dims["image"], *options.image_hidden, dim), "tanh", "tanh")
        self.video = perceptron((sizes.dims["video"], *options.video_hidden, dim), "tanh", "tanh")
        self.classifier = nn.Linear(dim, sizes.num_labels)
        self.modality = ModalityClassifier((dim, *options.modality_hidden), options.modality_activation)

    @property
    def scaling(self) -> Literal["min_max", "l2", "none"]:
        """How the vectors it is given are scaled."""
        return self.options.scaling

    def phases(self, loop: LoopConfig) -> Sequence[Phase]:
        """Returns one phase: for every batch k steps of the projectors and the classifier of labels, then one of D."""
        projectors = Step("total", dict.fromkeys(("image", "video", "classifier"), 1.0))
        steps = (projectors,) * self.options.projector_steps
        if self.options.adversary_weight:
            steps += (Step("adversary", {"modality": 1.0}),)
        return [Phase(steps=steps)]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns L_imd (``class``), L_imi (``triplet``), L_adv (``adversary``) and ``total``, as scalars.

        The value of ``total`` has L_adv as it is; its gradient for the projectors has it reversed, times weight and
        factor.
        """
        o, gather = self.options, batch.workers.gather
        labels = gather(batch.labels)
        image, video = gather(self.image(batch["image"])), gather(self.video(batch["video"]))
        sides = ((image, video, batch["image"]), (video, image, batch["video"]))
        classes = torch.stack([functional.cross_entropy(self.classifier(side), labels) for side, _, _ in sides])
        triplets = []
        for anchor, positive, given in sides:
            negatives = nearest_of_other_labels(gather(given), labels)
            triplets.append(triplet_loss(anchor, positive, negatives, o.margin, o.positive_weight, o.hinge))
        losses = {"class": classes.sum(), "triplet": torch.stack(triplets).sum()}
        total = o.class_weight * losses["class"] + o.triplet_weight * losses["triplet"]
        if o.adversary_weight:
            losses["adversary"] = self.modality(image, video, o.adversary_weight * reversal_factor(batch.progress))
            total = total + losses["adversary"]
        return losses | {"total": total}

    def spaces(self) -> Mapping[str, Space]:
        """Returns the common space."""
        return {"common": Cosine("common", "common")}

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``common [B, common_dim]`` of queries or gallery items."""
        if side == "query":
            return {"common": self.image(inputs["image"].values)}
        return {"common": self.video(inputs["video"].values)}


REGISTRATION = Registration(
    card=ModelCard(
        name="acmr",
        summary="a common space in which an adversary cannot tell images from videos",
        source="ACMR, ACM Multimedia 2017, pp. 154-162; github.com/sunpeng981712364/ACMR_demo",
        inputs={"image": Vector("first"), "video": Vector("mean")},
        options=AcmrOptions,
        loop={"epochs": 50, "batch": 64, "learning_rate": 1e-4, "beta1": 0.5},
        couples_batch=True,
        gathers=True,
    ),
    build=Acmr,
)
