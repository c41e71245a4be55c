"""``report.html`` of a training, in its folder: apart from a build's, which decodes videos."""

from pathlib import Path

from clipmill.pipelines.reports.page import write_page
from clipmill.pipelines.reports.runs import render_training
from clipmill.pipelines.training.run_folder import RunFolder
from clipmill.pipelines.training.train import TrainReport
from clipmill.schemas.config import ModelTrainConfig, dump_config
from clipmill.schemas.config_videos import VideoTrainConfig


def write_training_report(report: TrainReport, config: ModelTrainConfig | VideoTrainConfig) -> str:
    """Writes ``report.html`` into the run's folder and returns where it is.

    Raises:
        StorageUnavailableError: the folder cannot be written.
    """
    path = str(Path(report.out) / "report.html")
    write_page(path, render_training(report.to_plain(), dump_config(config), _held_out(report.out)))
    return path


def _held_out(out: str) -> list[tuple[int, dict[str, float]]]:
    """Returns the epochs of a run with their losses on the validation split."""
    by_epoch = {int(line["epoch"]): line["validation"] for line in RunFolder(out).metrics() if "validation" in line}
    return sorted(by_epoch.items())
