"""Cuts each clip of a folder into its first two thirds, to train on, and its last third, kept for the test.

python examples/videos/thirds.py FOLDER OUT

For a handful of clips of UCF-101 (``v_<class>_g<group>_c<clip>.avi``), one a class, where no whole clip can be kept.
The test is of the same film, so it says that training works and nothing about other films. OUT/manifest.csv names each
file twice, once for each part; OUT/segments.csv has their times and classes.
"""

import csv
import sys
from pathlib import Path

from clipmill.pipelines.decode.scan import scan


def main(folder: Path, out: Path) -> None:
    """Writes manifest.csv and segments.csv."""
    out.mkdir(parents=True, exist_ok=True)
    videos, segments = [["id", "path", "split"]], [["video_id", "start_seconds", "stop_seconds", "label"]]
    for path in sorted(folder.glob("v_*_g*_c*.avi")):
        label = path.name.split("_")[1]
        timeline = scan(str(path))
        end = timeline.stop_seconds - float(timeline.pts_seconds[0])
        for part, start, stop in (("train", 0.0, 2 * end / 3), ("test", 2 * end / 3, end)):
            videos.append([f"{path.stem} {part}", str(path.resolve()), part])
            segments.append([f"{path.stem} {part}", f"{start:.3f}", f"{stop:.3f}", label])
    for name, rows in {"manifest": videos, "segments": segments}.items():
        with (out / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
