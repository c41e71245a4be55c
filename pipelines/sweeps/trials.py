"""A trial: one training and its evaluation, by the code of ``clipmill train`` and ``clipmill evaluate``.

What a finished trial found stands in ``trials/<key>/trial.json``. The key is a fingerprint of all that decides it, the
rows of the store included, so a trial is never run twice, whatever else its sweep has become since.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipmill.models.checkpoints import FOLDER, find_checkpoint, load
from clipmill.models.embedding import embed
from clipmill.pipelines.datasets.items import read_items
from clipmill.pipelines.evaluation.tasks.base import Sources, Task
from clipmill.pipelines.evaluation.tasks.evaluate import evaluate_task, write_evaluation
from clipmill.pipelines.evaluation.tasks.moments.task import TASK as MOMENTS
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.pipelines.evaluation.tasks.retrieval.task import TASK as RETRIEVAL
from clipmill.pipelines.features.windows import clip_windows
from clipmill.pipelines.training.run_folder import RunFolder
from clipmill.pipelines.training.train import train
from clipmill.pipelines.training.videos.train import train_on_videos
from clipmill.schemas.config import TrainConfig
from clipmill.schemas.config_moments import MomentsConfig
from clipmill.schemas.config_retrieval import RetrievalConfig
from clipmill.schemas.config_videos import VideoTrainConfig
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
LOSS, VALIDATION = "loss", "validation"
"""Stand in place of a space before the losses of the epoch that the run is used by, on either split."""
BACKWARDS = "backwards "
"""Beginning of the name of a space that gallery items search the queries in."""

Kind = Literal["retrieval", "moments", "videos"]
"""What is trained, and so what it is scored by: `task` of an evaluation, or losses on the validation split."""


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
    kind: Kind
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
        result = _of_videos(trial, folder) if trial.kind == "videos" else _of_rows(trial, folder)
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


def _of_videos(trial: Trial, folder: Path) -> TrialResult:
    started = time.monotonic()
    config = validate(VideoTrainConfig, {**trial.train, "out": str(folder)}, f"trial {trial.point}")
    report = train_on_videos(config, clip_windows)
    line = RunFolder(folder).metrics()[report.selected_epoch - 1]
    parts = ((VALIDATION, line["validation"]), (LOSS, line["losses"]))
    return TrialResult(
        key=trial.key,
        point=trial.point,
        seed=trial.seed,
        metrics={f"{part}/{name}": float(value) for part, values in parts for name, value in values.items()},
        headline=f"{VALIDATION}/{config.loop.select}",
        epoch=report.selected_epoch,
        num_train=report.num_train,
        num_test=report.num_test,
        train_seconds=round(time.monotonic() - started, 3),
    )


def _of_rows(trial: Trial, folder: Path) -> TrialResult:
    started = time.monotonic()
    config = validate(TrainConfig, {**trial.train, "out": str(folder)}, f"trial {trial.point}")
    report = train(config)
    trained_at = time.monotonic()
    task, evaluation_config = _evaluation_of(trial, folder)
    sources = Sources()
    evaluation = evaluate_task(task, evaluation_config, sources)
    write_evaluation(task, evaluation, evaluation_config, sources)
    score = evaluation.score
    metrics = _metrics(score)
    if 0 < report.selected_epoch <= len(report.losses):
        losses = report.losses[report.selected_epoch - 1]
        metrics |= {f"{LOSS}/{name}": float(value) for name, value in losses.items()}
    if trial.backwards and isinstance(evaluation_config, RetrievalConfig):
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


def _evaluation_of(trial: Trial, folder: Path) -> tuple[Task[Any, Any], RetrievalConfig | MomentsConfig]:
    where = f"trial {trial.point} evaluate"
    if trial.kind == "retrieval":
        return RETRIEVAL, validate(RetrievalConfig, {**trial.evaluate, "run": str(folder)}, where)
    scored = {"predictions": {"run": str(folder), "name": "moments"}, "out": str(folder / "evaluation")}
    return MOMENTS, validate(MomentsConfig, {**trial.evaluate, **scored}, where)


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
    found = evaluate_task(RETRIEVAL, there, Sources(arrays=dict(zip(("<queries>", "<gallery>"), sides, strict=True))))
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
