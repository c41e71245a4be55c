"""The YAML files of ``clipmill evaluate``: what those of all tasks have in common; each task has a model of its own.

Which model belongs to which task stands in the registry of tasks. Every switch that changes a number is a key here and
stands in ``results.json`` under ``protocol``. A key left out takes what its protocol says; which value that is stands
in docs/evaluation_tasks.md and in the printed config.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from clipmill.schemas.config import parse_config
from clipmill.schemas.config_truth import IdsConfig as IdsConfig
from clipmill.schemas.config_truth import TruthConfig as TruthConfig
from clipmill.schemas.model import LocalPath, Model

Overlap = Literal[">=", ">"]
Ties = Literal["time", "file_order"]
MIN_COVERAGE = 0.5
"""ours: half of what was asked; predictions that answer less are refused unless the config says otherwise."""


class FusedConfig(IdsConfig):
    """One file of scores that are added to those of others, times a weight.

    Attributes:
        name: for results; default: the file's name without ending.
        format, classes, window_weights: as of `PredictionsConfig`.
    """

    file: str = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    format: str | None = None
    classes: str | tuple[str, ...] | None = None
    window_weights: str | None = None
    name: str | None = Field(default=None, min_length=1)


class PredictionsConfig(IdsConfig):
    """One set of predictions: a file, several fused, what a feature of a store holds, or what a trained run answers.

    Attributes:
        fuse: files of scores, two at least, whose weighted sum is scored (late fusion): class scores of items, classes
            of videos, or detections.
        scale: of fused class scores of items: as they are, or each item's put through ``softmax`` first.
        missing: what only some of the fused files have is refused, or scores ``zero`` in the others.
        run: folder of a run of ``clipmill train``.
        format: a name of `stores/formats/registry`; None: found out from the content.
        name: of the row in tables and results; default: the file's name without ending, or the feature's.
        feature: of the store; one with the columns `score` and `class_index` (R-C3D, layer ``detections``).
        classes: names of the class numbers of a file: a list for 1, 2, ..., or a file (`stores/formats/class_lists`).
            For a store: the names of class 1, 2, ... (0 is background); default: those the extractor's weights are
            known to have.
        window_weights: ``scnn``: file of weights by window length and class that scores are multiplied by.
    """

    file: str | None = Field(default=None, min_length=1)
    format: str | None = None
    store: str | None = Field(default=None, min_length=1)
    feature: str | None = None
    run: str | None = Field(default=None, min_length=1)
    fuse: tuple[FusedConfig, ...] | None = Field(default=None, min_length=2)
    scale: Literal["none", "softmax"] = "none"
    missing: Literal["refuse", "zero"] = "refuse"
    classes: str | tuple[str, ...] | None = None
    window_weights: str | None = None
    name: str | None = Field(default=None, min_length=1, pattern=r"^[^/]+$")

    @model_validator(mode="after")
    def _one_source(self) -> "PredictionsConfig":
        if sum(source is not None for source in (self.file, self.store, self.run, self.fuse)) != 1:
            raise ValueError("expected exactly one of file, store and run, or fuse, such as {file: results.json}")
        if self.fuse is None and (self.scale != "none" or self.missing != "refuse"):
            raise ValueError("scale and missing belong to fuse; leave them out")
        if self.fuse is not None and (self.format or self.classes or self.window_weights):
            raise ValueError("format, classes and window_weights stand beside each file of fuse; write them there")
        if (self.store is None) != (self.feature is None):
            raise ValueError("store and feature go together, such as {store: out/store, feature: rc3d}")
        return self


class BlockedConfig(Model):
    """Videos that are left out on both sides: a file with a JSON list or one id a line, or the ids themselves."""

    file: str | None = None
    ids: tuple[str, ...] = ()


def file_mapping(value: Any) -> Any:
    """Returns the mapping that a bare file name stands for."""
    if isinstance(value, str):
        return {"file": value}
    if not isinstance(value, Mapping | BaseModel):
        raise ValueError("expected a file, or a mapping such as {file: results.json}")
    return value


class TaskConfig(Model):
    """What all tasks have in common.

    Attributes:
        resamples: draws behind each interval; None: 2,000 of the bootstrap for means over queries or items, 200 random
            halves of the videos for scores that are computed anew for each (ours).
        baselines: compute what one scores without looking.
        metrics: further metrics of the task, by name (`tasks/measures.py`).
        published: print the published rows of this dataset (`tasks/published.py`) below ours.
        seed: of bootstrap and chance.
        out: folder of ``results.json`` and ``report.html``.
        report: write ``report.html``; without it an evaluation is quicker.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"floors": "baselines"}

    task: Any
    resamples: int | None = Field(default=None, ge=10)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    baselines: bool = True
    metrics: tuple[str, ...] = ()
    published: str | None = None
    seed: int = Field(default=0, ge=0)
    out: LocalPath = "out/evaluation"
    report: bool = True


class PredictionTaskConfig(TaskConfig):
    """Tasks that score predictions against a ground truth.

    Attributes:
        predictions: one or several; several make a table.
        min_coverage: least share of the queries (annotated videos, items) that a set of predictions has to answer;
            below it the ids are taken to be wrong and the set is refused. 0: any will do.
    """

    ground_truth: TruthConfig
    predictions: tuple[PredictionsConfig, ...]
    min_coverage: float = Field(default=MIN_COVERAGE, ge=0, le=1)

    @field_validator("ground_truth", mode="before")
    @classmethod
    def _as_mapping(cls, value: Any) -> Any:
        return file_mapping(value)

    @field_validator("predictions", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        items = list(value) if isinstance(value, list | tuple) else [value]
        if not items:
            raise ValueError("expected at least one file or store, such as predictions: results.json")
        return [file_mapping(item) for item in items]


def number_as_list(value: Any) -> Any:
    """Returns the list that a single number stands for."""
    return [value] if isinstance(value, int | float) else value


def sorted_thresholds(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Returns thresholds ascending, each once; raises ValueError for what is none."""
    if values is None:
        return None
    if not values or any(not 0 <= value <= 1 for value in values):
        raise ValueError("expected thresholds between 0 and 1, such as [0.3, 0.5, 0.7]")
    return tuple(sorted(set(values)))


class _TaskOnly(BaseModel):
    model_config = ConfigDict(extra="ignore")

    task: Any = "retrieval"


def task_of_config(text: str, overrides: Sequence[str] = (), source: str = "config") -> Any:
    """Returns the value of `task:` in YAML `text`, overrides applied; ``retrieval`` where there is none.

    Raises:
        ConfigError: the text is no YAML mapping, or an override is malformed.
    """
    return parse_config(_TaskOnly, text, overrides, source).task
