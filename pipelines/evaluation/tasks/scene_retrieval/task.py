"""``task: scene_retrieval``: clips that show what a query image shows, and when (Stanford I2V)."""

from dataclasses import replace
from typing import TYPE_CHECKING

from clipmill.pipelines.evaluation.bootstrap import RESAMPLES
from clipmill.pipelines.evaluation.coverage import Asked, check_answers
from clipmill.pipelines.evaluation.inputs import bootstrap_of, read_predictions, read_truth, run_names
from clipmill.pipelines.evaluation.tasks.base import Evaluation, Sources, Task
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.pipelines.evaluation.tasks.scene_retrieval.frames import evaluate_frames
from clipmill.pipelines.evaluation.tasks.scene_retrieval.score import (
    SceneEvaluation,
    check_release,
    evaluate_scenes,
    evaluate_seconds,
    scene_protocol,
    scenes_of_frames,
)
from clipmill.schemas.config_scene_retrieval import SceneRetrievalConfig
from clipmill.schemas.errors import UsageError, describe
from clipmill.stores.formats.ids import match_ids, require_ids
from clipmill.stores.formats.records import FOUND_FRAMES, RANKINGS, REPORTED_SECONDS, SCENES, SHOWN_FRAMES

if TYPE_CHECKING:
    from clipmill.pipelines.evaluation.tasks.page import TaskReport


def evaluate(config: SceneRetrievalConfig, sources: Sources) -> Evaluation[SceneEvaluation]:
    """Returns the scores of each set of ranked clips, or of reported seconds.

    Raises:
        UsageError: a file is something else, or its queries or clips share nothing with the ground truth's.
    """
    if config.protocol == "frames":
        return _frames(config, sources)
    names = run_names(config.predictions)
    truth = read_truth(SCENES, config.ground_truth, sources)
    if config.release is not None:
        check_release(truth, config.release, config.ground_truth.file)
    clips = {item.clip for items in truth.shown.values() for item in items}
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        if config.protocol == "scenes":
            ranked = read_predictions(RANKINGS, item, sources).ordered("ascending")
            if config.scene_separator is not None:
                ranked = {
                    key: [*order] for key, order in scenes_of_frames(ranked, config.scene_separator, name).items()
                }
            listed = {clip for order in ranked.values() for clip in order}
            given, side = {query: bool(order) for query, order in ranked.items()}, "the lists"
            evaluation = evaluate_scenes(name, truth, ranked, config)
        else:
            reported = read_predictions(REPORTED_SECONDS, item, sources)
            listed = {clip for order in reported.seconds.values() for clip in order}
            given, side = {query: any(clips.values()) for query, clips in reported.seconds.items()}, "the reports"
            evaluation = evaluate_seconds(name, truth, reported, config)
        answered = check_answers(
            Asked(list(truth.shown)), {query for query in given if given[query]}, config.min_coverage, side, given, name
        )
        require_ids(match_ids(clips, listed, "clips of the ground truth", f"clips of {name}"))
        evaluations.append(replace(evaluation, run=answered.told(evaluation.run)))
    data = {
        "fingerprint": truth.to_fingerprint(),
        "num_queries": len(truth.shown),
        "num_clips": len(clips),
    }
    runs = tuple(item.run for item in evaluations)
    score = TaskScore(config.task, scene_protocol(config), data, runs, bootstrap_of(config, RESAMPLES))
    return Evaluation(score, tuple(evaluations))


def _frames(config: SceneRetrievalConfig, sources: Sources) -> Evaluation[SceneEvaluation]:
    for key in ("release", "num_scenes", "scene_separator"):
        if getattr(config, key) is not None:
            got = str(getattr(config, key))
            raise UsageError(describe("evaluation", key, "none with protocol: frames", got, "leave it out"))
    truth = read_truth(SHOWN_FRAMES, config.ground_truth, sources)
    videos = {item.video for item in truth.shown.values()}
    evaluations = []
    for name, item in zip(run_names(config.predictions), config.predictions, strict=True):
        found = read_predictions(FOUND_FRAMES, item, sources)
        answered = {query for query, frame in found.found.items() if frame is not None}
        told = check_answers(Asked(list(truth.shown)), answered, config.min_coverage, "the search", found.found, name)
        listed = {frame.video for frame in found.found.values() if frame is not None}
        require_ids(match_ids(videos, listed, "videos of the ground truth", f"videos of {name}"))
        evaluation = evaluate_frames(name, truth, found, config)
        evaluations.append(replace(evaluation, run=told.told(evaluation.run)))
    data = {
        "fingerprint": truth.to_fingerprint(),
        "num_queries": len(truth.shown),
        "num_videos": len(videos),
    }
    runs = tuple(item.run for item in evaluations)
    score = TaskScore(config.task, scene_protocol(config), data, runs, bootstrap_of(config, RESAMPLES))
    return Evaluation(score, tuple(evaluations))


def report(evaluation: Evaluation[SceneEvaluation], config: SceneRetrievalConfig, sources: Sources) -> "TaskReport":
    """Returns what the page shows."""
    from clipmill.pipelines.evaluation.tasks.scene_retrieval.report import scenes_report

    return scenes_report(evaluation.score, evaluation.evaluated, seed=config.seed)


TASK = Task(
    "scene_retrieval",
    "clips that show a query image: mAP@100, the seconds found in them, or its very frame",
    SceneRetrievalConfig,
    evaluate,
    report,
)
