"""The YAML files of ``task: moments`` and ``task: highlights``."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from clipmill.schemas.config_evaluate import (
    Overlap,
    PredictionTaskConfig,
    TruthConfig,
    file_mapping,
    number_as_list,
    sorted_thresholds,
)


class MomentsConfig(PredictionTaskConfig):
    """``task: moments``: R@n at IoU m, mIoU and mAP of moment retrieval.

    Attributes:
        protocol: ``charades`` (also ActivityNet Captions) or ``qvhighlights``: the defaults of the other keys.
        cutoffs: n of R@n. iou_thresholds: m.
        map_iou_thresholds: thresholds of mAP and its average; None: those of R@n.
        overlap: ``>`` for 2D-TAN.
        order: the first answer is the best scored one, or the first of the file (``file_order``).
        nms: of a query's answers those go that overlap with a better scored one by an IoU above this, before anything
            is counted (2D-TAN); None: none.
        max_windows: answers of a query that average precision reads; ``all``: all of them.
        lengths: score also the windows of each length range (QVHighlights' short, middle, long).
        training: annotations that the fixed-span baseline is tuned on; None: the scored ones.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"at": "cutoffs", "ious": "iou_thresholds"}
    RENAMED_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {"order": {"listed": "file_order"}}

    task: Literal["moments"] = "moments"
    protocol: Literal["charades", "qvhighlights"] | None = None
    cutoffs: tuple[int, ...] | None = None
    iou_thresholds: tuple[float, ...] | None = None
    map_iou_thresholds: tuple[float, ...] | None = None
    overlap: Overlap = ">="
    order: Literal["score", "file_order"] | None = None
    nms: float | None = Field(default=None, ge=0, lt=1)
    max_windows: int | Literal["all"] = 10
    lengths: bool | None = None
    training: TruthConfig | None = None

    @field_validator("cutoffs", "iou_thresholds", "map_iou_thresholds", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return number_as_list(value)

    @field_validator("iou_thresholds", "map_iou_thresholds")
    @classmethod
    def _in_order(cls, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return sorted_thresholds(values)

    @field_validator("training", mode="before")
    @classmethod
    def _training(cls, value: Any) -> Any:
        return None if value is None else file_mapping(value)


class HighlightsConfig(PredictionTaskConfig):
    """``task: highlights``: mAP and Hit@1 of clip scores (QVHighlights).

    Attributes:
        levels: least annotated scores of a positive clip; 2 Fair, 3 Good, 4 VeryGood.
    """

    task: Literal["highlights"] = "highlights"
    levels: tuple[int, ...] = Field(default=(2, 3, 4), min_length=1)
