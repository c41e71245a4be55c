"""``clipmill search`` with sentences: the moments of one's own videos that a trained model finds for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipmill.jobs.output import Outcome
from clipmill.jobs.report_clips import moving
from clipmill.jobs.search_output import search_outcome
from clipmill.jobs.search_queries import Failure
from clipmill.jobs.search_sentences import known_sentences
from clipmill.models.checkpoints import TrainedModel
from clipmill.models.localising import localise
from clipmill.pipelines.datasets.queries import answerable, known_durations
from clipmill.pipelines.evaluation.tasks.moments.trained import in_seconds, trained_feature, trained_queries
from clipmill.pipelines.reports.lineage import ClipPlace
from clipmill.pipelines.reports.search import FoundClip, SearchedQuery, SearchPage
from clipmill.schemas.arrays import Floats
from clipmill.schemas.config import dump_config
from clipmill.schemas.config_queries import MomentQueriesConfig
from clipmill.schemas.config_search import SearchConfig
from clipmill.schemas.errors import UsageError, describe, near
from clipmill.stores import Feature, FeatureStore

_ANSWERS = 50
"""ours: pairs of first and last step looked at in each video; most overlap with better ones."""
_MOST_OVERLAP = 0.5
"""ours: IoU above which a moment counts as the same as a better one of its video."""
_MOMENTS_SHOWN, _QUERIES_SHOWN = 50, 30
"""ours: what one page holds; results.json has all."""
SPACE = "moments"


@dataclass(frozen=True, slots=True)
class _Searched:
    """What is searched: a run, and the feature of a store by the run's recipe."""

    trained: TrainedModel
    store: FeatureStore
    feature: Feature
    queries: MomentQueriesConfig
    videos: tuple[str, ...]


def search_moments(config: SearchConfig, trained: TrainedModel | None) -> Outcome:
    """Searches as `config` says; writes ``results.json`` and ``report.html``.

    Exit code 3 where a sentence could not be used; the others are searched all the same.

    Args:
        trained: what `config` names as its run; None: nothing.

    Raises:
        UsageError: there is no run, or none of a model of moments; the store lacks its feature or the videos named.
    """
    searched = _open(config, trained)
    usable, failures, unknown = known_sentences(searched.trained, config.queries.texts)
    searches = _search(searched, usable, config.k) if usable else []
    results = {
        "version": 1,
        "about": _about(searched),
        "k": config.k,
        "num_videos": len(searched.videos),
        "queries": [
            {
                "query": query.name,
                "unknown_words": list(unknown[query.name]),
                "moments": [_entry(rank, found) for rank, found in enumerate(query.hits[SPACE], start=1)],
            }
            for query in searches
        ],
        "failed": [{"query": failure.name, "message": failure.message} for failure in failures],
    }
    what = f"{len(searches)} sentences against {len(searched.videos)} videos"
    return search_outcome(config, what, _page(searched, config, searches, failures), results, searches, failures)


def _open(config: SearchConfig, trained: TrainedModel | None) -> _Searched:
    if config.run is None or trained is None:
        expected = "the folder of a trained model that takes sentences"
        raise UsageError(describe("search", "run", expected, "none", "train one with clipmill train"))
    url, queries = trained_queries(trained, config.run)
    name = None
    if config.data is not None:
        url, name = config.data.store, config.data.video
    feature, store = trained_feature(trained, config.run, url, name), FeatureStore(url)
    known = [clip.video_id for clip in feature.clips()]
    for name in config.videos:
        if name not in known:
            raise UsageError(describe("search", "videos", f"ids of {feature.recipe.name}", name, near(name, known)))
    return _Searched(trained, store, feature, queries, tuple(config.videos or known))


