"""``clipmill train``: a model on stored features, an extractor's network on videos, or both of them on images."""

import json
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from clipmill.jobs.configs import read_config, read_text_of, tell_config
from clipmill.jobs.output import Outcome
from clipmill.jobs.training_report import write_training_report
from clipmill.pipelines.features.run_progress import duration
from clipmill.pipelines.features.windows import clip_windows
from clipmill.pipelines.training.images.train import train_on_images
from clipmill.pipelines.training.train import TrainReport, resolve, train
from clipmill.pipelines.training.videos import train as videos
from clipmill.pipelines.training.worker import EpochDone
from clipmill.schemas.config import TrainConfig, parse_mapping
from clipmill.schemas.config_images import ImageTrainConfig
from clipmill.schemas.config_videos import VideoTrainConfig


def run_train(path: str, overrides: Sequence[str]) -> Outcome:
    """Trains as the config at `path` says, going on from the newest checkpoint where there is one."""
    progress = EpochProgress(sys.stderr)
    data = parse_mapping(read_text_of(path), overrides, path).get("data")
    if isinstance(data, dict) and "images" in data:
        of_images = resolve(read_config(ImageTrainConfig, path, overrides))
        tell_config(of_images)
        report = train_on_images(of_images, clip_windows, [progress])
        page = write_training_report(report, of_images)
    elif isinstance(data, dict) and "videos" in data:
        of_videos = videos.resolve(read_config(VideoTrainConfig, path, overrides))
        tell_config(of_videos)
        report = videos.train_on_videos(of_videos, clip_windows, [progress])
        page = write_training_report(report, of_videos)
    else:
        config = resolve(read_config(TrainConfig, path, overrides))
        tell_config(config)
        report = train(config, [progress])
        page = write_training_report(report, config)
    return Outcome(report.to_plain() | {"report": page}, f"{_text(report)}\n  report: {page}")


class EpochProgress:
    """Tells of epochs: one rewritten line with rate and ETA on a terminal, one JSON line per epoch elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: EpochDone) -> None:
        """An epoch is done."""
        if self._first is None:
            self._first = done.epoch - 1
            self._started = time.monotonic() - done.seconds
        rate = (done.epoch - self._first) / max(time.monotonic() - self._started, 1e-9)
        eta = (done.num_epochs - done.epoch) / rate
        # A solution has no total; the first of what it reached stands for it.
        name = "total" if "total" in done.losses else next(iter(done.losses))
        if self._stream.isatty():
            end = "\n" if done.epoch == done.num_epochs else ""
            position = f"epoch {done.epoch}/{done.num_epochs}  {name} {done.losses[name]:.4f}"
            line = f"{position}  {rate:.1f} epochs/s  ETA {duration(eta)}"
            self._stream.write("\r" + line.ljust(78) + end)
            self._stream.flush()
            return
        event = {
            "event": "epoch",
            "epoch": done.epoch,
            "num_epochs": done.num_epochs,
            "losses": {name: round(value, 6) for name, value in done.losses.items()},
            "epochs_per_second": round(rate, 3),
            "eta_seconds": round(eta, 1),
        }
        print(json.dumps(event), file=self._stream, flush=True)


def _text(report: TrainReport) -> str:
    lines = [
        f"{report.out}: {report.model}, epoch {report.epoch} ({report.epoch - report.start_epoch} now), "
        f"{report.seconds:.1f} s on {report.device}",
        f"  clips: {report.num_train} train, {report.num_test} test, {report.num_labels} labels",
        f"  checkpoint: {report.checkpoint}",
    ]
    if report.losses:
        last = "  ".join(f"{name} {value:.4f}" for name, value in report.losses[-1].items())
        lines.append(f"  losses of the last epoch: {last}")
    if report.selected_epoch != report.epoch:
        lines.append(f"  used by: epoch {report.selected_epoch}, the best on {report.num_validation} validation clips")
    lines += [f"  {note}" for note in report.notes]
    if report.labels_without_training:
        lines.append(f"  labels without a training clip: {', '.join(report.labels_without_training)}")
    return "\n".join(lines)
