"""Turns the annotation tables of GMDCSA24 (ekramalam/GMDCSA24) into what ``clipmill train`` and ``evaluate`` read.

python examples/videos/falls.py FOLDER OUT

FOLDER has the videos, as <table>_<number>.mp4, and beside them the tables, of which a row's last column is such as
``Falling (SW)[3.4 to 6]; Sitting[0 to 3.4]``. OUT/manifest.csv lists the videos that are there, every third of which is
kept for the test; OUT/segments.csv has their segments, OUT/train.csv and OUT/test.csv those of each part. The direction
of a fall is left out: three classes would have two or three videos each.
"""

import csv
import re
import sys
from pathlib import Path

SEGMENT = re.compile(r"([A-Za-z]+)[^\[;]*\[\s*([\d.]+)\s*to\s*([\d.]+)\s*\]")
TEST_EVERY = 3


def activities(table: Path) -> dict[str, list[tuple[str, float, float]]]:
    """Returns the activities of each video of a table: class, start and stop in seconds."""
    found = {}
    for row in csv.reader(table.read_text("utf-8-sig").splitlines()):
        number = row[0].strip().removesuffix(".mp4")
        last = next((cell for cell in reversed(row) if "[" in cell), "")
        segments = [(name, float(start), float(stop)) for name, start, stop in SEGMENT.findall(last)]
        if segments:
            found[f"{table.stem}_{number}.mp4"] = segments
    return found


def main(folder: Path, out: Path) -> None:
    """Writes manifest.csv, segments.csv, train.csv and test.csv."""
    annotated = {name: found for table in sorted(folder.glob("*.csv")) for name, found in activities(table).items()}
    out.mkdir(parents=True, exist_ok=True)
    names = [video.name for video in sorted(folder.glob("*.mp4")) if video.name in annotated]
    part = {name: "test" if number % TEST_EVERY == TEST_EVERY - 1 else "train" for number, name in enumerate(names)}
    with (out / "manifest.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["id", "path", "split"])
        rows.writerows([name, str((folder / name).resolve()), part[name]] for name in names)
    for file, sides in {"segments": ("train", "test"), "train": ("train",), "test": ("test",)}.items():
        with (out / f"{file}.csv").open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["video_id", "start_seconds", "stop_seconds", "label"])
            rows.writerows(
                [name, start, stop, label]
                for name in names
                if part[name] in sides
                for label, start, stop in annotated[name]
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
