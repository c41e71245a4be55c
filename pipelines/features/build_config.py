"""The file of ``clipmill build``. What may be written in it depends on which engines and shard formats there are."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from clipmill.pipelines.features.engines.registry import ENGINES
from clipmill.schemas.config import BuildConfig, EngineConfig, blamed, parse_mapping
from clipmill.schemas.errors import ConfigError, UsageError, describe, near
from clipmill.schemas.model import validate
from clipmill.schemas.registry import Registry
from clipmill.stores.shard_formats import SHARD_FORMATS

_SAVED_KEYS = frozenset("name device threads workers runner pipeline_options task_seconds max_attempts".split())
_SAVED_DEFAULTS: Mapping[str, Any] = {
    "workers": 1,
    "workers_per_gpu": 1,
    "runner": "in_process",
    "pipeline_options": [],
}
"""What the config.yaml of an older run, which has all `_SAVED_KEYS`, also says where they are keys of other engines."""


def parse_build_config(text: str, overrides: Sequence[str] = (), source: str = "config") -> BuildConfig:
    """Returns YAML `text`, with ``a.b=v`` overrides applied, its engine as the model of the engine it names.

    Raises:
        ConfigError: as `clipmill.schemas.config.parse_config`; or there is no such engine or shard format, or a key
            is one of another engine.
    """
    with blamed(overrides, source):
        return _parsed(parse_mapping(text, overrides, source), source)


def _parsed(data: dict[str, Any], source: str) -> BuildConfig:
    problems: list[str] = []
    engine = EngineConfig()
    with _collected(problems):
        engine = _engine(data.get("engine", {}), source)
    with _collected(problems):
        config = validate(BuildConfig, data | {"engine": engine}, source)
        _check_name(SHARD_FORMATS, config.store.format, f"{source} store.format")
    if problems:
        raise ConfigError("\n".join(problems))
    return config


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        problems += str(error).splitlines()


def _check_name(registry: Registry[Any], name: object, where: str) -> None:
    if not isinstance(name, str) or (name not in registry.built_in and name not in registry.names):
        expected = f"a registered {registry.thing}"
        raise ConfigError(f"{where}: expected {expected}, got {name!r}; {near(str(name), registry.names)}")


def _engine(section: Any, source: str) -> EngineConfig:
    if not isinstance(section, Mapping):
        return validate(EngineConfig, section, source, ["engine"])
    name = section.get("name", "local")
    _check_name(ENGINES, name, f"{source} engine.name")
    model = ENGINES.get(name).config
    if section.keys() >= _SAVED_KEYS:
        section = {key: value for key, value in section.items() if not _says_nothing(model, key, value)}
    problems: list[str] = []
    for key in section.keys() - model.model_fields.keys():
        owners = _owners(key)
        if owners:
            names = " and ".join(owners)
            remedy = f"remove it, or set engine.name to {' or '.join(owners)}"
            problems.append(describe(source, f"engine.{key}", f"a key of engine {name}", f"one of {names}", remedy))
            section = {other: value for other, value in section.items() if other != key}
    engine = EngineConfig()
    with _collected(problems):
        engine = validate(model, section, source, ["engine"])
    if problems:
        raise ConfigError("\n".join(sorted(problems)))
    return engine


def _says_nothing(model: type[EngineConfig], key: str, value: Any) -> bool:
    return key not in model.model_fields and key in _SAVED_DEFAULTS and value == _SAVED_DEFAULTS[key]


def _owners(key: str) -> list[str]:
    """Returns the engines that take `key`."""
    owners = []
    for name in ENGINES.names:
        try:
            if key in ENGINES.get(name).config.model_fields:
                owners.append(name)
        except UsageError:  # a broken package is no reason to say less of a key
            continue
    return owners
