"""Clips search clips, by what they look like, by how things move in them, and by both; nothing is trained.

    python -m examples.demo.clips [STORE]

The demo's scenes are drawn so that look and motion are independent: `scenes.CLASSES` has four classes that look alike
and three that move alike. So each feature can find only its part, and the classes need both.
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import clipmill
from examples.demo.scenes import CLASSES

Vectors = npt.NDArray[np.float32]


def unit_vectors(store: clipmill.FeatureStore, feature: str, videos: list[str]) -> Vectors:
    """Returns ``float32[N, D]``: the mean row of each video, of length 1."""
    means = np.stack([store[feature][video].values.mean(axis=0) for video in videos])
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


def scores(url: str) -> dict[str, Mapping[str, float]]:
    """Returns the mAP of each feature, and of chance, by what has to be found: ``look``, ``motion`` or ``class``."""
    store = clipmill.open(url)
    videos = sorted(store["look"].index()["video_id"].to_pylist())
    look, motion = (unit_vectors(store, feature, videos) for feature in ("look", "motion"))
    vectors = {"look": look, "motion": motion, "both": np.hstack([look, motion])}
    classes = [video.split("/")[0] for video in videos]
    labels = {
        "look": [CLASSES[name][0].name for name in classes],
        "motion": [CLASSES[name][1] for name in classes],
        "class": classes,
    }
    found: dict[str, dict[str, float]] = {}
    whole = len(videos) - 1
    for sought, names in labels.items():
        side: dict[str, Any] = {"vectors": vectors, "labels": names, "ids": videos}
        score = clipmill.evaluate("retrieval", queries=side, gallery=side, exclude="own_clip", cutoffs=[whole])
        for run in score.runs:
            found.setdefault(run.name, {})[sought] = run.metrics[f"map@{whole}"]
        found.setdefault("chance", {})[sought] = score.runs[0].baselines["chance"][f"map@{whole}"]
    return {name: found[name] for name in (*vectors, "chance")}


def main(url: str = "out/demo/store") -> None:
    """Prints the scores as a table."""
    print("each clip searches the others; mAP of finding the same\n" + " " * 10 + "  look  motion  class")
    for name, row in scores(url).items():
        print(f"  {name:<8}{row['look']:6.3f}{row['motion']:8.3f}{row['class']:7.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
