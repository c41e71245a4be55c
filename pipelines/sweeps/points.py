"""The points of a sweep: which keys of a train config take which values."""

import copy
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipmill.schemas.config_sweep import DistributionConfig, RandomConfig, SweepConfig
from clipmill.schemas.errors import ConfigError

SIGNIFICANT = 6
"""ours: digits of a drawn number, so that a point can be written down and had again."""


@dataclass(frozen=True, slots=True)
class Point:
    """Settings that are trained with every seed.

    Attributes:
        settings: dotted keys of the train config to their values.
        published: metric to the value that was published for it.
    """

    name: str
    settings: Mapping[str, Any]
    published: Mapping[str, float] = field(default_factory=dict)


def points_of(config: SweepConfig) -> tuple[Point, ...]:
    """Returns the points of a sweep, in the order of its file; the last key of a grid changes fastest."""
    if config.points:
        return tuple(Point(item.name, item.set, item.published) for item in config.points)
    if config.random is not None:
        return tuple(Point(setting_text(settings), settings) for settings in _drawn(config.random))
    combinations = itertools.product(*config.grid.values())
    settings = [dict(zip(config.grid, values, strict=True)) for values in combinations]
    return tuple(Point(setting_text(item), item) for item in settings)


def setting_text(settings: Mapping[str, Any]) -> str:
    """Returns settings as a person reads them, each key by its last part where that is enough."""
    names = short_names(tuple(settings))
    return ", ".join(f"{names[key]} {value_text(value)}" for key, value in settings.items()) or "as it is"


def short_names(keys: tuple[str, ...]) -> dict[str, str]:
    """Returns each dotted key's shortest ending that no other of `keys` has."""
    found = {}
    for key in keys:
        parts = key.split(".")
        endings = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        found[key] = next((e for e in endings if sum(k == e or k.endswith(f".{e}") for k in keys) == 1), key)
    return found


def value_text(value: Any) -> str:
    """Returns a value of a setting as text."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_settings(data: Mapping[str, Any], settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns a copy of `data` with dotted keys set; groups that are missing are made, a number is a place in a list.

    Raises:
        ConfigError: a key leads through something that is neither a group nor a list, or to a place a list has not.
    """
    found = copy.deepcopy(dict(data))
    for key, value in settings.items():
        *above, last = key.split(".")
        current: Any = found
        for part in above:
            if isinstance(current, dict):
                current = current.setdefault(part, {})
            else:
                current = current[_place(current, part, key, source)]
        if isinstance(current, dict):
            current[last] = copy.deepcopy(value)
        else:
            current[_place(current, last, key, source)] = copy.deepcopy(value)
    return found


def _place(current: Any, part: str, key: str, source: str) -> int:
    if not isinstance(current, list):
        raise ConfigError(f"{source} {key}: expected a group or a list at '{part}', got {current!r}; correct the key")
    if not part.isdecimal() or int(part) >= len(current):
        raise ConfigError(
            f"{source} {key}: expected a place in a list of {len(current)}, got '{part}'; count from 0, or write the "
            "list into train"
        )
    return int(part)


def _drawn(config: RandomConfig) -> list[dict[str, Any]]:
    random = np.random.default_rng(config.seed)
    return [{key: _draw(item, random) for key, item in config.keys.items()} for _ in range(config.num_points)]


def _draw(item: DistributionConfig, random: np.random.Generator) -> Any:
    if item.choice is not None:
        return item.choice[int(random.integers(len(item.choice)))]
    if item.integers is not None:
        return int(random.integers(item.integers[0], item.integers[1] + 1))
    if item.uniform is not None:
        return _rounded(float(random.uniform(*item.uniform)))
    low, high = item.log_uniform or (1.0, 1.0)
    return _rounded(math.exp(float(random.uniform(math.log(low), math.log(high)))))


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT}g}")
