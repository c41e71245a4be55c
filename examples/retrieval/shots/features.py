"""Made shots: frames that drift, and photographs of one of them; what is wrong with either lies in shared directions.

    python examples/retrieval/shots/features.py out/retrieval/shots

Of 120 videos of 6 shots each, a shot shows something of its own, from which its frames move away and back, a frame a
second. What a camera adds lies along the same 8 directions for all photographs, and what a broadcast adds along 8
others for all frames, so that it can be learned to look past them. Writes a folder of frames, image.npy and
manifest.csv for import.yaml.
"""

import sys
from pathlib import Path

import numpy as np

NUM_VIDEOS, NUM_TEST, SHOTS = 120, 40, 6
DIM, SHARED = 64, 8
LEAST_SECONDS, MOST_SECONDS = 4, 30
DRIFT, NOISE, CAMERA, BROADCAST = 0.5, 0.8, 2.5, 2.0
"""Lengths, beside what a shot shows of 1: how far frames move, noise, and what a photograph and a frame add."""


def main(folder: Path) -> None:
    """Writes the features and their manifest."""
    random = np.random.default_rng(0)
    directions = np.linalg.qr(random.normal(size=(DIM, 2 * SHARED)))[0].T
    photographed, broadcast = directions[:SHARED], directions[SHARED:]

    def noise(num: int) -> np.ndarray:
        return np.asarray(NOISE * random.normal(size=(num, DIM)) / DIM**0.5)

    def along(shared: np.ndarray, length: float, num: int) -> np.ndarray:
        return np.asarray(length * random.normal(size=(num, SHARED)) / SHARED**0.5 @ shared)

    (folder / "frames").mkdir(parents=True, exist_ok=True)
    lines, images = [], []
    for number in range(NUM_VIDEOS):
        video, start = f"video {number:03d}", 0
        frames: list[np.ndarray] = []
        for _ in range(SHOTS):
            seconds = int(random.integers(LEAST_SECONDS, MOST_SECONDS + 1))
            shown, towards = random.normal(size=(2, DIM)) / DIM**0.5
            way = DRIFT * np.sin(np.linspace(0, np.pi, seconds))[:, None] * towards
            content = shown + way + along(broadcast, BROADCAST, 1)
            images.append(shown + way[random.integers(seconds)] + along(photographed, CAMERA, 1)[0] + noise(1)[0])
            part = "test" if number < NUM_TEST else "train"
            lines.append(f"{video},{video},{part},{start},{start + seconds}")
            frames.append(content + noise(seconds))
            start += seconds
        np.save(folder / "frames" / f"{video}.npy", np.concatenate(frames).astype(np.float32))
    np.save(folder / "image.npy", np.array(images, np.float32))
    header = "id,label,split,start_seconds,stop_seconds"
    (folder / "manifest.csv").write_text("\n".join([header, *lines]) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
