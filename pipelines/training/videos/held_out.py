"""What a run leaves of the videos it kept for the test: a manifest, their truth, and configs that build and score them.

Evaluation reads rows and decodes nothing, so ``clipmill build`` comes between.
"""

import copy
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from clipmill.extractors.learner import Learner
from clipmill.pipelines.training.run_folder import RunFolder
from clipmill.pipelines.training.videos.items import VideoItems

HELD_OUT = "held_out"
"""Folder in a run's own."""
WINDOW_KEYS = ("fps", "rounding", "frames", "every")
"""Keys of `sampling` that say what a window is, and not where one begins: a view has its own places."""

MANIFEST = ("id", "path", "stream", "start_seconds", "stop_seconds", "segment_label")
SEGMENTS = ("video_id", "start_seconds", "stop_seconds", "label")


def write_held_out(out: str, items: VideoItems, annotated: bool, feature: Mapping[str, Any], learner: Learner) -> bool:
    """Writes manifest.csv, truth.csv, build.yaml and evaluate.yaml; returns False where no video was kept.

    Args:
        out: the run's folder.
        annotated: whether classes are those of segments.
        feature: of a build, with the path of the weights.

    Raises:
        StorageUnavailableError: the folder cannot be written.
    """
    kept = [
        (video, segments)
        for video, segments in zip(items.videos, items.segments, strict=True)
        if video.part == "test" and segments
    ]
    if not kept:
        return False
    of_segments = learner.task == "detection"
    rows, truth = [], []
    for video, segments in kept:
        for number, segment in enumerate(segments):
            times = [segment.start_seconds, segment.stop_seconds]
            rows.append([video.id, video.path, video.stream, *times, segment.label])
            item = f"{video.id}#{number}" if annotated else video.id
            truth.append([video.id, *times, segment.label] if of_segments else [item, segment.label])
    # A whole video has no segment.
    columns = MANIFEST if annotated else MANIFEST[:3]
    features, place = views_of(feature, learner), Path(out) / HELD_OUT
    build = {
        "store": {"url": str(place / "store")},
        "videos": {"manifest": str(place / "manifest.csv")},
        **({"clips": {"from": "annotations"}} if annotated and not of_segments else {}),
        "features": features,
    }
    evaluate = {
        "task": learner.task,
        "ground_truth": {"file": str(place / "truth.csv")},
        "predictions": [{"store": str(place / "store"), "feature": name} for name in features],
        "out": str(place / "evaluation"),
    }
    texts = {
        "manifest.csv": _table(columns, [row[: len(columns)] for row in rows]),
        "truth.csv": _table(SEGMENTS if of_segments else ("id", "label"), truth),
        "build.yaml": yaml.safe_dump(build, sort_keys=False, allow_unicode=True),
        "evaluate.yaml": yaml.safe_dump(evaluate, sort_keys=False, allow_unicode=True),
    }
    for name, text in texts.items():
        RunFolder(out).write(f"{HELD_OUT}/{name}", text)
    return True


def views_of(feature: Mapping[str, Any], learner: Learner) -> dict[str, dict[str, Any]]:
    """Returns the features of a build that look at a video as published, by name."""
    if not learner.views:
        return {str(feature["extractor"]): dict(feature)}
    window = {key: value for key, value in feature.get("sampling", {}).items() if key in WINDOW_KEYS}
    found = {}
    for name, view in learner.views.items():
        preprocess = {**feature.get("preprocess", {}), **view.get("preprocess", {})}
        own = {"sampling": window | dict(view["sampling"])} | ({"preprocess": preprocess} if preprocess else {})
        # A copy, so that a dump repeats what features share and names no anchors.
        found[name] = copy.deepcopy({**feature, **own})
    return found


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
