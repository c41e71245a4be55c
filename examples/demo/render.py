"""Renders the demo's labelled videos: real H.264 files of many sizes, lengths and frame rates.

    python -m examples.demo.render [FOLDER]

Files lie in FOLDER/<class>/<class>_<number>.mp4, so that ``label: parent_folder`` works. FOLDER.json beside the folder
says what was rendered from which parameters; when it still holds, nothing is rendered again.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import cv2
import numpy as np

from examples.demo.scenes import CLASSES, Scene

VERSION: Final = 3
"""Raised when the pictures change, so that folders rendered before are rendered anew."""
ENCODER: Final = {"crf": "21", "preset": "veryfast", "x264-params": "mbtree=0"}

FRAME_RATES: Final = (
    Fraction(12),
    Fraction(15),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
)
SIZES: Final = ((96, 128), (120, 160), (144, 176), (160, 160), (144, 256), (180, 240), (180, 320), (240, 320))
"""Rows and columns."""


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """One video to be rendered."""

    label: str
    number: int
    seed: int
    height: int
    width: int
    fps: Fraction
    num_frames: int

    @property
    def path(self) -> str:
        """Path below the folder of the videos."""
        return f"{self.label}/{self.label}_{self.number:02d}.mp4"


def plan(clips_per_class: int = 12, seed: int = 0) -> list[ClipPlan]:
    """Returns the clips of every class; sizes, frame rates and lengths are drawn alike for all classes.

    All are 2.1 to 3.8 s long: at 8 frames a second each has one whole window of C3D's 16 frames, which is what costs.
    """
    plans = []
    for class_index, label in enumerate(CLASSES):
        for number in range(clips_per_class):
            rng = np.random.default_rng([seed, class_index, number])
            height, width = SIZES[int(rng.integers(len(SIZES)))]
            fps = FRAME_RATES[int(rng.integers(len(FRAME_RATES)))]
            num_frames = round(float(rng.uniform(2.1, 3.8)) * fps)
            plans.append(ClipPlan(label, number, seed, height, width, fps, num_frames))
    return plans


def render_clip(plan: ClipPlan, folder: str) -> int:
    """Returns the size in bytes of the H.264 file it wrote, the same bytes each time.

    x264 does so with one thread and without mbtree, whose AVX-512 code gives other bytes now and then.
    """
    cv2.setNumThreads(1)
    class_index = list(CLASSES).index(plan.label)
    scene = Scene(plan.label, np.random.default_rng([plan.seed, class_index, plan.number, 1]), plan.height, plan.width)
    target = Path(folder, plan.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=plan.fps, options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = plan.width, plan.height, "yuv420p"
        stream.codec_context.thread_count = 1
        for index in range(plan.num_frames):
            picture = av.VideoFrame.from_ndarray(scene.frame(float(index / plan.fps)), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    os.replace(partial, target)
    return target.stat().st_size


def parameters_hash(plans: list[ClipPlan]) -> str:
    """Returns a digest of everything the pictures depend on."""
    described = [asdict(item) | {"fps": str(item.fps)} for item in plans]
    return hashlib.sha256(json.dumps([VERSION, described]).encode()).hexdigest()


def is_complete(folder: Path, plans: list[ClipPlan]) -> bool:
    """Returns whether the folder holds just these videos, each as long in bytes as when it was rendered."""
    record_path = folder.with_name(folder.name + ".json")
    if not record_path.is_file():
        return False
    record = json.loads(record_path.read_text())
    if record["parameters"] != parameters_hash(plans):
        return False
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return bool(sizes == record["num_bytes"])


def render(folder: Path, plans: list[ClipPlan], workers: int | None = None) -> bool:
    """Returns whether anything had to be rendered; files of an earlier rendering are removed first.

    Args:
        folder: gets one folder per class.
        workers: processes; None: one per core, four at most.
    """
    if is_complete(folder, plans):
        return False
    wanted = {item.path for item in plans}
    for path in folder.rglob("*.mp4"):
        if path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    # Fresh processes: a forked one inherits whatever locks this process's other threads hold, and may wait for ever.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or min(4, os.cpu_count() or 1), mp_context=context) as pool:
        num_bytes = list(pool.map(render_clip, plans, [str(folder)] * len(plans), chunksize=4))
    record = {
        "parameters": parameters_hash(plans),
        "num_bytes": {item.path: size for item, size in zip(plans, num_bytes, strict=True)},
    }
    folder.with_name(folder.name + ".json").write_text(json.dumps(record, indent=1))
    return True


def main() -> None:
    """Renders into the folder named on the command line."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo/videos")
    started = time.monotonic()
    plans = plan()
    rendered = render(folder, plans)
    seconds = time.monotonic() - started
    print(f"{len(plans)} videos of {len(CLASSES)} classes in {folder}: ", end="")
    print(f"rendered in {seconds:.1f} s" if rendered else "all there, none rendered")


if __name__ == "__main__":
    main()
