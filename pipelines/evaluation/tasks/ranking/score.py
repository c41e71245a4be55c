"""``task: ranking``: trec_eval's measures of a run, with the baseline of the same documents in random order."""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipmill.pipelines.evaluation.metrics.trec import Qrels, Run, TrecMeasures, TrecScore
from clipmill.pipelines.evaluation.metrics.trec_measures import ALL_MEASURES, OFFICIAL_MEASURES
from clipmill.pipelines.evaluation.tasks.result import RunScore, Units, average, mean_intervals
from clipmill.schemas.config_ranking import RankingConfig
from clipmill.schemas.fingerprint import fingerprint

SHUFFLES = 10
"""ours: the retrieved documents are put in random order so often, and the scores averaged."""
HEADLINE = "map"
_SHOWN = ("map", "Rprec", "bpref", "recip_rank", "P_10", "ndcg", "ndcg_cut_10")


@dataclass(frozen=True, slots=True)
class RankingEvaluation:
    """One run, scored; all that a report of it needs.

    Attributes:
        qrels: query to document to judgement. documents: query to document to score.
        score: summary and per-query values.
    """

    name: str
    qrels: Qrels
    documents: Run
    score: TrecScore
    run: RunScore


def evaluate_ranking(name: str, qrels: Qrels, documents: Run, config: RankingConfig) -> RankingEvaluation:
    """Returns the measures of one run.

    Raises:
        UsageError: an unknown measure, a score that is NaN, or no query with both judgements and results.
    """
    measures = measures_of(config)
    score = _score(qrels, documents, config, measures)
    baselines = {"shuffled": _shuffled(qrels, documents, config, measures)} if config.baselines else {}
    means = {key: column for key, column in score.per_query.items() if not key.startswith("num_")}
    # What the config itself names was asked for, and is printed whole.
    is_asked = "measures" in config.model_fields_set
    shown = list(score.summary) if is_asked else [key for key in _SHOWN if key in score.summary]
    headline = HEADLINE if HEADLINE in score.summary else next(iter(score.summary))
    run = RunScore(
        name=name,
        headline=headline,
        shown=tuple(shown or list(score.summary)[:8]),
        metrics=dict(score.summary),
        baselines=baselines,
        intervals=mean_intervals(means, config.seed, config.resamples, config.confidence),
        counts={
            "num_queries": len(score.query_ids),
            "num_without_results": score.num_without_results,
            "num_without_judgements": score.num_without_judgements,
        },
        line=score.line,
        units=Units("query", score.query_ids, score.per_query),
    )
    return RankingEvaluation(name, qrels, documents, score, run)


def measures_of(config: RankingConfig) -> tuple[str, ...]:
    """Returns the measures that `config` asks for, sets written out."""
    sets = {"official": OFFICIAL_MEASURES, "all": ALL_MEASURES}
    return tuple(dict.fromkeys(item for name in config.measures for item in sets.get(name, (name,))))


def ranking_protocol(config: RankingConfig) -> dict[str, Any]:
    """Returns the settings for ``results.json``."""
    return {
        "complete": config.complete,
        "relevance_level": config.relevance_level,
        "max_documents": config.max_documents,
        "judged_only": config.judged_only,
        "ties": config.ties,
        "precision": config.precision,
    }


def qrels_fingerprint(qrels: Qrels) -> str:
    """Returns the fingerprint of judgements, whatever the order of the file."""
    return fingerprint([[query, sorted(items.items())] for query, items in sorted(qrels.items())])


def _score(qrels: Qrels, documents: Run, config: RankingConfig, measures: tuple[str, ...]) -> TrecScore:
    if config.precision == "single":
        documents = {
            query: dict(zip(items, _single(items.values()), strict=True)) for query, items in documents.items()
        }
    if config.ties == "ascending":
        qrels, documents = _renamed(qrels, documents)
    state = TrecMeasures(measures, config.relevance_level, config.max_documents, config.judged_only, config.complete)
    return state.update(qrels, documents).result()


def _single(scores: Iterable[float]) -> list[float]:
    with np.errstate(over="ignore"):
        return [float(value) for value in np.array(list(scores), np.float64).astype(np.float32)]


def _renamed(qrels: Qrels, documents: Run) -> tuple[Qrels, Run]:
    """Returns both with names whose descending order is the ascending order of the given ones."""
    names = sorted({name for side in (qrels, documents) for items in side.values() for name in items}, reverse=True)
    new = {name: f"{position:09d}" for position, name in enumerate(names)}
    judged = {query: {new[name]: value for name, value in items.items()} for query, items in qrels.items()}
    scored = {query: {new[name]: value for name, value in items.items()} for query, items in documents.items()}
    return judged, scored


def _shuffled(qrels: Qrels, documents: Run, config: RankingConfig, measures: tuple[str, ...]) -> dict[str, float]:
    rows: list[Mapping[str, float]] = []
    ordered = {query: sorted(items) for query, items in sorted(documents.items()) if query in qrels}
    for turn in range(SHUFFLES):
        drawn = {}
        for query, names in ordered.items():
            rng = np.random.default_rng([config.seed, turn, zlib.crc32(query.encode())])
            drawn[query] = dict(zip(names, rng.random(len(names)).tolist(), strict=True))
        rows.append(_score(qrels, drawn, config, measures).summary)
    return average(rows)
