"""``clipmill search`` by key-feature tracks: the shots that images were taken from, and the moments inside them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipmill.jobs.report_clips import lineage, moving
from clipmill.jobs.search_queries import Failure, Query, build_extractor, read_queries
from clipmill.pipelines.evaluation.retrieval.key_features import (
    Index,
    KeyFeatures,
    Shot,
    best_frame,
    check_layer,
    make_index,
    read_frames,
    read_key_features,
    top_shots,
    votes,
)
from clipmill.pipelines.features.query_images import frame_codes
from clipmill.pipelines.reports.lineage import ClipPlace
from clipmill.pipelines.reports.search import FoundClip, SearchedQuery, SearchPage
from clipmill.schemas.config import dump_config
from clipmill.schemas.config_search import SearchConfig, SearchDataConfig, TrackSearchConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.records import Video
from clipmill.stores import Feature, FeatureStore

SPACE = "votes"
QUERIES_SHOWN, SHOTS_SHOWN = 30, 20
"""ours: what one page holds; results.json has all."""


@dataclass(frozen=True, slots=True)
class TrackSearch:
    """What a search found: the page, the plain results, and both kinds of queries."""

    page: SearchPage
    results: dict[str, Any]
    searches: tuple[SearchedQuery, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    """The shots one query found, best first: votes, the time of the best frame and how many descriptors match it."""

    shots: tuple[Shot, ...]
    votes: tuple[float, ...]
    seconds: tuple[float, ...]
    num_matches: tuple[int, ...]


def is_of_tracks(data: SearchDataConfig) -> bool:
    """Returns whether `data` names key features to search.

    Raises:
        StoreError: no such store, or no such feature.
    """
    return FeatureStore(data.store)[data.video].recipe.extractor == "tracks"


def search_tracks(config: SearchConfig, data: SearchDataConfig) -> TrackSearch:
    """Returns the shots whose key features the queries' descriptors are nearest to, and the best frame of each.

    Raises:
        UsageError: `data` does not name features of the layers ``frame_descriptors`` and ``key_features``.
    """
    options = config.tracks or TrackSearchConfig()
    store = FeatureStore(data.store)
    if data.image is None:
        expected = "the feature of the layer frame_descriptors"
        raise UsageError(describe("search", "data.image", expected, "none", "give image: NAME"))
    frames, feature = store[data.image], store[data.video]
    check_layer(frames, "frame_descriptors")
    features = read_key_features(feature)
    extractor = build_extractor(frames.recipe, config.weights, "cpu")
    read = list(read_queries(config.queries, frames.recipe, extractor, frame_codes))
    queries = [item for item in read if isinstance(item, Query)]
    failures = tuple(item for item in read if isinstance(item, Failure))
    index = make_index(features.codes, options.index, options.probes)
    started = time.perf_counter()
    found = [_ranked(query, index, features, options, config.k) for query in queries]
    seconds = time.perf_counter() - started
    answers = [_refined(query, features, shots, frames) for query, shots in zip(queries, found, strict=True)]
    videos = store.videos()
    searches = tuple(
        SearchedQuery(query.name, query.sha256, query.image, {SPACE: _clips(answer, videos)})
        for query, answer in zip(queries, answers, strict=True)
    )
    results = {
        "version": 1,
        "about": {
            "store": store.url,
            "image": frames.recipe.fingerprint,
            "video": feature.recipe.fingerprint,
            "model": None,
            "index": options.model_dump(),
            "num_key_features": len(features.shot),
            "index_bytes": index.num_bytes,
        },
        "k": config.k,
        "num_shots": len(features.shots),
        "queries": [_plain(query, answer) for query, answer in zip(queries, answers, strict=True)],
        "failed": [{"query": failure.name, "message": failure.message} for failure in failures],
    }
    speed = f"{len(queries) / seconds:.1f} queries a second" if queries and seconds else "no query"
    facts = (
        ("store", store.url),
        ("index", f"{options.index}, {len(features.shot):,} key features, {index.num_bytes:,} bytes; {speed}"),
        ("votes of", f"{data.video}: recipe {feature.recipe.fingerprint}"),
        ("frames by", f"{data.image}: recipe {frames.recipe.fingerprint}"),
    )
    return TrackSearch(_page(config, store, features, searches, failures, facts), results, searches, failures)


def _ranked(
    query: Query, index: Index, features: KeyFeatures, options: TrackSearchConfig, k: int
) -> list[tuple[int, float]]:
    codes = np.asarray(query.row, np.uint8)
    found = votes(features, index.nearest(codes), options.max_distance, options.normalise)
    # A shot without a vote is no answer.
    return [(int(shot), float(found[shot])) for shot in top_shots(found, k) if found[shot] > 0]


def _refined(query: Query, features: KeyFeatures, ranked: Sequence[tuple[int, float]], frames: Feature) -> _Answer:
    codes = np.asarray(query.row, np.uint8)
    shots = tuple(features.shots[shot] for shot, _ in ranked)
    best = [best_frame(codes, read_frames(frames, shot)) for shot in shots]
    return _Answer(
        shots,
        tuple(number for _, number in ranked),
        tuple(seconds for seconds, _ in best),
        tuple(num for _, num in best),
    )


def _id(shot: Shot) -> str:
    return f"{shot.video_id}#{shot.clip}/{shot.shot}"


def _clips(answer: _Answer, videos: Mapping[str, Video]) -> tuple[FoundClip, ...]:
    return tuple(
        FoundClip(
            _id(shot),
            shot.video_id,
            videos[shot.video_id].uri,
            videos[shot.video_id].label,
            shot.start_seconds,
            shot.stop_seconds,
            round(number, 7),
        )
        for shot, number in zip(answer.shots, answer.votes, strict=True)
    )


def _plain(query: Query, answer: _Answer) -> dict[str, Any]:
    columns = (answer.shots, answer.votes, answer.seconds, answer.num_matches)
    return {
        "query": query.name,
        "sha256": query.sha256,
        "shots": [
            {
                "rank": rank,
                "video": shot.video_id,
                "clip": shot.clip,
                "shot": shot.shot,
                "start_seconds": shot.start_seconds,
                "stop_seconds": shot.stop_seconds,
                "votes": round(number, 7),
                "frame_seconds": seconds,
                "num_matches": num,
            }
            for rank, (shot, number, seconds, num) in enumerate(zip(*columns, strict=True), start=1)
        ],
    }


def _page(
    config: SearchConfig,
    store: FeatureStore,
    features: KeyFeatures,
    searches: Sequence[SearchedQuery],
    failures: Sequence[Failure],
    facts: tuple[tuple[str, str], ...],
) -> SearchPage:
    shown = tuple(
        SearchedQuery(query.name, query.sha256, query.image, {SPACE: query.hits[SPACE][:SHOTS_SHOWN]})
        for query in searches[:QUERIES_SHOWN]
    )
    places = {_id(shot): shot for shot in features.shots}
    ids = dict.fromkeys(clip.clip_id for query in shown for clip in query.hits[SPACE])
    clips = [
        ClipPlace(name, places[name].video_id, places[name].clip, places[name].start_seconds, places[name].stop_seconds)
        for name in ids
    ]
    return SearchPage(
        title=f"Search in {store.store.dataset}",
        queries=shown,
        num_queries=len(searches),
        failed=tuple((failure.name, failure.message) for failure in failures),
        num_clips=len(features.shots),
        primary=SPACE,
        thumbnails=moving(store, clips),
        warnings=(),
        lineage=lineage(store, clips, ()),
        provenance=facts,
        config=dump_config(config),
    )
