"""``task: scene_retrieval``: mAP@100 and mP@1 of ranked clips, and the agreement of reported seconds (Stanford I2V)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipmill.pipelines.evaluation.metrics.retrieval_chance import chance_average_precision, chance_precision
from clipmill.pipelines.evaluation.metrics.retrieval_scenes import SceneMap, refinement
from clipmill.pipelines.evaluation.metrics.retrieval_state import PerQuery
from clipmill.pipelines.evaluation.tasks.result import RunScore, Units, mean_intervals
from clipmill.schemas.config_scene_retrieval import SceneRetrievalConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.stores.formats.records import ReportedSeconds, ShownScenes


@dataclass(frozen=True, slots=True)
class SceneEvaluation:
    """One set of predictions, scored; all that a report of it needs.

    Attributes:
        ranked: query to distinct clips, best first; empty where seconds were scored.
    """

    name: str
    truth: ShownScenes
    ranked: Mapping[str, Sequence[str]]
    run: RunScore


def scene_protocol(config: SceneRetrievalConfig) -> dict[str, Any]:
    """Returns every switch that changes a number."""
    if config.protocol == "scenes":
        return {"protocol": "scenes", "cutoff": config.cutoff, "num_scenes": config.num_scenes}
    return {
        "protocol": "seconds",
        "max_seconds": config.max_seconds,
        "tolerance_seconds": config.tolerance_seconds,
    }


def evaluate_scenes(
    name: str, truth: ShownScenes, ranked: Mapping[str, Sequence[str]], config: SceneRetrievalConfig
) -> SceneEvaluation:
    """Returns the scores of ranked clips; a judged query without a list scores 0, other lists are left out and counted.

    Raises:
        UsageError: the collection is said to have fewer clips than a query has to find.
    """
    clips = {query: truth.clips(query) for query in truth.shown}
    state = SceneMap(config.cutoff).update(clips, ranked)
    score = state.result()
    headline = f"map@{config.cutoff}"
    columns = {
        metric: np.array([state.values[query][place] for query in score.query_ids])
        for place, metric in enumerate((headline, "p@1"))
    }
    chance = {} if config.num_scenes is None or not config.baselines else {"chance": _chance(clips, config)}
    run = RunScore(
        name=name,
        headline=headline,
        shown=(headline, "p@1"),
        metrics={headline: score.mean_average_precision, "p@1": score.precision_at_1},
        baselines=chance,
        intervals=mean_intervals(columns, config.seed, config.resamples, config.confidence),
        counts={
            "num_queries": len(score.query_ids),
            "num_without_list": score.num_without_list,
            "num_without_judgement": score.num_without_judgement,
        },
        line=score.line,
        units=Units("query", score.query_ids, columns),
    )
    distinct = {query: tuple(dict.fromkeys(names)) for query, names in ranked.items()}
    return SceneEvaluation(name, truth, distinct, run)


def evaluate_seconds(
    name: str, truth: ShownScenes, reported: ReportedSeconds, config: SceneRetrievalConfig
) -> SceneEvaluation:
    """Returns the mean Jaccard index of reported seconds; clips and queries without a report score 0."""
    queries = tuple(sorted(truth.shown))
    most = config.max_seconds if reported.is_ranked else None
    values = np.array(
        [
            refinement(
                [(item.clip, item.start_seconds, item.stop_seconds) for item in truth.shown[query]],
                reported.seconds.get(query, {}),
                most,
                config.tolerance_seconds,
            )
            for query in queries
        ]
    )
    mean = PerQuery().update(np.arange(len(queries)), values).result()
    num_missing = sum(query not in reported.seconds for query in queries)
    num_others = sum(query not in truth.shown for query in reported.seconds)
    run = RunScore(
        name=name,
        headline="jaccard",
        shown=("jaccard",),
        metrics={"jaccard": mean},
        intervals=mean_intervals({"jaccard": values}, config.seed, config.resamples, config.confidence),
        counts={
            "num_queries": len(queries),
            "num_without_report": num_missing,
            "num_without_judgement": num_others,
        },
        line=f"mean Jaccard index {mean:.4f}; {len(queries)} queries; {num_missing} without a report; "
        f"{num_others} reports not judged",
        units=Units("query", queries, {"jaccard": values}),
    )
    return SceneEvaluation(name, truth, {}, run)


def _chance(clips: Mapping[str, Sequence[str]], config: SceneRetrievalConfig) -> dict[str, float]:
    """Returns the exact expectation of a random order of the whole collection."""
    num_scenes = config.num_scenes or 0
    largest = max(len(names) for names in clips.values())
    if num_scenes < largest:
        expected = f"at least the {largest} clips that one query has to find"
        remedy = "give the size of the collection, or leave it out"
        raise UsageError(describe("evaluation", "num_scenes", expected, str(num_scenes), remedy))
    precision, first = [], []
    for names in clips.values():
        num = len(names)
        bounded = chance_average_precision(num_scenes, num, config.cutoff)[1]
        # Of the metric with min(K, R) in its denominator; here it is R.
        precision.append(bounded * min(config.cutoff, num) / num)
        first.append(chance_precision(num_scenes, num, 1))
    return {f"map@{config.cutoff}": float(np.mean(precision)), "p@1": float(np.mean(first))}
