"""A trial: one training and its evaluation, by the code of ``clipmill train`` and ``clipmill evaluate``.

What a finished trial found stands in ``trials/<key>/trial.json``. The key is a fingerprint of all that decides it, the
rows of the store included, so a trial is never run twice, whatever else its sweep has become since.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipmill.models import registry
from clipmill.models.checkpoints import FOLDER, find_checkpoint, load
from clipmill.models.embedding import embed
from clipmill.pipelines.datasets.items import Items, read_items
from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.pipelines.evaluation.tasks.evaluate import evaluate_task, write_evaluation
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.pipelines.evaluation.tasks.retrieval.task import TASK
from clipmill.pipelines.sweeps.points import Point, with_settings
from clipmill.pipelines.training.run_folder import identity
from clipmill.pipelines.training.train import items_for, resolve, train
from clipmill.schemas.config import TrainConfig
from clipmill.schemas.config_retrieval import RetrievalConfig
from clipmill.schemas.config_sweep import TrialsConfig
from clipmill.schemas.errors import (
    EXIT_RETRYABLE,
    EXIT_USAGE,
    ClipmillError,
    StorageUnavailableError,
    UsageError,
    describe,
)
from clipmill.schemas.model import validate
from clipmill.schemas.spaces import Cosine, Hamming

TRIALS, TRIAL = "trials", "trial.json"
LOSS = "loss"
"""Stands in place of a space before the losses of the epoch that the run is used by."""
BACKWARDS = "backwards "
"""Beginning of the name of a space that gallery items search the queries in."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What is trained and evaluated, as plain data that any process can be handed.

    Attributes:
        key: 16 hex digits over all that decides the result.
        point: name of the point it belongs to.
        train: resolved config of the training, without `out`.
        evaluate: keys of the evaluation.
    """

    key: str
    point: str
    seed: int
    train: Mapping[str, Any]
    evaluate: Mapping[str, Any]
    backwards: bool = False
    keep_checkpoints: bool = False


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What a trial found.

    Attributes:
        metrics: ``<space>/<metric>`` to value, and ``loss/<name>``.
        baselines: ``<baseline>/<metric>`` to value: chance, and plain cosine where it can be had.
        cumulative: ``<space>/<metric>`` as the evaluator that was released with APIVR prints it.
        error: why there is nothing; None: all went well.
        exit_code: that the error would end a command with.
    """

    key: str
    point: str
    seed: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    baselines: Mapping[str, float] = field(default_factory=dict)
    cumulative: Mapping[str, float] = field(default_factory=dict)
    headline: str = ""
    epoch: int = 0
    num_train: int = 0
    num_test: int = 0
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    error: str | None = None
    exit_code: int = 0


Tell = Callable[[int, int, TrialResult], None]
"""Called with the number of trials done, the number of all, and the one that was done last."""

Runner = Callable[[Sequence[Trial], Path], Iterator[TrialResult]]
"""Runs trials below a folder, in any order, and yields what each found as it is done."""


class Planner:
    """Makes trials, and reads each set of clips once, so that what cannot be trained is refused before anything is."""

    def __init__(self) -> None:
        self._items: dict[str, Items] = {}

    def items(self, config: TrainConfig) -> Items:
        """Returns the clips `config` trains and tests on.

        Raises:
            UsageError: they cannot be used by the model; see `read_items`.
        """
        card = registry.card(config.model.name, registry.resolve_options(config.model.name, config.model.options))
        kinds = {name: repr(kind) for name, kind in card.inputs.items()}
        name = json.dumps([config.data.model_dump(mode="json"), kinds, card.needs_labels], sort_keys=True)
        if name not in self._items:
            self._items[name] = items_for(config.data, card)
        return self._items[name]

    def trials(
        self, train_keys: Mapping[str, Any], points: Sequence[Point], config: TrialsConfig, source: str
    ) -> list[Trial]:
        """Returns each point with each seed, point by point.

        Args:
            train_keys: of a train config, before the points' own.
            source: what messages about a point begin with.

        Raises:
            UsageError: a config does not validate, or its clips cannot be used.
        """
        evaluate = _evaluation_keys(config.evaluate, source)
        found = []
        for point in points:
            for seed in config.seeds:
                settings = {**point.settings, **dict.fromkeys(config.seed_keys, seed)}
                where = f"{source} ({point.name})"
                keys = with_settings(train_keys, settings, where) | {"out": config.out, "resume": True}
                resolved = resolve(validate(TrainConfig, keys, where))
                if resolved.trainer.name != "local":
                    remedy = "leave it out; concurrent runs several trials at a time"
                    got = resolved.trainer.name
                    raise UsageError(describe(where, "trainer.name", "local for each of many trials", got, remedy))
                found.append(self._trial(point, seed, resolved, evaluate, config))
        return found

    def _trial(
        self, point: Point, seed: int, train_config: TrainConfig, evaluate: Mapping[str, Any], config: TrialsConfig
    ) -> Trial:
        name, options = train_config.model.name, train_config.model.options
        plain = registry.resolve_options(name, options).model_dump(mode="json")
        decides = [
            identity(train_config, plain, self.items(train_config)),
            train_config.loop.epochs,
            evaluate,
            config.backwards,
        ]
        text = json.dumps(decides, sort_keys=True, default=str)
        key = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        keys = train_config.model_dump(mode="json", by_alias=True, exclude_none=True)
        return Trial(key, point.name, seed, keys, evaluate, config.backwards, config.keep_checkpoints)


