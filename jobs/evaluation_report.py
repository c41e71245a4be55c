"""The parts of an evaluation's report that lie in other rooms: thumbnails, passports, quarantine, times."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.checkpoints import TrainedModel
from pipelines.evaluation.report import DatasetCounts, FeatureLine, RetrievalReport, SpeedOfLight, StageTime
from pipelines.evaluation.report_examples import choose_examples, thumbnails_needed
from pipelines.evaluation.retrieval import RetrievalResult
from pipelines.features.decode.thumbnails import thumbnails
from pipelines.features.sources import local_copy
from pipelines.training.datasets import PairedFeatures
from schemas.config import EvaluateConfig, dump_config
from schemas.errors import VideoError
from stores import FeatureStore
from stores.store import Store

THUMBNAIL_WIDTH = 160
BASELINE = "cosine"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What an evaluation found: the result, all pairs, the tested ones, the model and what to tell the reader."""

    result: RetrievalResult
    pairs: PairedFeatures
    test: PairedFeatures
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
    row = {clip: index for index, clip in enumerate(test.clip_ids)}
    builds = _builds(store.store)
    return RetrievalReport(
        title=f"Image-to-video retrieval: {pairs.dataset}",
        result=result,
        dataset=DatasetCounts(
            name=pairs.dataset,
            num_videos=len(set(pairs.video_ids)),
            num_clips=len(pairs),
            num_labels=len(pairs.label_names),
            num_train=len(pairs) - len(test),
            num_test=len(test),
            split="by video: no clip of a training video is tested",
        ),
        baselines=tuple(space for space in spaces if space == BASELINE and len(spaces) > 1),
        features=tuple(_feature_lines(store, pairs)),
        examples=examples,
        example_spaces=shown,
        query_thumbnails=_thumbnails(store, test, {clip: float(test.image_seconds[row[clip]]) for clip in query_ids}),
        gallery_thumbnails=_thumbnails(
            store, test, {clip: float(np.mean(test.clip_seconds[row[clip]])) for clip in gallery_ids}
        ),
        captions={clip: clip.removesuffix("#0") for clip in test.clip_ids},
        quarantine=_quarantine(store),
        stages=_stages(builds, evaluated),
        speed_of_light=_speed(builds),
        notes=evaluated.notes,
        config=dump_config(config),
        provenance=_provenance(evaluated, builds),
        next_steps=(
            f"clipmill status {pairs.store_url}",
            f"clipmill verify {pairs.store_url}",
            "clipmill build --config YOURS.yaml   # see examples/own_videos",
        ),
    )


def _thumbnails(store: FeatureStore, test: PairedFeatures, seconds: Mapping[str, float]) -> dict[str, bytes]:
    """Returns a JPEG per clip, decoding each video once; a clip whose video is gone is shown without a picture."""
    video_of = dict(zip(test.clip_ids, test.video_ids, strict=True))
    by_video: dict[str, list[str]] = {}
    for clip in seconds:
        by_video.setdefault(video_of[clip], []).append(clip)
    videos = store.videos()
    found: dict[str, bytes] = {}
    for video_id, clips in by_video.items():
        ordered = sorted(clips, key=lambda clip: seconds[clip])
        try:
            with local_copy(videos[video_id].uri) as path:
                pictures = thumbnails(path, [seconds[clip] for clip in ordered], THUMBNAIL_WIDTH)
        except VideoError:
            continue
        found |= dict(zip(ordered, pictures, strict=True))
    return found


def _feature_lines(store: FeatureStore, pairs: PairedFeatures) -> Iterable[FeatureLine]:
    for role, source in (("query", pairs.image_source), ("gallery", pairs.video_source)):
        feature = store[source.name]
        index = feature.index()
        served: Counter[str] = Counter(
            f"{passport['decoder']} {passport['decoder_version']}" for passport in index.column("passport").to_pylist()
        )
        recipe = feature.recipe
        yield FeatureLine(
            name=source.name,
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
    if evaluated.trained is not None:
        training = evaluated.trained.training
        if "seconds" in training:
            stages.append(StageTime("train", float(training["seconds"]), f"{evaluated.trained.epoch} epochs"))
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
        (f"recipe of {pairs.image_source.name}", pairs.image_source.recipe_fingerprint),
        (f"recipe of {pairs.video_source.name}", pairs.video_source.recipe_fingerprint),
    ]
    if trained is not None:
        lines += [("model", f"{trained.name}, epoch {trained.epoch}"), ("trained on", trained.origin.fingerprint)]
        lines.append(("model options", json.dumps(dict(trained.options), sort_keys=True)))
    if builds:
        lines.append(("build", f"{builds[-1]['run_id']} on the {builds[-1]['engine']} engine"))
    return tuple(lines)
