"""Made features in which appearance and motion are independent: what MAP-IVR assumes of a video, and nothing else.

    python examples/retrieval/made/features.py out/retrieval/made

An image shows an appearance; a video the same appearance, added to a motion that is drawn without regard to it; each
with noise of its own. The appearance is that of the class and a part of the clip's own. Writes image.npy, video.npy and
manifest.csv for examples/retrieval/made/import.yaml.
"""

import sys
from pathlib import Path

import numpy as np

NUM_LABELS, PER_LABEL = 32, 10
APPEARANCE_DIM, MOTION_DIM = 12, 2
IMAGE_DIM, VIDEO_DIM = 24, 48
OWN, NOISE, MOTION = 0.3, 0.6, 2.0
"""Standard deviations: of a clip's own appearance and of noise, beside the class's of 1; and of the motion."""


def main(folder: Path) -> None:
    """Writes the features and their manifest."""
    random = np.random.default_rng(0)
    label = np.repeat(np.arange(NUM_LABELS), PER_LABEL)
    num = len(label)
    appearance = random.normal(size=(NUM_LABELS, APPEARANCE_DIM))[label] + OWN * random.normal(
        size=(num, APPEARANCE_DIM)
    )
    motion = random.normal(size=(num, MOTION_DIM))
    shown = random.normal(size=(APPEARANCE_DIM, IMAGE_DIM)) / APPEARANCE_DIM**0.5
    filmed = random.normal(size=(APPEARANCE_DIM, VIDEO_DIM)) / APPEARANCE_DIM**0.5
    moved = random.normal(size=(MOTION_DIM, VIDEO_DIM)) / MOTION_DIM**0.5
    image = appearance @ shown + NOISE * random.normal(size=(num, IMAGE_DIM))
    video = appearance @ filmed + MOTION * motion @ moved + NOISE * random.normal(size=(num, VIDEO_DIM))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "image.npy", image.astype(np.float32))
    np.save(folder / "video.npy", video.astype(np.float32))
    lines = [f"class {code:02d}/clip {n:03d},class {code:02d}" for n, code in enumerate(label)]
    (folder / "manifest.csv").write_text("\n".join(["id,label", *lines]) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
