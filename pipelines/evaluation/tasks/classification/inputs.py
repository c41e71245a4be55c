"""Classes of items and of untrimmed videos, true and predicted."""

from typing import Literal

import numpy as np

from clipmill.pipelines.evaluation.inputs import (
    carries,
    new_ids,
    read_predictions,
    read_truth,
    require_any,
    source_of,
)
from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.schemas.arrays import Floats
from clipmill.schemas.config_classification import ClassificationConfig
from clipmill.schemas.config_evaluate import PredictionsConfig, TruthConfig
from clipmill.schemas.errors import FormatError, UsageError, describe
from clipmill.schemas.segments import Segments
from clipmill.stores import FeatureStore
from clipmill.stores.formats.class_lists import read_class_list
from clipmill.stores.formats.records import (
    CLASS_SCORES,
    LABELS,
    SEGMENTS,
    VIDEO_CLASSES,
    ClassScoreTable,
    SegmentTable,
)
from clipmill.stores.formats.registry import formats_of

_KINDS = (LABELS.name, SEGMENTS.name)


def protocol_of(config: ClassificationConfig, sources: Sources) -> Literal["items", "activitynet"]:
    """Returns whether items with one class each are scored, or untrimmed videos: by the ground truth's format.

    Raises:
        FormatError: the ground truth is neither.
        UsageError: the config's protocol wants the other kind of ground truth.
    """
    of_items, name = carries(LABELS, config.ground_truth, sources, _KINDS)
    protocol = config.protocol or ("items" if of_items else "activitynet")
    if (protocol == "items") != of_items:
        formats = formats_of("truth", (LABELS.name if protocol == "items" else SEGMENTS.name,))
        expected = f"ground truth in the format {' or '.join(formats)} for {protocol}"
        raise UsageError(describe("evaluation", "protocol", expected, name, "leave it out"))
    return protocol


def read_item_labels(config: TruthConfig, sources: Sources) -> dict[str, str]:
    """Returns item id to class name.

    Raises:
        FormatError: the file is something else.
    """
    return dict(read_truth(LABELS, config, sources).labels)


def read_item_scores(config: PredictionsConfig, sources: Sources) -> ClassScoreTable:
    """Returns class scores of items, of a file or of a feature of a store.

    Raises:
        FormatError: the file is something else.
        UsageError: the feature is none of class scores, or nobody names its classes.
    """
    if config.store is None:
        return read_predictions(CLASS_SCORES, config, sources)
    table = _stored(config, sources)
    return table.renamed(lambda ids: new_ids(ids, config, source_of(config)))


def _stored(config: PredictionsConfig, sources: Sources) -> ClassScoreTable:
    """Returns the mean of each clip's rows: of several windows (views) of a clip their scores are averaged."""
    feature = FeatureStore(str(config.store))[str(config.feature)]
    recipe, where = feature.recipe, f"{config.feature} of {config.store}"
    names = config.classes
    if isinstance(names, str):
        names = tuple(name for _, name in sorted(read_class_list(names).items()))
    names = names or sources.class_names(recipe)
    if len(names) != recipe.dim:
        remedy = "take layer: probabilities of a network with named classes, or give predictions.classes"
        got = f"{len(names)} names" if names else "none"
        raise UsageError(describe("predictions feature", where, f"names of {recipe.dim} classes", got, remedy))
    is_whole = recipe.clips.from_ == "whole"
    ids: list[str] = []
    values: list[Floats] = []
    for video in feature.video_ids:
        rows = feature.stored(video)
        for clip in np.unique(rows.clip[rows.mask]).tolist():
            own = rows.values[rows.mask & (rows.clip == clip)]
            ids.append(video if is_whole else f"{video}#{clip}")
            values.append(own.astype(np.float64).mean(axis=0))
    require_any(ids, where)
    return ClassScoreTable(tuple(ids), tuple(names), np.stack(values))


def read_annotated_classes(config: TruthConfig, sources: Sources) -> SegmentTable:
    """Returns annotations, whose classes are those of their videos.

    Raises:
        FormatError: the file is something else, or holds no annotation.
    """
    table = read_truth(SEGMENTS, config, sources)
    if not len(table.segments):
        raise FormatError(describe("ground_truth file", config.file, "annotations", "none", "check the subset"))
    return table


def read_video_classes(config: PredictionsConfig, sources: Sources) -> Segments:
    """Returns classes of whole videos with scores.

    Raises:
        FormatError: the file is something else.
    """
    return read_predictions(VIDEO_CLASSES, config, sources).segments
