"""``clipmill search``: one's own images or sentences against a store, and a page with the clips they find.

Moments within videos: see `search_moments`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipmill.jobs.configs import read_config, tell_config
from clipmill.jobs.output import Outcome
from clipmill.jobs.report_clips import lineage, moving
from clipmill.jobs.search_moments import search_moments
from clipmill.jobs.search_output import search_outcome
from clipmill.jobs.search_queries import Failure, Query, build_extractor, read_queries
from clipmill.jobs.search_sentences import Asked, finds_clips, read_sentences
from clipmill.jobs.search_tracks import is_of_tracks, search_tracks
from clipmill.models.base import RETRIEVAL_SIDES
from clipmill.models.checkpoints import TrainedModel, find_checkpoint, load
from clipmill.models.embedding import array_name, arrays_of, embed
from clipmill.pipelines.datasets.gallery import read_gallery
from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.scorers import Cosine
from clipmill.pipelines.evaluation.tasks.retrieval.spaces import (
    COSINE,
    COSINE_INPUTS,
    Spaces,
    check_recipe_trained_on,
    chosen_spaces,
    comparable,
    with_rerank,
)
from clipmill.pipelines.evaluation.tasks.retrieval.trained import model_spaces
from clipmill.pipelines.features.extraction import resolve_device
from clipmill.pipelines.features.query_images import check_recipe
from clipmill.pipelines.reports.lineage import ClipPlace
from clipmill.pipelines.reports.search import FoundClip, SearchedQuery, SearchPage
from clipmill.schemas.config import dump_config
from clipmill.schemas.config_search import SearchConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.inputs import InputRows, Vector
from clipmill.stores import ClipRows, Feature, FeatureStore

QUERIES_SHOWN = 30
CLIPS_SHOWN = 50
"""ours: what one page holds, of queries and of each list; results.json has all."""


@dataclass(frozen=True, slots=True)
class _Searched:
    """What is searched: an opened store, its features by the model's inputs, the clips that have rows, and those.

    Attributes:
        query: the input that a query image becomes; None where queries are sentences.
        gallery: the inputs that a clip is found by; the first is shown as the gallery's.
        checkpoint: of `trained`.
    """

    store: FeatureStore
    features: Mapping[str, tuple[str, Feature]]
    query: str | None
    gallery: tuple[str, ...]
    clips: tuple[ClipRows, ...]
    inputs: Mapping[str, InputRows]
    trained: TrainedModel | None
    checkpoint: Path | None

    @property
    def image(self) -> tuple[str, Feature] | None:
        """The feature that says how a query image becomes a vector, with its name; None for sentences."""
        return None if self.query is None else self.features[self.query]

    @property
    def video(self) -> tuple[str, Feature]:
        """The feature that clips are found by, with its name."""
        return self.features[self.gallery[0]]


def run_search(path: str, overrides: Sequence[str]) -> Outcome:
    """Searches as the config at `path` says; writes ``results.json`` and ``report.html``.

    Exit code 3 when a query could not be used; the others are searched all the same.
    """
    config = read_config(SearchConfig, path, overrides)
    tell_config(config)
    checkpoint = find_checkpoint(config.run, config.checkpoint) if config.run else None
    trained = load(checkpoint) if checkpoint else None
    sentences = config.queries.texts
    if sentences and not (trained is not None and finds_clips(trained)):
        return search_moments(config, trained)
    if config.run is None and config.data is not None and is_of_tracks(config.data):
        found = search_tracks(config, config.data)
        what = f"{len(found.searches)} queries against {found.page.num_clips} clips, by {found.page.primary}"
        return search_outcome(config, what, found.page, found.results, found.searches, found.failures)
    if config.tracks is not None:
        remedy = "leave tracks out, or name features of the extractor tracks under data"
        raise UsageError(describe("search", "tracks", "none (nothing here is a key feature)", "options", remedy))
    searched = _open(config, trained, checkpoint)
    spaces = _spaces(searched, config)
    if trained is not None and sentences:
        asked, failures = read_sentences(trained, sentences)
    else:
        asked, failures = _read_images(searched, config)
    shown = config.spaces or tuple(spaces)
    searches = _search(searched, asked, spaces, shown, config.k) if asked.queries else []
    primary = next(reversed(spaces))
    results = _results(searched, config, searches, failures, asked.unknown_words)
    page = _page(searched, config, searches, failures, primary)
    what = f"{len(searches)} queries against {page.num_clips} clips, by {primary}"
    return search_outcome(config, what, page, results, searches, failures)


def _open(config: SearchConfig, trained: TrainedModel | None, checkpoint: Path | None) -> _Searched:
    sides, inputs = RETRIEVAL_SIDES, COSINE_INPUTS
    if trained is not None:
        sides, inputs = trained.card.sides, dict(trained.card.inputs)
    if config.queries.texts and config.videos:
        got = ", ".join(config.videos)
        raise UsageError(describe("search", "videos", "none, as whole clips are found", got, "leave videos out"))
    if trained is not None and not config.queries.texts:
        _check_takes_images(trained)
    query, gallery = () if config.queries.texts else sides["query"], sides["gallery"]
    url, names = _sources(config, trained, query, gallery)
    store = FeatureStore(url)
    features = {name: (names[name], store[names[name]]) for name in (*query, *gallery)}
    if trained is not None:
        for name, (feature, opened) in features.items():
            then = trained.origin.inputs[name].recipe_fingerprint
            check_recipe_trained_on(config.run or "", name, feature, then, opened.recipe.fingerprint)
    for name in query:
        check_recipe(features[name][1].recipe)
    items = read_gallery({name: features[name][1] for name in gallery}, {name: inputs[name] for name in gallery}, url)
    return _Searched(
        store, features, query[0] if query else None, gallery, items.clips, items.inputs, trained, checkpoint
    )


def _check_takes_images(trained: TrainedModel) -> None:
    """Makes sure that a query image is all that the model needs of a query, and stored features all of a clip.

    Raises:
        UsageError: it needs something else.
    """
    card = trained.card
    query = [card.inputs[name] for name in card.sides.get("query", ())]
    if len(query) != 1 or not isinstance(query[0], Vector) or trained.origin.vocabularies:
        got = f"inputs {', '.join(card.inputs)} of {trained.name}"
        remedy = "give queries: {texts: [...]}" if finds_clips(trained) else "evaluate it with clipmill evaluate"
        raise UsageError(describe("search", "run", "a model that is searched with single images", got, remedy))


def _sources(
    config: SearchConfig, trained: TrainedModel | None, query: Sequence[str], gallery: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """Returns the store's URL and the name of the feature of each input."""
    inputs = (*query, *gallery)
    trained_on = {} if trained is None else {name: trained.origin.inputs[name].name for name in inputs}
    if config.data is not None:
        if not query:
            return config.data.store, trained_on | {gallery[0]: config.data.video}
        if config.data.image is None:
            expected = "the feature that says how an image becomes a vector"
            raise UsageError(describe("search", "data.image", expected, "none", "give image: NAME"))
        given = {"image": config.data.image, "video": config.data.video}
        return config.data.store, {name: given.get(name, trained_on.get(name, "")) for name in inputs}
    if trained is None:
        raise UsageError("search data: expected data or run, got neither; see docs/search.md")
    return str(trained.origin.config["data"]["store"]), trained_on


