"""The folder of a training run: config.yaml, metrics.jsonl, checkpoints/epoch-0010.pt, report.json."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipmill.models.checkpoints import FOLDER, TrainedModel, checkpoints, load
from clipmill.pipelines.datasets.pairs import PairedFeatures
from clipmill.schemas.config import TrainConfig, dump_config
from clipmill.schemas.errors import StorageUnavailableError, UsageError, describe

CONFIG, METRICS, REPORT = "config.yaml", "metrics.jsonl", "report.json"

MAY_CHANGE = (
    "out",
    "resume",
    "trainer",
    "data.store",
    "loop.epochs",
    "loop.checkpoint_every_epochs",
    "loop.keep_checkpoints",
    "loop.device",
    "loop.threads",
)
"""Config keys that may change while a run goes on: none decides what is learned, device and threads only the last bits.
The store may have moved; what is read from it is compared by its bytes."""


def data_fingerprint(pairs: PairedFeatures) -> str:
    """Returns 32 hex digits over the vectors, labels, ids, split and recipes: all that training takes from a store."""
    digest = hashlib.blake2b(digest_size=16)
    for source in (pairs.image_source, pairs.video_source):
        digest.update(f"{source.recipe_fingerprint}\n".encode())
    for values in (pairs.image, pairs.video, pairs.label, pairs.is_test):
        digest.update(f"{values.dtype.str} {values.shape}\n".encode())
        digest.update(values.tobytes())
    digest.update(json.dumps([pairs.label_names, pairs.clip_ids]).encode())
    return digest.hexdigest()


def identity(config: TrainConfig, options: Mapping[str, Any], pairs: PairedFeatures) -> dict[str, Any]:
    """Returns what must be equal for a run to go on from a checkpoint: flat and plain, so that it compares readably."""
    plain = config.model_dump(mode="json", by_alias=True)
    plain["model"]["options"] = dict(options)
    flat = _flat(plain)
    kept = {key: value for key, value in flat.items() if not f"{key}.".startswith(tuple(f"{k}." for k in MAY_CHANGE))}
    return kept | {
        "image feature": f"{pairs.image_source.name}-{pairs.image_source.recipe_fingerprint[:8]}",
        "video feature": f"{pairs.video_source.name}-{pairs.video_source.recipe_fingerprint[:8]}",
        "number of clips": len(pairs),
        "number of test clips": len(pairs.test_clip_ids),
        "number of labels": len(pairs.label_names),
        "data": data_fingerprint(pairs),
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return found


class RunFolder:
    """What a run writes beside its checkpoints. Every file is replaced in one step or appended to line by line."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    def open(self, config: TrainConfig, wanted: Mapping[str, Any]) -> TrainedModel | None:
        """Makes the folder ready and returns the checkpoint to go on from, or None to start.

        With ``resume: false`` the checkpoints and metrics of an earlier run in it are deleted.

        Raises:
            UsageError: there is a checkpoint of another config or other features, or one beyond the wanted epochs.
            StorageUnavailableError: the folder cannot be written.
        """
        newest = self._newest(config, wanted) if config.resume else None
        with self._writing():
            (self.path / FOLDER).mkdir(parents=True, exist_ok=True)
            for left_over in (self.path / FOLDER).glob(".epoch-*.pt.*"):
                left_over.unlink()
            if newest is None:
                for path in [*checkpoints(self.path).values(), self.path / METRICS, self.path / REPORT]:
                    path.unlink(missing_ok=True)
        self._replace(CONFIG, dump_config(config))
        # An epoch after the last checkpoint will be trained again: its line goes.
        kept = [line for line in self.metrics() if newest is not None and line["epoch"] <= newest.epoch]
        self._replace(METRICS, "".join(json.dumps(line) + "\n" for line in kept))
        return newest

    def _newest(self, config: TrainConfig, wanted: Mapping[str, Any]) -> TrainedModel | None:
        found = checkpoints(self.path)
        if not found:
            return None
        newest = load(found[max(found)])
        given = newest.training.get("identity", {})
        differ = sorted(key for key in {*wanted, *given} if wanted.get(key) != given.get(key))
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
                    "another " + ", ".join(changes[:5]) + (f" and {len(changes) - 5} more" if len(changes) > 5 else ""),
                    "give another out folder, or resume: false to start again",
                )
            )
        if newest.epoch > config.loop.epochs:
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

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Writes report.json."""
        self._replace(REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")

    def _replace(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.{os.getpid()}"
        with self._writing():
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
