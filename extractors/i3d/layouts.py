"""Names and shapes of I3D's published weights: one table of layers, from which every layout's keys follow.

Our own keys are piergiaj's. Shapes are torch's ``(out, in, T, H, W)``; TensorFlow's ``(T, H, W, in, out)`` are
transposed when a file is loaded.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from clipmill.extractors.weights import Layout, Shape

NUM_CLASSES = {"kinetics": 400, "charades": 157}
KINETICS_600_CLASSES = 600
NUM_FEATURES = 1024
INPUT_CHANNELS = {"rgb": 3, "flow": 2}
STREAMS = ("rgb", "flow", "both")
"""Of a weights file: one network, or the two in one file."""

STEM = {
    "Conv3d_1a_7x7": (None, 64, 7),
    "Conv3d_2b_1x1": (64, 64, 1),
    "Conv3d_2c_3x3": (64, 192, 3),
}
"""Stem convolution -> channels in (None: of the input), channels out, kernel side."""

MIXED = {
    "3b": (192, (64, 96, 128, 16, 32, 32)),
    "3c": (256, (128, 128, 192, 32, 96, 64)),
    "4b": (480, (192, 96, 208, 16, 48, 64)),
    "4c": (512, (160, 112, 224, 24, 64, 64)),
    "4d": (512, (128, 128, 256, 24, 64, 64)),
    "4e": (512, (112, 144, 288, 32, 64, 64)),
    "4f": (528, (256, 160, 320, 32, 128, 128)),
    "5b": (832, (256, 160, 320, 32, 128, 128)),
    "5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Mixed block -> channels in, widths of branches 0, 1a, 1b, 2a, 2b, 3b."""

# Branch of a mixed block -> its names in our keys, hassony2's and TensorFlow's.
BRANCHES = (
    ("b0", "branch_0", "Branch_0/Conv3d_0a_1x1"),
    ("b1a", "branch_1.0", "Branch_1/Conv3d_0a_1x1"),
    ("b1b", "branch_1.1", "Branch_1/Conv3d_0b_3x3"),
    ("b2a", "branch_2.0", "Branch_2/Conv3d_0a_1x1"),
    ("b2b", "branch_2.1", "Branch_2/Conv3d_0b_3x3"),
    ("b3b", "branch_3.1", "Branch_3/Conv3d_0b_1x1"),
)

