"""What a retrieval's page shows of the store it read: images, lineage, weights, quarantine, and where time went."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.models.base import RETRIEVAL_SIDES, Side
from clipmill.models.checkpoints import TrainedModel
from clipmill.models.embedding import embed
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.evaluation.retrieval.evaluate import RetrievalResult
from clipmill.pipelines.evaluation.tasks.clip_views import ClipViews
from clipmill.pipelines.evaluation.tasks.retrieval.dataset import Dataset, DatasetCounts, FeatureLine
from clipmill.pipelines.evaluation.tasks.retrieval.embedding_map import EmbeddingMap, lay_out, sample_items
from clipmill.pipelines.evaluation.tasks.retrieval.examples import ClipImages, choose_examples, thumbnails_needed
from clipmill.pipelines.evaluation.tasks.retrieval.report import Shown
from clipmill.pipelines.evaluation.tasks.retrieval.trained import training_seconds
from clipmill.pipelines.reports.lineage import ClipPlace
from clipmill.pipelines.reports.runs import StageTime, build_stages, speed_of_light
from clipmill.pipelines.reports.thumbnails import Thumbnail, moving_thumbnail
from clipmill.schemas.arrays import Array
from clipmill.schemas.recipe import IMPORTED
from clipmill.stores import FeatureStore
from clipmill.stores.store import Store

QUERY_WIDTH = 320
MAP_WIDTH, MAP_HEIGHT = 112, 63
"""ours: pixels of a query's frame, and of an image on the map."""


@dataclass(frozen=True, slots=True)
class RetrievedClips:
    """What was retrieved from where.

    Attributes:
        items, test: all clips of the store, and the tested ones.
        run: folder of the trained run; None where no model was used.
    """

    result: RetrievalResult
    items: Items
    test: Items
    trained: TrainedModel | None
    run: str | None

    @property
    def sides(self) -> Mapping[Side, tuple[str, ...]]:
        """The inputs of a query and of a gallery item."""
        return RETRIEVAL_SIDES if self.trained is None else self.trained.card.sides

    @property
    def features(self) -> tuple[tuple[str, str], ...]:
        """The stored features that were compared, as (what for, name)."""
        items = self.items
        return tuple(
            (side, items.sources[name].name)
            for side, names in self.sides.items()
            for name in names
            if name not in items.vocabularies
        )

    def query_seconds(self) -> npt.NDArray[np.float64]:
        """Returns when the frame that stands for each query is: that of its vector, else the middle of its clip."""
        for name in self.sides["query"]:
            rows = self.test.inputs[name]
            if rows.offsets is None and rows.start_seconds is not None:
                return rows.start_seconds
        return np.asarray(self.test.clip_seconds.mean(axis=1), np.float64)


def shown_of_store(
    retrieved: RetrievedClips,
    spaces: Sequence[str],
    primary: str,
    num_examples: int,
    seed: int,
    views: ClipViews | None,
) -> Shown:
    """Returns what the page shows.

    Args:
        spaces: those whose lists are shown.
        primary: the space that the best and the worst examples go by.
        views: who can decode; None: there are no images and no lineage of single clips.
    """
    result, items, test = retrieved.result, retrieved.items, retrieved.test
    store = FeatureStore(items.store_url)
    examples = choose_examples(result, primary, num_examples, seed)
    query_ids, gallery_ids = thumbnails_needed(result, examples, spaces)
    places = clip_places(test)
    clips = [places[clip] for clip in dict.fromkeys([*query_ids, *gallery_ids])]
    return Shown(
        title=f"Image-to-video retrieval: {items.dataset}",
        dataset=_dataset(store, retrieved),
        examples=examples,
        example_spaces=tuple(spaces),
        images=_images(store, retrieved, places, query_ids, gallery_ids, views),
        embedding=_embedding(store, retrieved, seed, views),
        lineage={} if views is None else views.lineage(store, clips, retrieved.features),
    )


def clip_places(items: Items) -> dict[str, ClipPlace]:
    """Returns where each clip is, by its id."""
    columns = zip(items.clip_ids, items.video_ids, items.clips.tolist(), items.clip_seconds.tolist(), strict=True)
    return {clip: ClipPlace(clip, video, index, start, stop) for clip, video, index, (start, stop) in columns}


def provenance(retrieved: RetrievedClips) -> tuple[tuple[str, str], ...]:
    """Returns what the numbers come from, as (name, value) pairs."""
    items, trained = retrieved.items, retrieved.trained
    facts = [("store", items.store_url)]
    facts += [(f"recipe of {source.name}", source.recipe_fingerprint) for source in items.sources.values()]
    if trained is not None:
        facts += [("model", f"{trained.name}, epoch {trained.epoch}"), ("trained on", trained.origin.fingerprint)]
        facts.append(("model options", json.dumps(dict(trained.options), sort_keys=True)))
    builds = _builds(FeatureStore(items.store_url).store)
    if builds:
        facts.append(("build", f"{builds[-1]['run_id']} on the {builds[-1]['engine']} engine"))
    return tuple(facts)


