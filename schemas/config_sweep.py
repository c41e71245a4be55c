"""The YAML file of ``clipmill sweep``, and what it has in common with other files of many trainings."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from clipmill.schemas.model import LocalPath, Model


def dotted(given: Any) -> Any:
    """Returns keys with every group among them as dotted keys: ``{loop: {threads: 1}}`` as ``{loop.threads: 1}``.

    So ``--set set.loop.threads=1``, which writes such a group, changes one key, and the others of `loop` stay. What
    stands under a key that is dotted already is a value. Of keys that are given twice the later one counts.
    """
    if not isinstance(given, Mapping):
        return given
    found: dict[Any, Any] = {}
    for key, value in given.items():
        items = _leaves(key, value) if isinstance(key, str) and "." not in key else [(key, value)]
        for name, item in items:
            found.pop(name, None)
            found[name] = item
    return found


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        yield key, value
        return
    for name, item in value.items():
        yield from _leaves(f"{key}.{name}", item)


DottedKeys = Annotated[dict[str, Any], BeforeValidator(dotted)]
"""Keys of a train config, dotted, and their values."""


class TrialsConfig(Model):
    """Many trainings, each evaluated.

    Attributes:
        evaluate: keys of ``clipmill evaluate`` with ``task: retrieval``, or ``moments`` where the model is one of
            moments; what is scored and `out` aside. Of trainings on videos none: validation losses compare them.
        backwards: rank the other way round, too: gallery items search the queries. Spaces that compare vectors of equal
            length alone.
        seeds: each point is trained once with each.
        seed_keys: keys of the train config that take the seed.
        concurrent: trainings at the same time.
        connect_seconds: how long Ray may take to answer or to start, and how long it may be gone later on.
        keep_checkpoints: keep those of every trial; otherwise they are deleted once it is evaluated.
        out: folder of the results.
    """

    evaluate: dict[str, Any] = Field(default_factory=dict)
    backwards: bool = False
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    seed_keys: tuple[str, ...] = Field(default=("loop.seed",), min_length=1)
    concurrent: int = Field(default=1, ge=1)
    connect_seconds: float = Field(default=120.0, gt=0)  # ours: see clipmill.pipelines.ray_cluster
    keep_checkpoints: bool = False
    out: LocalPath

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError("expected different seeds from 0 up, such as [0, 1, 2, 3, 4]")
        return seeds

    @field_validator("evaluate")
    @classmethod
    def _keys_of_its_own(cls, keys: dict[str, Any]) -> dict[str, Any]:
        taken = [
            key for key in ("run", "data", "out", "queries", "gallery", "checkpoint", "predictions") if key in keys
        ]
        if taken:
            raise ValueError(f"{taken[0]} is each training's own; leave it out")
        if keys.get("task", "retrieval") not in ("retrieval", "moments"):
            raise ValueError("expected task retrieval or moments, which trained runs are scored by")
        return keys


class DistributionConfig(Model):
    """What a value is drawn from: exactly one of these.

    Attributes:
        uniform, log_uniform: least and greatest.
        integers: least and greatest, both among them.
        choice: one of these, each as likely.
    """

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integers: tuple[int, int] | None = None
    choice: tuple[Any, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one(self) -> "DistributionConfig":
        if len(self.model_fields_set) != 1:
            raise ValueError("expected exactly one of uniform, log_uniform, integers and choice")
        for bounds in (self.uniform, self.log_uniform, self.integers):
            if bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError("expected [least, greatest], such as [0.0001, 0.01]")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError("expected a least value above 0, whose logarithm can be taken")
        return self


class RandomConfig(Model):
    """Random search: `num_points` points, each key drawn on its own. The same seed draws the same points."""

    num_points: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    keys: dict[str, DistributionConfig] = Field(min_length=1)


class PointConfig(Model):
    """A point written out.

    Attributes:
        set: keys of the train config, dotted, and their values.
        published: metric to the published value, shown beside ours.
    """

    name: str = Field(min_length=1)
    set: DottedKeys = Field(default_factory=dict)
    published: dict[str, float] = Field(default_factory=dict)


class SweepConfig(TrialsConfig):
    """``clipmill sweep FILE``: one of `grid`, `random` and `points`.

    Attributes:
        train: a config of ``clipmill train``: its file, or its keys.
        set: keys of it, dotted, that are the same for all points.
        grid: dotted key to its values; every combination is a point. A number in a key is a place in a list.
        metric: what points are compared by, ``<space>/<metric>``; default: the headline of the model's last space.
        also: further metrics to show and to draw, such as ``loss/orth``.
        goal: whether the best is the greatest or the least; None: of losses the least, else the greatest.
        title: of the page.
        source: of the published values.
    """

    train: str | dict[str, Any]
    set: DottedKeys = Field(default_factory=dict)
    grid: Annotated[dict[str, tuple[Any, ...]], BeforeValidator(dotted)] = Field(default_factory=dict)
    random: RandomConfig | None = None
    points: tuple[PointConfig, ...] = ()
    metric: str | None = None
    also: tuple[str, ...] = ()
    goal: Literal["max", "min"] | None = None
    title: str = ""
    source: str = ""
    out: LocalPath = "out/sweep"

    @model_validator(mode="after")
    def _one_kind(self) -> "SweepConfig":
        if sum(map(bool, (self.grid, self.random, self.points))) != 1:
            raise ValueError("expected exactly one of grid, random and points, such as grid: {loop.batch: [32, 70]}")
        empty = [key for key, values in self.grid.items() if not values]
        if empty:
            raise ValueError(f"grid {empty[0]}: expected values, got none")
        repeated = [
            key for key, values in self.grid.items() if any(value in values[:n] for n, value in enumerate(values))
        ]
        if repeated:
            raise ValueError(f"grid {repeated[0]}: expected each value once")
        names = [point.name for point in self.points]
        if len(set(names)) != len(names):
            raise ValueError("points: expected names that differ")
        swept = {*self.grid, *(self.random.keys if self.random else ()), *(key for p in self.points for key in p.set)}
        fixed = sorted(swept.intersection(self.seed_keys))
        if fixed:
            raise ValueError(f"{fixed[0]} takes the seed; give its values as seeds, or leave it out of seed_keys")
        return self
