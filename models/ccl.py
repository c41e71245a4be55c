"""CCL: cross-modal correlation learning with multi-grained fusion by hierarchical network (Peng et al., TMM 2018).

A chain of stages, each learned on what the one before it makes, for images and videos alike:

1. ``layers``: two layers for each grain, the whole item and its parts; what the parts become is averaged;
2. ``correlation``: one layer a grain that keeps what it is given, and is near to the other modality's;
3. ``joint``: one layer for both grains, where there are parts;
4. ``categories``: three layers that tell the labels;
5. ``fusion``: the common space, in which items of one label are near and others at least a margin apart (contrast, over
   all pairs of an image and a video of the batch), and from which labels are told (label).

Sizes, activations, margin and weights are those of the released code (PKU-ICST-MIPL/CCL_TMM2018; deepnet and Caffe).
Stages 1 and 3 are restricted Boltzmann machines there, and autoencoders here; the other differences are listed in
docs/models/ccl.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import (
    ALONE,
    Batch,
    ModelCard,
    Phase,
    Registration,
    Side,
    Sizes,
    Step,
    Values,
    Workers,
)
from clipmill.models.perceptron import Width, perceptron
from clipmill.models.standardiser import Standardiser
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.inputs import Bag, Input, Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine, Space

_SIDES = ("image", "video")
_SHARES = {"layers": 5, "correlation": 1, "joint": 5, "categories": 5, "fusion": 5}
"""Of the epochs, by stage: the release's steps in ten thousands, but both layers at once, and 5 instead of 2 in the
last stage (ours), where the release's steps are smaller."""

_LOWERED = {"layers": "layers", "correlation": "correlation", "joint": "joint", "categories": "category"}
"""By stage but the last, whose is the total: the loss that it lowers."""


class CclOptions(Model):
    """Options of CCL.

    Attributes:
        layer_dims: of the two layers of a grain.
        correlated_dim: of the layer that both modalities correlate in.
        joint_dim: of the layer that joins both grains.
        category_dims: of the layers that tell the labels.
        common_dim: of the common space, and of the layer before it.
        correlation_weight: of the distance between modalities in the second stage; reconstruction has one minus it.
        margin: of the contrast.
        parts: whether items have parts: inputs ``image_parts`` and ``video_parts``, bags of rows.
        max_parts: of an item that are read.
        scaling: of the input vectors; see models/scaling.py. All are standardised, too.
    """

    layer_dims: tuple[Width, Width] = (2048, 1024)
    correlated_dim: Width = 1024
    joint_dim: Width = 2048
    category_dims: tuple[Width, ...] = Field(default=(1024, 1024, 1024), min_length=1)
    common_dim: Width = 1024
    correlation_weight: float = Field(default=0.7, ge=0, le=1)
    margin: float = Field(default=1.0, gt=0)
    parts: bool = False  # ours: the table compares systems on one vector an item
    max_parts: int = Field(default=64, ge=1)  # ours
    scaling: Literal["none", "l2", "min_max"] = "none"


class Autoencoder(nn.Module):
    """A logistic layer of standardised rows, and a linear one that they are told from."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.input = Standardiser(dim)
        self.encoder = perceptron((dim, hidden), "sigmoid", "sigmoid")
        self.decoder = nn.Linear(hidden, dim)

    def forward(self, rows: Tensor, missed: list[Tensor] | None = None, workers: Workers = ALONE) -> Tensor:
        """Returns ``[n, hidden]``, and adds to `missed` the mean square of what the decoder misses of the input."""
        rows = self.input(rows, workers)
        encoded: Tensor = self.encoder(rows)
        if missed is not None:
            missed.append(mean_square(self.decoder(encoded), rows, workers))
        return encoded


class Classified(nn.Module):
    """Layers of standardised rows that tell the labels."""

    def __init__(self, widths: Sequence[int], num_labels: int) -> None:
        super().__init__()
        self.input = Standardiser(widths[0])
        self.layers = perceptron(widths, "relu", "relu")
        self.classifier = nn.Linear(widths[-1], num_labels)

    def forward(self, rows: Tensor, workers: Workers = ALONE) -> tuple[Tensor, Tensor]:
        """Returns the last layer ``[n, widths[-1]]`` and the logits ``[n, num_labels]``."""
        hidden = self.layers(self.input(rows, workers))
        return hidden, self.classifier(hidden)


class Fusion(nn.Module):
    """A logistic layer of standardised rows, then a linear one that both the common space and the labels come from."""

    def __init__(self, dim: int, common: int, num_labels: int) -> None:
        super().__init__()
        self.input = Standardiser(dim)
        self.layer = perceptron((dim, common), "sigmoid", "sigmoid")
        self.shared = nn.Linear(common, common)
        self.classifier = nn.Linear(common, num_labels)
        self.output = Standardiser(common)

    def forward(self, rows: Tensor, workers: Workers = ALONE) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the common space's vectors ``[n, common]``, the same standardised, and logits ``[n, num_labels]``."""
        shared = self.shared(self.layer(self.input(rows, workers)))
        common = shared.sigmoid()
        return common, self.output(common, workers), self.classifier(shared)


