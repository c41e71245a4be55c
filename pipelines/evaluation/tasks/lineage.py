"""What an evaluation was read from: files with their digests, stored features with their recipes, versions, config."""

import hashlib
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from clipmill.pipelines.evaluation.tasks.page import FileLine, Lineage
from clipmill.schemas.config import dump_config
from clipmill.schemas.config_evaluate import BlockedConfig, FusedConfig, PredictionsConfig, TaskConfig, TruthConfig
from clipmill.schemas.recipe import Recipe

_CHUNK = 1 << 20


def lineage_of(config: TaskConfig) -> Lineage:
    """Returns the files and features that `config` names with their digests, the versions, and the config."""
    versions = tuple((name, _version(name)) for name in ("clipmill", "numpy"))
    facts = (*versions, ("python", platform.python_version()))
    files = [line for role, path in _files(config) for line in _file_line(role, path)]
    return Lineage(tuple(files), (*facts, *_stored(_recipes(config))), None, dump_config(config))


def random_weights_notes(config: TaskConfig) -> tuple[str, ...]:
    """Returns a note that names the stored features made with random weights; none where there are none."""
    drawn = ", ".join(f"{name} ({recipe.weights.source})" for name, recipe in _recipes(config) if _is_random(recipe))
    if not drawn:
        return ()
    return (f"Random weights: {drawn}. These numbers show that the pipeline works, not what the method can do.",)


def _files(config: TaskConfig) -> list[tuple[str, str]]:
    """Returns (role, path) of every file the config names: truths, their durations, blocked videos, predictions."""
    given = [(name.replace("_", " "), getattr(config, name)) for name in type(config).model_fields]
    truths = [(role, value) for role, value in given if isinstance(value, TruthConfig)]
    found = [(role, truth.file) for role, truth in truths]
    found += [(f"durations of {role}", truth.durations) for role, truth in truths if truth.durations is not None]
    found += [
        (role, value.file) for role, value in given if isinstance(value, BlockedConfig) and value.file is not None
    ]
    items: list[PredictionsConfig | FusedConfig] = []
    for given_item in _predictions(config):
        items += [given_item, *(given_item.fuse or ())]
    for item in items:
        beside = (("predictions", item.file), ("window weights", item.window_weights))
        classes = item.classes if isinstance(item.classes, str) else None
        found += [(role, path) for role, path in (*beside, ("classes", classes)) if path is not None]
    return found


def _predictions(config: TaskConfig) -> Iterator[PredictionsConfig]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, PredictionsConfig):
                yield item


def _recipes(config: TaskConfig) -> list[tuple[str, Recipe]]:
    """Returns the recipes of the stored features that `config` scores, with what to call them."""
    found = []
    for item in _predictions(config):
        if item.store is not None and item.feature is not None:
            from clipmill.stores import FeatureStore

            found.append((f"{item.feature} in {item.store}", FeatureStore(item.store)[item.feature].recipe))
    return found


def _is_random(recipe: Recipe) -> bool:
    return recipe.weights.source.startswith("random")


def _stored(recipes: list[tuple[str, Recipe]]) -> tuple[tuple[str, str], ...]:
    lines: list[tuple[str, str]] = []
    for name, recipe in recipes:
        weights = recipe.weights
        text = " ".join(part for part in (weights.source, weights.layout, (weights.sha256 or "")[:16]) if part)
        lines += [
            (f"recipe of {name}", recipe.fingerprint),
            (f"extractor of {name}", f"{recipe.extractor}, layer {recipe.layer}"),
            (f"weights of {name}", text),
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
    text = "".join(f"{_sha256(file)}  {file.relative_to(place).as_posix()}\n" for file in files)
    size = sum(file.stat().st_size for file in files)
    return [FileLine(f"{role}, {len(files)} files", path, size, hashlib.sha256(text.encode()).hexdigest())]


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
