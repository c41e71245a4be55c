"""The manifest of the TSP vectors: each THUMOS14 video with its split, its duration and the class it shows most often.

    python examples/import/thumos14_tsp/manifest.py FOLDER MANIFEST

FOLDER holds TSP's ground truth of THUMOS14 (``thumos14_valid_tsp_groundtruth.csv``, ``thumos14_test_...``). Of classes
that a video shows equally often, the one shown first is taken. A video without any class has no line.
"""

import csv
import sys
from collections import Counter
from pathlib import Path

SPLITS = {"valid": "train", "test": "test"}
"""THUMOS14 trains on its validation videos: its own training videos are trimmed."""


def write_manifest(folder: Path, manifest: Path) -> int:
    """Writes the manifest and returns how many videos it has."""
    lines = []
    for name, split in SPLITS.items():
        classes: dict[str, Counter[str]] = {}
        durations: dict[str, str] = {}
        with open(folder / f"thumos14_{name}_tsp_groundtruth.csv", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                durations[row["video-name"]] = row["video-duration"]
                if row["action-label"]:
                    classes.setdefault(row["video-name"], Counter())[row["action-label"]] += 1
        # most_common keeps the order of first sight among equals.
        lines += [(video, found.most_common(1)[0][0], split, durations[video]) for video, found in classes.items()]
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with open(manifest, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "label", "split", "duration_seconds"))
        writer.writerows(lines)
    return len(lines)


if __name__ == "__main__":
    print(write_manifest(Path(sys.argv[1]), Path(sys.argv[2])), "videos")
