"""Prints how busy a device is kept that works on its own, by what is queued there: a stand-in for a GPU, on a CPU.

    python -m benchmarks.bench_device_queue [--repeat 5] [--batches 40]

The device is a thread that does one thing after another, each a sleep, as a CUDA stream does: a batch of 20 ms. The
host needs 10 ms to make the next batch, also asleep, so that the processors of this machine do not matter. A network
like R-C3D takes the 20 ms in two parts, 16 and 4 ms, between which the host needs 5 ms with what the first part gave.

`RecipeExtraction` and R-C3D's order of steps are the real ones. Busy is the device's time over the wall time; each
figure is the median of `--repeat` runs, with the least and the greatest beside it.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from clipmill.extractors.base import EachWindow, Outputs
from clipmill.extractors.flow_files import FlowFiles
from clipmill.extractors.resolve import resolve_recipe
from clipmill.pipelines.features.extraction import RecipeExtraction
from clipmill.pipelines.features.windows import ClipWindows
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import ClipRule
from clipmill.schemas.records import Clip, Window

BATCH_SECONDS = 0.020
HOST_SECONDS = 0.010
TRUNK_SECONDS, CHOICE_SECONDS, HEADS_SECONDS = 0.016, 0.005, 0.004
CLIP = Clip(0, 0.0, 1e6)


class Plain:
    """A network of one part, on a device of its own."""

    def __init__(self, queues: bool) -> None:
        self.queues = queues
        self.stream = ThreadPoolExecutor(1)

    def forward(self, frames: np.ndarray) -> Outputs:
        return self.submit(frames)()

    def submit(
        self,
        frames: np.ndarray,
        windows: Sequence[Window] | None = None,
        files: Sequence[FlowFiles] | None = None,
    ) -> Callable[[], Outputs]:
        done = self.stream.submit(time.sleep, BATCH_SECONDS)
        return lambda: self.outputs(frames, done)

    def outputs(self, frames: np.ndarray, done: "Future[None]") -> Outputs:
        done.result()
        return {"values": frames.reshape(len(frames), -1).mean(axis=1, keepdims=True)}

    def reducer(self, clip: Clip) -> EachWindow:
        return EachWindow(clip, "float32")


class TwoParts(Plain):
    """A network of two parts, in the order of steps of `clipmill.extractors.rc3d.build`, or each part at once."""

    def __init__(self, queues: bool) -> None:
        super().__init__(queues)
        self.last: Callable[[], Future[None]] | None = None

    def submit(self, frames: np.ndarray, *_: Any) -> Callable[[], Outputs]:
        trunk = self.stream.submit(time.sleep, TRUNK_SECONDS)
        heads: list[Future[None]] = []

        def choose() -> "Future[None]":
            if not heads:
                trunk.result()
                time.sleep(CHOICE_SECONDS)
                heads.append(self.stream.submit(time.sleep, HEADS_SECONDS))
            return heads[0]

        last, self.last = self.last, choose
        if last is not None:
            last()
        return lambda: self.outputs(frames, choose())


def busy(extractor: Plain, num_batches: int) -> float:
    """Returns the share of the time that the device works."""
    feature = FeatureConfig(extractor="squeezenet", weights=WeightsConfig(random=0))
    recipe = resolve_recipe("squeezenet", feature, ClipRule(), DecodeConfig())
    extraction = RecipeExtraction(recipe, extractor, 1)
    windows = tuple(Window(0, (frame,), float(frame), frame + 1.0) for frame in range(num_batches))
    extraction.start_video(0, [CLIP], [ClipWindows(windows)])
    pixels = np.zeros((2, 2, 3), np.uint8)
    started = time.perf_counter()
    for frame in range(num_batches):
        time.sleep(HOST_SECONDS)
        extraction.add_frame(0, frame, pixels)
    extraction.flush()
    return num_batches * BATCH_SECONDS / (time.perf_counter() - started)


def main() -> None:
    """Prints all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--batches", type=int, default=40)
    options = parser.parse_args()
    kinds: dict[str, Callable[[], Plain]] = {
        "one part, waited for at once": lambda: Plain(queues=False),
        "one part, queued": lambda: Plain(queues=True),
        "two parts, waited for at once": lambda: TwoParts(queues=False),
        "two parts, queued": lambda: TwoParts(queues=True),
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.repeat):
        for name, make in kinds.items():
            found[name].append(busy(make(), options.batches))
    for name, shares in found.items():
        print(f"{name:32} busy {statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})", flush=True)


if __name__ == "__main__":
    main()
