"""C3D fine-tuned on clips, as MMAction2 fine-tunes it on UCF-101 from Sports-1M.

Source: open-mmlab/mmaction2, configs/recognition/c3d/c3d_sports1m-pretrained_8xb30-16x1x1-45e_ucf101-rgb.py: 16
consecutive frames from a random place, a random crop of 112, mirrored half of the time, dropout 0.5, SGD with momentum
0.9 and weight decay 5e-4, rate 1e-3 divided by 10 after 20 and 40 of 45 epochs, gradients of at most 40, 240 clips of a
step over all GPUs. Frames are prepared as the weights' card says.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from pydantic import Field
from torch import Tensor

from clipmill.extractors.base import options_of
from clipmill.extractors.c3d.card import CARD
from clipmill.extractors.c3d.layouts import PORT_NAMES, layouts
from clipmill.extractors.c3d.network import C3D
from clipmill.extractors.c3d.options import C3DOptions
from clipmill.extractors.learner import Augmentation, Learner, ParameterGroup, class_losses, kept_by_dropout
from clipmill.extractors.torch_extractor import affine, network_input, seeded
from clipmill.extractors.weights import read_weights
from clipmill.schemas.arrays import Pixels
from clipmill.schemas.config_videos import VideoLoopConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.model import Model
from clipmill.schemas.recipe import Recipe

HEAD_STD = 0.01
"""Of the new last layer, as MMAction2 draws it."""
RANDOM_INPUT_SCALE = 1 / 64
"""Frames are not scaled to unit size, so random weights of the first layer are (ours)."""


class C3DTraining(Model):
    """Options of fine-tuning C3D.

    Attributes:
        dropout: after fc6 and fc7.
        head_rate: learning rate of the new last layer over ``loop.learning_rate`` (MMAction2: 1; the example of the
            authors' Caffe code: 10).
        flip: whether clips are mirrored half of the time.
    """

    dropout: float = Field(default=0.5, ge=0, lt=1)
    head_rate: float = Field(default=1.0, gt=0)
    flip: bool = True


class C3DLearning:
    """C3D with a last layer for the classes, while it is trained."""

    def __init__(self, recipe: Recipe, options: C3DTraining, classes: Sequence[str], device: torch.device) -> None:
        of_extractor: C3DOptions = options_of(CARD, recipe)
        if recipe.preprocess.mean_cube is not None:
            remedy = "leave model.options.mean_cube out: the channel means of the card are subtracted"
            raise UsageError(describe("model.options", "mean_cube", "channel means", "a mean volume", remedy))
        self._recipe, self._options, self._device = recipe, options, device
        seed, pool5 = recipe.weights.seed or 0, of_extractor.pool5 or "caffe"
        network = seeded(seed, lambda: C3D("logits", pool5, len(classes)))
        with torch.no_grad():
            network.conv1a.weight.mul_(RANDOM_INPUT_SCALE)
            network.fc8.weight.normal_(0.0, HEAD_STD, generator=torch.Generator().manual_seed(seed))
        if recipe.weights.file is not None:
            _, state = read_weights(recipe.weights.file, layouts(), ("fc8.",), recipe.weights.layout)
            network.load_state_dict(state, strict=False)
        self.network: C3D = network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self._affine = [tensor.to(device) for tensor in affine(recipe.preprocess, 5)]

    def groups(self) -> Sequence[ParameterGroup]:
        """Returns the last layer apart from the others."""
        head = list(self.network.fc8.parameters())
        others = [parameter for name, parameter in self.network.named_parameters() if not name.startswith("fc8.")]
        return [ParameterGroup(others), ParameterGroup(head, self._options.head_rate)]

    def begin_epoch(self, epoch: int, loop: VideoLoopConfig) -> None:
        """Sets the network to training."""
        self.network.train()

    def losses(
        self, clips: Sequence[Pixels], targets: Sequence[Any], generators: Sequence[np.random.Generator]
    ) -> Mapping[str, Tensor]:
        """Returns the cross-entropy of each clip ``uint8[16, 112, 112, 3]``, and whether its best class is wrong."""
        frames = network_input(np.stack(clips), self._recipe.preprocess, self._affine)
        values = self.network.layers(frames.permute(0, 4, 1, 2, 3), {"pool5"})["pool5"]
        for layer in (self.network.fc6, self.network.fc7):
            values = functional.relu(layer(values))
            if self._options.dropout and self.network.training:
                kept = kept_by_dropout(values.shape[1:], self._options.dropout, generators)
                values = values * torch.from_numpy(kept).to(self._device)
        return class_losses(self.network.fc8(values), torch.tensor(targets, device=self._device))

    def published(self) -> dict[str, Tensor]:
        """Returns the weights by the names of the PyTorch port, whose layout takes any number of classes."""
        state = self.network.state_dict()
        return {PORT_NAMES[key]: value.detach().cpu().contiguous() for key, value in state.items()}

    def load(self, published: Mapping[str, Tensor]) -> None:
        """Takes back what `published` returned."""
        self.network.load_state_dict({key: published[name] for key, name in PORT_NAMES.items()})


def _augmentation(recipe: Recipe, options: C3DTraining) -> Augmentation:
    return Augmentation(crop="random", flip="random" if options.flip else "never")


LEARNER = Learner(
    source="open-mmlab/mmaction2, C3D on UCF-101",
    loop={
        "epochs": 45,
        "batch": 240,
        "learning_rate": 1e-3,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "milestones": (20, 40),
        "max_gradient_norm": 40.0,
        "at_once": 8,  # ours: what fits a small memory; no layer looks at several clips
    },
    layer="fc7",
    trained_layer="probabilities",
    losses=("total", "error"),
    options=C3DTraining,
    recipe_options=lambda classes: {"classes": list(classes)},
    start=C3DLearning,
    augmentation=_augmentation,
    views={
        "one_clip": {"sampling": {"uniform_windows": 1, "tail": "repeat"}},
        "ten_clips": {"sampling": {"uniform_windows": 10, "tail": "repeat"}},  # MMAction2's test
        "ten_crops": {
            "sampling": {"uniform_windows": 1, "tail": "repeat"},
            # Cards of Caffe weights say where their one crop lies.
            "preprocess": {"crops": "ten", "crop_offset": None},
        },
    },
)