# Batch norm's tensors -> TensorFlow's name of them; it has no scale, gamma is one.
BATCH_NORM = (
    ("weight", None),
    ("bias", "beta"),
    ("running_mean", "moving_mean"),
    ("running_var", "moving_variance"),
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the network under its three published names; `tensorflow` is None where that file has none.

    Attributes:
        shape: as torch has it.
        transposed: whether TensorFlow stores it as ``(T, H, W, in, out)``.
    """

    key: str
    hassony2: str
    tensorflow: str | None
    shape: Shape
    transposed: bool = False


def tensors(stream: str, num_classes: int | None) -> tuple[Tensor, ...]:
    """Returns every tensor of one stream, in the order of piergiaj's files.

    Args:
        stream: ``rgb`` or ``flow``.
        num_classes: rows of the last layer; None for any.
    """
    scope = {"rgb": "RGB", "flow": "Flow"}[stream] + "/inception_i3d/"
    logits = scope + "Logits/Conv3d_0c_1x1/conv_3d/"
    head = "conv3d_0c_1x1.conv3d."
    found = [
        Tensor("logits.conv3d.weight", head + "weight", logits + "w", (num_classes, NUM_FEATURES, 1, 1, 1), True),
        Tensor("logits.conv3d.bias", head + "bias", logits + "b", (num_classes,)),
    ]
    for name, (channels, width, side) in STEM.items():
        inputs = INPUT_CHANNELS[stream] if channels is None else channels
        found += _unit(name, name.lower(), scope + name, (width, inputs, side, side, side))
    for block, (inputs, widths) in MIXED.items():
        b0, b1a, b1b, b2a, b2b, b3b = widths
        shapes = ((b0, inputs, 1), (b1a, inputs, 1), (b1b, b1a, 3), (b2a, inputs, 1), (b2b, b2a, 3), (b3b, inputs, 1))
        for (own, hassony2, tensorflow), (out, into, side) in zip(BRANCHES, shapes, strict=True):
            # The one irregular name of the published checkpoint.
            tensorflow = "Branch_2/Conv3d_0a_3x3" if (block, own) == ("5b", "b2b") else tensorflow
            found += _unit(
                f"Mixed_{block}.{own}",
                f"mixed_{block}.{hassony2}",
                f"{scope}Mixed_{block}/{tensorflow}",
                (out, into, side, side, side),
            )
    return tuple(found)


def _unit(own: str, hassony2: str, tensorflow: str, shape: tuple[int, ...]) -> Iterator[Tensor]:
    yield Tensor(f"{own}.conv3d.weight", f"{hassony2}.conv3d.weight", f"{tensorflow}/conv_3d/w", shape, True)
    for name, tensorflow_name in BATCH_NORM:
        key = f"{tensorflow}/batch_norm/{tensorflow_name}" if tensorflow_name is not None else None
        yield Tensor(f"{own}.bn.{name}", f"{hassony2}.batch3d.{name}", key, shape[:1])


def tensorflow_shape(tensor: Tensor) -> Shape:
    """Returns the shape TensorFlow stores the tensor in."""
    if not tensor.transposed:
        return tensor.shape
    out, inputs, *kernel = tensor.shape
    return (*kernel, inputs, out)


TENSORFLOW_AXES = (4, 3, 0, 1, 2)
"""From TensorFlow's ``(T, H, W, in, out)`` to torch's ``(out, in, T, H, W)``."""


def from_tensorflow(key: str, values: torch.Tensor) -> torch.Tensor:
    """Returns a variable of TensorFlow's as torch lays it out; batch norm's may come as ``(1, 1, 1, 1, C)``."""
    if key.endswith("conv3d.weight"):
        return values.permute(TENSORFLOW_AXES)
    return values.flatten()


def layouts(stream: str | None = None) -> tuple[Layout, ...]:
    """Returns the published layouts of a stream: ``rgb``, ``flow``, or ``both`` for two streams in one file; or all.

    A file of both streams has the keys of TensorFlow's two checkpoints together, or piergiaj's under ``rgb.`` and
    ``flow.``, as `clipmill.extractors.i3d.weights.join_streams` writes them.
    """
    if stream is None:
        return tuple(layout for name in STREAMS for layout in layouts(name))
    if stream == "both":
        return _joined("i3d_tf_imagenet", "tensorflow", NUM_CLASSES["kinetics"]), _joined("i3d_two_stream", "key", None)
    kinetics, charades = NUM_CLASSES["kinetics"], NUM_CLASSES["charades"]
    named = (
        (f"i3d_piergiaj_{stream}_imagenet", "kinetics", "key", kinetics),
        (f"i3d_piergiaj_{stream}_charades", "charades", "key", charades),
        (f"i3d_hassony2_{stream}", "kinetics", "hassony2", kinetics),
        (f"i3d_tf_{stream}_imagenet", "kinetics", "tensorflow", kinetics),
        (f"i3d_{stream}", "kinetics", "key", None),
        (f"i3d_hassony2_{stream}_any", "kinetics", "hassony2", None),
        (f"i3d_tf_{stream}_any", "kinetics", "tensorflow", None),
    )
    found = [
        _layout(name, f"{card}-{stream}", _keys(stream, which, num_classes), num_classes, which)
        for name, card, which, num_classes in named
    ]
    if stream == "rgb":
        found.append(_kinetics_600())
    return tuple(found)


def _layout(name: str, card: str, keys: dict[str, tuple[str, Shape]], num_classes: int | None, which: str) -> Layout:
    if which == "tensorflow":
        return Layout(name, card, keys, num_classes, convert=from_tensorflow)
    return Layout(name, card, keys, num_classes)


def _kinetics_600() -> Layout:
    """Returns the layout of kinetics-i3d's one checkpoint without a scope, whose batch norms keep all five axes."""
    scope = "RGB/inception_i3d/"
    keys = {
        published.removeprefix(scope): (own, (1, 1, 1, 1, *shape) if "/batch_norm/" in published else shape)
        for published, (own, shape) in _keys("rgb", "tensorflow", KINETICS_600_CLASSES).items()
    }
    return _layout("i3d_tf_rgb_kinetics600", "kinetics-rgb", keys, KINETICS_600_CLASSES, "tensorflow")


def _keys(stream: str, which: str, num_classes: int | None) -> dict[str, tuple[str, Shape]]:
    keys: dict[str, tuple[str, Shape]] = {}
    for tensor in tensors(stream, num_classes):
        published = getattr(tensor, which)
        if published is not None:
            shape = tensorflow_shape(tensor) if which == "tensorflow" else tensor.shape
            keys[published] = (tensor.key, shape)
    return keys


def _joined(name: str, which: str, num_classes: int | None) -> Layout:
    keys: dict[str, tuple[str, Shape]] = {}
    for stream in ("rgb", "flow"):
        prefix = "" if which == "tensorflow" else f"{stream}."
        for published, (own, shape) in _keys(stream, which, num_classes).items():
            keys[prefix + published] = (f"{stream}.{own}", shape)
    return _layout(name, "kinetics-both", keys, num_classes, which)
