"""Losses and learning rate of a run as TensorBoard's event files, beside metrics.jsonl.

They hold no more than metrics.jsonl does, but for the learning rate.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from clipmill.schemas.errors import UsageError, describe

FOLDER = "tensorboard"


class Events(Protocol):
    """Where the line of an epoch goes."""

    def add(self, line: Mapping[str, Any], learning_rate: float | None) -> None:
        """Takes an epoch's line of metrics.jsonl and the learning rate it began with; None: there is none."""
        ...


class NoEvents:
    """Nowhere."""

    def add(self, line: Mapping[str, Any], learning_rate: float | None) -> None:
        """Does nothing."""


class EventFiles:
    """Writes ``loss/<name>``, ``validation/<name>``, ``learning_rate`` and ``seconds``, by epoch."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def add(self, line: Mapping[str, Any], learning_rate: float | None) -> None:
        """Writes an epoch's line."""
        scalars = {f"loss/{name}": value for name, value in line["losses"].items()}
        scalars |= {f"validation/{name}": value for name, value in line.get("validation", {}).items()}
        scalars |= {"seconds": line["seconds"]}
        if learning_rate is not None:
            scalars["learning_rate"] = learning_rate
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, line["epoch"])


@contextmanager
def event_files(run_folder: str, start_epoch: int, wanted: bool) -> Iterator[Events]:
    """Opens the event files of a run for its ``with`` block; what is there of epochs after `start_epoch` is void."""
    if not wanted:
        yield NoEvents()
        return
    from torch.utils.tensorboard import SummaryWriter  # Seconds to import.

    writer: Any = SummaryWriter(Path(run_folder) / FOLDER, purge_step=start_epoch + 1)
    try:
        yield EventFiles(writer)
    finally:
        writer.close()


def check_installed() -> None:
    """Makes sure that TensorBoard's package is there.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        remedy = 'pip install "clipmill[tensorboard]", or leave the key out'
        raise UsageError(describe("config", "tensorboard", "the package tensorboard", "none", remedy))


def remove_event_files(run_folder: Path) -> None:
    """Removes the event files of an earlier run, and nothing else."""
    for path in (run_folder / FOLDER).glob("events.out.tfevents.*"):
        path.unlink()
