"""The YAML files of ``clipmill evaluate``, a model per task (`task:`); retrieval has `schemas.config.EvaluateConfig`.

Which model belongs to which task stands in the registry of tasks. Every switch that changes a number is a key here and
stands in ``results.json`` under ``protocol``. A key left out takes what its protocol says; which value that is stands
in docs/evaluation_tasks.md and in the printed config.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from clipmill.schemas.config import parse_config
from clipmill.schemas.model import Model

Overlap = Literal[">=", ">"]
Ties = Literal["time", "file_order"]


class IdsConfig(Model):
    """How the ids of a file become those of the other side.

    Attributes:
        drop_prefix: taken off the beginning of each id that has it, such as ``v_``.
        drop_ending: drop what follows the last dot of each id (``.mp4``).
    """

    drop_prefix: str = ""
    drop_ending: bool = False

    def id_of(self, name: str) -> str:
        """Returns the id that `name` stands for."""
        name = name.removeprefix(self.drop_prefix)
        return name.rpartition(".")[0] or name if self.drop_ending else name


class TruthConfig(IdsConfig):
    """The ground truth.

    Attributes:
        format: a name of `stores/formats/registry`; None: found out from the content.
        subset: ``activitynet``: ``validation`` and so on (None: all videos); ``thumos14``: ``test`` or ``val``.
        durations: JSON or CSV of video to seconds, where the ground truth has none: baselines need them.
        inverted: ``charades_sta``: what to do with lines whose start is after their end.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"backwards": "inverted"}

    file: str = Field(min_length=1)
    format: str | None = None
    subset: str | None = None
    durations: str | None = None
    inverted: Literal["refuse", "drop", "swap"] = "refuse"


class PredictionsConfig(IdsConfig):
    """One set of predictions: a file, what a feature of a clipmill store holds, or what a trained run answers.

    Attributes:
        run: folder of a run of ``clipmill train``.
        format: a name of `stores/formats/registry`; None: found out from the content.
        name: of the row in tables and results; default: the file's name without ending, or the feature's.
        feature: of the store; one with the columns `score` and `class_index` (R-C3D, layer ``detections``).
        classes: names of the class numbers: a list, or a THUMOS14 class list. For a store: the names of class 1, 2, ...
            (0 is background); default: those the extractor's weights are known to have.
    """

    file: str | None = Field(default=None, min_length=1)
    format: str | None = None
    store: str | None = Field(default=None, min_length=1)
    feature: str | None = None
    run: str | None = Field(default=None, min_length=1)
    classes: str | tuple[str, ...] | None = None
    name: str | None = Field(default=None, min_length=1, pattern=r"^[^/]+$")

    @model_validator(mode="after")
    def _one_source(self) -> "PredictionsConfig":
        if sum(source is not None for source in (self.file, self.store, self.run)) != 1:
            raise ValueError("expected exactly one of file, store and run, such as {file: results.json}")
        if (self.store is None) != (self.feature is None):
            raise ValueError("store and feature go together, such as {store: out/store, feature: rc3d}")
        return self


class BlockedConfig(Model):
    """Videos that are left out on both sides: a file with a JSON list or one id a line, or the ids themselves."""

    file: str | None = None
    ids: tuple[str, ...] = ()


def _file(value: Any) -> Any:
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
    out: str = Field(default="out/evaluation", min_length=1)
    report: bool = True


