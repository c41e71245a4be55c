"""Cuts the THUMOS14 TSP vectors into two views of each video: the numbers at even places, and those at odd places.

    python examples/import/thumos14_tsp/halves.py ../shared/data/features/thumos14_tsp_r2plus1d34_max_gvf.h5 \
        out/thumos14_tsp

Writes even/<video id>.npy and odd/<video id>.npy, float32[256] each, for halves.yaml. The two views share no number, so
that nothing is found without learning how they go together.
"""

import sys
from pathlib import Path

import h5py
import numpy as np


def main(source: Path, folder: Path) -> None:
    """Writes both views of every vector of `source`."""
    for view in ("even", "odd"):
        (folder / view).mkdir(parents=True, exist_ok=True)
    with h5py.File(source) as file:
        for video_id, data in file.items():
            vector = np.asarray(data, np.float32).ravel()
            np.save(folder / "even" / f"{video_id}.npy", vector[0::2])
            np.save(folder / "odd" / f"{video_id}.npy", vector[1::2])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