def _images(
    store: FeatureStore,
    retrieved: RetrievedClips,
    places: Mapping[str, ClipPlace],
    query_ids: Sequence[str],
    gallery_ids: Sequence[str],
    views: ClipViews | None,
) -> ClipImages:
    test = retrieved.test
    captions = {clip: clip.removesuffix("#0") for clip in test.clip_ids}
    spans = {clip: (place.start_seconds, place.stop_seconds) for clip, place in places.items()}
    if views is None:
        return ClipImages(captions=captions, spans=spans)
    asked = {clip: [float(seconds)] for clip, seconds in zip(test.clip_ids, retrieved.query_seconds(), strict=True)}
    stills = views.stills(store, [places[clip] for clip in query_ids], asked, QUERY_WIDTH)
    return ClipImages(
        queries={clip: Thumbnail(images[0]) for clip, images in stills.items()},
        gallery=views.moving(store, [places[clip] for clip in gallery_ids]),
        captions=captions,
        spans=spans,
    )


def _embedding(store: FeatureStore, retrieved: RetrievedClips, seed: int, views: ClipViews | None) -> EmbeddingMap:
    """Returns the map of the gallery: of what the model learned where there is one, else of the stored vectors."""
    test = retrieved.test
    shown = test.take(sample_items(len(test), seed=seed))
    gallery = retrieved.sides["gallery"][0]
    vectors: Array
    vectors, named = shown.inputs[gallery].means(), f"{test.sources[gallery].name} vectors, as stored"
    if retrieved.trained is not None:
        arrays = embed(retrieved.trained, "gallery", shown.inputs)
        embedded = {name: values for name, values in arrays.items() if values.ndim == 2 and values.dtype.kind == "f"}
        if embedded:
            space = "appearance" if "appearance" in embedded else sorted(embedded)[0]
            vectors, named = embedded[space], f"{space} vectors of {retrieved.trained.name}"
    layouts, explained = lay_out(vectors, seed)
    places = clip_places(shown)
    middles = {clip: [(place.start_seconds + place.stop_seconds) / 2] for clip, place in places.items()}
    drawn = views.stills(store, places.values(), middles, MAP_WIDTH) if layouts and views is not None else {}
    return EmbeddingMap(
        ids=shown.clip_ids,
        labels=tuple(shown.label_names[code] if shown.label_names else "" for code in shown.label),
        layouts=layouts,
        explained=explained,
        vectors=named,
        num_items=len(test),
        thumbnails={clip: moving_thumbnail(frames, MAP_WIDTH, MAP_HEIGHT) for clip, frames in drawn.items()},
    )


def _dataset(store: FeatureStore, retrieved: RetrievedClips) -> Dataset:
    items = retrieved.items
    builds = _builds(store.store)
    return Dataset(
        counts=DatasetCounts(
            name=items.dataset,
            num_videos=len(set(items.video_ids)),
            num_clips=len(items) - int((items.part == "validation").sum()),
            num_labels=len(items.label_names),
            num_train=int((items.part == "train").sum()),
            num_test=len(retrieved.test),
            split="by video: no clip of a training video is tested",
        ),
        features=tuple(_feature_lines(store, retrieved.features)),
        quarantine=_quarantine(store),
        stages=tuple(_stages(builds, retrieved)),
        speed_of_light=speed_of_light(builds[-1]) if builds else None,
    )


def _feature_lines(store: FeatureStore, features: Sequence[tuple[str, str]]) -> Iterable[FeatureLine]:
    for role, name in features:
        feature = store[name]
        index = feature.index()
        recipe = feature.recipe
        served: Counter[str] = Counter(
            # Of imported rows the record names a place in a file, which is another for each.
            IMPORTED if recipe.is_imported else f"{passport['decoder']} {passport['decoder_version']}"
            for passport in index.column("passport").to_pylist()
        )
        yield FeatureLine(
            name=name,
            extractor=recipe.extractor,
            layer=recipe.layer,
            role=role,
            num_rows=sum(index.column("num_rows").to_pylist()),
            dim=feature.dim,
            weights=recipe.weights.source if recipe.weights.file is None else recipe.weights.layout or "file",
            digest=(recipe.weights.sha256 or "")[:16],
            decoders=", ".join(f"{decoder} ({count} videos)" for decoder, count in served.most_common()),
        )


def _quarantine(store: FeatureStore) -> dict[str, int]:
    videos = store.videos()
    reasons = {
        row["video_id"]: row["reason"]
        for row in store.store.quarantine().to_pylist()
        if row["video_id"] in videos and videos[row["video_id"]].fingerprint == row["video_fingerprint"]
    }
    return dict(sorted(Counter(reasons.values()).items()))


def _builds(store: Store) -> list[dict[str, Any]]:
    """Returns the reports of the builds that executed tasks, oldest first."""
    reports = []
    for run in store.runs():
        try:
            report: dict[str, Any] = json.loads(store.read_run_file(run, "report.json"))
        except FileNotFoundError:
            continue
        if report["num_tasks_executed"]:
            reports.append(report)
    return reports


def _stages(builds: list[dict[str, Any]], retrieved: RetrievedClips) -> Iterable[StageTime]:
    for report in builds[-1:]:
        yield from build_stages(report, "build", f"{report['num_frames_decoded']:,} frames decoded")
    seconds = training_seconds(retrieved.run) if retrieved.run is not None else None
    if seconds is not None and retrieved.trained is not None:
        yield StageTime("train", seconds, f"the last call, up to epoch {retrieved.trained.epoch:,}")
    yield StageTime("evaluate", retrieved.result.seconds, f"{len(retrieved.result.query_ids):,} queries")
