"""Annotated queries and predicted moments."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from clipmill.pipelines.evaluation.inputs import match_durations, read_durations, read_predictions, read_truth
from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.pipelines.evaluation.tasks.moments.score import MomentTruth
from clipmill.schemas.config_evaluate import PredictionsConfig, TruthConfig
from clipmill.schemas.errors import FormatError, describe
from clipmill.schemas.segments import Segments
from clipmill.stores.formats.records import QUERIES, WINDOWS, AnnotatedQueries


@dataclass(frozen=True, slots=True)
class MomentInput:
    """Queries with their windows, and whose protocol such annotations are scored by."""

    truth: MomentTruth
    protocol: Literal["charades", "qvhighlights"]


def read_moment_truth(config: TruthConfig, training: TruthConfig | None, sources: Sources) -> MomentInput:
    """Returns queries with annotated windows.

    Args:
        training: annotations that the span baseline is tuned on; None: there are none.

    Raises:
        FormatError: a file is something else, or its videos share nothing with those of its durations.
    """
    table = _queries("ground_truth", config, sources)
    others = None if training is None else _queries("training", training, sources).queries
    queries = table.queries
    truth = MomentTruth(
        queries.windows,
        queries.duration_seconds,
        queries.sentences,
        queries.video_ids,
        None if others is None else others.windows,
        None if others is None else others.duration_seconds,
    )
    return MomentInput(truth, table.protocol)


def _queries(thing: str, config: TruthConfig, sources: Sources) -> AnnotatedQueries:
    table = read_truth(QUERIES, config, sources, thing)
    if config.durations is not None:
        durations = read_durations(config, sources)
        match_durations(table.queries.video_ids, durations, f"videos of {thing}")
        seconds = [durations.get(name, np.nan) for name in table.queries.video_ids]
        table = replace(table, queries=replace(table.queries, duration_seconds=np.array(seconds, np.float64)))
    if not len(table.queries.windows):
        raise FormatError(describe(f"{thing} file", config.file, "annotated windows", "none", "give annotations"))
    return table


def read_moment_predictions(config: PredictionsConfig, sources: Sources) -> Segments:
    """Returns predicted windows; their "videos" are query ids.

    Raises:
        FormatError: the file is something else.
    """
    return read_predictions(WINDOWS, config, sources).without_classes().segments
