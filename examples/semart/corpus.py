"""A toy corpus after SemArt: drawn paintings, generated comments and titles, and the type of each.

    python examples/semart/corpus.py out/semart
    python examples/semart/corpus.py out/semart_small 400

1,600 paintings, or as many as are asked for, of three shapes, each of a kind, a colour and a size, in three quarters of
a coloured ground. A comment says all of that in one of several ways, a title two things of it; the type is the kind of
the first shape. A painting's vector is what a small eye would see: the mean colours of 12 x 12 cells. Writes
paintings/*.png, image.npy, texts.csv (tabs, as SemArt's), manifest.csv, and images.csv: that with the paintings' paths.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

NUM_PAINTINGS = 1600
TEST, VALIDATION = 3 / 16, 1 / 16
"""Their shares."""
SIDE, CELLS = 96, 12
COLOURS = {
    "red": (200, 40, 40), "green": (50, 150, 60), "blue": (40, 70, 190), "yellow": (230, 200, 60),
    "white": (240, 240, 235), "black": (25, 25, 30), "brown": (120, 75, 40), "violet": (130, 60, 150),
}  # fmt: skip
KINDS = ("circle", "square", "triangle", "diamond")
SIZES = {"small": 10, "large": 20}
PLACES = {"sky": (24, 24), "tower": (72, 24), "meadow": (24, 72), "harbour": (72, 72)}
OPENINGS = ("The painter shows", "Here we see", "This canvas presents", "A late work that depicts")


def drawn(random: np.random.Generator) -> tuple[Image.Image, str, str, str]:
    """Returns a painting, its comment, its title and its type."""
    colours = list(COLOURS)
    ground = str(random.choice(colours))
    picture = Image.new("RGB", (SIDE, SIDE), COLOURS[ground])
    pen, parts = ImageDraw.Draw(picture), []
    for place in random.choice(list(PLACES), 3, replace=False):
        kind, size = str(random.choice(KINDS)), str(random.choice(list(SIZES)))
        colour = str(random.choice([name for name in colours if name != ground]))
        x, y = np.array(PLACES[str(place)]) + random.integers(-3, 4, 2)
        draw_shape(pen, kind, int(x), int(y), SIZES[size], COLOURS[colour])
        parts.append((size, colour, kind, str(place)))
    noisy = np.asarray(picture, np.float64) + random.normal(0, 12, (SIDE, SIDE, 3))
    sentences = [f"a {size} {colour} {kind} of the {place}" for size, colour, kind, place in parts]
    comment = f"{random.choice(OPENINGS)} {', '.join(sentences)}, on a ground of {ground} {ground}ness."
    title = f"{parts[0][3].title()} with a {parts[0][1]} {parts[0][2]}"
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)), comment, title, parts[0][2]


def draw_shape(pen: ImageDraw.ImageDraw, kind: str, x: int, y: int, r: int, colour: tuple[int, int, int]) -> None:
    """Draws a shape of half-width `r` around (x, y)."""
    if kind == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif kind == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=colour)
    elif kind == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
    else:
        pen.polygon([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill=colour)


def seen(picture: Image.Image) -> np.ndarray:
    """Returns ``float32[CELLS * CELLS * 3]``, the mean colours of cells from 0 to 1."""
    size = SIDE // CELLS
    cells = np.asarray(picture, np.float32).reshape(CELLS, size, CELLS, size, 3).mean(axis=(1, 3))
    return np.asarray(cells.reshape(-1) / 255, np.float32)


def main(folder: Path, num_paintings: int = NUM_PAINTINGS) -> None:
    """Writes the corpus."""
    random = np.random.default_rng(0)
    (folder / "paintings").mkdir(parents=True, exist_ok=True)
    vectors, texts, lines = [], [], []
    num_test, num_validation = round(TEST * num_paintings), round(VALIDATION * num_paintings)
    for number in range(num_paintings):
        name = f"painting {number:04d}"
        picture, comment, title, kind = drawn(random)
        picture.save(folder / "paintings" / f"{name}.png")
        vectors.append(seen(picture))
        texts.append([name, comment, title])
        part = "test" if number < num_test else "validation" if number < num_test + num_validation else "train"
        lines.append([name, kind, part])
    np.save(folder / "image.npy", np.array(vectors))
    with open(folder / "texts.csv", "w", newline="", encoding="cp1252") as file:
        csv.writer(file, delimiter="\t").writerows([["IMAGE_FILE", "DESCRIPTION", "TITLE"], *texts])
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "label", "split"], *lines])
    with open(folder / "images.csv", "w", newline="", encoding="utf-8") as file:
        rows = ([name, f"paintings/{name}.png", kind, part] for name, kind, part in lines)
        csv.writer(file).writerows([["id", "path", "label", "split"], *rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
