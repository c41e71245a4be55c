"""Prints what a window drawn at random among sliding windows scores on Charades-STA: the row its papers call Random.

    python examples/moments/random_windows.py ../shared/data/annotations/charades_sta

The windows are CTRL's for TACoS (Gao et al., TALL, 2017): 64, 128, 256 and 512 frames of the video's own rate, each
size moved by a fifth of itself. What the published row was drawn from is not stated, so both are options. The score is
the exact expectation over all draws; beside it stands the standard deviation of one draw for each sentence.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np

THRESHOLDS = (0.3, 0.5, 0.7)


def main() -> None:
    """Prints the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--overlap", type=float, default=0.8)
    given = parser.parse_args()
    durations = json.loads((given.annotations / "Charades_duration.json").read_text("utf-8"))
    rates = json.loads((given.annotations / "Charades_fps_dict.json").read_text("utf-8"))
    hits = []
    for line in (given.annotations / "charades_sta_test.txt").read_text("utf-8").splitlines():
        video, start, stop = line.partition("##")[0].split()
        windows = sliding_windows(durations[video], float(rates[video]), given.frames, given.overlap)
        iou = interval_iou(windows, float(start), min(float(stop), durations[video]))
        hits.append([np.mean(iou >= threshold) for threshold in THRESHOLDS])
    shares = np.array(hits)
    deviation = np.sqrt((shares * (1 - shares)).sum(axis=0)) / len(shares)
    for threshold, mean, one_draw in zip(THRESHOLDS, shares.mean(axis=0), deviation, strict=True):
        print(f"R@1, IoU {threshold}: {100 * mean:.2f}, one draw +- {100 * one_draw:.2f}")


def sliding_windows(duration: float, rate: float, sizes: list[int], overlap: float) -> np.ndarray:
    """Returns the windows within a video, float64[N, 2] in seconds; where none fits, the whole video."""
    windows = []
    for frames in sizes:
        length, step = frames / rate, frames * (1 - overlap) / rate
        count = math.floor((duration - length) / step + 1e-9) + 1 if duration >= length else 0
        windows += [(number * step, number * step + length) for number in range(count)]
    return np.array(windows or [(0.0, duration)])


def interval_iou(windows: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Returns the temporal intersection over union of windows (float64[N, 2]) with one interval: float64[N]."""
    shared = np.minimum(windows[:, 1], stop) - np.maximum(windows[:, 0], start)
    covered = np.maximum(windows[:, 1], stop) - np.minimum(windows[:, 0], start)
    iou: np.ndarray = np.clip(shared, 0, None) / covered
    return iou


if __name__ == "__main__":
    main()
