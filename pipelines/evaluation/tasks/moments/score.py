"""``task: moments`` and ``task: highlights``: language queries against windows, and against clip scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.evaluation.metrics.moments import (
    MOMENT_THRESHOLDS,
    QVHIGHLIGHTS_LENGTHS,
    QVHIGHLIGHTS_THRESHOLDS,
    Moments,
    MomentScore,
)
from clipmill.pipelines.evaluation.metrics.moments_floors import MomentFloors, moment_floors
from clipmill.pipelines.evaluation.metrics.moments_highlights import HIGHLIGHT_LEVELS, Highlights, HighlightScore
from clipmill.pipelines.evaluation.tasks.result import RunScore, Units, average, mean_intervals, threshold_name
from clipmill.pipelines.evaluation.tasks.segment_truth import in_order
from clipmill.schemas.config_evaluate import HighlightsConfig, MomentsConfig, Overlap
from clipmill.schemas.segments import Segments

Floats = npt.NDArray[np.float64]
CHANCE_RANKINGS = 3000
"""ours: random clip scores are drawn until about so many queries were scored, and the scores averaged."""


@dataclass(frozen=True, slots=True)
class MomentsProtocol:
    """Everything that decides a moment score, resolved: see `clipmill.schemas.config_evaluate.MomentsConfig`."""

    protocol: str
    at: tuple[int, ...]
    ious: tuple[float, ...]
    overlap: Overlap
    order: Literal["score", "listed"]
    max_windows: int | None
    lengths: bool

    @staticmethod
    def of(config: MomentsConfig, protocol: Literal["charades", "qvhighlights"]) -> "MomentsProtocol":
        """Returns the settings of `config`, with those of `protocol` for what it leaves out."""
        qvhighlights = protocol == "qvhighlights"
        return MomentsProtocol(
            protocol=protocol,
            at=config.at or ((1,) if qvhighlights else (1, 5)),
            ious=config.ious or (QVHIGHLIGHTS_THRESHOLDS if qvhighlights else MOMENT_THRESHOLDS),
            overlap=config.overlap,
            order=config.order or ("listed" if qvhighlights else "score"),
            max_windows=None if config.max_windows == "all" else int(config.max_windows),
            lengths=qvhighlights if config.lengths is None else config.lengths,
        )

    def to_plain(self) -> dict[str, Any]:
        """Returns the settings for ``results.json``."""
        return {
            "protocol": self.protocol,
            "at": list(self.at),
            "ious": list(self.ious),
            "overlap": self.overlap,
            "order": self.order,
            "max_windows": "all" if self.max_windows is None else self.max_windows,
            "lengths": self.lengths,
        }

    def state(self, length_seconds: tuple[float, float] | None = None) -> Moments:
        """Returns the empty state of the metric under these settings."""
        return Moments(
            self.at, self.ious, self.overlap == ">", self.order == "listed", self.max_windows, length_seconds
        )


@dataclass(frozen=True, slots=True)
class MomentTruth:
    """What moments are scored against.

    Attributes:
        windows: its `video_ids` are the query ids.
        duration_seconds: ``float64[Q]``, NaN where unknown.
        sentences, video_ids: one per query.
        training, training_duration_seconds: annotations that the fixed-span floor is tuned on; None: `windows`.
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
        floors: what one scores without looking; None where no duration is known or nobody asked.
        run: the numbers for tables, ``results.json`` and gates.
    """

    name: str
    protocol: MomentsProtocol
    truth: MomentTruth
    predictions: Segments
    score: MomentScore
    by_length: Mapping[str, MomentScore]
    floors: MomentFloors | None
    run: RunScore


def moment_floor_scores(truth: MomentTruth, protocol: MomentsProtocol) -> MomentFloors | None:
    """Returns chance and the best fixed span; None where no duration is known."""
    if not np.isfinite(truth.duration_seconds).any():
        return None
    return moment_floors(
        truth.windows, truth.duration_seconds, truth.training, truth.training_duration_seconds, protocol.ious
    )


def evaluate_moments(
    name: str,
    truth: MomentTruth,
    predictions: Segments,
    protocol: MomentsProtocol,
    floors: MomentFloors | None = None,
    resamples: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> MomentsEvaluation:
    """Returns the score of one set of predicted moments.

    Args:
        predictions: its `video_ids` are query ids.
        floors: of `moment_floor_scores`.
        resamples: bootstrap draws of queries.
    """
    # Only with `order: listed` does the order of a query's answers mean something. With `order: score` equal scores
    # rank by start, then stop, so that the order of a file's lines cannot reach a result.
    windows, answers = in_order(truth.windows, rows=False), in_order(predictions, rows=protocol.order == "score")
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
        headline=threshold_name(f"r{protocol.at[0]}", 0.5 if 0.5 in protocol.ious else protocol.ious[0]),
        shown=_shown(protocol),
        metrics=metrics,
        floors=_floor_metrics(floors, protocol),
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
    return MomentsEvaluation(name, protocol, truth, predictions, score, by_length, floors, run)


def moment_metrics(score: MomentScore) -> dict[str, float]:
    """Returns ``r<n>@<IoU>``, ``miou``, ``map@<IoU>`` and their ``map``, all as shares of one."""
    values = {
        threshold_name(f"r{n}", t): float(score.recall[row, column])
        for row, n in enumerate(score.at)
        for column, t in enumerate(score.thresholds)
    }
    values["miou"] = score.mean_iou
    each = zip(score.thresholds, score.average_precision.tolist(), strict=True)
    return values | {threshold_name("map", t): v for t, v in each} | {"map": score.average}


def _shown(protocol: MomentsProtocol) -> tuple[str, ...]:
    few = protocol.ious if len(protocol.ious) <= 4 else [t for t in protocol.ious if t in (0.3, 0.5, 0.7)]
    recalls = [threshold_name(f"r{n}", t) for n in protocol.at for t in few]
    each = [threshold_name("map", t) for t in (0.5, 0.75) if t in protocol.ious]
    return (*recalls, "miou", *each, "map")


def _units(state: Moments, protocol: MomentsProtocol) -> Units:
    names, best, precision = state.per_query()
    values: dict[str, Floats] = {}
    for row, n in enumerate(protocol.at):
        for threshold in protocol.ious:
            within = best[:, row + 1]
            found = within > threshold if protocol.overlap == ">" else within >= threshold
            values[threshold_name(f"r{n}", threshold)] = found.astype(np.float64)
    values["miou"] = best[:, 0]
    for column, threshold in enumerate(protocol.ious):
        values[threshold_name("map", threshold)] = precision[:, column]
    values["map"] = precision.mean(axis=1)
    return Units("query", names, values)


def _floor_metrics(floors: MomentFloors | None, protocol: MomentsProtocol) -> dict[str, dict[str, float]]:
    if floors is None:
        return {}
    # One answer per query: R@n of a floor is its R@1 for any n, so only R@1 is printed.
    chance = {threshold_name("r1", t): float(v) for t, v in zip(floors.thresholds, floors.chance, strict=True)}
    span = {threshold_name("r1", t): float(v) for t, v in zip(floors.thresholds, floors.fixed, strict=True)}
    return {
        "chance": chance | {"miou": floors.chance_mean_iou},
        "span": span | {"miou": floors.fixed_mean_iou},
    }


@dataclass(frozen=True, slots=True)
class HighlightsEvaluation:
    """One set of clip scores, evaluated; all that a report of it needs.

    Attributes:
        saliency: query id to annotated scores ``float64[clips, people]``. predicted: query id to ``float64[clips]``.
        floors: the scores of ``chance`` (random clip scores) and ``constant`` (all clips equal).
    """

    name: str
    levels: tuple[int, ...]
    saliency: Mapping[str, Floats]
    predicted: Mapping[str, Floats]
    score: HighlightScore
    floors: Mapping[str, Mapping[str, float]]
    run: RunScore


def highlight_floor_scores(saliency: Mapping[str, Floats], levels: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Returns the metrics of random clip scores (mean of several draws) and of constant ones."""
    rng = np.random.default_rng(seed)
    ordered = {name: saliency[name] for name in sorted(saliency)}
    each = []
    for _ in range(max(1, -(-CHANCE_RANKINGS // max(len(ordered), 1)))):
        drawn = {name: rng.random(len(table)).tolist() for name, table in ordered.items()}
        each.append(highlight_metrics(Highlights(levels).update(ordered, drawn).result()))
    constant = {name: [0.0] * len(table) for name, table in ordered.items()}
    same = Highlights(levels).update(ordered, constant).result()
    return {"chance": average(each), "constant": highlight_metrics(same)}


def evaluate_highlights(
    name: str,
    saliency: Mapping[str, Floats],
    predicted: Mapping[str, Floats],
    config: HighlightsConfig,
    floors: Mapping[str, Mapping[str, float]] | None = None,
) -> HighlightsEvaluation:
    """Returns the score of one set of clip scores.

    Args:
        saliency: query id to ``float64[clips, people]``. predicted: query id to ``float64[clips]``.
        floors: of `highlight_floor_scores`.
    """
    ordered = {key: saliency[key] for key in sorted(saliency)}
    state = Highlights(config.levels).update(ordered, {key: table.tolist() for key, table in predicted.items()})
    score = state.result()
    metrics = highlight_metrics(score)
    columns = np.array(state.average_precision).reshape(len(ordered), -1)
    hits = np.array(state.hits).reshape(len(ordered), -1)
    values = {_level("map", level): columns[:, row] for row, level in enumerate(config.levels)}
    values |= {_level("hit1", level): hits[:, row] for row, level in enumerate(config.levels)}
    unknown = sum(key not in saliency for key in predicted)
    run = RunScore(
        name=name,
        headline=_level("map", max(config.levels)),
        shown=tuple(metrics),
        metrics=metrics,
        floors=floors or {},
        intervals=mean_intervals(values, config.seed, config.resamples, config.confidence),
        counts={"num_queries": score.num_queries, "num_missing": score.num_missing, "num_unknown": unknown},
        line=_highlight_line(score, unknown),
        units=Units("query", tuple(ordered), values),
    )
    return HighlightsEvaluation(name, config.levels, saliency, predicted, score, floors or {}, run)


def highlight_metrics(score: HighlightScore) -> dict[str, float]:
    """Returns ``map@<level>`` and ``hit1@<level>`` for each least annotated score of a positive clip."""
    precision = zip(score.levels, score.mean_average_precision.tolist(), strict=True)
    hits = zip(score.levels, score.hit_at_one.tolist(), strict=True)
    return {_level("map", k): v for k, v in precision} | {_level("hit1", k): v for k, v in hits}


def _level(metric: str, level: int) -> str:
    names = {value: name for name, value in HIGHLIGHT_LEVELS.items()}
    return f"{metric}@{names.get(level, str(level))}"


def _highlight_line(score: HighlightScore, num_unknown: int) -> str:
    each = ", ".join(f"{name} {100 * value:.2f}" for name, value in highlight_metrics(score).items())
    return (
        f"{each}; {score.num_queries} queries ({score.num_missing} without predictions); "
        f"{num_unknown} predicted queries not in the ground truth"
    )
