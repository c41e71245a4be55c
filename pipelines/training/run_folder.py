"""The folder of a training run: config.yaml, metrics.jsonl, checkpoints/epoch-0010.pt, report.json."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from clipmill.models.checkpoints import FOLDER, SELECTED, TrainedModel, checkpoints
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.datasets.provenance import all_rows_changed
from clipmill.pipelines.training.event_files import remove_event_files
from clipmill.schemas.arrays import Array
from clipmill.schemas.config import LoopConfig, ModelTrainConfig, SplitConfig, dump_config
from clipmill.schemas.config_videos import VideoTrainConfig
from clipmill.schemas.errors import StorageUnavailableError, UsageError, describe
from clipmill.schemas.features import FeatureSource
from clipmill.schemas.inputs import InputRows

CONFIG, METRICS, REPORT = "config.yaml", "metrics.jsonl", "report.json"

MAY_CHANGE = (
    "out",
    "resume",
    "tensorboard",
    "trainer",
    "data.store",
    "loop.epochs",
    "loop.patience",
    "loop.checkpoint_every_epochs",
    "loop.keep_checkpoints",
    "loop.device",
    "loop.threads",
    "decode",
    "network.at_once",
)
"""Config keys that may change while a run goes on: none decides what an epoch learns, device and threads only the last
bits. The store may have moved; what is read from it is compared by its bytes."""


def data_fingerprint(items: Items, select: str = "last") -> str:
    """Returns 32 hex digits over the rows, labels, ids, split and recipes: all that training takes from a store.

    Args:
        select: as in the config's loop; clips that validate count only where they decide something.
    """
    digest = hashlib.blake2b(digest_size=16)
    for source in items.sources.values():
        digest.update(f"{source.recipe_fingerprint}\n".encode())
    parts = [items.take(items.part != "validation")]
    if select != "last":
        parts.append(items.of("validation"))
    for part in parts:
        for rows in part.inputs.values():
            for values in (rows.values, rows.offsets) if rows.entry is None else _shared(rows):
                _add(digest, values)
        for values in (part.label, part.part == "test", *(part.targets[name] for name in sorted(part.targets))):
            _add(digest, values)
        digest.update(json.dumps([part.label_names, part.clip_ids]).encode())
    return digest.hexdigest()


def _add(digest: Any, values: Array | None) -> None:
    if values is not None:
        digest.update(f"{values.dtype.str} {values.shape}\n".encode())
        # Without a copy: what videos have of rows is most of a training's memory.
        digest.update(np.ascontiguousarray(values).data)


def _shared(rows: InputRows) -> Iterator[Array]:
    """Yields the rows that items share, those of one entry at a time, and which item has which."""
    entries, places = np.unique(np.asarray(rows.entry), return_inverse=True)
    offsets = np.asarray(rows.offsets)
    for entry in entries.tolist():
        yield rows.values[offsets[entry] : offsets[entry + 1]]
    yield places.astype(np.int64)


def identity(config: ModelTrainConfig, options: Mapping[str, Any], items: Items) -> dict[str, Any]:
    """Returns what must be equal for a run to go on from a checkpoint: flat and plain, so that it compares readably."""
    plain = config.model_dump(mode="json", by_alias=True)
    plain["model"]["options"] = dict(options)
    kept = must_stay(plain)
    sources = items.sources.items()
    return kept | {
        **{f"{name} feature": f"{source.name}-{source.recipe_fingerprint[:8]}" for name, source in sources},
        "number of clips": int((items.part != "validation").sum()),
        "number of test clips": len(items.test_clip_ids),
        "number of labels": len(items.label_names),
        "data": data_fingerprint(items, config.loop.select),
    }


def must_stay(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of a plain config that may not change while a run goes on, flat."""
    may_change = tuple(f"{key}." for key in MAY_CHANGE)
    return {key: value for key, value in _flat(config).items() if not f"{key}.".startswith(may_change)}


