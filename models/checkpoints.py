"""Trained models on disk: plain tensors and plain types in one file, read back with ``weights_only``.

What a file holds is everything scoring needs: the model's name, options and weights, the scaling and vocabularies of
its inputs, which clips were kept for the test, and which features of which store it was trained on. No Python class is
named in it. Files of version 1, which knew one image and one video input, are still read.
"""

import contextlib
import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmill.models import registry
from clipmill.models.base import ModelCard, Sizes
from clipmill.models.scaling import Scaling, from_plain
from clipmill.schemas.errors import ConfigError, StorageUnavailableError, UsageError, WeightsError, describe, near
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.inputs import InputRows
from clipmill.schemas.model import validate

if TYPE_CHECKING:
    import torch

FORMAT = "clipmill.checkpoint"
FORMAT_VERSION = 2
FOLDER = "checkpoints"
SELECTED = "selected.json"
"""In that folder, of a run that selects: the epoch that did best on the validation split."""

_NAME = re.compile(r"epoch-(\d+)\.pt")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a model was trained on.

    Attributes:
        inputs: by name, what each input was read from.
        fingerprint: over the items' rows, labels, ids and the split.
        label_names: in the order of the classifier's outputs; empty where the items have none.
        test_clip_ids: clips that were kept out of training, sorted.
        config: the resolved training config, as plain types.
        vocabularies: of inputs that read tokens: the words, that of position 2 first.
    """

    store_url: str
    dataset: str
    inputs: Mapping[str, FeatureSource]
    fingerprint: str
    label_names: tuple[str, ...]
    test_clip_ids: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    vocabularies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model with all that belongs to it.

    Attributes:
        name: in the registry.
        options: as plain types.
        sizes: what the training data decided of its shape.
        model: an ``nn.Module``, see `models.base`.
        scalings: by input; inputs without one are taken as they are.
        epoch: epochs, or iterations of a solution, behind it.
        training: what going on with the training needs (optimiser, sampler, random state); plain types and tensors.
    """

    name: str
    options: Mapping[str, Any]
    sizes: Sizes
    model: Any
    scalings: Mapping[str, Scaling]
    origin: Origin
    epoch: int
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def card(self) -> ModelCard:
        """The model's card as its options make it."""
        return registry.card(self.name, registry.resolve_options(self.name, self.options))

    def scaled(self, name: str, rows: InputRows) -> InputRows:
        """Returns the rows of the input `name` as the model takes them."""
        if name not in self.scalings:
            return rows
        return replace(rows, values=self.scalings[name].apply(rows.values))


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
    """Returns the run's checkpoint: the one it selected, else its newest, or the one called `name`.

    Args:
        name: such as ``epoch-0010``, with or without ``.pt``.

    Raises:
        UsageError: the run has no checkpoint, or none of that name.
    """
    found = checkpoints(run_folder)
    if not found:
        raise UsageError(
            describe("run", str(run_folder), "a folder made by clipmill train", "no checkpoint", "run clipmill train")
        )
    if name is None:
        selected = Path(run_folder) / FOLDER / SELECTED
        newest = max(found)
        epoch: int = json.loads(selected.read_text("utf-8"))["epoch"] if selected.is_file() else newest
        return found.get(epoch, found[newest])
    names = {path.stem: path for path in found.values()}
    if name.removesuffix(".pt") not in names:
        raise UsageError(describe("checkpoint", name, f"one of run {run_folder}", "none", near(name, names)))
    return names[name.removesuffix(".pt")]


def save(path: Path, trained: TrainedModel) -> None:
    """Writes `trained` to `path` in one step: a reader sees the whole file or none.

    Raises:
        StorageUnavailableError: the folder cannot be written.
    """
    data = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": {
            "name": trained.name,
            "options": dict(trained.options),
            "dims": dict(trained.sizes.dims),
            "num_labels": trained.sizes.num_labels,
            "weights": {name: value.detach().cpu() for name, value in trained.model.state_dict().items()},
        },
        "scaling": {name: scaling.to_plain() for name, scaling in trained.scalings.items()},
        "origin": _lists(asdict(trained.origin)),
        "epoch": trained.epoch,
        "training": dict(trained.training),
    }
    write(path, data)


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a checkpoint's `data` to `path` in one step.

    Raises:
        StorageUnavailableError: the folder cannot be written.
    """
    import torch

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
    version = data.get("format_version")
    if version not in (1, FORMAT_VERSION):
        expected = f"at most {FORMAT_VERSION}"
        raise WeightsError(describe(thing, "version", expected, str(version), "read it with a newer clipmill"))
    try:
        return _trained(_of_version_1(data) if version == 1 else data, thing)
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            describe(thing, "content", "a whole checkpoint", f"{type(error).__name__} {error}", "train the model again")
        ) from None


def _read(path: Path) -> Any:
    try:
        import torch

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


def _of_version_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a file of version 1 as version 2 has it."""
    model, origin = dict(data["model"]), dict(data["origin"])
    model["dims"] = {"image": model.pop("image_dim"), "video": model.pop("video_dim")}
    model["num_labels"] = len(origin["label_names"])
    origin["inputs"] = {"image": origin.pop("image"), "video": origin.pop("video")}
    return {**data, "model": model, "origin": {**origin, "vocabularies": {}}}


def _trained(data: Mapping[str, Any], thing: str) -> TrainedModel:
    part, origin = data["model"], data["origin"]
    try:
        options = validate(registry.registration(part["name"]).card.options, part["options"], f"{thing} options")
    except ConfigError as error:
        raise WeightsError(str(error)) from None
    sizes = Sizes(dict(part["dims"]), part["num_labels"])
    model = registry.build(part["name"], options, sizes)
    _load_weights(model, part["weights"], thing)
    return TrainedModel(
        part["name"],
        part["options"],
        sizes,
        model.eval(),
        {name: from_plain(scaling, thing) for name, scaling in data["scaling"].items()},
        Origin(
            store_url=origin["store_url"],
            dataset=origin["dataset"],
            inputs={name: _source(source) for name, source in origin["inputs"].items()},
            fingerprint=origin["fingerprint"],
            label_names=tuple(origin["label_names"]),
            test_clip_ids=tuple(origin["test_clip_ids"]),
            config=origin["config"],
            vocabularies={name: tuple(words) for name, words in origin["vocabularies"].items()},
        ),
        data["epoch"],
        data["training"],
    )


def _source(plain: Mapping[str, Any]) -> FeatureSource:
    # Files of before had neither videos nor passports: nothing is known of the rows then.
    passports = {part: tuple(values) for part, values in plain.get("passports", {}).items()}
    return FeatureSource(**{**plain, "passports": passports})


def _load_weights(model: Any, weights: Mapping[str, "torch.Tensor"], thing: str) -> None:
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
