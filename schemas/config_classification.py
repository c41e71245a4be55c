"""The YAML file of ``task: classification``."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from clipmill.schemas.config_evaluate import (
    BlockedConfig,
    PredictionTaskConfig,
    file_mapping,
)


class ClassificationConfig(PredictionTaskConfig):
    """``task: classification``: top-k accuracy of items, or mAP and hit@k of untrimmed videos.

    Attributes:
        protocol: ``items``: one true class per item, a score per class; ``activitynet``: a video may have several
            classes; None: by the format of the ground truth.
        cutoffs: k of top-k and hit@k; None: 1 and 5 for items, 1 and 3 for activitynet.
        blocked: videos left out on both sides.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"at": "cutoffs"}

    task: Literal["classification"] = "classification"
    protocol: Literal["items", "activitynet"] | None = None
    cutoffs: tuple[int, ...] | None = None
    blocked: BlockedConfig = Field(default_factory=BlockedConfig)

    @field_validator("blocked", mode="before")
    @classmethod
    def _blocked(cls, value: Any) -> Any:
        return {"ids": value} if isinstance(value, list | tuple) else file_mapping(value)

    @field_validator("cutoffs")
    @classmethod
    def _positive(cls, values: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if values is not None and (not values or min(values) < 1):
            raise ValueError("expected cut-offs from 1 up, such as [1, 5]")
        return values
