"""Small trainings on real videos, and what became of them."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipmill.models.checkpoints import checkpoints
from clipmill.pipelines.features.windows import clip_windows
from clipmill.pipelines.training.parallel import ProcessGroup
from clipmill.pipelines.training.train import TrainReport
from clipmill.pipelines.training.videos import worker
from clipmill.pipelines.training.videos.checkpoints import load
from clipmill.pipelines.training.videos.train import prepared, train_on_videos
from clipmill.schemas.config_videos import VideoTrainConfig
from clipmill.schemas.model import validate
from tests.encoded_videos import encode_video

RC3D = {
    "name": "rc3d",
    "sampling": {"frames": 16, "every": 1, "step": 16},
    "preprocess": {"size": [37, 50], "crop": [32, 32], "crop_offset": [2, 9]},
    "options": {"form": "pytorch-thumos14-resnet18", "buffer_frames": 16, "scales": [1, 1.5]},
    "training": {"flip": False},
}
"""The smallest of the releases, on a seventh of the pixels."""
C3D: dict[str, Any] = {"name": "c3d"}
CPNET: dict[str, Any] = {
    "name": "cpnet",
    "sampling": {"fps": 24, "frames": 3, "every": 2, "step": 6},
    "options": {"input_size": 112, "k": 4},
}

_ONCE: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-3, "max_gradient_norm": 10.0, "select": "total"}
UNEVEN: dict[str, dict[str, Any]] = {"rc3d": _ONCE | {"batch": 3}, "cpnet": _ONCE | {"batch": 1}}
"""Four buffers in batches of three, two clips one by one: of two workers one has none of the last."""


def make_videos(folder: Path) -> Path:
    """Writes two videos of each of two classes, and segments.csv: 16 frames of one, 16 of the other.

    parts.csv has one of each class to train on, one to validate on and one to test.
    """
    parts = ["path,id,label,split"]
    rows = ["video_id,start_seconds,stop_seconds,label"]
    for label in ("drift", "noise"):
        (folder / label).mkdir(parents=True)
        for name, part in {"1": "train", "2": "validation" if label == "drift" else "test"}.items():
            parts.append(f"{label}/{name}.mp4,{label}/{name}.mp4,{label},{part}")
            encode_video(folder / label / f"{name}.mp4", 32, pattern=label)  # type: ignore[arg-type]
            rows += [f"{label}/{name}.mp4,0.0,0.6,first {label}", f"{label}/{name}.mp4,0.64,1.28,second"]
    (folder / "segments.csv").write_text("\n".join(rows) + "\n")
    (folder / "parts.csv").write_text("\n".join(parts) + "\n")
    return folder


def config_of(videos: Path, out: Path, model: dict[str, Any], validates: bool = False, **loop: Any) -> VideoTrainConfig:
    """Returns the config of a training on two of the videos of `make_videos`; a third one may validate."""
    data: dict[str, Any] = {"videos": {"folder": str(videos), "label": "parent_folder"}}
    data["split"] = {"test_fraction": 0.5}
    if validates:
        data = {"videos": {"manifest": str(videos / "parts.csv")}, "split": {"from": "manifest"}}
    if model["name"] == "rc3d":
        data["annotations"] = {"file": str(videos / "segments.csv")}
    given = {"data": data, "model": model, "loop": {"threads": 1} | loop, "out": str(out)}
    return validate(VideoTrainConfig, given, "test")


def run(config: VideoTrainConfig) -> TrainReport:
    """Trains as the command does."""
    return train_on_videos(config, clip_windows)


def share_of_a_run(model: str, videos: str, out: str) -> dict[str, torch.Tensor]:
    """Trains as one of the workers of a process group; returns the weights as every worker has them."""
    settings = {"rc3d": RC3D, "cpnet": CPNET}[model]
    job = prepared(config_of(Path(videos), Path(out), settings, validates=True, **UNEVEN[model]), clip_windows)
    Path(out).mkdir(exist_ok=True)
    job.work(ProcessGroup(), torch.device("cpu"), lambda: False)
    return dict(load(checkpoints(out)[_ONCE["epochs"]]).weights) if torch.distributed.get_rank() == 0 else {}


def killed(config: VideoTrainConfig, at_step: int) -> int:
    """Returns how a process that trains ended, which was sent SIGKILL before step `at_step` (from 1)."""
    # A fork has everything imported; what trains in it has one thread.
    process = multiprocessing.get_context("fork").Process(target=_train, args=(config, at_step))
    process.start()
    process.join(280)
    if process.is_alive():
        process.kill()
    return process.exitcode or 0


def _train(config: VideoTrainConfig, at_step: int) -> None:
    step, taken = worker.Descent.step, []

    def watched(self: worker.Descent, epoch: int) -> None:
        taken.append(0)
        if len(taken) == at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, epoch)

    worker.Descent.step = watched  # type: ignore[method-assign]
    run(config)
    os._exit(0)


def state_of(report: TrainReport) -> dict[str, torch.Tensor]:
    """Returns weights and momenta of a run's last checkpoint."""
    checkpoint = load(checkpoints(report.out)[report.epoch])
    state = dict(checkpoint.weights)
    for number, momenta in checkpoint.training["optimiser"]["state"].items():
        state[f"momentum {number}"] = momenta["momentum_buffer"]
    return state


def assert_the_same(one: TrainReport, two: TrainReport) -> None:
    """Makes sure that two runs ended with the same bits."""
    assert (one.losses, one.epoch) == (two.losses, two.epoch)
    ours, theirs = state_of(one), state_of(two)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values.numpy(), theirs[name].numpy(), err_msg=name)
