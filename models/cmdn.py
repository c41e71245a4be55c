"""CMDN: cross-media multiple deep networks (IJCAI 2016, pp. 3846-3853), with autoencoders in place of its RBMs.

First each modality gets two representations of its own:

- within it, by a stacked autoencoder;
- between the two, by a deep belief network: two layers for each modality and a joint layer on top, in which the
  modality that is missing is inferred by mean field.

Then a layer for each modality joins its two, a classifier's last hidden layer makes them semantic, and a stack of
bimodal autoencoders takes both to ever shorter vectors, the last of which are compared. Each part is trained after
those before it, on what they give. Values without a mark are those of the release (PKU-ICST-MIPL/CMDN_IJCAI2016); what
differs stands in docs/models/cmdn.md.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from clipmill.models.base import Batch, ModelCard, Phase, Registration, Side, Sizes, Step, Values
from clipmill.models.perceptron import Width, perceptron
from clipmill.models.tied_layer import BimodalAutoencoder, TiedLayer
from clipmill.schemas.config import LoopConfig
from clipmill.schemas.inputs import Vector
from clipmill.schemas.model import Model
from clipmill.schemas.spaces import Cosine, Space

_MODALITIES = ("image", "video")
_STATISTICS_RATE = 10.0
"""ours: means and deviations of units between 0 and 1 are learned this much faster than weights."""


class CmdnOptions(Model):
    """Options of CMDN.

    Attributes:
        intra_dims: widths of the stacked autoencoder's two layers.
        inter_dims: widths of the belief network's two layers for each modality.
        joint_dim: width of the layer on top of both modalities'.
        mean_field_steps: how often the missing modality is inferred.
        media_dim: width of the layer that joins a modality's two representations.
        semantic_dims: widths of the classifier's hidden layers.
        bimodal_dims: widths of the bimodal autoencoders, one after the other.
        greedy: parts are trained one after the other, each for an equal share of the epochs; else all at once.
        scaling: of the input vectors, fitted on the training clips.
    """

    intra_dims: tuple[Width, Width] = (1024, 512)
    inter_dims: tuple[Width, Width] = (2048, 1024)
    joint_dim: Width = 2048
    mean_field_steps: int = Field(default=10, ge=1)
    media_dim: Width = 1024
    semantic_dims: tuple[Width, ...] = Field(default=(1024, 1024, 1024), min_length=1)
    bimodal_dims: tuple[Width, ...] = Field(default=(512, 256, 128, 64), min_length=1)
    greedy: bool = True
    scaling: Literal["min_max", "l2", "none"] = "min_max"  # ours: the release scales each set by itself


class Cmdn(nn.Module):
    """The networks of CMDN.

    Args:
        sizes: lengths of the vectors ``image`` and ``video``, and the number of labels.
    """

    def __init__(self, options: CmdnOptions, sizes: Sizes) -> None:
        super().__init__()
        self.options = o = options
        dims = {name: sizes.dims[name] for name in _MODALITIES}
        (first, code), (low, high) = o.intra_dims, o.inter_dims
        self.encoders_1 = _of_each(lambda name: nn.Linear(dims[name], first))
        self.decoders_1 = _of_each(lambda name: nn.Linear(first, dims[name]))
        self.encoders_2 = _of_each(lambda name: nn.Linear(first, code))
        self.decoders_2 = _of_each(lambda name: nn.Linear(code, first))
        self.inter_1 = _of_each(lambda name: TiedLayer((dims[name],), low, (False,)))
        self.inter_2 = _of_each(lambda name: TiedLayer((low,), high, (True,)))
        self.joint = TiedLayer((high, high), o.joint_dim, (True, True))
        self.media = _of_each(lambda name: TiedLayer((code, o.joint_dim), o.media_dim, (False, True)))
        self.semantic = _of_each(lambda name: perceptron((o.media_dim, *o.semantic_dims), "relu", "relu"))
        self.classifiers = _of_each(lambda name: nn.Linear(o.semantic_dims[-1], sizes.num_labels))
        widths = (o.semantic_dims[-1], *o.bimodal_dims)
        self.bimodal = nn.ModuleList(
            BimodalAutoencoder(before, after, sizes.num_labels, logistic=number > 0)
            for number, (before, after) in enumerate(zip(widths, widths[1:], strict=False))
        )
        self.means = nn.Parameter(torch.full((2, o.bimodal_dims[-1]), 0.5))
        self.log_deviations = nn.Parameter(torch.full((2, o.bimodal_dims[-1]), math.log(0.1)))

    @property
    def scaling(self) -> Literal["min_max", "l2", "none"]:
        """How the vectors it is given are scaled."""
        return self.options.scaling

    def phases(self, loop: LoopConfig) -> Sequence[Phase]:
        """Returns a phase for each part, each of an equal share of the epochs; the last has those that are left."""
        statistics = dict.fromkeys(("means", "log_deviations"), _STATISTICS_RATE)
        if not self.options.greedy:
            return [Phase(steps=(Step(rates={"": 1.0, **statistics}),))]
        parts = {
            "layer_1": ("encoders_1", "decoders_1", "inter_1"),
            # The stacked autoencoder is refined as a whole.
            "layer_2": ("encoders_1", "decoders_1", "encoders_2", "decoders_2", "inter_2"),
            "joint": ("joint",),
            "media": ("media",),
            "semantic": ("semantic", "classifiers"),
        }
        parts |= {f"bimodal_{number + 1}": (f"bimodal.{number}.",) for number in range(len(self.bimodal))}
        share = max(1, loop.epochs // len(parts))
        phases = [Phase(name, share, (Step(name, dict.fromkeys(moved, 1.0)),)) for name, moved in parts.items()]
        last = phases[-1]
        return [*phases[:-1], Phase(last.name, None, (*last.steps, Step("statistics", statistics)))]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the losses of the parts up to the one the phase trains, and their sum ``total``: ``[B]``.

        Parts pass no gradient to those before them, so the sum trains each of them as its own loss does. The last
        phase, and one that trains all at once, have all parts and ``statistics``.
        """
        losses: dict[str, Tensor] = {}
        for name, loss in self._parts(batch):
            losses[name] = loss
            if name == batch.phase and name != f"bimodal_{len(self.bimodal)}":
                break
        return losses | {"total": _sum(list(losses.values()))}

    def _parts(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """Yields each part's name and loss; what a part is not asked for is not computed."""
        given = {name: batch[name] for name in _MODALITIES}
        lows = {name: self._low(name, vectors) for name, vectors in given.items()}
        yield (
            "layer_1",
            _sum(
                [self._autoencoder_1(name, vectors) for name, vectors in given.items()]
                + [_tied(self.inter_1, name).reconstruction_loss([vectors]) for name, vectors in given.items()]
            ),
        )
        yield (
            "layer_2",
            _sum(
                [self._autoencoder_2(name, vectors) for name, vectors in given.items()]
                + [_tied(self.inter_2, name).reconstruction_loss([low]) for name, low in lows.items()]
            ),
        )
        highs = [self._high(name, low) for name, low in lows.items()]
        # Where one is missing, too: a machine trained by sampling could infer it, a reconstruction learns to.
        seen = ((highs[0], highs[1]), (highs[0], None), (None, highs[1]))
        yield "joint", _sum([self.joint.reconstruction_loss(highs, some) for some in seen]) / 3
        pairs = {name: self._own(name, vectors) for name, vectors in given.items()}
        yield "media", _sum([_tied(self.media, name).reconstruction_loss(pair) for name, pair in pairs.items()])
        media = {name: self._media(name, pair) for name, pair in pairs.items()}
        logits = [self.classifiers[name](self.semantic[name](units)) for name, units in media.items()]
        yield "semantic", _sum([functional.cross_entropy(side, batch.labels, reduction="none") for side in logits])
        image, video = (self._semantic(name, units) for name, units in media.items())
        for number, autoencoder in enumerate(self.bimodal, start=1):
            yield f"bimodal_{number}", cast(BimodalAutoencoder, autoencoder).loss(image, video, batch.labels)
            image, video = _bimodal(autoencoder, 0, image), _bimodal(autoencoder, 1, video)
        scales = self.log_deviations.mean(dim=-1)
        normal = [self._normalised(place, units) for place, units in enumerate((image, video))]
        yield "statistics", _sum([units.square().mean(dim=-1) / 2 + scales[i] for i, units in enumerate(normal)])

    @torch.no_grad()
    def represent(self, name: str, vectors: Tensor) -> Tensor:
        """Returns ``[B, bimodal_dims[-1]]`` of the vectors ``[B, D]`` of one modality, without the other one's."""
        units = self._semantic(name, self._media(name, self._own(name, vectors)))
        for autoencoder in self.bimodal:
            units = _bimodal(autoencoder, _MODALITIES.index(name), units)
        return units

    def spaces(self) -> Mapping[str, Space]:
        """Returns the space of the last bimodal autoencoder."""
        return {"shared": Cosine("shared", "shared")}

    def embed(self, side: Side, inputs: Mapping[str, Values]) -> Mapping[str, Tensor]:
        """Returns ``shared [B, bimodal_dims[-1]]`` of queries or gallery items, each number standardised."""
        place = 0 if side == "query" else 1
        name = _MODALITIES[place]
        return {"shared": self._normalised(place, self.represent(name, inputs[name].values))}

    def _normalised(self, place: int, units: Tensor) -> Tensor:
        """Returns `units` less their mean over the training items, over their deviation.

        Both are fitted by the likelihood of a normal distribution, whose logarithm is the loss ``statistics``.
        """
        return (units - self.means[place]) * (-self.log_deviations[place]).exp()

    # What a part gives those after it, which pass no gradient back.

    @torch.no_grad()
    def _low(self, name: str, vectors: Tensor) -> Tensor:
        low: Tensor = self.inter_1[name]([vectors])
        return low

    @torch.no_grad()
    def _high(self, name: str, low: Tensor) -> Tensor:
        high: Tensor = self.inter_2[name]([low])
        return high

    @torch.no_grad()
    def _own(self, name: str, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Returns a modality's two representations, within it and between the two."""
        high = self._high(name, self._low(name, vectors))
        joint = self.joint.completed(high, _MODALITIES.index(name), self.options.mean_field_steps)
        return self._code(name, vectors), joint

    @torch.no_grad()
    def _media(self, name: str, own: tuple[Tensor, Tensor]) -> Tensor:
        media: Tensor = self.media[name](own)
        return media

    @torch.no_grad()
    def _semantic(self, name: str, media: Tensor) -> Tensor:
        """Returns the classifier's last hidden layer, scaled to a mean square of 1.

        ours: without the release's weight decay it would outgrow the label's share of the bimodal autoencoders' loss.
        """
        semantic: Tensor = self.semantic[name](media)
        scaled: Tensor = functional.normalize(semantic, dim=-1) * semantic.shape[-1] ** 0.5
        return scaled

    def _code(self, name: str, vectors: Tensor) -> Tensor:
        code: Tensor = functional.relu(self.encoders_2[name](functional.relu(self.encoders_1[name](vectors))))
        return code

    def _autoencoder_1(self, name: str, vectors: Tensor) -> Tensor:
        decoded: Tensor = self.decoders_1[name](functional.relu(self.encoders_1[name](vectors)))
        return (decoded - vectors).square().mean(dim=-1)

    def _autoencoder_2(self, name: str, vectors: Tensor) -> Tensor:
        decoded: Tensor = self.decoders_1[name](functional.relu(self.decoders_2[name](self._code(name, vectors))))
        return (decoded - vectors).square().mean(dim=-1)


def _of_each(make: Callable[[str], nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({name: make(name) for name in _MODALITIES})


def _tied(layers: nn.ModuleDict, name: str) -> TiedLayer:
    return cast(TiedLayer, layers[name])


@torch.no_grad()
def _bimodal(autoencoder: nn.Module, place: int, vectors: Tensor) -> Tensor:
    units: Tensor = autoencoder((vectors, None) if place == 0 else (None, vectors))
    return units


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum(dim=0)


REGISTRATION = Registration(
    card=ModelCard(
        name="cmdn",
        summary="two deep representations of each modality, joined and stacked until they can be compared",
        source="CMDN, IJCAI 2016, pp. 3846-3853; github.com/PKU-ICST-MIPL/CMDN_IJCAI2016",
        inputs={"image": Vector("first"), "video": Vector("mean")},
        options=CmdnOptions,
        # ours: 50 epochs for each of nine parts, and Adam; the release counts steps of plain gradients with momentum.
        loop={"epochs": 450, "batch": 115, "learning_rate": 1e-3},
    ),
    build=Cmdn,
)
