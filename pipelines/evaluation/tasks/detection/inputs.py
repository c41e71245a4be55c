"""Annotated and predicted segments, as detection and proposals score them: from files, data in memory, or a store."""

from dataclasses import replace
from typing import Any

import numpy as np

from clipmill.pipelines.evaluation.inputs import (
    match_durations,
    new_ids,
    read_durations,
    read_predictions,
    read_truth,
    require_any,
    source_of,
)
from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.pipelines.evaluation.tasks.segment_truth import SegmentTruth
from clipmill.schemas.config_evaluate import PredictionsConfig, TruthConfig
from clipmill.schemas.errors import FormatError, UsageError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores.formats.records import SEGMENTS, SegmentTable
from clipmill.stores.formats.sniff import listed
from clipmill.stores.formats.thumos14 import read_thumos14_classes


def read_segment_truth(config: TruthConfig, training: TruthConfig | None, sources: Sources) -> SegmentTruth:
    """Returns annotations of videos, with durations where the file or `config.durations` has them.

    Args:
        training: annotations that the blind baseline is tuned on; None: there are none.

    Raises:
        FormatError: a file is something else, or its ids share nothing with those of its durations.
    """
    table = _annotations("ground_truth", config, sources)
    others = None if training is None else _annotations("training", training, sources)
    return SegmentTruth(
        table.segments,
        table.ambiguous,
        table.duration_seconds,
        None if others is None else others.segments,
        None if others is None else others.duration_seconds,
        subset=table.subset,
        elsewhere=table.elsewhere,
        notes=(*table.notes, *(() if others is None else others.notes)),
    )


def _annotations(thing: str, config: TruthConfig, sources: Sources) -> SegmentTable:
    table = read_truth(SEGMENTS, config, sources, thing)
    if not len(table.segments):
        raise FormatError(describe(f"{thing} file", config.file, "annotations", "none", "check the subset"))
    if config.durations is None:
        return table
    durations = read_durations(config, sources)
    match_durations(table.ids, durations, thing)
    return replace(table, duration_seconds=durations)


def read_segment_predictions(
    config: PredictionsConfig, truth: TruthConfig, with_classes: bool, sources: Sources
) -> Segments:
    """Returns predicted segments of a file or a store's feature.

    Args:
        truth: whose class list a THUMOS14 file without one takes.
        with_classes: False for proposals: classes are dropped, and a store's feature needs none.

    Raises:
        FormatError: the file is something else.
        UsageError: class numbers without names, or a feature without scores.
    """
    if config.store is None:
        table = read_predictions(SEGMENTS, config, sources, truth.file)
    else:
        source = source_of(config)
        table = SegmentTable(_stored(config, with_classes, sources))
        require_any(table.ids, source)
        table = table.renamed(lambda ids: new_ids(ids, config, source))
    segments = table.segments
    if not np.isfinite(segments.score).all():
        row = int(np.flatnonzero(~np.isfinite(segments.score))[0])
        video = segments.video_ids[int(segments.video[row])]
        raise UsageError(
            describe("predictions", f"video {video}", "finite scores", str(segments.score[row]), "correct the score")
        )
    return segments if with_classes else table.without_classes().segments


def _stored(config: PredictionsConfig, with_classes: bool, sources: Sources) -> Segments:
    from clipmill.stores import FeatureStore

    feature = FeatureStore(str(config.store))[str(config.feature)]
    names = _stored_classes(config, feature.recipe, sources) if with_classes else ("",)
    videos: list[str] = []
    columns: list[tuple[Any, Any, Any, Any]] = []
    for video in feature.video_ids:
        rows = feature.stored(video)
        needed = ("score", "class_index") if with_classes else ("score",)
        missing = [name for name in needed if name not in rows.extras]
        if missing:
            got = f"{', '.join(rows.extras) or 'no further columns'}"
            remedy = "name the feature of a detector, such as rc3d with layer: detections"
            where = f"{config.feature} of {config.store}"
            raise UsageError(describe("predictions feature", where, f"a column {listed(missing)}", got, remedy))
        score = np.asarray(rows.extras["score"], np.float64)[rows.mask]
        code = np.asarray(rows.extras["class_index"], np.int64)[rows.mask] if with_classes else np.ones(len(score), int)
        videos += [video] * len(score)
        columns.append((rows.start_seconds[rows.mask], rows.stop_seconds[rows.mask], code, score))
    start, stop, codes, scores = (np.concatenate([np.zeros(0), *part]) for part in zip(*columns, strict=True))
    if len(codes) and int(codes.max()) > len(names):
        got = f"class {int(codes.max())}"
        raise UsageError(describe("predictions", "classes", f"at most {len(names)} classes", got, "complete the list"))
    labels = [names[int(code) - 1] for code in codes.tolist()]
    return segments_from_columns(videos, start, stop, labels, scores, video_ids=feature.video_ids)


def _stored_classes(config: PredictionsConfig, recipe: Recipe, sources: Sources) -> tuple[str, ...]:
    if isinstance(config.classes, str):
        return tuple(read_thumos14_classes(config.classes).values())
    if config.classes is not None:
        return config.classes
    known = sources.class_names(recipe)
    if not known:
        remedy = "give predictions.classes: the names of class 1, 2, ... (0 is background)"
        got = f"none, and {recipe.extractor}'s weights do not name them"
        raise UsageError(describe("predictions", "classes", "names of the class numbers", got, remedy))
    return known
