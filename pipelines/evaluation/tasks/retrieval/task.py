"""``task: retrieval``: image-to-video retrieval over stored features, by a trained model or by plain cosine."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clipmill.pipelines.evaluation.coverage import COVERAGE
from clipmill.pipelines.evaluation.retrieval.approximate import Approximate
from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, RetrievalResult, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.rerank import Reranked
from clipmill.pipelines.evaluation.retrieval.scorers import Cosine
from clipmill.pipelines.evaluation.tasks.base import Evaluation, Sources, Task
from clipmill.pipelines.evaluation.tasks.retrieval.arrays import gallery_of, has_ids, queries_of, shared_spaces
from clipmill.pipelines.evaluation.tasks.retrieval.score import Resampling, own_clip_notes, retrieval_score
from clipmill.pipelines.evaluation.tasks.retrieval.spaces import (
    COSINE,
    COSINE_INPUTS,
    Spaces,
    chosen_spaces,
    comparable,
    with_rerank,
)
from clipmill.schemas.config_evaluate import MIN_COVERAGE
from clipmill.schemas.config_retrieval import RetrievalConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.extras import missing_extra
from clipmill.schemas.inputs import Input, Vector
from clipmill.stores import FeatureStore

if TYPE_CHECKING:
    from clipmill.pipelines.datasets.items import Items
    from clipmill.pipelines.evaluation.tasks.clip_views import ClipViews
    from clipmill.pipelines.evaluation.tasks.page import TaskReport
    from clipmill.pipelines.evaluation.tasks.retrieval.shown import RetrievedClips

logger = logging.getLogger("clipmill.evaluate")


@dataclass(frozen=True, slots=True)
class Retrieval:
    """A result of all spaces, and the clips of a store it is about; None: it was made of arrays."""

    result: RetrievalResult
    clips: "RetrievedClips | None" = None


def evaluate(config: RetrievalConfig, sources: Sources) -> Evaluation[Retrieval]:
    """Returns the score of each space: every query against the whole gallery, its own clip included unless excluded.

    Raises:
        UsageError: the run's features are no longer those it was trained on, a space is unknown, or nothing can be
            compared.
    """
    return _of_arrays(config, sources) if config.queries is not None else _of_store(config)


def report(evaluation: Evaluation[Retrieval], config: RetrievalConfig, sources: Sources) -> "TaskReport":
    """Returns what the page shows."""
    from clipmill.pipelines.evaluation.tasks.lineage import lineage_of
    from clipmill.pipelines.evaluation.tasks.retrieval.report import Shown, retrieval_report
    from clipmill.pipelines.evaluation.tasks.retrieval.shown import provenance, shown_of_store

    found, score = evaluation.evaluated[0], evaluation.score
    lineage = lineage_of(config)
    shown = Shown()
    if found.clips is not None:
        spaces = [run.name for run in score.runs]
        shown = shown_of_store(found.clips, spaces, spaces[-1], config.examples, config.seed, _clip_views(sources))
        url = found.clips.items.store_url
        lineage = replace(
            lineage,
            facts=(*lineage.facts, *provenance(found.clips)),
            next_steps=(
                f"clipmill status {url}",
                f"clipmill verify {url}",
                "clipmill build YOURS.yaml   # see examples/topics70",
            ),
        )
    return retrieval_report(score, found.result, shown, lineage)


def _clip_views(sources: Sources) -> "ClipViews | None":
    """Returns who makes images of clips; None, with a warning, where no decoders are installed."""
    try:
        return sources.clip_views() if sources.clip_views is not None else None
    except ModuleNotFoundError as error:
        problem = missing_extra(error)
        if problem is None:
            raise
        logger.warning("the page has no images of clips: %s", problem)
        return None


def _of_store(config: RetrievalConfig) -> Evaluation[Retrieval]:
    """Scores the clips that a store keeps for the test: each one's query side searches all of their gallery sides."""
    from clipmill.models.base import RETRIEVAL_SIDES
    from clipmill.models.checkpoints import find_checkpoint, load
    from clipmill.models.embedding import array_name, arrays_of, embed
    from clipmill.pipelines.evaluation.tasks.retrieval.shown import RetrievedClips
    from clipmill.pipelines.evaluation.tasks.retrieval.trained import EmbedQueries, items_of, model_spaces

    checkpoint = find_checkpoint(config.run, config.checkpoint) if config.run is not None else None
    trained = load(checkpoint) if checkpoint is not None else None
    if trained is not None and trained.card.task != "retrieval":
        remedy = f"write task: {trained.card.task} and predictions: {{run: {config.run}}}"
        raise UsageError(describe("evaluate", "run", "a model of retrieval", trained.name, remedy))
    sides = trained.card.sides if trained is not None else RETRIEVAL_SIDES
    items = items_of(config.data, trained, config.run or "", needs_labels=config.relevant == "label")
    least = MIN_COVERAGE if config.min_coverage is None else config.min_coverage
    coverage, notes = _coverage(items, least)
    test = items.of("test")
    scorers: Spaces = {}
    queries = arrays_of({name: test.inputs[name] for name in sides["query"]})
    gallery: dict[str, Any] = {}
    prepare = None
    if trained is not None and checkpoint is not None:
        gallery |= embed(trained, "gallery", test.inputs)
        scorers |= model_spaces(trained, checkpoint)
        prepare = EmbedQueries(os.path.abspath(checkpoint))
    if isinstance(config.cosine_baseline, str):
        scorers[COSINE] = Cosine(array_name(sides["query"][0]), COSINE)
        gallery[COSINE] = _compared_by(config.cosine_baseline, items, test, sides)
    elif config.cosine_baseline:
        plain = _plain_cosine(items, dict(trained.card.inputs) if trained is not None else COSINE_INPUTS, sides)
        if plain is None:
            names = " and ".join(dict.fromkeys(source.name for source in items.sources.values()))
            notes.append(
                f"No plain cosine row: {names} are not single vectors of one network, so they cannot be compared "
                "without a model."
            )
        else:
            scorers[COSINE] = plain
            gallery |= arrays_of({sides["gallery"][0]: test.inputs[sides["gallery"][0]]})
    scorers = with_rerank(scorers, config.rerank)
    notes += [
        f"{name}: the {scorer.k} best by {scorer.first}, in the order of the model's score."
        for name, scorer in scorers.items()
        if isinstance(scorer, Reranked) and (not config.spaces or name in config.spaces)
    ]
    labels = _labels_of(config, test)
    result = _retrieve(
        config,
        Queries(test.clip_ids, labels, queries, test.video_ids),
        Gallery(test.clip_ids, labels, gallery, test.video_ids),
        scorers,
        prepare,
    )
    about = {
        "store": items.store_url,
        **{name: source.recipe_fingerprint for name, source in items.sources.items()},
        "model": trained.name if trained is not None else None,
        "epoch": trained.epoch if trained is not None else None,
    }
    clips = RetrievedClips(result, items, test, trained, config.run)
    found = _evaluation(config, Retrieval(result, clips), (COSINE,), about, notes)
    runs = tuple(replace(run, metrics={**run.metrics, COVERAGE: coverage}) for run in found.score.runs)
    return replace(found, score=replace(found.score, runs=runs))


