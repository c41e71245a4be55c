"""The YAML files of ``task: detection`` and ``task: proposals``."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from clipmill.schemas.config_evaluate import (
    BlockedConfig,
    Overlap,
    PredictionTaskConfig,
    Ties,
    TruthConfig,
    file_mapping,
    number_as_list,
    sorted_thresholds,
)
from clipmill.schemas.model import Model


class NmsConfig(Model):
    """Non-maximum suppression of each video and class, before anything is scored.

    Attributes:
        tiou: hard: the largest overlap with a better segment that does no harm; linear: up to which nothing is lost.
        below: hard, in place of `tiou`: NMS anew for each scored threshold, at that threshold minus `below` (S-CNN and
            R-C3D on THUMOS14: 0.1). Worth ten points at tIoU 0.1: never compare across.
        ties: hard: which of equal scores goes first.
        sigma: gaussian: its width.
        max_per_class: soft: segments of a video and class that are kept.
    """

    kind: Literal["hard", "linear", "gaussian"] = "hard"
    tiou: float | None = Field(default=None, ge=0, le=1)
    below: float | None = Field(default=None, ge=0, le=1)
    ties: Literal["first", "last"] = "first"
    sigma: float | None = Field(default=None, gt=0)
    max_per_class: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> "NmsConfig":
        if self.kind == "hard" and (self.tiou is None) == (self.below is None):
            raise ValueError("hard NMS: expected exactly one of tiou and below, such as {tiou: 0.4}")
        if self.kind != "hard" and self.below is not None:
            raise ValueError("below belongs to hard NMS; leave it out")
        if (self.kind == "gaussian") != (self.sigma is not None):
            raise ValueError("sigma belongs to gaussian NMS, and gaussian NMS needs one, such as 0.5")
        return self


class SegmentTaskConfig(PredictionTaskConfig):
    """Tasks over segments of videos.

    Attributes:
        tiou_thresholds: of overlap; None: the protocol's.
        blocked: videos left out on both sides.
        training: annotations that the blind baseline is tuned on; None: the scored ones, which makes it an upper bound.
        chance_per_video: random segments per video behind the chance baseline (ours).
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"tious": "tiou_thresholds"}

    tiou_thresholds: tuple[float, ...] | None = None
    blocked: BlockedConfig = Field(default_factory=BlockedConfig)
    training: TruthConfig | None = None
    chance_per_video: int = Field(default=100, ge=1)

    @field_validator("tiou_thresholds", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return number_as_list(value)

    @field_validator("tiou_thresholds")
    @classmethod
    def _in_order(cls, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return sorted_thresholds(values)

    @field_validator("blocked", mode="before")
    @classmethod
    def _blocked(cls, value: Any) -> Any:
        return {"ids": value} if isinstance(value, list | tuple) else file_mapping(value)

    @field_validator("training", mode="before")
    @classmethod
    def _training(cls, value: Any) -> Any:
        return None if value is None else file_mapping(value)


class DetectionConfig(SegmentTaskConfig):
    """``task: detection``: mAP over tIoU.

    Attributes:
        protocol: whose matching, and the defaults of `tiou_thresholds`, `interpolated`, `overlap` and `ties`;
            ``thumos14_0.3_to_0.7``: ActivityNet's matching at tIoU 0.3 to 0.7, as ActionFormer and its successors score
            THUMOS14.
        interpolated: whether precision is the best at this recall or beyond.
        overlap: whether an overlap equal to the threshold is a hit.
        ties: equal scores of a video rank by start and stop (``time``: the order of the file changes nothing) or by
            ``file_order`` (THUMOS14's official tool).
        ambiguous: ``thumos14``: ignore predictions that overlap an ambiguous interval.
        drop_duplicates: score repeated ground truths once.
        max_per_video: keep the best so many predictions of a video, before NMS; None: all.
        nms: suppression; a number is that of hard NMS.
        time_decimals, score_digits: round times to so many decimals and scores to so many significant digits, after
            NMS, as a file of the official form would hold them (S-CNN: 1 and 5).
    """

    RENAMED_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {"ties": {"listed": "file_order"}}

    task: Literal["detection"] = "detection"
    protocol: Literal["activitynet", "thumos14", "thumos14_0.3_to_0.7"] = "activitynet"
    interpolated: bool | None = None
    overlap: Overlap | None = None
    ties: Ties | None = None
    ambiguous: bool = True
    drop_duplicates: bool = False
    max_per_video: int | None = Field(default=None, ge=1)
    nms: NmsConfig | None = None
    time_decimals: int | None = Field(default=None, ge=0, le=9)
    score_digits: int | None = Field(default=None, ge=1, le=17)

    @field_validator("nms", mode="before")
    @classmethod
    def _nms(cls, value: Any) -> Any:
        return {"tiou": value} if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _fits(self) -> "DetectionConfig":
        if self.protocol != "thumos14" and self.ties == "file_order":
            raise ValueError("ties: file_order belongs to protocol thumos14; ActivityNet's official order is undefined")
        if self.protocol == "thumos14" and self.drop_duplicates:
            raise ValueError("drop_duplicates belongs to protocol activitynet; leave it out")
        return self


class ProposalsConfig(SegmentTaskConfig):
    """``task: proposals``: AR@AN and the area below it, as the ActivityNet challenge scores it.

    Attributes:
        max_avg_num_proposals: the largest average number of proposals per video; ``all``: as many as there are.
        cutoffs: further average numbers to print AR at.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"max_average": "max_avg_num_proposals", "at": "cutoffs"}

    task: Literal["proposals"] = "proposals"
    max_avg_num_proposals: float | Literal["all"] = 100.0
    cutoffs: tuple[float, ...] = (1.0, 10.0, 50.0, 100.0)
