"""Trained models on disk: plain tensors and plain types in one file, read back with ``weights_only``.

What a file holds is everything scoring needs: the model's name, options and weights, the scaling of its inputs, which
clips were kept for the test, and which features of which store it was trained on. No Python class is named in it.
"""

import contextlib
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from clipmill.models.registry import RetrievalModel, build, entry
from clipmill.models.scaling import Scaling, from_plain
from clipmill.schemas.errors import ConfigError, StorageUnavailableError, UsageError, WeightsError, describe, near
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.model import validate

FORMAT = "clipmill.checkpoint"
FORMAT_VERSION = 1
FOLDER = "checkpoints"
_NAME = re.compile(r"epoch-(\d+)\.pt")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a model was trained on.

    Attributes:
        fingerprint: over the paired rows, labels, ids and the split.
        label_names: in the order of the classifier's outputs.
        test_clip_ids: clips that were kept out of training, sorted.
        config: the resolved training config, as plain types.
    """

    store_url: str
    dataset: str
    image: FeatureSource
    video: FeatureSource
    fingerprint: str
    label_names: tuple[str, ...]
    test_clip_ids: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model with all that belongs to it.

    Attributes:
        name: in the registry.
        options: as plain types.
        epoch: epochs behind it.
        training: what going on with the training needs (optimiser, sampler, random state); plain types and tensors.
    """

    name: str
    options: Mapping[str, Any]
    model: RetrievalModel
    image_scaling: Scaling
    video_scaling: Scaling
    origin: Origin
    epoch: int
    training: Mapping[str, Any] = field(default_factory=dict)


def checkpoint_path(run_folder: str | Path, epoch: int) -> Path:
    """Returns where the checkpoint of `epoch` lies: ``checkpoints/epoch-0010.pt``."""
    return Path(run_folder) / FOLDER / f"epoch-{epoch:04d}.pt"


def checkpoints(run_folder: str | Path) -> dict[int, Path]:
    """Returns the checkpoints of a run by epoch, ascending; empty where there are none."""
    folder = Path(run_folder) / FOLDER
    if not folder.is_dir():
        return {}
    found = {int(match[1]): path for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def find_checkpoint(run_folder: str | Path, name: str | None = None) -> Path:
    """Returns the run's newest checkpoint, or the one called `name` (``epoch-0010``, with or without ``.pt``).

    Raises:
        UsageError: the run has no checkpoint, or none of that name.
    """
    found = checkpoints(run_folder)
    if not found:
        raise UsageError(
            describe("run", str(run_folder), "a folder made by clipmill train", "no checkpoint", "run clipmill train")
        )
    if name is None:
        return found[max(found)]
    names = {path.stem: path for path in found.values()}
    if name.removesuffix(".pt") not in names:
        raise UsageError(describe("checkpoint", name, f"one of run {run_folder}", "none", near(name, names)))
    return names[name.removesuffix(".pt")]


def save(path: Path, trained: TrainedModel) -> None:
    """Writes `trained` to `path` in one step: a reader sees the whole file or none.

    Raises:
        StorageUnavailableError: the folder cannot be written.
    """
    model = trained.model
    data = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": {
            "name": trained.name,
            "options": dict(trained.options),
            "image_dim": model.image_dim,
            "video_dim": model.video_dim,
            "weights": {name: value.detach().cpu() for name, value in model.state_dict().items()},
        },
        "scaling": {"image": trained.image_scaling.to_plain(), "video": trained.video_scaling.to_plain()},
        "origin": _lists(asdict(trained.origin)),
        "epoch": trained.epoch,
        "training": dict(trained.training),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(data, file)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageUnavailableError(
            describe("checkpoint", str(path), "a folder that can be written", str(error), "free it and run again")
        ) from None


def load(path: Path) -> TrainedModel:
    """Returns the model in the file at `path`, on the CPU, in evaluation mode.

    Raises:
        WeightsError: the file is missing, corrupt, names Python classes, is no checkpoint of clipmill's or of a newer
            version, or its weights do not fit the model it names.
    """
    data = _read(path)
    thing = f"checkpoint {path}"
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise WeightsError(describe(thing, "format", FORMAT, _kind(data), "give a file written by clipmill train"))
    if data.get("format_version") != FORMAT_VERSION:
        raise WeightsError(
            describe(
                thing, "version", str(FORMAT_VERSION), str(data.get("format_version")), "read it with a newer clipmill"
            )
        )
    try:
        return _trained(data, thing)
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            describe(thing, "content", "a whole checkpoint", f"{type(error).__name__} {error}", "train the model again")
        ) from None


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(
            describe("checkpoint", str(path), "a file", "none", "check the path, or run clipmill train")
        ) from None
    except pickle.UnpicklingError as error:
        first = next(iter(str(error).splitlines()), "")
        got = "a pickle that names Python classes" if "weights" in first.lower() else "damaged bytes"
        raise WeightsError(
            describe("checkpoint", str(path), "plain tensors", got, "give a file written by clipmill train")
        ) from None
    except Exception as error:  # Of bytes that are no checkpoint, PyTorch's reader may raise anything.
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise WeightsError(
            describe("checkpoint", str(path), "a whole file", first, "use an earlier checkpoint or train again")
        ) from None


def _trained(data: Mapping[str, Any], thing: str) -> TrainedModel:
    part, origin = data["model"], data["origin"]
    try:
        options = validate(entry(part["name"]).options, part["options"], f"{thing} options")
    except ConfigError as error:
        raise WeightsError(str(error)) from None
    model = build(part["name"], options, part["image_dim"], part["video_dim"], len(origin["label_names"]))
    _load_weights(model, part["weights"], thing)
    return TrainedModel(
        part["name"],
        part["options"],
        model,
        from_plain(data["scaling"]["image"], thing),
        from_plain(data["scaling"]["video"], thing),
        Origin(
            store_url=origin["store_url"],
            dataset=origin["dataset"],
            image=FeatureSource(**origin["image"]),
            video=FeatureSource(**origin["video"]),
            fingerprint=origin["fingerprint"],
            label_names=tuple(origin["label_names"]),
            test_clip_ids=tuple(origin["test_clip_ids"]),
            config=origin["config"],
        ),
        data["epoch"],
        data["training"],
    )


def _load_weights(model: RetrievalModel, weights: Mapping[str, torch.Tensor], thing: str) -> None:
    wanted = {name: list(value.shape) for name, value in model.state_dict().items()}
    given = {name: list(value.shape) for name, value in weights.items()}
    if wanted != given:
        differ = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        first = differ[0]
        raise WeightsError(
            describe(
                thing,
                "weights",
                f"{first} {wanted.get(first, 'absent')}",
                f"{given.get(first, 'none')} ({len(differ)} of {len(wanted)} differ)",
                "its options and its weights do not belong together; train the model again",
            )
        )
    model.load_state_dict(weights)


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple | list) else value


def _kind(data: Any) -> str:
    if isinstance(data, dict):
        return f"keys {', '.join(sorted(map(str, data))[:4])}" if data else "an empty mapping"
    return type(data).__name__