def _spaces(searched: _Searched, config: SearchConfig) -> Spaces:
    """Returns what is scored: the model's spaces, or cosine of stored vectors.

    Raises:
        UsageError: no such space, or vectors of two networks that no model brings together.
    """
    if searched.trained is not None:
        spaces = model_spaces(searched.trained, searched.checkpoint or Path())
    else:
        if searched.query is None:
            raise RuntimeError("sentences need a model")
        (image, first), (video, second) = searched.features[searched.query], searched.video
        if not comparable(first.recipe, second.recipe):
            raise UsageError(
                describe(
                    "search",
                    f"features {image} and {video}",
                    "outputs of one network (same extractor, layer and weights), or a run to bring them together",
                    " and ".join(f"{recipe.extractor} {recipe.layer}" for recipe in (first.recipe, second.recipe)),
                    "give run: a folder made by clipmill train",
                )
            )
        spaces = {COSINE: Cosine(array_name(searched.query), array_name(searched.gallery[0]))}
    spaces = with_rerank(spaces, config.rerank, "search")
    return chosen_spaces(spaces, config.spaces, "search") if config.spaces else spaces


def _read_images(searched: _Searched, config: SearchConfig) -> tuple[Asked, list[Failure]]:
    """Returns the query images as the stored recipe makes rows of them, and those that cannot be used."""
    if searched.query is None:
        raise RuntimeError("queries are sentences")
    recipe = searched.features[searched.query][1].recipe
    device = resolve_device(config.device, os.cpu_count() or 1)
    extractor = build_extractor(recipe, config.weights, device)
    read = list(read_queries(config.queries, recipe, extractor))
    queries = [item for item in read if isinstance(item, Query)]
    rows = {searched.query: InputRows(np.stack([query.row for query in queries]))} if queries else {}
    asked = Asked(tuple(SearchedQuery(query.name, query.sha256, query.image, {}) for query in queries), rows)
    return asked, [item for item in read if isinstance(item, Failure)]


def _search(searched: _Searched, asked: Asked, spaces: Spaces, shown: Sequence[str], k: int) -> list[SearchedQuery]:
    """Returns the exact top `k` of every query and space of `shown`; equal scores go by clip id."""
    queries = asked.queries
    left: dict[str, Any] = arrays_of(asked.inputs)
    if searched.trained is None:
        right: dict[str, Any] = arrays_of(searched.inputs)
    else:
        left |= embed(searched.trained, "query", asked.inputs)
        right = dict(embed(searched.trained, "gallery", searched.inputs))
    ids = [_clip_id(clip) for clip in searched.clips]
    # No clip carries the queries' label: of the evaluation only its exact, deterministic ranking is used.
    result = evaluate_retrieval(
        Queries([f"{number:09d}" for number in range(len(queries))], ["query"] * len(queries), left),
        Gallery(ids, ["clip"] * len(ids), right),
        spaces,
        (k,),
        full_ranks=False,
    )
    videos = searched.store.videos()
    searches = []
    for number, query in enumerate(queries):
        lists: dict[str, tuple[FoundClip, ...]] = {}
        for space in result.spaces:
            # One that another is made of has been scored too.
            if space.space not in shown:
                continue
            pairs = zip(space.top[number].tolist(), space.top_scores[number].tolist(), strict=True)
            lists[space.space] = tuple(
                _found_clip(searched.clips[item], videos[searched.clips[item].video_id].uri, score)
                for item, score in pairs
            )
        searches.append(replace(query, hits=lists))
    return searches


