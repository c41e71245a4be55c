"""A step of R-C3D's training on decoded frames against the same step on frames that are there, and its memory.

python -m benchmarks.bench_video_training [--frames 768] [--side 112] [--steps 3] [--form NAME] [--nothing-frozen]

Both sides take the same steps (forward, losses, backward, SGD) in one process, by turns: one waits for the frame
source, which decodes the next buffers meanwhile; the other computes on the buffer it has, while the source is full and
rests. The ratio is what decoding costs a step. What is printed besides is the most memory this process had, without its
decode child; ``--steps 0`` takes one step and prints that alone.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from clipmill.extractors import registry
from clipmill.pipelines.features.windows import clip_windows
from clipmill.pipelines.training.videos.frames import Drawing, FrameSource, Shown
from clipmill.pipelines.training.videos.items import read_video_items
from clipmill.pipelines.training.videos.train import recipe_of, resolve
from clipmill.pipelines.training.videos.worker import Descent
from clipmill.schemas.config_videos import VideoTrainConfig
from clipmill.schemas.model import validate


def config_of(folder: Path, form: str, frames: int, side: int, freeze: bool) -> VideoTrainConfig:
    """Returns the config of a training on the videos in `folder`, with buffers and crops of that size."""
    height, width = side * 128 // 112, side * 171 // 112
    data = {
        "data": {"videos": {"folder": str(folder)}, "annotations": {"file": str(folder / "segments.csv")}},
        "model": {
            "name": "rc3d",
            "sampling": {"frames": frames, "step": frames},
            "preprocess": {"size": [height, width], "crop": [side, side], "crop_offset": [0, 0]},
            "options": {"form": form, "buffer_frames": frames},
            "training": {"freeze": freeze, "flip": False},
        },
        "out": str(folder / "out"),
    }
    return resolve(validate(VideoTrainConfig, data, "benchmark"))


def main() -> None:
    """Prints seconds of both, their ratio and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=768)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--form", default="pytorch-thumos14")
    parser.add_argument("--nothing-frozen", action="store_true", help="train conv1a and conv2a, too")
    given = parser.parse_args()
    # Beside the checkout's tests, which encode the videos.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from encoded_videos import encode_video

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = ["video_id,start_seconds,stop_seconds,label"]
        for name in ("a", "b"):
            encode_video(folder / f"{name}.mp4", given.frames, width=320, height=240)
            stop = given.frames / 25
            rows += [f"{name}.mp4,{0.1 * stop},{0.4 * stop},one", f"{name}.mp4,{0.5 * stop},{0.9 * stop},two"]
        (folder / "segments.csv").write_text("\n".join(rows) + "\n")
        config = config_of(folder, given.form, given.frames, given.side, not given.nothing_frozen)
        measure(config, given.steps)


def measure(config: VideoTrainConfig, num_steps: int) -> None:
    """Takes steps by turns and prints what they took."""
    learner = registry.learner("rc3d")
    recipe = recipe_of(config, learner)
    options = validate(learner.options, config.model.training, "training")
    buffers = learner.buffers(recipe) if learner.buffers is not None else None
    items = read_video_items(config.data, recipe, buffers, False, clip_windows)
    augmentation = learner.augmentation(recipe, options)
    learning = learner.start(recipe, options, items.classes, torch.device("cpu"))
    descent = Descent(learning, config.loop)
    learning.begin_epoch(0, config.loop)
    drawing = Drawing(items, recipe, augmentation, 0)

    def step(shown: Shown) -> None:
        descent.begin()
        losses = learning.losses([shown.pixels], [shown.target], [shown.generator])
        losses["total"].sum().backward()  # type: ignore[no-untyped-call]
        descent.step(0)

    wanted = (drawing(0, number % len(items)) for number in range(num_steps + 4))
    decoded: list[float] = []
    bare: list[float] = []
    with FrameSource(items, recipe, config.decode, wanted) as source:
        kept = next(source)
        step(kept)
        for _ in range(num_steps):
            began = time.perf_counter()
            step(kept)
            bare.append(time.perf_counter() - began)
            began = time.perf_counter()
            kept = next(source)
            step(kept)
            decoded.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print(f"{recipe.sampling.frames} frames, {recipe.preprocess.crop}, {torch.get_num_threads()} threads")
    print(f"peak memory    {peak:8.2f} GiB, the decode child's left out")
    if not num_steps:
        return
    ratios = [one / two for one, two in zip(decoded, bare, strict=True)]
    print(f"bare step      {statistics.median(bare):8.2f} s  ({min(bare):.2f} to {max(bare):.2f})")
    print(f"with decoding  {statistics.median(decoded):8.2f} s  ({min(decoded):.2f} to {max(decoded):.2f})")
    print(f"ratio          {statistics.median(ratios):8.3f}    ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
