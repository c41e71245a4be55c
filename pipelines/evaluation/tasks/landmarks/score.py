"""``task: landmarks``: Oxford and Paris, old and revisited: average precision with junk, mP@k."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipmill.pipelines.evaluation.metrics.retrieval_junk import (
    positive_ranks,
    rectangle_ap,
    revisited_precision_at,
    trapezoid_ap,
)
from clipmill.pipelines.evaluation.tasks.result import RunScore, Units, average, mean_intervals
from clipmill.schemas.arrays import Floats
from clipmill.schemas.config_ranking import LandmarksConfig
from clipmill.schemas.errors import UsageError
from clipmill.stores.formats.records import LandmarkTruth

CHANCE_DRAWS = 10
"""ours: random rankings of all images are drawn so often, and their scores averaged."""
Rankings = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class LandmarksEvaluation:
    """One set of rankings, scored; all that a report of it needs.

    Attributes:
        rankings: query to image names, best first.
        average_precision: protocol to query to AP; NaN for a query without positives.
    """

    name: str
    truth: LandmarkTruth
    rankings: Rankings
    average_precision: Mapping[str, Mapping[str, float]]
    run: RunScore


def evaluate_landmarks(
    name: str, truth: LandmarkTruth, rankings: Rankings, config: LandmarksConfig
) -> LandmarksEvaluation:
    """Returns the scores of one set of rankings.

    A query without a ranking scores 0 and is counted; one without positives is not scored; a ranking of an unknown
    query is left out and counted.

    Raises:
        UsageError: a ranking holds an image twice.
    """
    protocols: tuple[str, ...] = config.protocols or tuple(truth.positives)
    queries = sorted(truth.query_images)
    for query in queries:
        ranked = rankings.get(query, ())
        if len(set(ranked)) != len(ranked):
            raise UsageError(f"ranking of query {query}: expected each image once, got one twice; remove the repeats")
    values = _values(truth, rankings, config, protocols, queries)
    metrics = {key: _mean(column) for key, column in values.items()}
    baselines = {"chance": _chance(truth, rankings, config, protocols, queries)} if config.baselines else {}
    counts = {
        "num_queries": len(queries),
        "num_missing": sum(query not in rankings for query in queries),
        "num_unknown": sum(query not in truth.query_images for query in rankings),
        "num_images": len(_images(truth, rankings)),
    }
    for protocol in protocols:
        counts[f"{protocol}:num_scored"] = int((~np.isnan(values[f"{protocol}:map"])).sum())
    run = RunScore(
        name=name,
        headline=f"{'medium' if 'medium' in protocols else protocols[0]}:map",
        shown=tuple(metrics),
        metrics=metrics,
        baselines=baselines,
        intervals=mean_intervals(values, config.seed, config.resamples, config.confidence),
        counts=counts,
        line=_line(metrics, counts, protocols),
        units=Units("query", tuple(queries), values),
    )
    precision = {
        protocol: dict(zip(queries, values[f"{protocol}:map"].tolist(), strict=True)) for protocol in protocols
    }
    return LandmarksEvaluation(name, truth, rankings, precision, run)


def landmarks_protocol(config: LandmarksConfig, truth: LandmarkTruth) -> dict[str, Any]:
    """Returns the settings for ``results.json``."""
    return {
        "protocols": list(config.protocols or truth.positives),
        "ap": config.ap,
        "query_image": config.query_image,
        "ties": config.ties,
    }


def _values(
    truth: LandmarkTruth,
    rankings: Rankings,
    config: LandmarksConfig,
    protocols: Sequence[str],
    queries: Sequence[str],
) -> dict[str, Floats]:
    precision_of = trapezoid_ap if config.ap == "trapezoid" else rectangle_ap
    values: dict[str, Floats] = {}
    for protocol in protocols:
        rows = []
        for query in queries:
            own = {truth.query_images[query]} if config.query_image == "junk" else set()
            positives = truth.positives[protocol][query] - own
            ranks = positive_ranks(rankings.get(query, ()), positives, truth.junk[protocol][query] | own)
            at = [revisited_precision_at(ranks, len(positives), k) for k in config.cutoffs]
            rows.append([precision_of(ranks, len(positives)), *at])
        table = np.array(rows, np.float64).reshape(len(queries), 1 + len(config.cutoffs))
        values[f"{protocol}:map"] = table[:, 0]
        values |= {f"{protocol}:mp@{k}": table[:, column + 1] for column, k in enumerate(config.cutoffs)}
    return values


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return math.fsum(known.tolist()) / len(known) if len(known) else math.nan


def _images(truth: LandmarkTruth, rankings: Rankings) -> list[str]:
    if truth.images:
        return sorted(truth.images)
    return sorted({name for ranked in rankings.values() for name in ranked})


def _chance(
    truth: LandmarkTruth,
    rankings: Rankings,
    config: LandmarksConfig,
    protocols: Sequence[str],
    queries: Sequence[str],
) -> dict[str, float]:
    images = np.array(_images(truth, rankings), object)
    rng = np.random.default_rng(config.seed)
    rows = []
    for _ in range(CHANCE_DRAWS):
        drawn = {query: images[rng.permutation(len(images))].tolist() for query in queries}
        values = _values(truth, drawn, config, protocols, queries)
        rows.append({key: _mean(column) for key, column in values.items()})
    return average(rows)


def _line(metrics: Mapping[str, float], counts: Mapping[str, int], protocols: Sequence[str]) -> str:
    each = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    scored = ", ".join(f"{counts[f'{protocol}:num_scored']} scored {protocol}" for protocol in protocols)
    return (
        f"{each}; {counts['num_queries']} queries ({scored}; {counts['num_missing']} without a ranking); "
        f"{counts['num_unknown']} rankings of unknown queries; {counts['num_images']} images"
    )