def _coverage(items: "Items", least: float) -> tuple[float, list[str]]:
    """Returns the share of the clips with a row that have one of every feature, and a note where some have not.

    Raises:
        UsageError: fewer than `least` have.
    """
    num_lacking = max(items.num_only.values(), default=0)
    num_clips = len(items) + num_lacking
    share = len(items) / num_clips if num_clips else 1.0
    if not num_lacking:
        return share, []
    each = ", ".join(f"{count:,} with {name} alone or not with all" for name, count in items.num_only.items() if count)
    if share < least:
        expected = f"at least {100 * least:g} % of the {num_clips:,} clips with rows of every feature"
        got = f"{len(items):,} ({100 * share:.3g} %; {each})"
        remedy = "build the features over the same videos, see clipmill status, or set min_coverage: 0"
        raise UsageError(describe("store", items.store_url, expected, got, remedy))
    return share, [f"{num_lacking:,} of {num_clips:,} clips lack a feature, and are neither asked nor found ({each})."]


def _labels_of(config: RetrievalConfig, test: "Items") -> list[str]:
    """Returns what makes one clip relevant to another: their label, or that they are one."""
    if config.relevant == "own_clip":
        return list(test.clip_ids)
    return [test.label_names[code] for code in test.label]


def _plain_cosine(items: "Items", inputs: Mapping[str, Input], sides: Mapping[Any, tuple[str, ...]]) -> Cosine | None:
    """Returns the space of stored vectors as they are, where both sides are one vector of one network."""
    from clipmill.models.embedding import array_name

    names = (*sides["query"], *sides["gallery"])
    if len(sides["query"]) != 1 or len(sides["gallery"]) != 1:
        return None
    if not all(isinstance(inputs[name], Vector) for name in names):
        return None
    store = FeatureStore(items.store_url)
    query, gallery = (store[items.sources[name].name].recipe for name in names)
    return Cosine(array_name(names[0]), array_name(names[1])) if comparable(query, gallery) else None


