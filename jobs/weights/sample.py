"""A network's published sample, compared with what a weights file gives: a part of ``clipmill weights check``."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clipmill.extractors import registry
from clipmill.extractors.published_sample import PublishedSample, SampleComparison
from clipmill.extractors.weights_report import WeightsReport
from clipmill.jobs.weights.classify import logits_recipe, video_logits
from clipmill.pipelines.features.engines.select import num_cores
from clipmill.pipelines.features.extraction import resolve_device
from clipmill.schemas.errors import UsageError, describe

ARRAY_SUFFIX = ".npy"


@dataclass(frozen=True, slots=True)
class SampleText:
    """How the sample compares, to be printed; `data` is None, and `agrees` true, where none was given."""

    agrees: bool
    lines: list[str]
    data: dict[str, Any] | None = None


def check_sample(extractor: str, sample: PublishedSample, report: WeightsReport, inputs: Sequence[str]) -> SampleText:
    """Compares the network's logits on `inputs` with the published ones.

    Args:
        inputs: the published arrays (``.npy``), or the sample's video. A video's frames are prepared by us, which
            changes every number a little: the highest class alone must then be the published one.

    Raises:
        UsageError: arrays and videos are mixed, or an input cannot be used.
        VideoError: the video cannot be read.
    """
    if not inputs:
        return SampleText(True, [f"  sample      not compared: give --input, the published array; {sample.remedy}"])
    if all(path.lower().endswith(ARRAY_SUFFIX) for path in inputs):
        return _of_arrays(sample.compare_arrays(report.path, inputs))
    if len(inputs) > 1:
        expected = f"one video, or arrays ({ARRAY_SUFFIX}) only"
        raise UsageError(describe("option", "--input", expected, ", ".join(inputs), "leave some out"))
    recipe = logits_recipe(extractor, report.path)
    sample.check_classes(report.path, recipe.dim)
    device = resolve_device("auto", num_cores())
    logits, _ = video_logits(inputs[0], recipe, device, registry.build(recipe, device))
    return _of_video(sample.compare_video(recipe, inputs[0], logits))


def _of_arrays(found: SampleComparison) -> SampleText:
    agree = [item.agrees(found.tolerance or 0.0) for item in found.comparisons]
    num_off = agree.count(False)
    message = "all agree" if num_off == 0 else f"{num_off} of {len(agree)} are off: not the authors' numbers"
    lines = [f"  sample      {found.stream}: {found.source}"]
    lines += [
        f"    {item.path} has not the bytes of the published array" for item in found.inputs if not item.published
    ]
    lines += _table(found, [" ok" if item else "OFF" for item in agree])
    lines.append(f"    {message} (within {found.tolerance:g}, relative)")
    compared = [asdict(item) | {"agrees": agrees} for item, agrees in zip(found.comparisons, agree, strict=True)]
    return SampleText(found.agrees, lines, _data(found, compared))


def _of_video(found: SampleComparison) -> SampleText:
    wanted = found.comparisons[1]
    message = f"is class {found.highest}; published is {wanted.index}, {wanted.name}"
    message = "is the published one" if found.agrees else message
    lines = [f"  sample      {found.stream}: {found.source}"]
    lines += [f"    {item.path}: frames prepared by us, so numbers differ" for item in found.inputs]
    lines += _table(found, [""] * len(found.comparisons))
    lines.append(f"    the highest class {message}")
    return SampleText(found.agrees, lines, _data(found, [asdict(item) for item in found.comparisons]))


def _data(found: SampleComparison, comparisons: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "source": found.source,
        "stream": found.stream,
        "tolerance": found.tolerance,
        "inputs": [asdict(item) for item in found.inputs],
        "comparisons": comparisons,
        "agrees": found.agrees,
    }


def _table(found: SampleComparison, marks: Sequence[str]) -> list[str]:
    return [f"    {'published':>12} {'ours':>12}"] + [
        f"    {item.expected:12.6f} {item.got:12.6f}  {mark}  {item.name}"
        for item, mark in zip(found.comparisons, marks, strict=True)
    ]
