"""The seam to trained models: what a run of ``clipmill train`` answers to the queries of a ground truth."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from clipmill.models.checkpoints import TrainedModel, find_checkpoint, load
from clipmill.models.localising import localise
from clipmill.pipelines.datasets.queries import Answerable, answerable, known_durations, query_inputs, whole_videos
from clipmill.pipelines.datasets.video_steps import VideoSteps, seconds_of
from clipmill.pipelines.evaluation.metrics.detection_matching import tiou
from clipmill.pipelines.evaluation.tasks.base import Sources
from clipmill.pipelines.evaluation.tasks.moments.inputs import read_moment_truth
from clipmill.pipelines.evaluation.tasks.moments.score import MomentsProtocol, MomentTruth
from clipmill.pipelines.evaluation.tasks.retrieval.spaces import check_recipe_trained_on
from clipmill.schemas.arrays import Floats
from clipmill.schemas.config import DataConfig
from clipmill.schemas.config_evaluate import PredictionsConfig
from clipmill.schemas.config_moments import MomentsConfig
from clipmill.schemas.config_queries import MomentQueriesConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.schemas.model import validate
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores import Feature, FeatureStore
from clipmill.stores.formats.records import SegmentTable
from clipmill.stores.formats.sniff import listed

NUM_ANSWERS = 10
"""ours: answers of a query, where the protocol reads fewer; as many as average precision reads by default."""
NUM_CANDIDATES = 1000
"""ours: the best of a query's spans, of which those that overlap with better ones go: of 128 steps an eighth of all."""
QUERIES_AT_ONCE = 2048
"""ours: what bounds the memory that their candidates take."""


def predict(item: PredictionsConfig, config: MomentsConfig) -> SegmentTable:
    """Returns the moments that a trained run finds for the queries of the ground truth, best first.

    Queries that it cannot answer, because their video has no rows or they have no word, have none, and score 0.

    Raises:
        UsageError: the run does not localise, its feature was made by another recipe since, or videos of the ground
            truth have no duration.
    """
    trained = _trained(str(item.run))
    read = read_moment_truth(config.ground_truth, None, Sources())
    protocol = MomentsProtocol.of(config, config.protocol or read.protocol)
    most = max(*protocol.cutoffs, protocol.max_windows or NUM_ANSWERS)
    return SegmentTable(answers(trained, str(item.run), read.truth, most, config.nms))


def answers(
    trained: TrainedModel, run: str, truth: MomentTruth, num_answers: int, nms: float | None = None
) -> Segments:
    """Returns the moments found for the queries of `truth`; their "videos" are the ids of the queries answered.

    Args:
        nms: those that overlap with a better one by an IoU above this go, of the best `NUM_CANDIDATES`; None: none.
    """
    url, queries = trained_queries(trained, run)
    feature = trained_feature(trained, run, url)
    videos = [queries.train.id_of(name) for name in truth.video_ids]
    found = known_durations(videos, truth.duration_seconds, feature)
    seconds = dict(zip(videos, found.tolist(), strict=True))
    lacking = sorted(name for name in seconds if name in feature and not seconds[name] > 0)
    if lacking:
        got = f"none for {len(lacking)} videos ({listed(tuple(lacking))})"
        remedy = "give ground_truth.durations"
        raise UsageError(describe("ground_truth", "durations", "seconds of every video", got, remedy))
    asked = list(zip(videos, truth.sentences, strict=True))
    given = answerable(feature, trained.card.inputs, trained.origin.vocabularies, asked, seconds, queries.grid)
    if nms is None:
        steps, score = localise(trained, given.inputs, num_answers)
        times = in_seconds(given.steps, given.video_ids, steps)
    else:
        times, score = _apart(trained, given, num_answers, nms)
    names = [truth.windows.video_ids[row] for row in given.kept.tolist()]
    row, place = np.nonzero(np.isfinite(score))
    return segments_from_columns(
        [names[number] for number in row.tolist()],
        times[row, place, 0],
        times[row, place, 1],
        score=score[row, place],
        video_ids=names,
    )


