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
from clipmill.schemas.errors import FormatError, UsageError, describe
from clipmill.stores.formats.records import ReportedSeconds, ShownFrames, ShownScenes


@dataclass(frozen=True, slots=True)
class SceneEvaluation:
    """One set of predictions, scored; all that a report of it needs.

    Attributes:
        ranked: query to distinct clips, best first; empty where seconds or frames were scored.
    """

    name: str
    truth: ShownScenes | ShownFrames
    ranked: Mapping[str, Sequence[str]]
    run: RunScore


@dataclass(frozen=True, slots=True)
class Release:
    """What a release of Stanford I2V holds.

    Attributes:
        num_scenes: clips in the collection; None: not known.
        num_pairs: distinct (query, clip) of which the clip shows the query. num_clips: clips that show any.
    """

    num_scenes: int | None
    num_queries: int
    num_pairs: int
    num_clips: int


# Counted in the ground-truth files; clips of the collections as published (A. Araujo et al., MMSys 2015, and MTEB).
RELEASES = {
    "full": Release(84_443, 229, 1_280, 1_188),
    "600k": Release(3_401, 229, 1_280, 1_188),
    "light": Release(None, 78, 493, 454),
}


def check_release(truth: ShownScenes, name: str, path: str) -> None:
    """Refuses a ground truth that is not the whole of a release's.

    Raises:
        FormatError: it has other numbers of queries, pairs or clips.
    """
    release = RELEASES[name]
    pairs = {(query, clip) for query in truth.shown for clip in truth.clips(query)}
    got = (len(truth.shown), len(pairs), len({clip for _, clip in pairs}))
    wanted = (release.num_queries, release.num_pairs, release.num_clips)
    if got != wanted:
        texts = [f"{queries:,} queries, {num:,} pairs and {clips:,} clips" for queries, num, clips in (wanted, got)]
        remedy = "give that release's ground truth, or leave release out"
        raise FormatError(describe("ground_truth file", path, f"release {name}: {texts[0]}", texts[1], remedy))


def num_scenes_of(config: SceneRetrievalConfig) -> int | None:
    """Returns the number of clips in the collection, as far as the config or its release tells."""
    if config.num_scenes is not None or config.release is None:
        return config.num_scenes
    return RELEASES[config.release].num_scenes


def scenes_of_frames(ranked: Mapping[str, Sequence[str]], separator: str, name: str) -> dict[str, list[str]]:
    """Returns query to distinct clips, each at the place of its first frame or shot.

    Raises:
        FormatError: a ranked name has no separator.
    """
    found = {}
    for query, names in ranked.items():
        bare = next((item for item in names if separator not in item), None)
        if bare is not None:
            expected = f"names <clip>{separator}<frame>"
            remedy = "correct scene_separator, or leave it out where clips are ranked"
            raise FormatError(describe("predictions", name, expected, repr(bare), remedy))
        found[query] = list(dict.fromkeys(item.rpartition(separator)[0] for item in names))
    return found


def scene_protocol(config: SceneRetrievalConfig) -> dict[str, Any]:
    """Returns every switch that changes a number; later ones only where they are set."""
    if config.protocol == "frames":
        return {"protocol": "frames", "tolerances": list(config.tolerances)}
    more: dict[str, Any] = {} if config.release is None else {"release": config.release}
    if config.protocol == "scenes":
        if config.scene_separator is not None:
            more["scene_separator"] = config.scene_separator
        return {"protocol": "scenes", "cutoff": config.cutoff, "num_scenes": num_scenes_of(config), **more}
    return {
        "protocol": "seconds",
        "max_seconds": config.max_seconds,
        "tolerance_seconds": config.tolerance_seconds,
        **more,
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
    num_scenes = num_scenes_of(config)
    chance = {} if num_scenes is None or not config.baselines else {"chance": _chance(clips, num_scenes, config)}
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


def _chance(clips: Mapping[str, Sequence[str]], num_scenes: int, config: SceneRetrievalConfig) -> dict[str, float]:
    """Returns the exact expectation of a random order of the whole collection."""
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
