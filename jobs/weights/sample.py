"""The published sample of I3D, compared with what a weights file gives: a part of ``clipmill weights check i3d``."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from clipmill.extractors import registry
from clipmill.extractors.i3d.check import FROM_WHERE, TOLERANCE, Comparison, compare, read_inputs, sample_logits
from clipmill.extractors.i3d.sample import NUM_CLASSES, SOURCE
from clipmill.extractors.weights_report import WeightsReport
from clipmill.jobs.weights.classify import logits_recipe, video_logits
from clipmill.pipelines.features.engines.cores import num_cores
from clipmill.pipelines.features.extraction import resolve_device
from clipmill.schemas.errors import UsageError, WeightsError, describe

ARRAY_SUFFIX = ".npy"


@dataclass(frozen=True, slots=True)
class Sample:
    """How the sample compares; `data` is None, and `agrees` true, where none was given."""

    agrees: bool
    lines: list[str]
    data: dict[str, Any] | None = field(default=None)


def check_sample(report: WeightsReport, inputs: Sequence[str]) -> Sample:
    """Compares the network's logits on `inputs` with the published ones.

    Args:
        inputs: the published arrays (``.npy``, one per stream), or the sample's video. A video's frames are prepared by
            us, which changes every number a little: the highest class alone must then be the published one.

    Raises:
        UsageError: arrays and videos are mixed, or an input cannot be used.
        VideoError: the video cannot be read.
    """
    if not inputs:
        return Sample(True, [f"  sample      not compared: give --input, the published array; {FROM_WHERE}"])
    if all(path.lower().endswith(ARRAY_SUFFIX) for path in inputs):
        return _on_arrays(report, inputs)
    if len(inputs) == 1:
        return _on_video(report, inputs[0])
    expected = f"one video, or arrays ({ARRAY_SUFFIX}) only"
    raise UsageError(describe("option", "--input", expected, ", ".join(inputs), "leave some out"))


def _on_arrays(report: WeightsReport, paths: Sequence[str]) -> Sample:
    read = read_inputs(paths)
    stream, logits = sample_logits(report.path, read)
    comparisons = compare(stream, logits)
    used = [item for name, item in read.items() if stream in (name, "both")]
    num_off = sum(not item.agrees for item in comparisons)
    told = "all agree" if num_off == 0 else f"{num_off} of {len(comparisons)} are off: not the authors' numbers"
    lines = [f"  sample      {stream}: {SOURCE}"]
    lines += [f"    {item.path} has not the bytes of the published array" for item in used if not item.published]
    lines += _table(comparisons, [" ok" if item.agrees else "OFF" for item in comparisons])
    lines.append(f"    {told} (within {TOLERANCE:g}, relative)")
    data = {
        "source": SOURCE,
        "stream": stream,
        "tolerance": TOLERANCE,
        "inputs": [{"path": item.path, "stream": item.stream, "published": item.published} for item in used],
        "comparisons": [asdict(item) | {"agrees": item.agrees} for item in comparisons],
        "agrees": num_off == 0,
    }
    return Sample(num_off == 0, lines, data)


def _on_video(report: WeightsReport, path: str) -> Sample:
    recipe = logits_recipe("i3d", report.path)
    if recipe.dim != NUM_CLASSES:
        remedy = "leave --input out: nothing is published to compare such a file with"
        raise WeightsError(describe("weights", report.path, f"{NUM_CLASSES} classes", str(recipe.dim), remedy))
    device = resolve_device("auto", num_cores())
    logits, _ = video_logits(path, recipe, device, registry.build(recipe, device))
    stream, highest = str(recipe.options["stream"]), int(logits.argmax())
    comparisons = compare(stream, logits)
    wanted = comparisons[1]
    agrees = highest == wanted.index
    told = "is the published one" if agrees else f"is class {highest}; published is {wanted.index}, {wanted.name}"
    lines = [f"  sample      {stream}: {SOURCE}", f"    {path}: frames prepared by us, so numbers differ"]
    lines += _table(comparisons, [""] * len(comparisons))
    lines.append(f"    the highest class {told}")
    data = {
        "source": SOURCE,
        "stream": stream,
        "tolerance": None,
        "inputs": [{"path": path, "stream": stream, "published": False}],
        "comparisons": [asdict(item) for item in comparisons],
        "agrees": agrees,
    }
    return Sample(agrees, lines, data)


def _table(comparisons: Sequence[Comparison], marks: Sequence[str]) -> list[str]:
    return [f"    {'published':>12} {'ours':>12}"] + [
        f"    {item.expected:12.6f} {item.got:12.6f}  {mark}  {item.name}"
        for item, mark in zip(comparisons, marks, strict=True)
    ]
