"""The contract of an extractor that can be trained on videos: the file `learner` of its folder, with a `LEARNER`.

A learner begins with an extractor's network and ends with a file that the extractor reads as its weights, so what was
trained is built and evaluated like everything else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from clipmill.schemas.arrays import Floats, Ints, Pixels
from clipmill.schemas.model import Model
from clipmill.schemas.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from clipmill.schemas.config_videos import VideoLoopConfig


@dataclass(frozen=True, slots=True)
class Annotated:
    """The annotated segments of a buffer.

    Attributes:
        segments: ``float64[m, 2]``, first and last frame of each, in frames of the buffer.
        classes: ``int64[m]``, from 1 up; 0 is the background.
    """

    segments: Floats
    classes: Ints


@dataclass(frozen=True, slots=True)
class Buffers:
    """Of detection: which windows of a video are trained on, and what they keep of its annotations.

    Attributes:
        cell_seconds: how long a cell of the network's maps lasts: shorter segments have no cell of their own.
        truth: of annotations (start and stop in seconds, class from 1 up) and the seconds a window starts at: what it
            keeps, or None where that is nothing, and the window is left out.
    """

    cell_seconds: float
    truth: Callable[[Sequence[tuple[float, float, int]], float], Annotated | None]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How training frames are changed: drawn once for a clip, and alike for all of its frames.

    Attributes:
        crop: ``random``: the recipe's crop at a random place; ``resized``: a part of random area and shape, brought to
            the size of the recipe's crop; ``recipe``: the recipe's own crop.
        area, ratio: of ``resized``: bounds of the part's share of the frame's area, and of its width over its height.
        flip: mirrored ``never``, at ``random`` (half of the time), or as ``copies``: each item once more, mirrored.
        mirrored_classes: where the mirror image of a class is another class: their names, both ways.
        jitter: brightness, contrast, saturation and hue change by a factor (hue: by a share of the circle) of up to so
            much either way; None: no change.
        loops: a clip that is shorter than a window goes on with its own first frame, and a window counts `frames` x
            `every` frames, as CPNet's; else its last frame is repeated.
    """

    crop: Literal["recipe", "random", "resized"] = "random"
    area: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    flip: Literal["never", "random", "copies"] = "random"
    mirrored_classes: Mapping[str, str] = field(default_factory=dict)
    jitter: tuple[float, float, float, float] | None = None
    loops: bool = False


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that learn alike.

    Attributes:
        rate: their learning rate over ``loop.learning_rate``.
        decays: whether ``loop.weight_decay`` holds for them.
    """

    parameters: "Sequence[nn.Parameter]"
    rate: float = 1.0
    decays: bool = True


class Learning(Protocol):
    """A network while it is trained."""

    @property
    def network(self) -> "nn.Module":
        """All that is trained, on its device."""
        ...

    def groups(self) -> Sequence[ParameterGroup]:
        """Returns the parameters that learn; others stand still."""
        ...

    def begin_epoch(self, epoch: int, loop: "VideoLoopConfig") -> None:
        """Sets what depends on the epoch (from 0), and the mode of every layer."""
        ...

    def losses(
        self, clips: Sequence[Pixels], targets: Sequence[Any], generators: Sequence[np.random.Generator]
    ) -> "Mapping[str, Tensor]":
        """Returns the losses ``[B]`` of B items by name, ``total`` among them.

        Where the network is set to evaluation nothing is dropped out: validation calls it so.

        Args:
            clips: ``uint8[T, H, W, C]`` each, prepared as the recipe says (see `preprocess.values_of`).
            targets: the class from 0 up of each clip, or the `Annotated` of each buffer.
            generators: what is drawn for an item is drawn from its own, so it depends on no other item.
        """
        ...

    def published(self) -> "dict[str, Tensor]":
        """Returns the weights under the names of a layout that the extractor reads, on the CPU."""
        ...

    def load(self, published: "Mapping[str, Tensor]") -> None:
        """Takes back what `published` returned: the same bits."""
        ...


@dataclass(frozen=True, slots=True)
class Learner:
    """How an extractor is trained.

    Attributes:
        source: publication and code of the recipe.
        loop: keys of the config's `loop` as they have it.
        layer: what a weights file to begin from must hold; None: the extractor's default.
        trained_layer: what the trained weights are built for.
        losses: names of the losses.
        options: model of the keys of ``model.training``.
        recipe_options: of the class names, the extractor's options that its trained weights need.
        start: of the resolved recipe, the validated options, the class names and a device.
        augmentation: of recipe and options.
        buffers: of detection, of recipe; None: clips are classified.
        other_weights: of the validated options: a weights file of another network that it begins with, or None.
        views: of classification: how a clip is looked at in the test, by name: a feature's `sampling` without what
            makes a window, and its `preprocess`. The scores of a view's windows and crops are averaged.
    """

    source: str
    loop: Mapping[str, Any]
    layer: str | None
    trained_layer: str
    losses: tuple[str, ...]
    options: type[Model]
    recipe_options: Callable[[Sequence[str]], dict[str, Any]]
    start: "Callable[[Recipe, Any, Sequence[str], torch.device], Learning]"
    augmentation: Callable[[Recipe, Any], Augmentation]
    buffers: Callable[[Recipe], Buffers] | None = None
    other_weights: Callable[[Any], str | None] = lambda options: None
    views: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def task(self) -> Literal["classification", "detection"]:
        """What it is trained for."""
        return "classification" if self.buffers is None else "detection"


def kept_by_dropout(
    shape: Sequence[int], rate: float, generators: Sequence[np.random.Generator]
) -> npt.NDArray[np.float32]:
    """Returns ``float32[B, *shape]``: 0 with probability `rate`, else ``1 / (1 - rate)``, drawn of each item."""
    masks = [generator.random(tuple(shape), dtype=np.float32) >= rate for generator in generators]
    return np.asarray(np.stack(masks) / np.float32(1.0 - rate), dtype=np.float32)


def class_losses(scores: "Tensor", label: "Tensor") -> "dict[str, Tensor]":
    """Returns of B clips ``total``, the cross-entropy, and ``error``, 1 where the best scored class is another one.

    Args:
        scores: ``[B, C]`` before softmax.
        label: ``int64[B]``.
    """
    from torch.nn import functional

    wrong = (scores.detach().argmax(dim=1) != label).to(scores.dtype)
    return {"total": functional.cross_entropy(scores, label, reduction="none"), "error": wrong}
