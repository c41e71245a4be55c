"""CPNet trained on clips, as its released code trains it.

Source: xingyul/cpnet (Liu, Lee and Jin, CVPR 2019): SGD with momentum 0.9, rate 0.01, a tenth of it every 40 epochs
(Jester; Something-Something: 20), 1e-5 at least, 32 clips of a step; a random part of the frame (half to all of its
area) resized, colours changed, mirrored half of the time with directional classes swapped; dropout 0.5. The memory of
batch norm is 0.5 and gets longer with each step of the rate. There is no weight decay: the code's commands set none.
The code does not say after how many epochs it ends: 120 are ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from clipmill.extractors.base import options_of
from clipmill.extractors.cpnet.build import make_network
from clipmill.extractors.cpnet.card import CARD
from clipmill.extractors.cpnet.correspondence import CorrespondenceProposal
from clipmill.extractors.cpnet.layouts import layouts
from clipmill.extractors.cpnet.network import CPNet
from clipmill.extractors.cpnet.options import CPNetOptions
from clipmill.extractors.cpnet.weights import read_state, to_tensorflow
from clipmill.extractors.learner import Augmentation, Learner, ParameterGroup, class_losses, kept_by_dropout
from clipmill.extractors.torch_extractor import affine, network_input, seeded, set_batch_norm_epsilon
from clipmill.schemas.arrays import Pixels
from clipmill.schemas.config_videos import VideoLoopConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.model import Model
from clipmill.schemas.recipe import Recipe

LONGEST_MEMORY = 0.99
"""Of batch norm's running statistics."""


class CPNetTraining(Model):
    """Options of training CPNet.

    Attributes:
        dropout: before the last layer.
        area, ratio: bounds of the part of a frame that is trained on: its share of the area, its width over its height.
        jitter: how far brightness, contrast, saturation and hue change.
        flip: whether clips are mirrored half of the time.
        mirrored_classes: class to the class of its mirror image, both ways (Jester's and Something-Something's
            directional classes, which the code swaps by number).
        batch_norm_schedule: whether the memory of batch norm gets longer with each milestone.
    """

    dropout: float = Field(default=0.5, ge=0, lt=1)
    area: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (0.9, 1.1)
    jitter: tuple[float, float, float, float] | None = (0.25, 0.25, 0.25, 0.1)
    flip: bool = True
    mirrored_classes: dict[str, str] = Field(default_factory=dict)
    batch_norm_schedule: bool = True


class CPNetLearning:
    """CPNet with a last layer for the classes, while it is trained."""

    def __init__(self, recipe: Recipe, options: CPNetTraining, classes: Sequence[str], device: torch.device) -> None:
        of_extractor: CPNetOptions = options_of(CARD, recipe)
        for key in ("cp_blocks", "mlp_divisors"):
            if getattr(of_extractor, key) not in (None, getattr(of_extractor.release, key)):
                remedy = "leave it out"
                got = str(list(getattr(of_extractor, key)))
                raise UsageError(describe("model.options", key, "as published, which weights files hold", got, remedy))
        self._recipe, self._options, self._device = recipe, options, device
        self._depth = of_extractor.depth
        logits = recipe.model_copy(update={"layer": "logits"})
        network = seeded(recipe.weights.seed or 0, lambda: make_network(logits, of_extractor, len(classes)))
        for module in network.modules():
            if isinstance(module, CorrespondenceProposal):
                # A module begins as if it were not there.
                nn.init.zeros_(module.conv_final.bn.weight)  # type: ignore[arg-type]
        if recipe.weights.file is not None:
            state = read_state(recipe.weights.file, self._depth, ("fc.",), recipe.weights.layout)
            network.load_state_dict(state, strict=False)
        set_batch_norm_epsilon(network, of_extractor.batch_norm_epsilon)
        self.network: CPNet = network.to(device)
        self._affine = [tensor.to(device) for tensor in affine(recipe.preprocess, 5)]

    def groups(self) -> Sequence[ParameterGroup]:
        """Returns all parameters."""
        return [ParameterGroup(list(self.network.parameters()))]

    def begin_epoch(self, epoch: int, loop: VideoLoopConfig) -> None:
        """Sets the network to training, and the memory of batch norm to 1 - 0.5^(steps of the rate + 1)."""
        self.network.train()
        if not self._options.batch_norm_schedule:
            return
        steps = sum(epoch >= milestone for milestone in loop.milestones)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = 1.0 - min(LONGEST_MEMORY, 1.0 - 0.5 ** (steps + 1))

    def losses(
        self, clips: Sequence[Pixels], targets: Sequence[Any], generators: Sequence[np.random.Generator]
    ) -> Mapping[str, Tensor]:
        """Returns the cross-entropy of each clip ``uint8[T, H, W, 3]``, and whether its best class is wrong."""
        frames = network_input(np.stack(clips), self._recipe.preprocess, self._affine)
        features = self.network.maps(frames.permute(0, 1, 4, 2, 3)).mean(dim=(1, 3, 4))
        if self._options.dropout and self.network.training:
            kept = kept_by_dropout(features.shape[1:], self._options.dropout, generators)
            features = features * torch.from_numpy(kept).to(self._device)
        return class_losses(self.network.fc(features), torch.tensor(targets, device=self._device))

    def published(self) -> dict[str, Tensor]:
        """Returns the weights as the variables of the released TensorFlow code."""
        return to_tensorflow({key: value.cpu() for key, value in self.network.state_dict().items()}, self._depth)

    def load(self, published: Mapping[str, Tensor]) -> None:
        """Takes back what `published` returned."""
        layout = layouts(self._depth)[-1]
        state = {key: layout.convert(key, published[name]) for name, (key, _) in layout.keys.items()}
        self.network.load_state_dict(state, strict=False)


def _augmentation(recipe: Recipe, options: CPNetTraining) -> Augmentation:
    return Augmentation(
        crop="resized",
        area=options.area,
        ratio=options.ratio,
        flip="random" if options.flip else "never",
        mirrored_classes=options.mirrored_classes,
        jitter=options.jitter,
        loops=True,
    )


LEARNER = Learner(
    source="xingyul/cpnet",
    loop={
        "epochs": 120,
        "batch": 32,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "milestones": (40, 80),
        "least_learning_rate": 1e-5,
    },
    layer="features",
    trained_layer="probabilities",
    losses=("total", "error"),
    options=CPNetTraining,
    recipe_options=lambda classes: {"classes": list(classes)},
    start=CPNetLearning,
    augmentation=_augmentation,
    views={
        "one_clip": {"sampling": {"uniform_windows": 1, "tail": "loop"}},
        "eight_clips_six_crops": {"sampling": {"uniform_windows": 8, "tail": "loop"}, "preprocess": {"crops": "six"}},
    },
)
