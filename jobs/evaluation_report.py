"""The parts of an evaluation's report that lie in other rooms: thumbnails, passports, quarantine, times."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.jobs.report_clips import ClipPlace, animated, lineage, pictures
from clipmill.models.base import RETRIEVAL_SIDES, Side
from clipmill.models.checkpoints import TrainedModel
from clipmill.models.embedding import embed
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.evaluation.retrieval.evaluate import RetrievalResult
from clipmill.pipelines.evaluation.tasks.retrieval.embedding_map import EmbeddingMap, lay_out, sample_items
from clipmill.pipelines.evaluation.tasks.retrieval.examples import choose_examples, thumbnails_needed
from clipmill.pipelines.evaluation.tasks.retrieval.report import (
    DatasetCounts,
    FeatureLine,
    RetrievalReport,
    SpeedOfLight,
    StageTime,
)
from clipmill.pipelines.reports.pictures import strip
from clipmill.schemas.arrays import Array
from clipmill.schemas.config import EvaluateConfig, dump_config
from clipmill.stores import FeatureStore
from clipmill.stores.store import Store

QUERY_WIDTH = 320
MAP_WIDTH, MAP_HEIGHT = 112, 63
"""ours: pixels of a query's frame, and of a picture on the map."""
BASELINE = "cosine"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What an evaluation found: the result, all pairs, the tested ones, the model and what to tell the reader."""

    result: RetrievalResult
    pairs: Items
    test: Items
    trained: TrainedModel | None
    notes: tuple[str, ...]


def make_report(evaluated: Evaluated, config: EvaluateConfig) -> RetrievalReport:
    """Returns everything report.html shows."""
    result, pairs, test = evaluated.result, evaluated.pairs, evaluated.test
    store = FeatureStore(pairs.store_url)
    spaces = [space.space for space in result.spaces]
    shown = tuple(space for space in spaces if space != BASELINE) or tuple(spaces)
    examples = choose_examples(result, shown[-1], config.examples, config.seed)
    query_ids, gallery_ids = thumbnails_needed(result, examples, shown)
    places = clip_places(test)
    shown_clips = [places[clip] for clip in dict.fromkeys([*query_ids, *gallery_ids])]
    asked = {clip: [float(seconds)] for clip, seconds in zip(test.clip_ids, _query_seconds(evaluated), strict=True)}
    frames = pictures(store, [places[clip] for clip in query_ids], asked, QUERY_WIDTH)
    builds = _builds(store.store)
    return RetrievalReport(
        title=f"Image-to-video retrieval: {pairs.dataset}",
        result=result,
        dataset=DatasetCounts(
            name=pairs.dataset,
            num_videos=len(set(pairs.video_ids)),
            num_clips=len(pairs) - int((pairs.part == "validation").sum()),
            num_labels=len(pairs.label_names),
            num_train=int((pairs.part == "train").sum()),
            num_test=len(test),
            split="by video: no clip of a training video is tested",
        ),
        baselines=tuple(space for space in spaces if space == BASELINE and len(spaces) > 1),
        features=tuple(_feature_lines(store, evaluated)),
        examples=examples,
        example_spaces=shown,
        query_thumbnails={clip: drawn[0] for clip, drawn in frames.items()},
        gallery_thumbnails=animated(store, [places[clip] for clip in gallery_ids]),
        captions={clip: clip.removesuffix("#0") for clip in test.clip_ids},
        spans={clip: (place.start_seconds, place.stop_seconds) for clip, place in places.items()},
        embedding=_embedding(store, evaluated, config.seed),
        lineage=lineage(store, shown_clips, tuple(_features(evaluated))),
        quarantine=_quarantine(store),
        stages=_stages(builds, evaluated),
        speed_of_light=_speed(builds),
        notes=evaluated.notes,
        config=dump_config(config),
        provenance=_provenance(evaluated, builds),
        next_steps=(
            f"clipmill status {pairs.store_url}",
            f"clipmill verify {pairs.store_url}",
            "clipmill build --config YOURS.yaml   # see examples/topics70",
        ),
    )


def clip_places(pairs: Items) -> dict[str, ClipPlace]:
    """Returns where each clip is, by its id."""
    columns = zip(pairs.clip_ids, pairs.video_ids, pairs.clips.tolist(), pairs.clip_seconds.tolist(), strict=True)
    return {clip: ClipPlace(clip, video, index, start, stop) for clip, video, index, (start, stop) in columns}


def _query_seconds(evaluated: Evaluated) -> npt.NDArray[np.float64]:
    """Returns when the frame that stands for each query is: that of its vector, else the middle of its clip."""
    test = evaluated.test
    for name in _sides(evaluated)["query"]:
        rows = test.inputs[name]
        if rows.offsets is None and rows.start_seconds is not None:
            return rows.start_seconds
    return np.asarray(test.clip_seconds.mean(axis=1), np.float64)


def _sides(evaluated: Evaluated) -> Mapping[Side, tuple[str, ...]]:
    return RETRIEVAL_SIDES if evaluated.trained is None else evaluated.trained.card.sides


def _features(evaluated: Evaluated) -> Iterable[tuple[str, str]]:
    """Yields the stored features with what they are used for."""
    for side, names in _sides(evaluated).items():
        for name in names:
            source = evaluated.pairs.sources[name]
            if name not in evaluated.pairs.vocabularies:
                yield side, source.name


def _embedding(store: FeatureStore, evaluated: Evaluated, seed: int) -> EmbeddingMap:
    """Returns the map of the gallery: of what the model learned where there is one, else of the stored ones."""
    test = evaluated.test
    shown = test.take(sample_items(len(test), seed=seed))
    gallery = _sides(evaluated)["gallery"][0]
    vectors: Array
    vectors, named = shown.inputs[gallery].means(), f"{test.sources[gallery].name} vectors, as stored"
    if evaluated.trained is not None:
        made = embed(evaluated.trained, "gallery", shown.inputs)
        embedded = {name: values for name, values in made.items() if values.ndim == 2 and values.dtype.kind == "f"}
        if embedded:
            space = "appearance" if "appearance" in embedded else sorted(embedded)[0]
            vectors, named = embedded[space], f"{space} vectors of {evaluated.trained.name}"
    layouts, explained = lay_out(vectors, seed)
    places = clip_places(shown)
    middles = {clip: [(place.start_seconds + place.stop_seconds) / 2] for clip, place in places.items()}
    drawn = pictures(store, places.values(), middles, MAP_WIDTH) if layouts else {}
    return EmbeddingMap(
        ids=shown.clip_ids,
        labels=tuple(shown.label_names[code] for code in shown.label),
        layouts=layouts,
        explained=explained,
        vectors=named,
        num_items=len(test),
        thumbnails={clip: strip(frames, MAP_WIDTH, MAP_HEIGHT).data for clip, frames in drawn.items()},
    )


def _feature_lines(store: FeatureStore, evaluated: Evaluated) -> Iterable[FeatureLine]:
    for role, name in _features(evaluated):
        feature = store[name]
        index = feature.index()
        served: Counter[str] = Counter(
            f"{passport['decoder']} {passport['decoder_version']}" for passport in index.column("passport").to_pylist()
        )
        recipe = feature.recipe
        yield FeatureLine(
            name=name,
            extractor=recipe.extractor,
            layer=recipe.layer,
            role=role,
            num_rows=sum(index.column("num_rows").to_pylist()),
            dim=feature.dim,
            weights=recipe.weights.source if recipe.weights.file is None else recipe.weights.layout or "file",
            digest=(recipe.weights.sha256 or "")[:16],
            decoders=", ".join(f"{name} ({count} videos)" for name, count in served.most_common()),
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


def _stages(builds: list[dict[str, Any]], evaluated: Evaluated) -> tuple[StageTime, ...]:
    stages = []
    for report in builds[-1:]:
        seconds = report["seconds"]
        stages.append(StageTime("build", seconds["wall"], f"{report['num_frames_decoded']} frames decoded"))
        for name, told in (
            ("scan", "packet scan"),
            ("decode", "in the decode child"),
            ("forward", "in the networks"),
            ("write", ""),
        ):
            stages.append(StageTime(f"build: {name}", seconds.get(name, 0.0), told))
    stages.append(StageTime("evaluate", evaluated.result.seconds, f"{len(evaluated.result.query_ids)} queries"))
    return tuple(stages)


def _speed(builds: list[dict[str, Any]]) -> SpeedOfLight | None:
    if not builds or not builds[-1]["speed"]:
        return None
    speed = builds[-1]["speed"]
    rates = [("this build", speed["frames_per_second"])]
    if speed["raw_decoder_frames_per_second"]:
        rates.append(("raw decoder", speed["raw_decoder_frames_per_second"]))
    return SpeedOfLight(builds[-1]["speed_of_light"], tuple(rates), "frames/s")


def _provenance(evaluated: Evaluated, builds: list[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    pairs, trained = evaluated.pairs, evaluated.trained
    lines = [
        ("store", pairs.store_url),
        *((f"recipe of {source.name}", source.recipe_fingerprint) for source in pairs.sources.values()),
    ]
    if trained is not None:
        lines += [("model", f"{trained.name}, epoch {trained.epoch}"), ("trained on", trained.origin.fingerprint)]
        lines.append(("model options", json.dumps(dict(trained.options), sort_keys=True)))
    if builds:
        lines.append(("build", f"{builds[-1]['run_id']} on the {builds[-1]['engine']} engine"))
    return tuple(lines)
