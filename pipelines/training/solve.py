"""Models that are solved for in closed form, beside the loop: the same run folder, one checkpoint at the end."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from clipmill.pipelines.training.event_files import event_files
from clipmill.pipelines.training.run_folder import RunFolder
from clipmill.pipelines.training.worker import EpochDone, TrainJob, check_finite, placed, save_epoch, start
from clipmill.schemas.config import LoopConfig, ModelTrainConfig
from clipmill.schemas.errors import UsageError, describe

LOOP_KEYS = {"seed", "device", "threads"}
"""Keys of `loop` that a solution takes."""


def check_config(config: ModelTrainConfig) -> None:
    """Makes sure that a config asks a model in closed form for nothing it cannot do.

    Raises:
        UsageError: it sets the loop, or wants several workers.
    """
    default = LoopConfig()
    unused = sorted(key for key in LoopConfig.model_fields if getattr(config.loop, key) != getattr(default, key))
    unused = [key for key in unused if key not in LOOP_KEYS]
    if unused:
        expected = f"none for {config.model.name}, which is solved in closed form"
        raise UsageError(describe("loop", unused[0], expected, str(getattr(config.loop, unused[0])), "leave it out"))
    if config.trainer.name != "local":
        expected = f"local for {config.model.name}, which is solved in one process"
        raise UsageError(describe("trainer", "name", expected, config.trainer.name, "leave it out"))


def solve(job: TrainJob, on_epoch: Callable[[EpochDone], None]) -> int:
    """Solves for the model's weights from all training items at once, and returns the number of iterations."""
    trained = start(job)
    items = placed(trained, job.items.of("train"), torch.device("cpu"))
    everything = torch.arange(len(items))
    videos = np.unique(np.asarray(job.items.of("train").video_ids, object).astype(str), return_inverse=True)[1]
    batch = replace(items.batch(everything, items.lengths(everything)), video=torch.from_numpy(videos))
    folder, began, number = RunFolder(job.folder), time.monotonic(), 0
    with event_files(job.folder, 0, job.config.tensorboard) as events:
        for number, reached in enumerate(trained.model.solve(batch), start=1):
            values = {name: float(value) for name, value in reached.items()}
            check_finite(number, values)
            seconds = time.monotonic() - began
            line = {"epoch": number, "losses": values, "seconds": round(seconds, 6)}
            folder.add_metrics(line)
            events.add(line, None)
            on_epoch(EpochDone(number, number, values, seconds, len(items)))
            began = time.monotonic()
    if not number:
        raise ValueError(f"{trained.name}: expected solve to yield at least once, got nothing")
    save_epoch(job, replace(trained, epoch=number), {}, None)
    return number
