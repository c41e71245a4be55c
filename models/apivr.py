"""APIVR: a proposal-based approach for activity image-to-video retrieval (AAAI 2020, pp. 12524-12531), in two forms.

A video is a bag of activity proposals. f_u takes an image to u, f_v each proposal to a row of H, in a common space.

``paper``: a graph convolution and attention over the proposals give the video's vector v. Losses are the classes of u
and v by one classifier; an adversary that tells u from v, behind a reversal of the gradient; and a triplet over
geometry, with the distance of u to the subspace that the k' heaviest proposals span, ||u - P u||^2:

    sum over images of max(0, margin + d(u, V) - d(u, V-)),    V- of another label

``released``: the published code, which has no graph, no truncation, and a network T in place of P, whose score is
u' T u. Its faults are named, and off unless asked for. Of the paper, no more than its abstract was at hand: layers and
weights are the release's in both forms, and what neither gives is marked `ours`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import Batch, ModelCard, Phase, Registration, Side, Sizes, Step, Values
from clipmill.models.gradient_reversal import ModalityClassifier, reversal_factor
from clipmill.models.hard_negatives import nearest_of_other_labels
from clipmill.models.perceptron import Activation, Width, perceptron
from clipmill.models.proposal_bags import (
    BagAttention,
    GraphConvolution,
    filled_up,
    heaviest,
    projector,
    squared_distance,
)
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.inputs import Bag, Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine, Space

Defect = Literal["untrained_classifier", "inert_adversary", "proposal_axis_projector"]


class ApivrOptions(Model):
    """Options of APIVR.

    Attributes:
        form: ``paper`` or ``released``.
        num_proposals: k, most proposals of a bag; the released form fills shorter bags up with their last one.
        choose: which proposals where a clip has more: the ``first`` rows, or the best by the feature's column `score`.
        num_kept: k', proposals that span the subspace; fewer than `common_dim`, or they would span everything.
        common_dim: length of u, v and the rows of H.
        proposal_hidden, image_hidden: widths of the hidden layers of f_v and f_u.
        attention_hidden: width of the attention's hidden layer.
        similarity: of two proposals in the graph.
        modality_hidden, modality_activation: of the adversary; without an activation it is linear, as in the release.
        ridge: of the projector P, over the sum of the squared norms of the proposals.
        video_class_weight, image_class_weight, triplet_weight: of the losses.
        projector_weight: of the squared difference of T and the projector; released form alone.
        adversary_weight: of the adversary for the rest of the network, times a factor that grows; 0 switches it off.
        margin: of the triplets.
        released_defects: faults of the release to be kept, in its form. ``untrained_classifier``: the classifier of
            labels stays as it was initialised. ``inert_adversary``: its gradient reaches nothing but itself.
            ``proposal_axis_projector``: T is drawn to X (X' X)^-1 X', which of as many proposals as dimensions is the
            identity.
        scaling: of the input vectors, fitted on the training clips.
    """

    form: Literal["paper", "released"] = "paper"
    num_proposals: int = Field(default=64, ge=1)  # the release's; the paper has about 60 (from memory)
    choose: Literal["first", "score"] = "first"  # ours: neither says what confidence is; R-C3D's rows come sorted by it
    num_kept: int = Field(default=40, ge=1)  # from memory, unsure; the release does not truncate
    common_dim: Width = 64
    proposal_hidden: tuple[Width, ...] = (500, 200)
    image_hidden: tuple[Width, ...] = (100, 80)
    attention_hidden: Width = 200
    similarity: Literal["cosine", "dot"] = "cosine"  # ours: not known
    modality_hidden: tuple[Width, ...] = (32,)
    modality_activation: Activation = "none"
    ridge: float = Field(default=1e-4, gt=0)  # ours: neither has one
    video_class_weight: float = Field(default=10.0, ge=0)
    image_class_weight: float = Field(default=1.0, ge=0)
    triplet_weight: float = Field(default=0.01, ge=0)
    projector_weight: float = Field(default=0.001, ge=0)
    adversary_weight: float = Field(default=1.0, ge=0)  # ours: the release's adversary has no effect to take it from
    margin: float = Field(default=0.01, ge=0)
    released_defects: tuple[Defect, ...] = ()
    scaling: Literal["min_max", "l2", "none"] = "min_max"

    @model_validator(mode="after")
    def _values_fit_each_other(self) -> "ApivrOptions":
        if self.num_kept >= self.common_dim:
            raise ValueError("expected num_kept below common_dim: as many proposals span the whole space")
        if self.form == "released" and self.num_proposals != self.common_dim:
            raise ValueError("expected num_proposals equal to common_dim in the released form, whose T is square")
        if self.form == "paper" and self.released_defects:
            raise ValueError("expected no released_defects in the paper's form; set form: released")
        return self


class Apivr(nn.Module):
    """The networks of APIVR.

    Args:
        sizes: lengths of the image's vector and of a proposal (``video``), and the number of labels.
    """

    def __init__(self, options: ApivrOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = o = options
        dim = o.common_dim
        self.proposals = perceptron((sizes.dims["video"], *o.proposal_hidden, dim), "tanh", "tanh")
        self.image = perceptron((sizes.dims["image"], *o.image_hidden, dim), "tanh", "tanh")
        self.attention = BagAttention(dim, o.attention_hidden)
        self.classifier = nn.Linear(dim, sizes.num_labels)
        self.modality = ModalityClassifier((dim, *o.modality_hidden), o.modality_activation)
        if o.form == "paper":
            self.graph = GraphConvolution(dim, o.similarity)
        else:
            self.projector = perceptron((dim, dim, dim), "tanh", "tanh")

    @property
    def scaling(self) -> Literal["min_max", "l2", "none"]:
        """How the vectors it is given are scaled."""
        return self.options.scaling

    def phases(self, loop: LoopConfig) -> Sequence[Phase]:
        """Returns one phase: for every batch a step of everything but the adversary, then one of the adversary."""
        moved = ["proposals", "image", "attention", "graph", "projector", "classifier"]
        if "untrained_classifier" in self.options.released_defects:
            moved.remove("classifier")
        steps: tuple[Step, ...] = (Step("total", dict.fromkeys(moved, 1.0)),)
        if self.options.adversary_weight:
            steps += (Step("adversary", {"modality": 1.0}),)
        return [Phase(steps=steps)]

    def encode_bags(self, bags: Values) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns of B bags H ``[B, k, common_dim]``, its mask and weights ``[B, k]``, and v ``[B, common_dim]``.

        In single precision under autocast, too: at first the rows and weights of a bag hardly differ, and which rows
        are the heaviest and what they span would be a matter of rounding.
        """
        with torch.autocast(bags.values.device.type, enabled=False):
            return self._encoded(bags.values, _mask(bags))

    def _encoded(self, proposals: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self.options.form == "paper":
            rows = self.proposals(proposals)
            video, weights = self.attention(self.graph(rows, mask), mask)
            return rows, mask, weights, video
        rows = self.proposals(filled_up(proposals, mask, self.options.num_proposals))
        whole = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        video, weights = self.attention(rows, whole)
        return rows, whole, weights, video

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the losses, unweighted, and ``total``, as scalars.

        The value of ``total`` has ``adversary`` as it is; its gradient for the rest of the network has it reversed,
        times weight and factor.
        """
        o, gather = self.options, batch.workers.gather
        label, image = gather(batch.labels), gather(self.image(batch["image"]))
        rows, mask, weights, video = self.encode_bags(batch.inputs["video"])
        kept, video = heaviest(rows, weights, mask, o.num_kept), gather(video)
        terms = {
            "class_video": (o.video_class_weight, functional.cross_entropy(self.classifier(video), label)),
            "class_image": (o.image_class_weight, functional.cross_entropy(self.classifier(image), label)),
        }
        negatives = nearest_of_other_labels(gather(batch["image"]), label)
        unit = functional.normalize(image, dim=-1)
        if o.form == "paper":
            spans = gather(projector(kept, o.ridge))
            near, far = squared_distance(unit, spans), squared_distance(unit, spans[negatives.index])
        else:
            network, target = gather(self.projector(rows)), gather(self._target(rows, kept))
            terms["projector"] = (o.projector_weight, (network - target).square().mean())
            spans = network / torch.linalg.vector_norm(network)
            near, far = -_score(unit, spans), -_score(unit, spans[negatives.index])
        hinges = functional.relu(o.margin + near - far) * negatives.exists
        terms["triplet"] = (o.triplet_weight, hinges.sum())
        total = torch.stack([weight * term for weight, term in terms.values()]).sum()
        losses = {name: term for name, (_, term) in terms.items()}
        if o.adversary_weight:
            losses["adversary"] = self.modality(image, video, o.adversary_weight * reversal_factor(batch.progress))
            if "inert_adversary" not in o.released_defects:
                total = total + losses["adversary"]
        return losses | {"total": total}

    def spaces(self) -> Mapping[str, Space]:
        """Returns the common space."""
        return {"common": Cosine("common", "common")}

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``common [B, common_dim]``: u of queries, v of gallery items."""
        if side == "query":
            return {"common": self.image(inputs["image"].values)}
        return {"common": self.encode_bags(inputs["video"])[3]}

    @torch.no_grad()
    def _target(self, rows: Tensor, kept: Tensor) -> Tensor:
        """Returns what T is drawn to, ``[B, common_dim, common_dim]``."""
        if "proposal_axis_projector" in self.options.released_defects:
            return projector(rows.transpose(1, 2), self.options.ridge)
        return projector(kept, self.options.ridge)


def _mask(bags: Values) -> Tensor:
    if bags.mask is None:
        raise ValueError("expected bags with a mask, got none")
    return bags.mask


def _score(points: Tensor, matrices: Tensor) -> Tensor:
    return torch.einsum("bi,bij,bj->b", points, matrices, points)


def _variant(options: ApivrOptions) -> ModelCard:
    bag = Bag(options.num_proposals, options.choose)
    return replace(_CARD, inputs={"image": Vector("first"), "video": bag})


_CARD = ModelCard(
    name="apivr",
    summary="bags of proposals: a graph, attention, an adversary, and the distance of an image to their subspace",
    source="APIVR, AAAI 2020, pp. 12524-12531, arXiv 1911.10531; github.com/hbzhang/gcn-cross-modal, APIVR-master",
    inputs={"image": Vector("first"), "video": Bag(64, "first")},
    options=ApivrOptions,
    loop={"epochs": 200, "batch": 70, "learning_rate": 1e-4, "beta1": 0.7},
    couples_batch=True,
    gathers=True,
    variant=_variant,
)

REGISTRATION = Registration(card=_CARD, build=Apivr)