def differing_keys(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Returns the keys in which two identities differ, sorted.

    A key that a checkpoint of an older version does not have yet counts as what it is by default.
    """
    defaults = _flat({"loop": LoopConfig().model_dump(mode="json"), "data": {"split": SplitConfig().model_dump()}})
    known = defaults | dict(given)
    return sorted(key for key in {*wanted, *given} if wanted.get(key) != known.get(key))


def rows_changed(newest: TrainedModel, sources: Mapping[str, FeatureSource], differ: list[str]) -> str:
    """Returns which rows have changed, and by which part of their passports, where nothing else has."""
    return "; ".join(all_rows_changed(newest.origin.inputs, sources)) if differ == ["values of the features"] else ""


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return found


@dataclass(frozen=True, slots=True)
class BestEpoch:
    """The first epoch with the least loss on the validation split, and that loss."""

    epoch: int
    loss: float


def better(best: BestEpoch | None, epoch: int, validation: Mapping[str, float], select: str) -> BestEpoch:
    """Returns the better one of the best epoch so far and `epoch`, whose losses are `validation`.

    Raises:
        UsageError: there is no loss `select` among them.
    """
    if select not in validation:
        known = ", ".join(["last", *validation])
        raise UsageError(describe("loop", "select", f"one of {known}", select, "correct the name"))
    # A loss that is no number is never the least.
    if best is None or math.isnan(best.loss) or validation[select] < best.loss:
        return BestEpoch(epoch, validation[select])
    return best


def has_run_out(best: BestEpoch | None, epoch: int, patience: int | None) -> bool:
    """Returns whether `patience`, of a config's loop, is at its end after `epoch`."""
    return patience is not None and best is not None and epoch - best.epoch >= patience


class Resumable(Protocol):
    """A checkpoint that a training goes on from."""

    @property
    def epoch(self) -> int: ...

    @property
    def training(self) -> Mapping[str, Any]: ...


C = TypeVar("C", bound=Resumable)
Config = ModelTrainConfig | VideoTrainConfig


class RunFolder:
    """What a run writes beside its checkpoints. Every file is replaced in one step or appended to line by line."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    def open(
        self,
        config: Config,
        wanted: Mapping[str, Any],
        read: Callable[[Path], C],
        closed_form: bool = False,
        rows_changed: Callable[[C, list[str]], str] = lambda newest, differ: "",
    ) -> C | None:
        """Makes the folder ready and returns the checkpoint to go on from, or None to start.

        With ``resume: false`` the checkpoints and metrics of an earlier run in it are deleted.

        Args:
            read: reads a checkpoint.
            rows_changed: of a checkpoint and the keys that differ, what changed in its rows, in words.

        Raises:
            UsageError: there is a checkpoint of another config or other features, or one beyond the wanted epochs.
            StorageUnavailableError: the folder cannot be written.
        """
        newest = self._newest(config, wanted, read, closed_form, rows_changed) if config.resume else None
        with self._writing():
            (self.path / FOLDER).mkdir(parents=True, exist_ok=True)
            if newest is None:
                others = (self.path / METRICS, self.path / REPORT, self.path / FOLDER / SELECTED)
                for path in [*checkpoints(self.path).values(), *others]:
                    path.unlink(missing_ok=True)
                remove_event_files(self.path)
        self.write(CONFIG, dump_config(config))
        self.go_on(newest.epoch if newest is not None else 0)
        return newest

    def go_on(self, epoch: int) -> None:
        """Drops what an end in mid-epoch left, and the lines after `epoch`, the last checkpoint's: they come again."""
        with self._writing():
            for left_over in (self.path / FOLDER).glob(".epoch-*.pt.*"):
                left_over.unlink()
        kept = [line for line in self.metrics() if line["epoch"] <= epoch]
        self.write(METRICS, "".join(json.dumps(line) + "\n" for line in kept))

    def _newest(
        self,
        config: Config,
        wanted: Mapping[str, Any],
        read: Callable[[Path], C],
        closed_form: bool,
        rows_changed: Callable[[C, list[str]], str],
    ) -> C | None:
        found = checkpoints(self.path)
        if not found:
            return None
        newest = read(found[max(found)])
        given = newest.training.get("identity", {})
        differ = differing_keys(wanted, given)
        # The fingerprint of the data tells no more than the line that says how the data differ.
        shown = [key for key in differ if key != "data"] or ["values of the features"] * bool(differ)
        if differ:
            changes = [
                f"{key} ({given.get(key)} there, {wanted.get(key)} now)" if key in wanted or key in given else key
                for key in shown
            ]
            raise UsageError(
                describe(
                    "run",
                    str(self.path),
                    "the config and features of its checkpoint",
                    rows_changed(newest, shown)
                    or "another "
                    + ", ".join(changes[:5])
                    + (f" and {len(changes) - 5} more" if len(changes) > 5 else ""),
                    "give another out folder, or resume: false to start again",
                )
            )
        if not closed_form and newest.epoch > config.loop.epochs:
            raise UsageError(
                describe(
                    "loop.epochs",
                    str(config.loop.epochs),
                    f"at least the {newest.epoch} epochs that run {self.path} has",
                    "fewer",
                    "raise it, or give another out folder",
                )
            )
        return newest

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the lines of metrics.jsonl; a last line that was cut off is left out."""
        path = self.path / METRICS
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return found

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Appends one line to metrics.jsonl."""
        with self._writing(), (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def best(self, select: str) -> "BestEpoch | None":
        """Returns the epoch whose loss `select` on the validation split is least so far; None: the last one counts.

        Raises:
            UsageError: the model has no loss of that name.
        """
        best = None
        if select != "last":
            for line in self.validated():
                best = better(best, line["epoch"], line["validation"], select)
        return best

    def validated(self) -> list[dict[str, Any]]:
        """Returns the lines of metrics.jsonl with losses on the validation split."""
        return [line for line in self.metrics() if "validation" in line]

    def select(self, epoch: int) -> None:
        """Writes down that the run is used by this epoch."""
        self.write(f"{FOLDER}/{SELECTED}", json.dumps({"epoch": epoch}) + "\n")

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Writes report.json."""
        self.write(REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")

    def write(self, name: str, text: str) -> None:
        """Writes the file `name` of the run in one step.

        Raises:
            StorageUnavailableError: the folder cannot be written.
        """
        temporary = (self.path / name).with_name(f".{Path(name).name}.{os.getpid()}")
        with self._writing():
            temporary.parent.mkdir(exist_ok=True)
            temporary.write_text(text, "utf-8")
            os.replace(temporary, self.path / name)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageUnavailableError(
                describe(
                    "run",
                    str(self.path),
                    "a folder that can be written",
                    error.strerror or str(error),
                    "the last checkpoint stands; free the folder and run the same command again",
                )
            ) from None