class PredictionTaskConfig(TaskConfig):
    """Tasks that score predictions against a ground truth.

    Attributes:
        predictions: one or several; several make a table.
    """

    ground_truth: TruthConfig
    predictions: tuple[PredictionsConfig, ...]

    @field_validator("ground_truth", mode="before")
    @classmethod
    def _as_mapping(cls, value: Any) -> Any:
        return _file(value)

    @field_validator("predictions", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        items = list(value) if isinstance(value, list | tuple) else [value]
        if not items:
            raise ValueError("expected at least one file or store, such as predictions: results.json")
        return [_file(item) for item in items]


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


def _several(value: Any) -> Any:
    """Returns the list that a single number stands for."""
    return [value] if isinstance(value, int | float) else value


def _thresholds(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    if not values or any(not 0 <= value <= 1 for value in values):
        raise ValueError("expected thresholds between 0 and 1, such as [0.3, 0.5, 0.7]")
    return tuple(sorted(set(values)))


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
        return _several(value)

    @field_validator("tiou_thresholds")
    @classmethod
    def _in_order(cls, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return _thresholds(values)

    @field_validator("blocked", mode="before")
    @classmethod
    def _blocked(cls, value: Any) -> Any:
        return {"ids": value} if isinstance(value, list | tuple) else _file(value)

    @field_validator("training", mode="before")
    @classmethod
    def _training(cls, value: Any) -> Any:
        return None if value is None else _file(value)


class DetectionConfig(SegmentTaskConfig):
    """``task: detection``: mAP over tIoU.

    Attributes:
        protocol: whose matching, and the defaults of `tiou_thresholds`, `interpolated`, `overlap` and `ties`.
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
    protocol: Literal["activitynet", "thumos14"] = "activitynet"
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
        if self.protocol == "activitynet" and self.ties == "file_order":
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


class MomentsConfig(PredictionTaskConfig):
    """``task: moments``: R@n at IoU m, mIoU and mAP of moment retrieval.

    Attributes:
        protocol: ``charades`` (also ActivityNet Captions) or ``qvhighlights``: the defaults of the other keys.
        cutoffs: n of R@n. iou_thresholds: m.
        overlap: ``>`` for 2D-TAN.
        order: the first answer is the best scored one, or the first of the file (``file_order``).
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
    overlap: Overlap = ">="
    order: Literal["score", "file_order"] | None = None
    max_windows: int | Literal["all"] = 10
    lengths: bool | None = None
    training: TruthConfig | None = None

    @field_validator("cutoffs", "iou_thresholds", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return _several(value)

    @field_validator("iou_thresholds")
    @classmethod
    def _in_order(cls, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return _thresholds(values)

    @field_validator("training", mode="before")
    @classmethod
    def _training(cls, value: Any) -> Any:
        return None if value is None else _file(value)


class HighlightsConfig(PredictionTaskConfig):
    """``task: highlights``: mAP and Hit@1 of clip scores (QVHighlights).

    Attributes:
        levels: least annotated scores of a positive clip; 2 Fair, 3 Good, 4 VeryGood.
    """

    task: Literal["highlights"] = "highlights"
    levels: tuple[int, ...] = Field(default=(2, 3, 4), min_length=1)


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
        return {"ids": value} if isinstance(value, list | tuple) else _file(value)

    @field_validator("cutoffs")
    @classmethod
    def _positive(cls, values: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if values is not None and (not values or min(values) < 1):
            raise ValueError("expected cut-offs from 1 up, such as [1, 5]")
        return values


class RankingConfig(PredictionTaskConfig):
    """``task: ranking``: trec_eval's measures of runs against qrels.

    Attributes:
        measures: names as trec_eval prints them; ``official`` (its default set) and ``all`` (``-m all_trec``) are sets.
        complete: score judged queries without results as zeros (``-c``).
        relevance_level: least judgement that is relevant (``-l``).
        max_documents: read so many documents of a query (``-M``).
        judged_only: leave out documents without a judgement (``-J``).
        ties: documents of equal score rank by id, ``descending`` (trec_eval) or ``ascending`` (clipmill's retrieval).
        precision: scores are compared as ``double`` (trec_eval since its pull request 38) or ``single`` (before it),
            where those that differ by less than about 1e-7 of their size may be equal.
    """

    task: Literal["ranking"] = "ranking"
    measures: tuple[str, ...] = Field(default=("official",), min_length=1)
    complete: bool = False
    relevance_level: int = Field(default=1, ge=1)
    max_documents: int | None = Field(default=None, ge=1)
    judged_only: bool = False
    ties: Literal["descending", "ascending"] = "descending"
    precision: Literal["double", "single"] = "double"


class LandmarksConfig(PredictionTaskConfig):
    """``task: landmarks``: Oxford and Paris, old and revisited, with junk images.

    Attributes:
        protocols: of the revisited ground truth; the old one has ``good`` alone (good and ok are correct). None: all.
        ap: the Oxford tool's trapezoids, or rectangles (trec_eval, Stanford I2V).
        cutoffs: k of mP@k.
        query_image: where the query's own image stands in the collection (old Oxford and Paris: among the good ones),
            it is a ``positive`` like any other, as the official tool counts, or ``junk``.
        ties: images of equal score rank by id.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"at": "cutoffs"}

    task: Literal["landmarks"] = "landmarks"
    protocols: tuple[Literal["easy", "medium", "hard", "good"], ...] | None = None
    ap: Literal["trapezoid", "rectangle"] = "trapezoid"
    cutoffs: tuple[int, ...] = (1, 5, 10)
    query_image: Literal["positive", "junk"] = "positive"
    ties: Literal["ascending", "descending"] = "ascending"


class _TaskOnly(BaseModel):
    model_config = ConfigDict(extra="ignore")

    task: Any = "retrieval"


def task_of_config(text: str, overrides: Sequence[str] = (), source: str = "config") -> Any:
    """Returns the value of `task:` in YAML `text`, overrides applied; ``retrieval`` where there is none.

    Raises:
        ConfigError: the text is no YAML mapping, or an override is malformed.
    """
    return parse_config(_TaskOnly, text, overrides, source).task