def _clip_id(clip: ClipRows) -> str:
    return f"{clip.video_id}#{clip.clip}"


def _found_clip(clip: ClipRows, uri: str, score: float) -> FoundClip:
    return FoundClip(
        _clip_id(clip), clip.video_id, uri, clip.label, clip.start_seconds, clip.stop_seconds, round(score, 7)
    )


def _about(searched: _Searched) -> dict[str, Any]:
    trained = searched.trained
    return {
        "store": searched.store.url,
        **{name: feature.recipe.fingerprint for name, (_, feature) in searched.features.items()},
        "model": trained.name if trained else None,
        "epoch": trained.epoch if trained else None,
        "trained_on": trained.origin.fingerprint if trained else None,
    }


def _results(
    searched: _Searched,
    config: SearchConfig,
    searches: Sequence[SearchedQuery],
    failures: Sequence[Failure],
    unknown_words: Mapping[str, tuple[str, ...]],
) -> dict[str, Any]:
    return {
        "version": 1,
        "about": _about(searched),
        "k": config.k,
        "num_clips": len(searched.clips),
        "queries": [
            {
                "query": query.name,
                **({"sha256": query.sha256} if query.image else {"unknown_words": list(unknown_words[query.name])}),
                "spaces": {
                    space: [_entry(rank, clip) for rank, clip in enumerate(clips, start=1)]
                    for space, clips in query.hits.items()
                },
            }
            for query in searches
        ],
        "failed": [{"query": failure.name, "message": failure.message} for failure in failures],
    }


def _entry(rank: int, clip: FoundClip) -> dict[str, Any]:
    return {
        "rank": rank,
        "clip": clip.clip_id,
        "video": clip.video_id,
        "uri": clip.uri,
        "label": clip.label,
        "start_seconds": clip.start_seconds,
        "stop_seconds": clip.stop_seconds,
        "score": clip.score,
    }


def _page(
    searched: _Searched,
    config: SearchConfig,
    searches: Sequence[SearchedQuery],
    failures: Sequence[Failure],
    primary: str,
) -> SearchPage:
    shown = tuple(
        SearchedQuery(query.name, query.sha256, query.image, {s: c[:CLIPS_SHOWN] for s, c in query.hits.items()})
        for query in searches[:QUERIES_SHOWN]
    )
    places = {_clip_id(clip): clip for clip in searched.clips}
    # The primary space's first, so that it keeps its images where not all fit.
    ids = dict.fromkeys(
        clip.clip_id
        for space in sorted({space for query in shown for space in query.hits}, key=lambda space: space != primary)
        for query in shown
        for clip in query.hits[space]
    )
    clips = [
        ClipPlace(clip_id, places[clip_id].video_id, places[clip_id].clip, places[clip_id].start_seconds,
                  places[clip_id].stop_seconds)
        for clip_id in ids
    ]  # fmt: skip
    random = [
        f"{name} ({feature.recipe.weights.source})"
        for name, feature in dict(searched.features.values()).items()
        if feature.recipe.weights.source.startswith("random")
    ]
    warnings = (f"⚠ Random weights: {', '.join(random)} was never trained, and tells colours and textures at best.",)
    return SearchPage(
        title=f"Search in {searched.store.store.dataset}",
        queries=shown,
        num_queries=len(searches),
        failed=tuple((failure.name, failure.message) for failure in failures),
        num_clips=len(searched.clips),
        primary=primary,
        thumbnails=moving(searched.store, clips),
        warnings=warnings if random else (),
        lineage=lineage(searched.store, clips, (("gallery", searched.video[0]),)),
        provenance=_provenance(searched),
        config=dump_config(config),
    )


def _provenance(searched: _Searched) -> tuple[tuple[str, str], ...]:
    lines = [("store", searched.store.url)]
    for role, used in (("queries embedded by", searched.image), ("clips embedded by", searched.video)):
        if used is None:
            continue
        name, recipe = used[0], used[1].recipe
        weights = (
            f"weights {recipe.weights.layout or recipe.weights.source} {(recipe.weights.sha256 or '')[:12]}".strip()
        )
        lines.append((role, f"{name}: {recipe.extractor} {recipe.layer}, {weights}, recipe {recipe.fingerprint}"))
    trained = searched.trained
    if trained is not None:
        lines.append(("model", f"{trained.name}, epoch {trained.epoch}, trained on {trained.origin.fingerprint}"))
    return tuple(lines)
