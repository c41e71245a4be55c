"""``task: highlights``: predicted clip scores against what people found worth seeing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipmill.pipelines.evaluation.metrics.moments_highlights import HIGHLIGHT_LEVELS, Highlights, HighlightScore
from clipmill.pipelines.evaluation.tasks.result import RunScore, Units, average, mean_intervals
from clipmill.schemas.arrays import Floats
from clipmill.schemas.config_moments import HighlightsConfig

CHANCE_RANKINGS = 3000
"""ours: random clip scores are drawn until about so many queries were scored, and the scores averaged."""


@dataclass(frozen=True, slots=True)
class HighlightsEvaluation:
    """One set of clip scores, evaluated; all that a report of it needs.

    Attributes:
        saliency: query id to annotated scores ``float64[clips, people]``. predicted: query id to ``float64[clips]``.
        baselines: the scores of ``chance`` (random clip scores) and ``constant`` (all clips equal).
    """

    name: str
    levels: tuple[int, ...]
    saliency: Mapping[str, Floats]
    predicted: Mapping[str, Floats]
    score: HighlightScore
    baselines: Mapping[str, Mapping[str, float]]
    run: RunScore


def highlight_baseline_scores(saliency: Mapping[str, Floats], levels: tuple[int, ...], seed: int) -> dict[str, Any]:
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
    baselines: Mapping[str, Mapping[str, float]] | None = None,
) -> HighlightsEvaluation:
    """Returns the score of one set of clip scores.

    Args:
        saliency: query id to ``float64[clips, people]``. predicted: query id to ``float64[clips]``.
        baselines: of `highlight_baseline_scores`.
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
        baselines=baselines or {},
        intervals=mean_intervals(values, config.seed, config.resamples, config.confidence),
        counts={"num_queries": score.num_queries, "num_missing": score.num_missing, "num_unknown": unknown},
        line=_highlight_line(score, unknown),
        units=Units("query", tuple(ordered), values),
    )
    return HighlightsEvaluation(name, config.levels, saliency, predicted, score, baselines or {}, run)


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