def _evaluation_keys(keys: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns the keys of the evaluation, checked; no page is made of each trial."""
    wanted = {"report": False, **keys}
    config = validate(RetrievalConfig, {**wanted, "run": "run"}, f"{source} evaluate")
    return config.model_dump(
        mode="json", by_alias=True, exclude={"run", "out", "data", "checkpoint"}, exclude_none=True
    )


def run_all(trials: Sequence[Trial], root: Path, run: Runner, tell: Tell) -> list[TrialResult]:
    """Returns what every trial found, in their order; those that are done already are not run again.

    Raises:
        UsageError: not one could be run, for a reason a user can correct.
        StorageUnavailableError: the folder cannot be written.
    """
    wanted = {trial.key: trial for trial in trials}
    found = {key: result for key in wanted if (result := finished(root, key)) is not None}
    num_kept = len(found)
    missing = [trial for key, trial in wanted.items() if key not in found]
    for number, result in enumerate(run(missing, root) if missing else (), start=num_kept + 1):
        if result.exit_code == EXIT_RETRYABLE:
            raise StorageUnavailableError(result.error or "")
        found[result.key] = result
        tell(number, len(wanted), result)
    failed = [result for result in found.values() if result.error is not None]
    if failed and len(failed) == len(found) and all(result.exit_code == EXIT_USAGE for result in failed):
        raise UsageError(failed[0].error or "")
    # Two points may be one trial: each has its result under its own name.
    results = [found[trial.key] for trial in trials]
    return [_renamed(result, trial) for result, trial in zip(results, trials, strict=True)]


def _renamed(result: TrialResult, trial: Trial) -> TrialResult:
    return TrialResult(**{**asdict(result), "point": trial.point, "seed": trial.seed})


def run_here(trials: Sequence[Trial], root: Path) -> Iterator[TrialResult]:
    """Runs trials in this process, one after the other."""
    for trial in trials:
        yield run_trial(trial, root)


def run_trial(trial: Trial, root: Path) -> TrialResult:
    """Returns what a trial found, and writes it down; goes on from its newest checkpoint where there is one.

    What a user can correct, and what is wrong with this trial alone, is a result with an `error`.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
    """
    folder = root / TRIALS / trial.key
    try:
        result = _result(trial, folder)
    except ClipmillError as error:
        return TrialResult(trial.key, trial.point, trial.seed, error=str(error), exit_code=error.exit_code)
    except (RuntimeError, ArithmeticError, ValueError, MemoryError) as error:
        # Of the numbers or of this machine, such as a factorisation that fails or short memory: the others go on.
        first = next(iter(str(error).splitlines()), "")[:200]
        return TrialResult(trial.key, trial.point, trial.seed, error=f"{type(error).__name__}: {first}", exit_code=1)
    try:
        write_json(folder / TRIAL, asdict(result))
    except StorageUnavailableError as error:
        return TrialResult(trial.key, trial.point, trial.seed, error=str(error), exit_code=error.exit_code)
    if not trial.keep_checkpoints:
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    return result


def _result(trial: Trial, folder: Path) -> TrialResult:
    started = time.monotonic()
    config = validate(TrainConfig, {**trial.train, "out": str(folder)}, f"trial {trial.point}")
    report = train(config)
    trained_at = time.monotonic()
    evaluation_config = validate(
        RetrievalConfig, {**trial.evaluate, "run": str(folder)}, f"trial {trial.point} evaluate"
    )
    sources = Sources()
    evaluation = evaluate_task(TASK, evaluation_config, sources)
    write_evaluation(TASK, evaluation, evaluation_config, sources)
    score = evaluation.score
    metrics = _metrics(score)
    if 0 < report.selected_epoch <= len(report.losses):
        losses = report.losses[report.selected_epoch - 1]
        metrics |= {f"{LOSS}/{name}": float(value) for name, value in losses.items()}
    if trial.backwards:
        metrics |= {f"{BACKWARDS}{name}": value for name, value in _backwards(folder, evaluation_config).items()}
    first = score.runs[0]
    return TrialResult(
        key=trial.key,
        point=trial.point,
        seed=trial.seed,
        metrics=metrics,
        baselines={
            f"{name}/{metric}": float(value)
            for name, values in first.baselines.items()
            for metric, value in values.items()
        },
        cumulative={
            f"{run.name}/{metric}": float(value)
            for run in score.runs
            for metric, value in run.details.get("cumulative_k", {}).items()
        },
        headline=f"{score.runs[-1].name}/{score.runs[-1].headline}",
        epoch=report.selected_epoch,
        num_train=report.num_train,
        num_test=report.num_test,
        train_seconds=round(trained_at - started, 3),
        evaluate_seconds=round(time.monotonic() - trained_at, 3),
    )


def _metrics(score: TaskScore) -> dict[str, float]:
    return {f"{run.name}/{name}": float(value) for run in score.runs for name, value in run.metrics.items()}


def _backwards(folder: Path, config: RetrievalConfig) -> dict[str, float]:
    """Returns the metrics of the test's gallery items as queries, in the spaces that work both ways."""
    trained = load(find_checkpoint(folder))
    spaces = trained.model.spaces()
    kept = {name: space for name, space in spaces.items() if isinstance(space, Cosine | Hamming)}
    # Which clips are tested is the run's own; what they are is read again, as the evaluation does.
    data = validate(TrainConfig, {**trained.origin.config, "out": str(folder)}, "run").data
    items = read_items(data, trained.card.inputs, vocabularies=trained.origin.vocabularies).of("test")
    images, videos = (embed(trained, side, items.inputs) for side in ("query", "gallery"))
    labels = [items.label_names[code] for code in items.label] if items.label_names else None
    sides: list[dict[str, Any]] = [
        {
            "vectors": {name: _as_vectors(arrays, space, place) for name, space in kept.items()},
            "labels": labels,
            "ids": items.clip_ids,
        }
        for arrays, place in ((videos, "gallery"), (images, "query"))
    ]
    if not kept or any(a.shape[1] != b.shape[1] for a, b in zip(*(s["vectors"].values() for s in sides), strict=True)):
        return {}
    keys = {"queries": "<queries>", "gallery": "<gallery>", "run": None, "data": None, "spaces": ()}
    there = config.model_copy(update=keys)
    found = evaluate_task(TASK, there, Sources(arrays=dict(zip(("<queries>", "<gallery>"), sides, strict=True))))
    return _metrics(found.score)


def _as_vectors(arrays: Mapping[str, Any], space: Cosine | Hamming, side: str) -> Any:
    values = arrays[getattr(space, side)]
    if isinstance(space, Hamming):
        # The cosine of codes of 1 and -1 falls as the number of differing bits rises: the order is the same.
        return np.unpackbits(values, axis=1).astype(np.float32) * 2 - 1
    return values


def finished(root: Path, key: str) -> TrialResult | None:
    """Returns what the trial `key` found; None where it has not been run to its end."""
    path = root / TRIALS / key / TRIAL
    with contextlib.suppress(OSError, ValueError, TypeError):
        return TrialResult(**json.loads(path.read_text("utf-8")))
    return None


def write_json(path: Path, data: Any) -> None:
    """Writes `data` in one step.

    Raises:
        StorageUnavailableError: the folder cannot be written.
    """
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes `text` in one step.

    Raises:
        StorageUnavailableError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, "utf-8")
        os.replace(temporary, path)
    except OSError as error:
        got, remedy = error.strerror or str(error), "free it and run the same command again"
        raise StorageUnavailableError(
            describe("results", str(path.parent), "a folder to write to", got, remedy)
        ) from None