def _apart(trained: TrainedModel, given: Answerable, num_answers: int, threshold: float) -> tuple[Floats, Floats]:
    """Returns seconds ``[n, K, 2]`` of the K best moments that lie apart, and scores ``[n, K]``, -inf of none."""
    times, scores = [], []
    for start in range(0, len(given.video_ids), QUERIES_AT_ONCE):
        names = given.video_ids[start : start + QUERIES_AT_ONCE]
        rows = np.arange(start, start + len(names))
        block = {name: values.take(rows) for name, values in given.inputs.items()}
        steps, score = localise(trained, block, NUM_CANDIDATES)
        found = in_seconds(given.steps, names, steps)
        kept = kept_scores(found, score, num_answers, threshold)
        best = np.argsort(-kept, axis=1, kind="stable")[:, :num_answers]
        times.append(np.take_along_axis(found, best[..., None], axis=1))
        scores.append(np.take_along_axis(kept, best, axis=1))
    return np.concatenate(times), np.concatenate(scores)


def kept_scores(times: Floats, score: Floats, num_kept: int, threshold: float) -> Floats:
    """Returns the scores of the best `num_kept` moments of each query that survive suppression, -inf for all others.

    Args:
        times: ``float64[n, C, 2]``, seconds.
        score: ``float64[n, C]``; -inf is no moment.
        threshold: the largest IoU with a kept moment that does no harm.
    """
    left, kept, query = score.copy(), np.full_like(score, -np.inf), np.arange(len(score))
    for _ in range(num_kept):
        best = left.argmax(axis=1)
        kept[query, best] = np.maximum(kept[query, best], left[query, best])
        chosen = times[query, best]
        overlap = tiou(chosen[:, :1], chosen[:, 1:], times[..., 0], times[..., 1])
        left[overlap > threshold] = -np.inf
        left[query, best] = -np.inf
    return kept


def in_seconds(steps: VideoSteps, video_ids: tuple[str, ...], spans: Floats) -> Floats:
    """Returns spans ``[n, K, 2]`` in steps of n videos in seconds."""
    edges = {name: steps.edges(name) for name in dict.fromkeys(video_ids)}
    found = [seconds_of(edges[name], own) for name, own in zip(video_ids, spans, strict=True)]
    return np.stack(found) if found else np.zeros(spans.shape)


def trained_queries(trained: TrainedModel, run: str) -> tuple[str, MomentQueriesConfig]:
    """Returns the store that a run was trained on, and how its queries were read.

    Raises:
        UsageError: the run is none of a model that localises.
    """
    if trained.card.task != "moments":
        remedy = f"evaluate task: {trained.card.task}"
        raise UsageError(describe("run", run, "a model of moments", trained.name, remedy))
    data = validate(DataConfig, trained.origin.config["data"], "the run's data")
    if data.queries is None:
        raise UsageError(describe("run", run, "one that was trained on queries", "none", "train it again"))
    return data.store, data.queries


def trained_feature(trained: TrainedModel, run: str, url: str, name: str | None = None) -> Feature:
    """Returns the feature of the store at `url` that a run can be used with.

    Args:
        name: of the feature; None: that of the training.

    Raises:
        UsageError: it was made by another recipe than the one trained on.
    """
    video = query_inputs(trained.card.inputs)[0]
    source = trained.origin.inputs[video]
    feature = whole_videos(FeatureStore(url)[name or source.name])
    check_recipe_trained_on(run, video, source.name, source.recipe_fingerprint, feature.recipe.fingerprint)
    return feature


def run_notes(item: PredictionsConfig, truth: MomentTruth) -> tuple[str, ...]:
    """Returns what to know of a run beside its score: which of the videos scored it was trained or validated on."""
    run = str(item.run)
    trained = _trained(run)
    _, queries = trained_queries(trained, run)
    video = query_inputs(trained.card.inputs)[0]
    seen = trained.origin.inputs[video].videos
    scored = {queries.train.id_of(name) for name in truth.video_ids}
    both = scored & seen.keys()
    if not both:
        return ()
    return (f"{len(both)} of {len(scored)} videos scored are among those it was trained or validated on: no test",)


@lru_cache(maxsize=2)
def _loaded(path: str) -> TrainedModel:
    return load(Path(path))


def _trained(run: str) -> TrainedModel:
    return _loaded(str(find_checkpoint(run)))
