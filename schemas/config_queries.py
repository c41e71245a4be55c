"""``data.queries`` of a training config: sentences about videos and their moments, for models that localise."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from clipmill.schemas.config_truth import TruthConfig
from clipmill.schemas.model import Model


class WordVectorsConfig(Model):
    """Vectors of words that a model's words begin with.

    Attributes:
        file: text in GloVe's format: a word and its numbers a line, between spaces.
        also: annotations whose words a vocabulary of kind ``vslnet`` has as well, which its publication takes from the
            test split, too.
    """

    file: str = Field(min_length=1)
    also: tuple[TruthConfig, ...] = ()

    @field_validator("also", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        items = list(value) if isinstance(value, list | tuple) else [value]
        return [{"file": item} if isinstance(item, str) else item for item in items]


class MomentQueriesConfig(Model):
    """What is trained on. The test's annotations have no place here: an evaluation names them.

    Attributes:
        train: annotations of the queries to train on.
        validation: of those that `loop.select` decides on; or `validation_fraction` of the training videos, by a hash
            of `seed` and the video's id.
        missing: what becomes of queries whose video has no rows: the training is refused, or they are left out and
            counted.
        grid: when a video's steps are: ``even`` parts of its duration, as published, or as its ``rows`` are stored.
        word_vectors: a file alone, or with what else is read of it; None: words begin at random.
    """

    train: TruthConfig
    validation: TruthConfig | None = None
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    seed: int = 0
    missing: Literal["refuse", "skip"] = "refuse"
    grid: Literal["even", "rows"] = "even"
    word_vectors: WordVectorsConfig | None = None

    @field_validator("train", "validation", "word_vectors", mode="before")
    @classmethod
    def _as_mapping(cls, value: Any) -> Any:
        if value is None or isinstance(value, Mapping | BaseModel):
            return value
        return {"file": value}

    @model_validator(mode="after")
    def _one_validation(self) -> "MomentQueriesConfig":
        if self.validation is not None and self.validation_fraction:
            raise ValueError("expected validation or validation_fraction, got both; leave one out")
        return self
