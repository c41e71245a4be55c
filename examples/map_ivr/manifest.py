"""A build manifest of image-video pairs from annotations of THUMOS14 or ActivityNet; its counts beside MAP-IVR's.

    python examples/map_ivr/manifest.py thumos14 ANNOTATIONS VIDEOS MANIFEST [--label-map FILE]
    python examples/map_ivr/manifest.py activitynet ANNOTATIONS VIDEOS MANIFEST

ANNOTATIONS holds the ground truth as TSP publishes it (``thumos14_valid_tsp_groundtruth.csv``, ``thumos14_test_...``;
``activitynet_v1-3_valid_...``), VIDEOS the videos under the names it has for them. Each line of MANIFEST is one clip;
``clips: {from: annotations}`` and a feature with ``random_frames: 1`` make a pair of it (examples/map_ivr/build.yaml).

What the publication tells: the numbers of videos, pairs, training and test pairs; that long videos are divided; that
one random frame of a clip is its query. How clips were cut and split is not known. Ours, and options here:

- THUMOS14: an annotated instance is cut into equal clips of at most 9 s. Of whole seconds this comes nearest to the
  published count (7,029), if annotated times count though they lie beyond their video's end, and CliffDiving, whose
  instances are all annotated as Diving too, counts twice. Here times end with the video, and such a clip counts once
  where ``--label-map`` makes both one label.
- ActivityNet: the longest instance of each label of a validation video. Published are 1.003 pairs a video.
- The split is by video: ``--test-fraction`` of each label's videos, drawn with ``--seed``.
"""

import argparse
import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clipmill.pipelines.datasets.label_map import read_label_map
from clipmill.pipelines.datasets.split import random_parts

FILES = {
    "thumos14": ("thumos14_valid_tsp_groundtruth.csv", "thumos14_test_tsp_groundtruth.csv"),
    "activitynet": ("activitynet_v1-3_valid_tsp_groundtruth.csv",),
}
PUBLISHED = {
    "thumos14": {"videos": 413, "labels": 18, "pairs": 7028, "train": 5614, "test": 1414},
    "activitynet": {"videos": 4727, "labels": 200, "pairs": 4739, "train": 3790, "test": 949},
}
"""Of the MAP-IVR slides (AAAI 2021); 18 labels: the shape of APIVR's released classifier."""


@dataclass(frozen=True, slots=True)
class Instance:
    """An annotated stretch of a video, which is `duration_seconds` long."""

    file: str
    label: str
    start_seconds: float
    stop_seconds: float
    duration_seconds: float


def read_instances(folder: Path, dataset: str) -> list[Instance]:
    """Returns the instances of actions as annotated."""
    found = []
    for name in FILES[dataset]:
        with open(folder / name, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["temporal-region-label"] == "Action":
                    times = (float(row[key]) for key in ("t-start", "t-end", "video-duration"))
                    found.append(Instance(row["filename"], row["action-label"], *times))
    return found


def within_video(instances: Sequence[Instance]) -> list[Instance]:
    """Returns the instances that begin before their video's end, cut there."""
    inside = [one for one in instances if one.start_seconds < one.duration_seconds]
    return [replace(one, stop_seconds=min(one.stop_seconds, one.duration_seconds)) for one in inside]


def cut(instances: Sequence[Instance], longest_seconds: float) -> Iterator[Instance]:
    """Yields each instance as equal clips of at most `longest_seconds`."""
    for one in instances:
        length = one.stop_seconds - one.start_seconds
        num = max(1, math.ceil(length / longest_seconds))
        for number in range(num):
            start = one.start_seconds + length * number / num
            yield replace(one, start_seconds=round(start, 3), stop_seconds=round(start + length / num, 3))


def longest(instances: Sequence[Instance]) -> Iterator[Instance]:
    """Yields the longest instance of each label of a video; of equally long ones the first."""
    best: dict[tuple[str, str], Instance] = {}
    for one in instances:
        kept = best.setdefault((one.file, one.label), one)
        if one.stop_seconds - one.start_seconds > kept.stop_seconds - kept.start_seconds:
            best[one.file, one.label] = one
    yield from best.values()


def merged_once(clips: Sequence[Instance], label_map: Mapping[str, str]) -> list[Instance]:
    """Returns `clips` without those that another one of the same times and of the same merged label repeats."""
    kept: dict[tuple[str, str, float, float], Instance] = {}
    for one in clips:
        kept.setdefault((one.file, label_map.get(one.label, one.label), one.start_seconds, one.stop_seconds), one)
    return list(kept.values())


def write_manifest(path: Path, videos: str, clips: Sequence[Instance], parts: Sequence[str]) -> None:
    """Writes one line per clip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "id", "split", "start_seconds", "stop_seconds", "segment_label"))
        for one, part in sorted(zip(clips, parts, strict=True), key=lambda item: (item[0].file, item[0].start_seconds)):
            name = str(Path(videos).absolute() / one.file)
            writer.writerow((name, one.file, part, one.start_seconds, one.stop_seconds, one.label))


def main() -> None:
    """Writes the manifest and prints the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dataset", choices=sorted(FILES))
    parser.add_argument("annotations", type=Path)
    parser.add_argument("videos")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--label-map", help="as data.label_map: clips that become the same are written once")
    parser.add_argument("--longest-seconds", type=float, default=9.0, help="of a THUMOS14 clip")
    parser.add_argument("--test-fraction", type=float, default=0.2)
    parser.add_argument("--validation-fraction", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    label_map = read_label_map(options.label_map) if options.label_map else {}
    annotated = read_instances(options.annotations, options.dataset)
    instances = within_video(annotated)

    def clips_of(found: Sequence[Instance]) -> list[Instance]:
        return list(cut(found, options.longest_seconds) if options.dataset == "thumos14" else longest(found))

    every = clips_of(instances)
    clips = merged_once(every, label_map)
    labels = [label_map.get(one.label, one.label) for one in clips]
    shares = (options.test_fraction, options.validation_fraction, options.seed)
    parts = random_parts([one.file for one in clips], labels, *shares).tolist()
    write_manifest(options.manifest, options.videos, clips, parts)
    sides = Counter(parts)
    ours = {"videos": len({one.file for one in clips}), "labels": len(set(labels)), "pairs": len(clips), **sides}
    published = PUBLISHED[options.dataset]
    print(f"{options.dataset:<12}{'here':>8}{'published':>11}")
    for name in ("videos", "labels", "pairs", "train", "validation", "test"):
        print(f"{name:<12}{ours.get(name, 0):>8}{published.get(name, '-'):>11}")
    beyond = len(annotated) - len(instances)
    print(f"{len(annotated)} annotated instances, {beyond} of which begin after their video's end and are left out")
    print(
        f"{len(clips_of(annotated))} pairs if all counted as annotated, {len(every)} with times cut at the video's end,"
    )
    print(f"{len(clips)} without the {len(every) - len(clips)} that repeat another of the same times and label")
    print(f"{len(clips) / ours['videos']:.4f} pairs a video, published {published['pairs'] / published['videos']:.4f}")


if __name__ == "__main__":
    main()
