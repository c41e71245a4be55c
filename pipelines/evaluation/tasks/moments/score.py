"""``task: moments``: language queries against windows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection_nms import nms
from clipmill.pipelines.evaluation.metrics.moments import (
    MOMENT_THRESHOLDS,
    QVHIGHLIGHTS_LENGTHS,
    QVHIGHLIGHTS_THRESHOLDS,
    Moments,
    MomentScore,
)
from clipmill.pipelines.evaluation.metrics.moments_baselines import MomentBaselines, moment_baselines
from clipmill.pipelines.evaluation.tasks.result import RunScore, Units, mean_intervals, threshold_name
from clipmill.pipelines.evaluation.tasks.segment_truth import in_order
from clipmill.schemas.arrays import Floats
from clipmill.schemas.config_evaluate import Overlap
from clipmill.schemas.config_moments import MomentsConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.segments import Segments


@dataclass(frozen=True, slots=True)
class MomentsProtocol:
    """Everything that decides a moment score, resolved: see `clipmill.schemas.config_moments.MomentsConfig`.

    Attributes:
        map_iou_thresholds: of mAP; `iou_thresholds` are those of R@n.
        asked: keys of thresholds that the config gives: all of what was asked for is printed.
    """

    protocol: str
    cutoffs: tuple[int, ...]
    iou_thresholds: tuple[float, ...]
    map_iou_thresholds: tuple[float, ...]
    overlap: Overlap
    order: Literal["score", "file_order"]
    nms: float | None
    max_windows: int | None
    lengths: bool
    asked: frozenset[str] = frozenset()

    @staticmethod
    def of(config: MomentsConfig, protocol: Literal["charades", "qvhighlights"]) -> "MomentsProtocol":
        """Returns the settings of `config`, with those of `protocol` for what it leaves out.

        Raises:
            UsageError: answers are to be suppressed by score, and taken in the order of the file.
        """
        qvhighlights = protocol == "qvhighlights"
        order = config.order or ("file_order" if qvhighlights else "score")
        if config.nms is not None and order != "score":
            raise UsageError(describe("evaluation", "nms", "order: score, as the best scored stay", order, "write it"))
        thresholds = config.iou_thresholds or (QVHIGHLIGHTS_THRESHOLDS if qvhighlights else MOMENT_THRESHOLDS)
        keys = ("iou_thresholds", "map_iou_thresholds", "lengths")
        return MomentsProtocol(
            protocol=protocol,
            cutoffs=config.cutoffs or ((1,) if qvhighlights else (1, 5)),
            iou_thresholds=thresholds,
            map_iou_thresholds=config.map_iou_thresholds or thresholds,
            overlap=config.overlap,
            order=order,
            nms=config.nms,
            max_windows=None if config.max_windows == "all" else int(config.max_windows),
            lengths=qvhighlights if config.lengths is None else config.lengths,
            asked=frozenset(key for key in keys if getattr(config, key)),
        )

    def to_plain(self) -> dict[str, Any]:
        """Returns the settings for ``results.json``."""
        # The thresholds of mAP only where they differ, so that older results are compared as ever.
        own = {} if self.map_iou_thresholds == self.iou_thresholds else {"map_iou_thresholds": self.map_iou_thresholds}
        return {
            "protocol": self.protocol,
            "cutoffs": list(self.cutoffs),
            "iou_thresholds": list(self.iou_thresholds),
            "overlap": self.overlap,
            "order": self.order,
            "max_windows": "all" if self.max_windows is None else self.max_windows,
            "lengths": self.lengths,
            **{key: list(values) for key, values in own.items()},
            **({} if self.nms is None else {"nms": self.nms}),
        }

    def state(self, length_seconds: tuple[float, float] | None = None) -> Moments:
        """Returns the empty state of the metric under these settings."""
        return Moments(
            self.cutoffs,
            self.iou_thresholds,
            self.overlap == ">",
            self.order == "file_order",
            self.max_windows,
            length_seconds,
            None if self.map_iou_thresholds == self.iou_thresholds else self.map_iou_thresholds,
        )


@dataclass(frozen=True, slots=True)
class MomentTruth:
    """What moments are scored against.

    Attributes:
        windows: its `video_ids` are the query ids.
        duration_seconds: ``float64[Q]``, NaN where unknown.
        sentences, video_ids: one per query.
        training, training_duration_seconds: annotations that the fixed-span baseline is tuned on; None: `windows`.
    """

    windows: Segments
    duration_seconds: Floats
    sentences: tuple[str, ...]
    video_ids: tuple[str, ...]
    training: Segments | None = None
    training_duration_seconds: Floats | None = None


@dataclass(frozen=True, slots=True)
class MomentsEvaluation:
    """One set of predicted moments, scored; all that a report of it needs.

    Attributes:
        score: over all queries. by_length: of the windows of each length range, where asked.
        baselines: what one scores without looking; None where no duration is known or nobody asked.
        run: the numbers for tables, ``results.json`` and gates.
    """

    name: str
    protocol: MomentsProtocol
    truth: MomentTruth
    predictions: Segments
    score: MomentScore
    by_length: Mapping[str, MomentScore]
    baselines: MomentBaselines | None
    run: RunScore


def moment_baseline_scores(truth: MomentTruth, protocol: MomentsProtocol) -> MomentBaselines | None:
    """Returns chance and the best fixed span; None where no duration is known."""
    if not np.isfinite(truth.duration_seconds).any():
        return None
    return moment_baselines(
        truth.windows, truth.duration_seconds, truth.training, truth.training_duration_seconds, protocol.iou_thresholds
    )


def evaluate_moments(
    name: str,
    truth: MomentTruth,
    predictions: Segments,
    protocol: MomentsProtocol,
    baselines: MomentBaselines | None = None,
    resamples: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> MomentsEvaluation:
    """Returns the score of one set of predicted moments.

    Args:
        predictions: its `video_ids` are query ids.
        baselines: of `moment_baseline_scores`.
        resamples: bootstrap draws of queries.
    """
    # Only with `order: file_order` does the order of a query's answers mean something. With `order: score` equal scores
    # rank by start, then stop, so that the order of a file's lines cannot reach a result.
    windows, answers = in_order(truth.windows, rows=False), in_order(predictions, rows=protocol.order == "score")
    if protocol.nms is not None:
        # Whatever their classes: those of a query compete.
        alike = replace(answers, label_names=("",), label=np.zeros_like(answers.label))
        predictions = answers = answers.take(np.sort(nms(alike, protocol.nms)))
    state = protocol.state().update(windows, answers)
    score = state.result()
    by_length = {}
    if protocol.lengths:
        by_length = {
            key: protocol.state(seconds).update(windows, answers).result()
            for key, seconds in QVHIGHLIGHTS_LENGTHS.items()
            if key != "full"
        }
    metrics = moment_metrics(score)
    for key, part in by_length.items():
        metrics |= {f"{key}:{metric}": value for metric, value in moment_metrics(part).items()}
    units = _units(state, protocol)
    run = RunScore(
        name=name,
        headline=threshold_name(
            f"r{protocol.cutoffs[0]}", 0.5 if 0.5 in protocol.iou_thresholds else protocol.iou_thresholds[0]
        ),
        shown=_shown(protocol),
        metrics=metrics,
        baselines=_baseline_metrics(baselines, protocol),
        intervals=mean_intervals(units.values, seed, resamples, confidence),
        counts={
            "num_queries": score.num_queries,
            "num_missing": score.num_missing,
            "num_unknown": score.num_unknown,
            "num_predictions": len(predictions),
            "num_windows": len(windows),
        },
        line=score.line,
        units=units,
    )
    return MomentsEvaluation(name, protocol, truth, predictions, score, by_length, baselines, run)


def moment_metrics(score: MomentScore) -> dict[str, float]:
    """Returns ``r<n>@<IoU>``, ``miou``, ``map@<IoU>`` and their ``map``, all as shares of one."""
    values = {
        threshold_name(f"r{n}", t): float(score.recall[row, column])
        for row, n in enumerate(score.at)
        for column, t in enumerate(score.thresholds)
    }
    values["miou"] = score.mean_iou
    each = zip(score.map_thresholds, score.average_precision.tolist(), strict=True)
    return values | {threshold_name("map", t): v for t, v in each} | {"map": score.average}


def _shown(protocol: MomentsProtocol) -> tuple[str, ...]:
    few = [t for t in protocol.iou_thresholds if t in (0.3, 0.5, 0.7)]
    if len(protocol.iou_thresholds) <= 4 or "iou_thresholds" in protocol.asked:
        few = list(protocol.iou_thresholds)
    recalls = [threshold_name(f"r{n}", t) for n in protocol.cutoffs for t in few]
    precise = [t for t in (0.5, 0.75) if t in protocol.map_iou_thresholds]
    if {"iou_thresholds", "map_iou_thresholds"} & protocol.asked:
        precise = list(protocol.map_iou_thresholds)
    each = [threshold_name("map", t) for t in precise]
    lengths = [f"{name}:map" for name in QVHIGHLIGHTS_LENGTHS if name != "full"] if "lengths" in protocol.asked else []
    return (*recalls, "miou", *each, "map", *lengths)


def _units(state: Moments, protocol: MomentsProtocol) -> Units:
    names, best, precision = state.per_query()
    values: dict[str, Floats] = {}
    for row, n in enumerate(protocol.cutoffs):
        for threshold in protocol.iou_thresholds:
            within = best[:, row + 1]
            found = within > threshold if protocol.overlap == ">" else within >= threshold
            values[threshold_name(f"r{n}", threshold)] = found.astype(np.float64)
    values["miou"] = best[:, 0]
    for column, threshold in enumerate(protocol.map_iou_thresholds):
        values[threshold_name("map", threshold)] = precision[:, column]
    values["map"] = precision.mean(axis=1)
    return Units("query", names, values)


def _baseline_metrics(baselines: MomentBaselines | None, protocol: MomentsProtocol) -> dict[str, dict[str, float]]:
    if baselines is None:
        return {}
    # One answer per query: R@n of a baseline is its R@1 for any n, so only R@1 is printed.
    chance = {threshold_name("r1", t): float(v) for t, v in zip(baselines.thresholds, baselines.chance, strict=True)}
    span = {threshold_name("r1", t): float(v) for t, v in zip(baselines.thresholds, baselines.fixed, strict=True)}
    return {
        "chance": chance | {"miou": baselines.chance_mean_iou},
        "span": span | {"miou": baselines.fixed_mean_iou},
    }