class Grain(nn.Module):
    """Both layers of one grain of one modality."""

    def __init__(self, dim: int, options: CclOptions) -> None:
        super().__init__()
        first, second = options.layer_dims
        self.first, self.second = Autoencoder(dim, first), Autoencoder(first, second)

    def forward(self, values: Values, missed: list[Tensor] | None = None, workers: Workers = ALONE) -> Tensor:
        """Returns ``[B, dim]``, of parts their mean, and adds to `missed` what each layer misses."""
        rows = values.values if values.mask is None else values.values[values.mask]
        encoded: Tensor = self.second(self.first(rows, missed, workers).detach(), missed, workers)
        return encoded if values.mask is None else mean_of_parts(encoded, values.mask)


class Ccl(nn.Module):
    """All stages. Each is given what the one before it makes, and hands no gradient back."""

    def __init__(self, options: CclOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = options
        self.layers = nn.ModuleDict({name: Grain(dim, options) for name, dim in sizes.dims.items()})
        width = options.correlated_dim
        self.correlation = nn.ModuleDict({name: Autoencoder(options.layer_dims[1], width) for name in sizes.dims})
        self.joint = nn.ModuleDict()
        if options.parts:
            self.joint = nn.ModuleDict({side: Autoencoder(2 * width, options.joint_dim) for side in _SIDES})
            width = options.joint_dim
        widths = (width, *options.category_dims)
        self.categories = nn.ModuleDict({side: Classified(widths, sizes.num_labels) for side in _SIDES})
        self.fusion = nn.ModuleDict({side: Fusion(widths[-1], options.common_dim, sizes.num_labels) for side in _SIDES})

    @property
    def scaling(self) -> Literal["none", "l2", "min_max"]:
        """How the vectors it is given are scaled."""
        return self.options.scaling

    def phases(self, loop: LoopConfig) -> Sequence[Phase]:
        """Returns a phase for each stage, in proportion to its share; those too short for an epoch are left out."""
        stages = {name: share for name, share in _SHARES.items() if name != "joint" or self.options.parts}
        done, start, phases = 0, 0, []
        for name, share in stages.items():
            done += share
            # The last stage has one epoch at least.
            stop = min(round(loop.epochs * done / sum(stages.values())), loop.epochs - 1)
            if name == "fusion":
                phases.append(Phase(name, None, (Step("total", {name: 1.0}),)))
            elif stop > start:
                phases.append(Phase(name, stop - start, (Step(_LOWERED[name], {name: 1.0}),)))
            start = stop
        return phases

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the losses of all stages; ``total`` is the last one's: contrast and label."""
        terms: dict[str, list[Tensor]] = {name: [] for name in (*_LOWERED.values(), "label")}
        workers, common = batch.workers, {}
        hidden, labels = self._hidden(batch.inputs, _SIDES, terms, workers), workers.gather(batch.labels)
        for side in _SIDES:
            last, logits = self.categories[side](hidden[side], workers)
            terms["category"].append(functional.cross_entropy(workers.gather(logits), labels))
            ours, _, logits = self.fusion[side](last.detach(), workers)
            common[side] = workers.gather(ours)
            terms["label"].append(functional.cross_entropy(workers.gather(logits), labels))
        losses = {name: torch.stack(values).sum() for name, values in terms.items() if values}
        losses["contrast"] = contrast_loss(common["image"], common["video"], labels, self.options.margin)
        return losses | {"total": losses["contrast"] + losses["label"]}

    def _hidden(
        self,
        inputs: Mapping[str, Values],
        sides: Sequence[str],
        terms: Mapping[str, list[Tensor]] | None = None,
        workers: Workers = ALONE,
    ) -> dict[str, Tensor]:
        """Returns, by side, what the stages before the labels make of `inputs`, and adds what they miss to `terms`."""
        grains, weight = ("", "_parts") if self.options.parts else ("",), self.options.correlation_weight
        of_layers, of_joint = (None, None) if terms is None else (terms["layers"], terms["joint"])
        of_correlation: list[Tensor] | None = None if terms is None else []
        correlated = {}
        for name in [side + grain for side in sides for grain in grains]:
            encoded = self.layers[name](inputs[name], of_layers, workers)
            correlated[name] = self.correlation[name](encoded.detach(), of_correlation, workers)
        if terms is not None:
            apart = [mean_square(correlated["image" + grain], correlated["video" + grain], workers) for grain in grains]
            terms["correlation"].extend([(1 - weight) * error for error in of_correlation or []])
            terms["correlation"].extend([weight * distance for distance in apart])
        found = {}
        for side in sides:
            both = torch.cat([correlated[side + grain].detach() for grain in grains], dim=1)
            found[side] = self.joint[side](both, of_joint, workers).detach() if self.options.parts else both
        return found

    def spaces(self) -> Mapping[str, Space]:
        """Returns the one space it ranks in."""
        return {"common": Cosine("common", "common")}

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``common [B, common_dim]``: the vectors of the common space, standardised."""
        modality = "image" if side == "query" else "video"
        last, _ = self.categories[modality](self._hidden(inputs, (modality,))[modality])
        _, common, _ = self.fusion[modality](last)
        return {"common": common}


def mean_square(left: Tensor, right: Tensor, workers: Workers) -> Tensor:
    """Returns the mean over all workers' rows of the squared difference of ``[n, D]`` each: a scalar."""
    if workers.num_workers == 1:
        return functional.mse_loss(left, right)
    squares = functional.mse_loss(left, right, reduction="sum")
    return workers.add_up(squares) / workers.add_up(torch.full_like(squares, left.numel()))


def contrast_loss(image: Tensor, video: Tensor, label: Tensor, margin: float) -> Tensor:
    """Returns the contrast of all pairs of an image and a video, over the number of items: a scalar.

    Of a pair of one label the squared distance d^2, of others max(0, margin - d)^2.

    Args:
        image, video: ``[B, D]``.
        label: ``int64[B]``.
    """
    squares = (image[:, None] - video[None]).square().sum(dim=2)
    # Where two vectors are equal the root has no derivative.
    distance = squares.clamp(min=1e-12).sqrt()
    same = label[:, None] == label[None]
    return torch.where(same, squares, (margin - distance).clamp(min=0).square()).sum() / len(label)


def mean_of_parts(rows: Tensor, mask: Tensor) -> Tensor:
    """Returns ``[B, D]``, the mean of each item's rows, 0 of none.

    Args:
        rows: ``[N, D]``, those that `mask` ``bool[B, L]`` says there are, in its order.
    """
    item = mask.nonzero()[:, 0]
    sums = rows.new_zeros(len(mask), rows.shape[1]).index_add_(0, item, rows)
    found: Tensor = sums / mask.sum(dim=1).clamp(min=1)[:, None]
    return found


def _card(options: Any) -> ModelCard:
    inputs: dict[str, Input] = {"image": Vector("first"), "video": Vector("mean")}
    sides: dict[Side, tuple[str, ...]] = {"query": ("image",), "gallery": ("video",)}
    if options.parts:
        bag = Bag(options.max_parts)
        inputs |= {"image_parts": bag, "video_parts": bag}
        sides = {"query": ("image", "image_parts"), "gallery": ("video", "video_parts")}
    return replace(REGISTRATION.card, inputs=inputs, sides=sides)


REGISTRATION = Registration(
    card=ModelCard(
        name="ccl",
        summary="a chain of stages from each modality's own layers to a common space by contrast and labels",
        source="CCL, IEEE TMM 20(2), 2018, pp. 405-420; code: PKU-ICST-MIPL/CCL_TMM2018",
        inputs={"image": Vector("first"), "video": Vector("mean")},
        options=CclOptions,
        # The batch is that of the release's last stage; the rest is ours: its stages have rates and optimisers each.
        loop={"epochs": 60, "batch": 80, "learning_rate": 1e-3},
        couples_batch=True,
        gathers=True,
        variant=_card,
    ),
    build=Ccl,
)
