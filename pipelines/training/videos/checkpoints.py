"""Checkpoints of trainings on videos: the extractor's weights, and beside them what going on needs.

A file is at once a weights file: under ``state_dict`` its tensors have the names of a layout that the extractor reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipmill.models.checkpoints import write
from clipmill.schemas.errors import WeightsError, describe

FORMAT = "clipmill.trained_extractor"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class VideoCheckpoint:
    """A trained network on disk.

    Attributes:
        weights: as `extractors.learner.Learning.published` gives them.
        feature: the build's feature that makes rows with them, as plain types, without its path.
        classes: names, in the order of the network's outputs, the background left out.
        epoch: epochs behind it.
        training: what going on needs: identity, optimiser.
    """

    weights: Mapping[str, Tensor]
    feature: Mapping[str, Any]
    classes: tuple[str, ...]
    epoch: int
    training: Mapping[str, Any]


def save(path: Path, checkpoint: VideoCheckpoint) -> None:
    """Writes `checkpoint` to `path` in one step.

    Raises:
        StorageUnavailableError: the folder cannot be written.
    """
    data = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "state_dict": dict(checkpoint.weights),
        "feature": dict(checkpoint.feature),
        "classes": list(checkpoint.classes),
        "epoch": checkpoint.epoch,
        "training": dict(checkpoint.training),
    }
    write(path, data)


def load(path: Path) -> VideoCheckpoint:
    """Returns the checkpoint at `path`.

    Raises:
        WeightsError: the file is missing, damaged, names Python classes, or is no such checkpoint.
    """
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Of bytes that are no checkpoint, PyTorch's reader may raise anything.
        got = next(iter(str(error).splitlines()), type(error).__name__)
        remedy = "use an earlier checkpoint or train again"
        raise WeightsError(describe("checkpoint", str(path), "a whole file", got[:120], remedy)) from None
    found = data.get("format") if isinstance(data, dict) else type(data).__name__
    if found != FORMAT:
        got = "of a model of stored features" if found == "clipmill.checkpoint" else str(found)
        remedy = "give another out folder, or resume: false to start again"
        raise WeightsError(describe("checkpoint", str(path), "one of a training on videos", got, remedy))
    return VideoCheckpoint(data["state_dict"], data["feature"], tuple(data["classes"]), data["epoch"], data["training"])
