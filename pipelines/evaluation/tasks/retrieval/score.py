"""What a retrieval scored, as every task says it: each space is a run, plain cosine and chance are its baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clipmill.pipelines.evaluation.bootstrap import RESAMPLES
from clipmill.pipelines.evaluation.results_file import retrieval_fingerprint
from clipmill.pipelines.evaluation.retrieval.evaluate import RetrievalResult, SpaceResult
from clipmill.pipelines.evaluation.tasks.result import RunScore, TaskScore, Units, mean_intervals
from clipmill.pipelines.evaluation.tasks.retrieval.spaces import COSINE


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals are drawn; None: the bootstrap's own number of draws."""

    seed: int = 0
    resamples: int | None = None
    confidence: float = 0.95


def retrieval_score(
    result: RetrievalResult,
    baselines: Sequence[str] | None = (),
    resampling: Resampling = Resampling(),
    about: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> TaskScore:
    """Returns the score of every space of `result`.

    Args:
        baselines: spaces that nothing was learned for; they stand as baselines of the others, or, where there are no
            others, as runs. None: no baselines at all, chance included.
        about: what was evaluated, for ``results.json``.
        notes: what a reader has to know; they go with the first run.
    """
    learned = [space for space in result.spaces if space.space not in (baselines or ())] or list(result.spaces)
    learned_names = {space.space for space in learned}
    beside: dict[str, Mapping[str, float]] = {}
    if baselines is not None:
        beside["chance"] = result.chance
        if result.own_clip_first:
            beside["own_clip_first"] = result.own_clip_first
        beside |= {space.space: space.metrics for space in result.spaces if space.space not in learned_names}
    first_notes = (*notes, *_below_notes(result.headline, learned, beside))
    runs = tuple(
        _run(result, space, beside, resampling, first_notes if number == 0 else ())
        for number, space in enumerate(learned)
    )
    approximate = result.approximate
    protocol: dict[str, Any] = {
        "cutoffs": list(result.cutoffs),
        "relevance": "the same label" if any(result.query_labels) else "judgements",
        "ties": "ascending id of the gallery item",
        "exclude": result.exclude,
        "search": "exact" if approximate is None else asdict(approximate.settings),
    }
    if approximate is not None:
        protocol["recall_queries"] = approximate.num_queries
    data = {
        "fingerprint": data_fingerprint(result),
        "num_queries": len(result.query_ids),
        "num_gallery": len(result.gallery_ids),
        "num_relevant_missing": result.num_relevant_missing,
    }
    bootstrap = {
        "seed": resampling.seed,
        "resamples": resampling.resamples or RESAMPLES,
        "confidence": resampling.confidence,
    }
    return TaskScore("retrieval", protocol, data, runs, bootstrap, about or {})


def own_clip_notes(result: RetrievalResult) -> tuple[str, ...]:
    """Returns what the table has to say of queries and their own clips."""
    if result.exclude != "none":
        left_out = {"own_clip": "own clip is", "own_video": "own video's clips are"}[result.exclude]
        return (f"A query's {left_out} not ranked (exclude: {result.exclude}).",)
    if not result.own_clip_first:
        return ()
    first = result.own_clip_first[result.headline]
    return (
        "A query's own clip is in the gallery and counts as a hit, as in the published protocol and in chance. With it "
        f"first and the rest at random {result.headline} is {first:.4f}; exclude: own_clip or own_video leaves it out.",
    )


def _below_notes(
    headline: str, learned: Sequence[SpaceResult], baselines: Mapping[str, Mapping[str, float]]
) -> tuple[str, ...]:
    """Returns a note where learned spaces find less than the stored vectors do as they are."""
    if COSINE not in baselines:
        return ()
    plain = baselines[COSINE][headline]
    below = [space for space in learned if space.metrics[headline] < plain]
    if not below:
        return ()
    scores = ", ".join(f"{space.space} {space.metrics[headline]:.4f}" for space in below)
    return (
        f"Below plain cosine ({headline} {plain:.4f}): {scores}. The stored vectors find more as they are than what "
        "was learned from them; few training clips are the usual reason.",
    )


def data_fingerprint(result: RetrievalResult) -> str:
    """Returns the fingerprint of what was asked and of how much there was to find."""
    queries = [
        {"id": query, "label": label} for query, label in zip(result.query_ids, result.query_labels, strict=True)
    ]
    num_relevant = {score.label: score.num_relevant for score in result.spaces[0].per_label}
    return retrieval_fingerprint(queries, len(result.gallery_ids), num_relevant)


def _run(
    result: RetrievalResult,
    space: SpaceResult,
    baselines: Mapping[str, Mapping[str, float]],
    resampling: Resampling,
    notes: tuple[str, ...],
) -> RunScore:
    shown = tuple(f"map@{k}" for k in result.cutoffs)
    order = np.argsort(np.asarray(result.query_ids, dtype=object), kind="stable")
    values = {name: space.per_query[name] for name in shown}
    metrics = dict(space.metrics)
    recall = {} if result.approximate is None else result.approximate.recall[space.space]
    metrics |= recall
    headline = result.headline
    return RunScore(
        name=space.space,
        headline=headline,
        shown=(*shown, *recall),
        metrics=metrics,
        baselines=baselines,
        intervals=mean_intervals(values, resampling.seed, resampling.resamples, resampling.confidence),
        line=f"{headline} {metrics[headline]:.4f}; {len(result.query_ids):,} queries, "
        f"{len(result.gallery_ids):,} items in the gallery",
        per_class={
            score.label: {
                headline: score.value,
                "num_queries": score.num_queries,
                "num_relevant": score.num_relevant,
            }
            for score in space.per_label
        },
        units=Units(
            "query",
            tuple(result.query_ids[row] for row in order),
            {name: column[order] for name, column in values.items()},
        ),
        notes=notes,
        details={"cumulative_k": {f"map@{k}": value for k, value in space.cumulative_k.items()}},
    )
