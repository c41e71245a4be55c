"""The YAML file of ``clipmill evaluate`` with ``task: retrieval``, which is also what a file without a task means."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from clipmill.schemas.config import DataConfig
from clipmill.schemas.config_evaluate import TaskConfig
from clipmill.schemas.config_index import IndexConfig


class RetrievalConfig(TaskConfig):
    """``task: retrieval``: a trained run (`run`), or plain cosine over `data` where no run is given.

    Attributes:
        data: with `run`: other clips than those it was trained on, of the same recipes.
        checkpoint: of the run; default: its newest.
        cutoffs: K of mAP@K and the other metrics.
        spaces: of the model; default: all, and plain cosine.
        cosine_baseline: score plain cosine of the stored vectors too, where both come from one network; or the name
            of a feature of the image's network that clips are compared by, where the run's video feature is another's.
        relevant: what a query has to find: clips of its ``label``, or its ``own_clip`` alone, as where a text has one
            painting; then recall@K is the share of queries that find it, and labels are not looked at.
        exclude: what a query does not rank: its ``own_clip``, all clips of its ``own_video``, or ``none``; then its own
            clip counts as a hit, as published.
        examples: how many queries the page shows with their top results.
        dask: address of a ``distributed`` scheduler; None: threads.
        search: exact, or through an index whose recall is measured.
        rerank: how many of the best are scored again in spaces that re-rank; default: as many as the model says.
        min_coverage: least share of a store's clips that have rows of every feature, of those that have rows of any: a
            clip that lacks one is no query and in no gallery. None: `MIN_COVERAGE` of all tasks; 0: any will do.
        queries, gallery: names of arrays in memory, in place of `run` and `data`: for callers from Python.
        out: default: ``evaluation`` in the folder of the run, ``out/evaluation`` without one.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"at": "cutoffs"}

    task: Literal["retrieval"] = "retrieval"
    run: str | None = None
    data: DataConfig | None = None
    checkpoint: str | None = None
    cutoffs: tuple[int, ...] = Field(default=(10, 20, 50, 100), min_length=1)
    spaces: tuple[str, ...] = ()
    cosine_baseline: bool | str = True
    relevant: Literal["label", "own_clip"] = "label"
    exclude: Literal["none", "own_clip", "own_video"] = "none"
    examples: int = Field(default=12, ge=0)
    dask: str | None = None
    search: IndexConfig = IndexConfig()
    rerank: int | None = Field(default=None, ge=1)
    # Without a value unless given: what a finished trial of a sweep is known by holds the keys that have one.
    min_coverage: float | None = Field(default=None, ge=0, le=1)
    queries: str | None = None
    gallery: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _beside_the_run(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("run"), str) and data.get("out") is None:
            return {**data, "out": f"{data['run'].rstrip('/')}/evaluation"}
        return data

    @field_validator("cutoffs")
    @classmethod
    def _positive(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if min(values) < 1:
            raise ValueError("expected cut-offs from 1 up, such as [10, 20, 50, 100]")
        return tuple(sorted(set(values)))

    @model_validator(mode="after")
    def _one_source(self) -> "RetrievalConfig":
        if (self.queries is None) != (self.gallery is None):
            raise ValueError("queries and gallery go together")
        if self.queries is not None and (self.run is not None or self.data is not None):
            raise ValueError("expected run or data, or queries and gallery in memory, got both; leave one out")
        if self.relevant == "own_clip" and self.exclude != "none":
            raise ValueError("expected exclude: none with relevant: own_clip, or nothing is left to find")
        if self.rerank is not None and self.run is None:
            raise ValueError("expected run with rerank: a model scores the best again; leave rerank out")
        if self.run is None and self.data is None and self.queries is None:
            raise ValueError("expected run (a folder made by clipmill train) or data (for plain cosine retrieval)")
        return self
