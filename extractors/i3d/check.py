"""Does this I3D file give the authors' numbers? kinetics-i3d's own sample, run through the network.

kinetics-i3d publishes, for the UCF-101 clip v_CricketShot_g04_c01 (79 frames, as prepared arrays), the logits of each
stream. Whoever has the weights and those arrays can compare: it proves padding, batch norm and the loader at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clipmill.extractors.i3d.sample import (
    CHANNELS,
    EXPECTED,
    NUM_CLASSES,
    NUM_FRAMES,
    SAMPLE_BLOBS,
    SAMPLE_FILES,
    SIDE,
    SOURCE,
)
from clipmill.extractors.i3d.weights import load_stream, read_streams, stream_of
from clipmill.extractors.published import git_blob_sha1
from clipmill.extractors.published_sample import ComparedInput, Comparison, Logits, SampleComparison
from clipmill.schemas.errors import FormatError, WeightsError, describe
from clipmill.schemas.recipe import Recipe

TOLERANCE = 2e-3
"""Relative, for norms and logits (ours: float32 sums over a billion products in another order)."""

REMEDY = f"get {SAMPLE_FILES['rgb']} or {SAMPLE_FILES['flow']} from deepmind/kinetics-i3d, folder data"


@dataclass(frozen=True, slots=True)
class SampleInput:
    """One array of the sample.

    Attributes:
        published: whether its bytes are those of the published array.
    """

    path: str
    stream: str
    clip: npt.NDArray[np.float32]
    published: bool


def read_inputs(paths: Sequence[str]) -> dict[str, SampleInput]:
    """Returns the arrays by stream, which their number of channels tells: rgb has 3, flow 2.

    Raises:
        FormatError: one cannot be read or is no array of the sample's shape, or two are of one stream.
    """
    found: dict[str, SampleInput] = {}
    for path in paths:
        item = _read_input(path)
        if item.stream in found:
            raise FormatError(
                describe("sample", path, "one array per stream", f"a second {item.stream}", "leave it out")
            )
        found[item.stream] = item
    return found


def _read_input(path: str) -> SampleInput:
    expected = f"the published array float32[1, {NUM_FRAMES}, {SIDE}, {SIDE}, 3 (rgb) or 2 (flow)]"
    try:
        clip = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        first = (str(error).splitlines() or ["no array"])[0]
        raise FormatError(describe("sample", path, expected, first, REMEDY)) from None
    shape = clip.shape if isinstance(clip, np.ndarray) else ()
    stream = next((name for name, channels in CHANNELS.items() if shape[-1:] == (channels,)), None)
    if stream is None or shape[:-1] != (1, NUM_FRAMES, SIDE, SIDE) or clip.dtype.kind != "f":
        got = f"{clip.dtype}{list(shape)}" if isinstance(clip, np.ndarray) else "an archive"
        raise FormatError(describe("sample", path, expected, got, REMEDY))
    published = git_blob_sha1(path) == SAMPLE_BLOBS[stream]
    return SampleInput(path, stream, np.asarray(clip, dtype=np.float32), published)


def sample_logits(path: str, inputs: Mapping[str, SampleInput]) -> tuple[str, Logits]:
    """Returns the stream of the weights file and its logits ``[400]`` on the sample; ``both`` sums the streams.

    Raises:
        WeightsError: the file cannot be read, or its last layer has other classes than Kinetics' 400.
        FormatError: the array of one of its streams is not there.
    """
    stream = stream_of(path)
    total = np.zeros(NUM_CLASSES)
    for name, state in read_streams(path, stream).items():
        if name not in inputs:
            got = ", ".join(f"{item.stream} ({item.path})" for item in inputs.values()) or "none"
            raise FormatError(describe("sample", name, f"the {name} array, for {path}", got, REMEDY))
        network = load_stream(state, name).eval()
        num_classes = int(network.logits.conv3d.out_channels)
        if num_classes != NUM_CLASSES:
            raise _other_classes(path, num_classes)
        clip = torch.from_numpy(inputs[name].clip).permute(0, 4, 1, 2, 3).contiguous()
        with torch.inference_mode():
            total += network(clip)[0].double().numpy()
    return stream, total


def compare(stream: str, logits: Logits) -> tuple[Comparison, ...]:
    """Returns the published numbers of `stream` beside those of `logits` ``[400]``: the norm, then 20 logits."""
    expected = EXPECTED[stream]
    return (
        Comparison("norm of logits", None, expected.norm, float(np.linalg.norm(logits))),
        *(Comparison(name, index, value, float(logits[index])) for index, name, value in expected.top),
    )


def _other_classes(weights: str, num_classes: int) -> WeightsError:
    remedy = "leave --input out: nothing is published to compare such a file with"
    return WeightsError(describe("weights", weights, f"{NUM_CLASSES} classes", str(num_classes), remedy))


class CricketShot:
    """The one clip of UCF-101 that kinetics-i3d publishes with its logits (a `PublishedSample`)."""

    remedy = REMEDY

    def compare_arrays(self, weights: str, paths: Sequence[str]) -> SampleComparison:
        """Runs the weights file on the prepared arrays, one per stream, and compares norm and logits."""
        inputs = read_inputs(paths)
        stream, logits = sample_logits(weights, inputs)
        comparisons = compare(stream, logits)
        used = [item for name, item in inputs.items() if stream in (name, "both")]
        return SampleComparison(
            source=SOURCE,
            stream=stream,
            inputs=tuple(ComparedInput(item.path, item.stream, item.published) for item in used),
            comparisons=comparisons,
            tolerance=TOLERANCE,
            agrees=all(item.agrees(TOLERANCE) for item in comparisons),
            highest=int(logits.argmax()),
        )

    def check_classes(self, weights: str, num_classes: int) -> None:
        """Makes sure that the weights are of Kinetics' 400 classes."""
        if num_classes != NUM_CLASSES:
            raise _other_classes(weights, num_classes)

    def compare_video(self, recipe: Recipe, path: str, logits: Logits) -> SampleComparison:
        """Compares the highest class of the clip's video: its frames are prepared by us, so numbers differ."""
        stream, highest = str(recipe.options["stream"]), int(logits.argmax())
        comparisons = compare(stream, logits)
        return SampleComparison(
            source=SOURCE,
            stream=stream,
            inputs=(ComparedInput(path, stream, published=False),),
            comparisons=comparisons,
            tolerance=None,
            agrees=highest == EXPECTED[stream].top[0][0],
            highest=highest,
        )


def published_sample() -> CricketShot:
    """Returns the sample I3D's weights can be checked with."""
    return CricketShot()
