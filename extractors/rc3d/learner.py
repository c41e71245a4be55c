"""R-C3D trained end to end from buffers of frames and annotated segments, as its releases are.

Sources: VisionLearningGroup/R-C3D and sunnyxiaohu/R-C3D.pytorch. Buffers of a pass from the start and of one from the
end that keep an annotation, each once more mirrored; random crops of 112 of 171 x 128 pixels; one buffer of a step; SGD
with momentum 0.9 and weight decay 5e-4 (none on biases, whose rate is doubled), rate 1e-4. Of ActivityNet the PyTorch
code trains 8 epochs and lowers the rate after 6; of THUMOS14 5 epochs, after 3. Losses and targets are in `training`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipmill.extractors.base import options_of
from clipmill.extractors.c3d.layouts import layouts as c3d_layouts
from clipmill.extractors.learner import Annotated, Augmentation, Buffers, Learner, ParameterGroup
from clipmill.extractors.rc3d.build import random_network
from clipmill.extractors.rc3d.card import CARD, FPS
from clipmill.extractors.rc3d.layouts import layouts, trained_layout_name
from clipmill.extractors.rc3d.network import RC3D
from clipmill.extractors.rc3d.options import RC3DOptions
from clipmill.extractors.rc3d.releases import FEATURE_STRIDE_FRAMES, TRUNK, Release
from clipmill.extractors.rc3d.training import losses, parameter_groups, truth_of_buffer
from clipmill.extractors.torch_extractor import affine, network_input
from clipmill.extractors.weights import COUNTER, read_weights
from clipmill.schemas.arrays import Pixels
from clipmill.schemas.config_videos import VideoLoopConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.model import Model
from clipmill.schemas.recipe import Recipe

LOSSES = ("total", "rpn_class", "rpn_offset", "head_class", "head_offset")


class RC3DTraining(Model):
    """Options of training R-C3D.

    Attributes:
        c3d: a C3D weights file that trunk and fc6 begin with, as published; None: as `model.weights` says.
        flip: whether each buffer is trained on mirrored, too (not in the Caffe code for THUMOS14).
        freeze: whether the layers stand still that the release froze (conv1a and conv2a, but for Caffe's THUMOS14).
            None: where they begin with a file; layers of random weights would otherwise never learn (ours).
    """

    c3d: str | None = None
    flip: bool = True
    freeze: bool | None = None


def _release(recipe: Recipe) -> Release:
    """Returns the release with the buffers that the recipe's sampling makes."""
    options: RC3DOptions = options_of(CARD, recipe)
    frames = recipe.sampling.frames or options.release.buffer_frames
    return replace(options.release, buffer_frames=frames, every=recipe.sampling.every)


class RC3DLearning:
    """R-C3D while it is trained, one buffer after another."""

    def __init__(self, recipe: Recipe, options: RC3DTraining, classes: Sequence[str], device: torch.device) -> None:
        of_extractor: RC3DOptions = options_of(CARD, recipe)
        names = ("background", *classes)
        release = replace(_release(recipe), num_classes=len(names), class_names=names)
        is_begun = recipe.weights.file is not None or options.c3d is not None
        if not (is_begun if options.freeze is None else options.freeze):
            release = replace(release, frozen=())
        network = random_network(release, of_extractor.pooled, recipe.weights.seed or 0)
        network.normalise_offsets(True)
        if recipe.weights.file is not None:
            _load_where_it_fits(network, recipe.weights.file, recipe.weights.layout or "")
        if options.c3d is not None:
            _load_c3d(network, options.c3d)
        self.network: RC3D = network.to(device)
        self._recipe = recipe
        self._affine = [tensor.to(device) for tensor in affine(recipe.preprocess, 5)]

    def groups(self) -> Sequence[ParameterGroup]:
        """Returns weights, and biases at twice the rate without decay; frozen layers stand still."""
        weights, biases = (group["params"] for group in parameter_groups(self.network))
        return [ParameterGroup(weights), ParameterGroup(biases, rate=2.0, decays=False)]  # type: ignore[arg-type]

    def begin_epoch(self, epoch: int, loop: VideoLoopConfig) -> None:
        """Sets the network to training; the ResNets' batch norms keep their statistics."""
        self.network.train()

    def losses(
        self, clips: Sequence[Pixels], targets: Sequence[Any], generators: Sequence[np.random.Generator]
    ) -> Mapping[str, Tensor]:
        """Returns the four losses and their sum, ``[B]`` each, of buffers ``uint8[L, H, W, C]``."""
        found = []
        for frames, truth, generator in zip(clips, targets, generators, strict=True):
            # Dropout draws from PyTorch's own generator: a buffer's draws must be its own.
            torch.manual_seed(int(generator.integers(1 << 62)))
            values = network_input(frames, self._recipe.preprocess, self._affine)
            found.append(losses(self.network, values.permute(3, 0, 1, 2), truth, generator))
        each = {name: torch.stack([item[name] for item in found]) for name in LOSSES[1:]}
        return {"total": torch.stack(list(each.values())).sum(dim=0), **each}

    def published(self) -> dict[str, Tensor]:
        """Returns the weights by the network's own names; the offset head gives normalised offsets."""
        state = self.network.state_dict()
        return {key: value.detach().cpu() for key, value in state.items() if not key.endswith(COUNTER)}

    def load(self, published: Mapping[str, Tensor]) -> None:
        """Takes back what `published` returned."""
        self.network.load_state_dict(dict(published), strict=False)


def _load_where_it_fits(network: RC3D, path: str, layout: str) -> None:
    """Loads a file of R-C3D; layers of other classes or anchors stay random."""
    _, state = read_weights(path, layouts(), (), layout)
    own = network.state_dict()
    same_classes = own["cls_score.weight"].shape == state["cls_score.weight"].shape
    normalised = network.release.offsets_normalised or layout == trained_layout_name(network.release)
    if same_classes and not normalised:
        network.offsets_normalised = False
    network.load_state_dict({key: value for key, value in state.items() if own[key].shape == value.shape}, strict=False)
    network.normalise_offsets(True)


def _load_c3d(network: RC3D, path: str) -> None:
    """Loads trunk and fc6 of a C3D file, as the releases begin.

    Raises:
        WeightsError: it is none.
        UsageError: the release has a ResNet.
    """
    if network.fc6 is None:
        remedy = "take a form without a ResNet, or leave it out"
        raise UsageError(
            describe("model.training", "c3d", "a release whose trunk is C3D", network.release.name, remedy)
        )
    _, state = read_weights(path, c3d_layouts(), ("fc7.", "fc8."))
    wanted = tuple(f"{name}." for name in (*TRUNK, "fc6"))
    network.load_state_dict({key: value for key, value in state.items() if key.startswith(wanted)}, strict=False)


def _buffers(recipe: Recipe) -> Buffers:
    release, fps = _release(recipe), recipe.sampling.fps or FPS

    def truth(annotations: Sequence[tuple[float, float, int]], start_seconds: float) -> Annotated | None:
        return truth_of_buffer(annotations, start_seconds, release, fps)

    return Buffers(FEATURE_STRIDE_FRAMES * release.every / fps, truth)


def _augmentation(recipe: Recipe, options: RC3DTraining) -> Augmentation:
    return Augmentation(crop="random", flip="copies" if options.flip else "never")


LEARNER = Learner(
    source="sunnyxiaohu/R-C3D.pytorch and VisionLearningGroup/R-C3D",
    loop={
        "epochs": 8,
        "batch": 1,
        "at_once": 1,
        "learning_rate": 1e-4,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "milestones": (6,),
    },
    layer=None,
    trained_layer="detections",
    losses=LOSSES,
    options=RC3DTraining,
    recipe_options=lambda classes: {"classes": list(classes)},
    start=RC3DLearning,
    augmentation=_augmentation,
    buffers=_buffers,
    other_weights=lambda options: options.c3d,
)
