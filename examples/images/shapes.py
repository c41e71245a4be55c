"""A toy corpus of images with classes: one shape each, turned, of any colour, size and place, on any ground.

    python examples/images/shapes.py out/images/shapes

Six kinds of shape, the labels, 90 images of each: 50 to train on, 10 to validate on, 30 to test. Writes images/*.png
and images.csv.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

KINDS = ("circle", "cross", "ring", "square", "star", "triangle")
PARTS = {"train": 50, "validation": 10, "test": 30}
SIDE = 72


def outline(kind: str) -> np.ndarray:
    """Returns the corners ``[n, 2]`` of a shape of radius 1."""
    if kind == "square":
        return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.8
    if kind == "cross":
        arm = 0.3
        corner = [(arm, 1), (arm, arm), (1, arm)]
        return np.array([point for turn in range(4) for point in np.array(corner) @ _turn(turn * 90)])
    num, inner = {"triangle": (3, None), "star": (5, 0.4)}.get(kind, (40, None))
    angles = np.arange(num * (2 if inner else 1)) * 2 * np.pi / (num * (2 if inner else 1))
    radius = np.where(np.arange(len(angles)) % 2, inner, 1.0) if inner else np.ones(len(angles))
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _turn(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    return np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])


def drawn(kind: str, random: np.random.Generator) -> Image.Image:
    """Returns an image of a shape."""
    ground, colour = random.integers(0, 256, (2, 3))
    while np.abs(ground - colour).max() < 80:
        ground, colour = random.integers(0, 256, (2, 3))
    picture = Image.new("RGB", (SIDE, SIDE), tuple(ground.tolist()))
    radius = random.uniform(11, 24)
    centre = random.uniform(radius, SIDE - radius, 2)
    points = outline(kind) @ _turn(random.uniform(0, 360)) * radius + centre
    pen = ImageDraw.Draw(picture)
    pen.polygon([tuple(point) for point in points.tolist()], fill=tuple(colour.tolist()))
    if kind == "ring":
        hole = [tuple(point) for point in ((points - centre) * 0.6 + centre).tolist()]
        pen.polygon(hole, fill=tuple(ground.tolist()))
    noisy = np.asarray(picture, np.float64) + random.normal(0, 15, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def main(folder: Path) -> None:
    """Writes the corpus."""
    random, lines = np.random.default_rng(0), []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for part, num in PARTS.items():
        for kind in KINDS:
            for number in range(num):
                name = f"{kind}-{part}-{number:02d}"
                drawn(kind, random).save(folder / "images" / f"{name}.png")
                lines.append([name, f"images/{name}.png", kind, part])
    with open(folder / "images.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "path", "label", "split"], *lines])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
