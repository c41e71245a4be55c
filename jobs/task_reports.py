"""The page of an evaluation task: what was scored, what it was read from, and under which config."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from clipmill.jobs.evaluation_output import Report
from clipmill.pipelines.evaluation.tasks.page import FileLine, Lineage, TaskReport, write_task_report
from clipmill.pipelines.evaluation.tasks.published import published_scores
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.schemas.config import dump_config
from clipmill.schemas.config_evaluate import ClassificationConfig, SegmentTaskConfig, TaskConfig, TruthConfig
from clipmill.schemas.recipe import Recipe

_CHUNK = 1 << 20


def report_of(score: TaskScore, evaluations: Sequence[Any], config: TaskConfig) -> Report:
    """Returns what writes the page of `score`.

    Args:
        evaluations: of the config's task, one per set of predictions.
    """

    def write(path: Path) -> int:
        return write_task_report(str(path), task_report(score, evaluations, config))

    return write


def task_report(score: TaskScore, evaluations: Sequence[Any], config: TaskConfig) -> TaskReport:
    """Returns the report of one task's evaluations."""
    recipes = _recipes(config)
    report = _report(score, evaluations, config, lineage_of(config, recipes))
    drawn = ", ".join(f"{name} ({recipe.weights.source})" for name, recipe in recipes if _is_random(recipe))
    if not drawn:
        return report
    told = f"Random weights: {drawn}. These numbers show that the pipeline works, not what the method can do."
    return replace(report, notes=(told, *report.notes))


def _report(score: TaskScore, evaluations: Sequence[Any], config: TaskConfig, lineage: Lineage) -> TaskReport:
    shared = (score, evaluations, published_scores(score.task, config.published), lineage)
    if score.task == "detection":
        from clipmill.pipelines.evaluation.tasks.detection.report import detection_report

        return detection_report(*shared, seed=config.seed)
    if score.task == "proposals":
        from clipmill.pipelines.evaluation.tasks.proposals.report import proposals_report

        return proposals_report(*shared, seed=config.seed)
    if score.task == "moments":
        from clipmill.pipelines.evaluation.tasks.moments.report import moments_report

        return moments_report(*shared, seed=config.seed)
    if score.task == "highlights":
        from clipmill.pipelines.evaluation.tasks.highlights.report import highlights_report

        return highlights_report(*shared, seed=config.seed, sentences=_sentences(config))
    if score.task == "classification":
        from clipmill.pipelines.evaluation.tasks.classification.report import items_report, videos_report
        from clipmill.pipelines.evaluation.tasks.classification.score import ItemsEvaluation

        return (items_report if isinstance(evaluations[0], ItemsEvaluation) else videos_report)(*shared)
    from clipmill.pipelines.evaluation.tasks.ranking.report import landmarks_report, ranking_report

    return (ranking_report if score.task == "ranking" else landmarks_report)(*shared, seed=config.seed)


def lineage_of(config: TaskConfig, recipes: Sequence[tuple[str, Recipe]]) -> Lineage:
    """Returns the files that `config` names with their digests, the versions, and the config.

    Args:
        recipes: of the stored features that were scored, with their names.
    """
    versions = tuple((name, _version(name)) for name in ("clipmill", "numpy"))
    facts = (*versions, ("python", platform.python_version()))
    files = [line for role, path in _files(config) for line in _file_line(role, path)]
    return Lineage(tuple(files), (*facts, *_stored(recipes)), None, dump_config(config))


def _sentences(config: TaskConfig) -> dict[str, str]:
    """Returns what was asked, by query id."""
    from clipmill.jobs.evaluation_inputs import new_ids
    from clipmill.stores.formats.qvhighlights import read_qvhighlights

    truth = config.ground_truth
    queries = read_qvhighlights(truth.file).queries
    return dict(zip(new_ids(queries.query_ids, truth, truth.file), queries.sentences, strict=True))


def _files(config: TaskConfig) -> list[tuple[str, str]]:
    found = [("ground truth", config.ground_truth.file)]
    training = getattr(config, "training", None)
    truths: list[tuple[str, TruthConfig]] = [("ground truth", config.ground_truth)]
    if training is not None:
        found.append(("training", training.file))
        truths.append(("training", training))
    found += [(f"durations of {role}", truth.durations) for role, truth in truths if truth.durations is not None]
    if isinstance(config, SegmentTaskConfig | ClassificationConfig) and config.blocked.file is not None:
        found.append(("blocked", config.blocked.file))
    return found + [("predictions", item.file) for item in config.predictions if item.file is not None]


def _recipes(config: TaskConfig) -> list[tuple[str, Recipe]]:
    """Returns the recipes of the stored features that `config` scores, with what to call them."""
    from clipmill.stores import FeatureStore

    return [
        (f"{item.feature} in {item.store}", FeatureStore(item.store)[item.feature].recipe)
        for item in config.predictions
        if item.store is not None and item.feature is not None
    ]


def _is_random(recipe: Recipe) -> bool:
    return recipe.weights.source.startswith("random")


def _stored(recipes: Sequence[tuple[str, Recipe]]) -> tuple[tuple[str, str], ...]:
    lines = []
    for name, recipe in recipes:
        weights = recipe.weights
        told = " ".join(part for part in (weights.source, weights.layout, (weights.sha256 or "")[:16]) if part)
        lines += [
            (f"recipe of {name}", recipe.fingerprint),
            (f"extractor of {name}", f"{recipe.extractor}, layer {recipe.layer}"),
            (f"weights of {name}", told),
        ]
    return tuple(lines)


def _file_line(role: str, path: str) -> list[FileLine]:
    """Returns the line of a file, or one for a folder, whose digest is that over the names and digests of its files."""
    place = Path(path)
    if place.is_file():
        return [FileLine(role, path, place.stat().st_size, _sha256(place))]
    if not place.is_dir():
        return []
    files = sorted(file for file in place.rglob("*") if file.is_file())
    told = "".join(f"{_sha256(file)}  {file.relative_to(place).as_posix()}\n" for file in files)
    size = sum(file.stat().st_size for file in files)
    return [FileLine(f"{role}, {len(files)} files", path, size, hashlib.sha256(told.encode()).hexdigest())]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