def _compared_by(name: str, items: "Items", test: "Items", sides: Mapping[Any, tuple[str, ...]]) -> Any:
    """Returns the mean rows of the feature `name`, ``float32[n, D]``, of the test clips: what plain cosine compares.

    Raises:
        StoreError: there is no feature of that name.
        UsageError: it is not of the query's network, its clips are others, or one of the test clips has no row of it.
    """
    from clipmill.pipelines.datasets.items import check_same_clips
    from clipmill.pipelines.datasets.rows import read_rows

    store = FeatureStore(items.store_url)
    source = items.sources[sides["query"][0]].name
    query, compared = store[source], store[name]
    if len(sides["query"]) != 1 or not comparable(query.recipe, compared.recipe):
        expected = f"a feature of the network, layer and weights of {source}"
        remedy = "name one of those, or set cosine_baseline: false"
        raise UsageError(describe("evaluation", "cosine_baseline", expected, name, remedy))
    check_same_clips({source: query, name: compared})
    rows = read_rows(compared, Vector("mean"), set(test.video_ids))
    keys = list(zip(test.video_ids, test.clips.tolist(), strict=True))
    lacking = [key for key in keys if key not in rows.clips]
    if lacking:
        got = f"{len(lacking):,} without, such as {lacking[0][0]!r}"
        remedy = "build it for all of them, or set cosine_baseline: false"
        raise UsageError(describe("evaluation", "cosine_baseline", f"a row of {name} for each test clip", got, remedy))
    return rows.of(keys).values


def _of_arrays(config: RetrievalConfig, sources: Sources) -> Evaluation[Retrieval]:
    """Scores what a caller holds in memory: cosine in each space that both sides have vectors of."""
    sides = [_in_memory("queries", config.queries, sources), _in_memory("gallery", config.gallery, sources)]
    queries, gallery = queries_of(sides[0]), gallery_of(sides[1])
    known = all(map(has_ids, sides))
    if config.relevant == "own_clip":
        if not known:
            remedy = "give both sides ids"
            raise UsageError(describe("evaluation", "relevant", "ids that say which items are one", "none", remedy))
        queries, gallery = replace(queries, labels=queries.ids), replace(gallery, labels=gallery.ids)
    if config.exclude == "own_clip" and not known:
        remedy = "give both sides ids"
        raise UsageError(describe("evaluation", "exclude", "ids that say which items are one clip", "none", remedy))
    result = _retrieve(config, queries, gallery, shared_spaces(queries, gallery), None)
    if not known:
        result = replace(result, own_clip_first={})
    return _evaluation(config, Retrieval(result), (), {}, [])


def _in_memory(key: str, name: str | None, sources: Sources) -> Any:
    if name is None or name not in sources.arrays:
        remedy = "give run or data; clipmill.evaluate takes arrays"
        raise UsageError(describe("evaluation", key, "data in memory, from Python alone", str(name), remedy))
    return sources.arrays[name]


def _retrieve(
    config: RetrievalConfig, queries: Queries, gallery: Gallery, scorers: Spaces, prepare: Any
) -> RetrievalResult:
    if config.spaces:
        scorers = chosen_spaces(scorers, config.spaces)
    if not scorers:
        raise UsageError("evaluation spaces: expected at least one, got none; give run, or features of one network")
    return evaluate_retrieval(
        queries,
        gallery,
        scorers,
        config.cutoffs,
        prepare=prepare,
        approximate=None if config.search.index == "exact" else Approximate(**config.search.model_dump()),
        dask_address=config.dask,
        seed=config.seed,
        exclude=config.exclude,
    )


def _evaluation(
    config: RetrievalConfig, found: Retrieval, baselines: tuple[str, ...], about: dict[str, Any], notes: list[str]
) -> Evaluation[Retrieval]:
    notes = [*own_clip_notes(found.result), *notes]
    if found.result.approximate is not None:
        notes = [*notes, f"Approximate search: {found.result.approximate.line}."]
    score = retrieval_score(
        found.result,
        baselines if config.baselines else None,
        Resampling(config.seed, config.resamples, config.confidence),
        about,
        tuple(notes),
    )
    if config.relevant == "own_clip":
        score = replace(score, protocol={**score.protocol, "relevance": "the own clip"})
    return Evaluation(score, (found,))


TASK = Task("retrieval", "image-to-video retrieval: mAP@K in every space of a model", RetrievalConfig, evaluate, report)