def _search(searched: _Searched, texts: Sequence[str], k: int) -> list[SearchedQuery]:
    """Returns the best `k` moments of all videos for each sentence; equal scores go by video and start."""
    names = searched.videos
    seconds = known_durations(names, np.full(len(names), np.nan), searched.feature)
    durations = dict(zip(names, seconds.tolist(), strict=True))
    trained, videos, searches = searched.trained, searched.store.videos(), []
    for sentence in texts:
        given = answerable(
            searched.feature,
            trained.card.inputs,
            trained.origin.vocabularies,
            [(name, sentence) for name in names],
            durations,
            searched.queries.grid,
        )
        steps, score = localise(trained, given.inputs, _ANSWERS)
        times = in_seconds(given.steps, given.video_ids, steps)
        found = [
            FoundClip(
                f"{name}@{start:.2f}-{stop:.2f}",
                name,
                videos[name].uri,
                None,
                start,
                stop,
                round(float(own[place]), 7),
                durations[name],
            )
            for name, spans, own in zip(given.video_ids, times, score, strict=True)
            for place in distinct(spans, own)
            for start, stop in (spans[place].tolist(),)
        ]
        found.sort(key=lambda clip: (-clip.score, clip.video_id, clip.start_seconds))
        searches.append(SearchedQuery(sentence, "", b"", {SPACE: tuple(found[:k])}))
    return searches


def distinct(spans: Floats, score: Floats) -> list[int]:
    """Returns the places of the answers ``[K, 2]``, best first, that are not the same as a better one."""
    kept: list[int] = []
    for place in np.flatnonzero(np.isfinite(score)).tolist():
        start, stop = spans[place]
        shared = [min(stop, spans[own][1]) - max(start, spans[own][0]) for own in kept]
        whole = [max(stop, spans[own][1]) - min(start, spans[own][0]) for own in kept]
        if all(both <= _MOST_OVERLAP * either for both, either in zip(shared, whole, strict=True)):
            kept.append(place)
    return kept


def _about(searched: _Searched) -> dict[str, Any]:
    trained = searched.trained
    return {
        "store": searched.store.url,
        "video": searched.feature.recipe.fingerprint,
        "model": trained.name,
        "epoch": trained.epoch,
        "trained_on": trained.origin.fingerprint,
    }


def _entry(rank: int, found: FoundClip) -> dict[str, Any]:
    return {
        "rank": rank,
        "video": found.video_id,
        "uri": found.uri,
        "start_seconds": round(found.start_seconds, 3),
        "stop_seconds": round(found.stop_seconds, 3),
        "score": found.score,
    }


def _page(
    searched: _Searched, config: SearchConfig, searches: Sequence[SearchedQuery], failures: Sequence[Failure]
) -> SearchPage:
    shown = tuple(
        SearchedQuery(query.name, "", b"", {SPACE: query.hits[SPACE][:_MOMENTS_SHOWN]})
        for query in searches[:_QUERIES_SHOWN]
    )
    places = {
        found.clip_id: ClipPlace(found.clip_id, found.video_id, 0, found.start_seconds, found.stop_seconds)
        for query in shown
        for found in query.hits[SPACE]
    }
    recipe, trained = searched.feature.recipe, searched.trained
    is_random = recipe.weights.source.startswith("random")
    return SearchPage(
        title=f"Moments in {searched.store.store.dataset}",
        queries=shown,
        num_queries=len(searches),
        failed=tuple((failure.name, failure.message) for failure in failures),
        num_clips=len(searched.videos),
        primary=SPACE,
        thumbnails=moving(searched.store, list(places.values())),
        warnings=(f"⚠ Random weights: {recipe.name} was never trained.",) if is_random else (),
        provenance=(
            ("store", searched.store.url),
            ("steps", f"{recipe.name}: {recipe.extractor} {recipe.layer}, recipe {recipe.fingerprint}"),
            ("model", f"{trained.name}, epoch {trained.epoch}, trained on {trained.origin.fingerprint}"),
            ("score", "probability of first and last step within a video: comparable between videos only roughly"),
        ),
        config=dump_config(config),
        searched="videos",
    )
