"""``clipmill weights classify``: the classes a network sees in videos: a person then sees whether weights are right."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from clipmill.extractors import registry
from clipmill.extractors.base import Extractor
from clipmill.extractors.class_scores import ClassScore, check_class_names, read_class_names, top_classes
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.weights_report import options_for
from clipmill.jobs.output import Outcome
from clipmill.pipelines.features.engines.cores import num_cores
from clipmill.pipelines.features.extraction import resolve_device
from clipmill.pipelines.features.probing import digest_files, probe_videos
from clipmill.pipelines.features.recompute import recompute
from clipmill.schemas.config import DecodeConfig, FeatureConfig, parse_config
from clipmill.schemas.errors import EXIT_COMPLETE, EXIT_QUARANTINED, UsageError, VideoError, describe
from clipmill.schemas.recipe import ClipRule, Recipe
from clipmill.schemas.records import Video


def run_classify(
    extractor: str,
    files: Sequence[str],
    videos: Sequence[str],
    labels: str | None,
    num_top: int,
    overrides: Sequence[str],
    device: str,
) -> Outcome:
    """Prints the most probable classes of each video; exit code 3 when some could not be read."""
    names = read_class_names(labels) if labels is not None else None
    with _one_file(extractor, files) as path:
        recipe = logits_recipe(extractor, path, overrides)
        check_class_names(names, recipe.dim)
        device = resolve_device(device, num_cores())
        network = registry.build(recipe, device)
        done: list[dict[str, Any]] = []
        failed: list[dict[str, str]] = []
        for number, video in enumerate(videos, start=1):
            print(f"{number}/{len(videos)} {video}", file=sys.stderr)
            try:
                logits, num_rows = video_logits(video, recipe, device, network)
            except VideoError as error:
                failed.append({"video": video, "reason": error.reason, "message": error.message})
                continue
            done.append({"video": video, "num_windows": num_rows, "top": top_classes(logits, names, num_top)})
    data = {
        "extractor": extractor,
        "files": list(files),
        "layout": recipe.weights.layout,
        "card": recipe.weights.card,
        "num_classes": recipe.dim,
        "videos": [item | {"top": [asdict(score) for score in item["top"]]} for item in done],
        "failed": failed,
    }
    return Outcome(data, _text(data, done, names), EXIT_QUARANTINED if failed else EXIT_COMPLETE)


@contextmanager
def _one_file(extractor: str, files: Sequence[str]) -> Iterator[str]:
    """Yields the one weights file, or several joined in a temporary one (I3D's streams: their logits are summed)."""
    if len(files) == 1:
        yield files[0]
        return
    join = registry.registration(extractor).join
    if join is None:
        joining = [name for name in registry.names() if registry.registration(name).join is not None]
        remedy = f"leave the others out ({' or '.join(joining)} alone takes two)"
        raise UsageError(describe("option", "--file", "one weights file", str(len(files)), remedy))
    with tempfile.TemporaryDirectory(prefix="clipmill-") as folder:
        path = os.path.join(folder, "joined.pt")
        join(files, path)
        yield path


def logits_recipe(extractor: str, path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Returns the recipe of the logits a weights file gives, with the options that take it.

    Raises:
        UsageError: the extractor has no logits, or an override does not fit.
        WeightsError: the file is not one of the extractor's, or has no last layer.
    """
    path = os.path.abspath(os.path.expanduser(path))
    written = {"layer": "logits", "weights": {"file": path}, "options": options_for(extractor, path)}
    feature = parse_config(FeatureConfig, yaml.safe_dump(written), overrides, "classify")
    if feature.layer != "logits" or feature.pooling != "none" or feature.extractor not in (None, extractor):
        got = f"layer {feature.layer}, pooling {feature.pooling}"
        raise UsageError(describe("classify", "layer", "layer logits, pooling none", got, "leave them out"))
    return resolve_recipe(extractor, feature, ClipRule(), DecodeConfig())


def video_logits(path: str, recipe: Recipe, device: str, network: Extractor) -> tuple[npt.NDArray[np.float64], int]:
    """Returns the mean logits ``[C]`` of a video's rows (before any softmax) and how many rows there were.

    Raises:
        VideoError: it cannot be read.
    """
    (probed,), _ = probe_videos([Video(id=path, uri=path)], {})
    if probed.error is not None:
        raise probed.error
    (probed,), _ = digest_files([probed], [recipe], {})
    rows = recompute(probed.video, recipe, device, network)
    return rows.values.astype(np.float64).mean(axis=0), len(rows)


def _text(data: dict[str, Any], done: Sequence[dict[str, Any]], names: Sequence[str] | None) -> str:
    lines = [f"{data['extractor']}: layout {data['layout']}, card {data['card']}, {data['num_classes']} classes"]
    for item in done:
        lines.append(f"{item['video']} ({item['num_windows']} rows)")
        lines += [f"  {_score_text(score)}" for score in item["top"]]
    lines += [f"not read: {item['reason']}: {item['message']}" for item in data["failed"]]
    if names is None and done:
        lines.append("classes are numbers, from 0, in the order of the network's last layer; --labels FILE names them")
    return "\n".join(lines)


def _score_text(score: ClassScore) -> str:
    name = f"class {score.index}" if score.name is None else f"{score.name} ({score.index})"
    return f"{score.probability:8.4f}  {score.logit:9.3f}  {name}"
