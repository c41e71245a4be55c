"""``task: classification``: top-k accuracy of items, or mAP and hit@k of untrimmed videos."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clipmill.pipelines.evaluation.bootstrap import RESAMPLES
from clipmill.pipelines.evaluation.checks import check_classes, require_classes
from clipmill.pipelines.evaluation.coverage import Asked, annotated, check_answers
from clipmill.pipelines.evaluation.inputs import bootstrap_of, read_blocked, run_names
from clipmill.pipelines.evaluation.tasks.base import Evaluation, Sources, Task
from clipmill.pipelines.evaluation.tasks.classification.inputs import (
    protocol_of,
    read_annotated_classes,
    read_item_labels,
    read_item_scores,
    read_video_classes,
)
from clipmill.pipelines.evaluation.tasks.classification.score import (
    ItemsEvaluation,
    VideoClassificationEvaluation,
    evaluate_items,
    evaluate_video_classes,
)
from clipmill.pipelines.evaluation.tasks.result import SCORE_RESAMPLES, TaskScore, segments_fingerprint
from clipmill.pipelines.evaluation.tasks.segment_truth import in_order
from clipmill.schemas.config_classification import ClassificationConfig
from clipmill.schemas.fingerprint import fingerprint
from clipmill.stores.formats.ids import match_ids

if TYPE_CHECKING:
    from clipmill.pipelines.evaluation.tasks.page import TaskReport

Classified = ItemsEvaluation | VideoClassificationEvaluation


def evaluate(config: ClassificationConfig, sources: Sources) -> Evaluation[Classified]:
    """Returns top-k accuracy of items, or mAP and hit@k of untrimmed videos, of each set of predictions.

    Raises:
        UsageError: a file is something else, or its ids or classes share nothing with the ground truth's.
    """
    if protocol_of(config, sources) == "items":
        return _items(config, sources)
    return _videos(config, sources)


def _items(config: ClassificationConfig, sources: Sources) -> Evaluation[Classified]:
    names, at = run_names(config.predictions), tuple(sorted(set(config.cutoffs or (1, 5))))
    blocked = read_blocked(config.blocked)
    everything = read_item_labels(config.ground_truth, sources)
    labels = {item: label for item, label in everything.items() if item not in blocked}
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        scores = read_item_scores(item, sources)
        known = [item_id for item_id in scores.ids if item_id not in blocked]
        answered = check_answers(Asked(list(labels), "items"), known, config.min_coverage, name=name)
        classes = match_ids(labels.values(), scores.class_names, "the ground truth's classes", "the predictions'")
        require_classes(classes, config.min_coverage)
        found = evaluate_items(
            name, labels, scores, at, config.baselines, config.resamples, config.confidence, config.seed
        )
        notes = (f"classes: {classes}",) if classes.only_left else ()
        evaluations.append(replace(found, run=answered.told(found.run, notes)))
    data = {
        "fingerprint": fingerprint(sorted(labels.items())),
        "num_items": len(labels),
        "num_classes": len(set(labels.values())),
    }
    protocol = {"protocol": "items", "cutoffs": list(at), "blocked": sorted(blocked)}
    return _task(config, protocol, data, evaluations, RESAMPLES)


def _videos(config: ClassificationConfig, sources: Sources) -> Evaluation[Classified]:
    names, at = run_names(config.predictions), tuple(sorted(set(config.cutoffs or (1, 3))))
    blocked = read_blocked(config.blocked)
    table = read_annotated_classes(config.ground_truth, sources)
    truth = in_order(table.segments.of_videos(set(table.ids) - blocked))
    asked = Asked(annotated(truth), "annotated videos", names=truth.video_ids, elsewhere=table.elsewhere)
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        predictions = read_video_classes(item, sources)
        known = predictions.of_videos(set(predictions.video_ids) - blocked)
        answered = check_answers(asked, annotated(known), config.min_coverage, listed_ids=known.video_ids, name=name)
        notes = (*table.notes, *check_classes(truth, predictions, config.min_coverage))
        found = evaluate_video_classes(
            name, truth, predictions, at, blocked, config.baselines, config.resamples, config.confidence, config.seed
        )
        evaluations.append(replace(found, run=answered.told(found.run, notes)))
    data = {
        **({} if table.subset is None else {"subset": table.subset}),
        "fingerprint": segments_fingerprint(truth),
        "num_videos": len(truth.video_ids),
        "num_classes": len(truth.label_names),
    }
    protocol = {"protocol": "activitynet", "cutoffs": list(at), "blocked": sorted(blocked)}
    return _task(config, protocol, data, evaluations, SCORE_RESAMPLES)


def _task(
    config: ClassificationConfig, protocol: dict[str, Any], data: dict[str, Any], evaluations: list[Any], resamples: int
) -> Evaluation[Classified]:
    runs = tuple(item.run for item in evaluations)
    score = TaskScore(config.task, protocol, data, runs, bootstrap_of(config, resamples))
    return Evaluation(score, tuple(evaluations))


def report(evaluation: Evaluation[Classified], config: ClassificationConfig, sources: Sources) -> "TaskReport":
    """Returns what the page shows."""
    from clipmill.pipelines.evaluation.tasks.classification.report import items_report, videos_report

    found = evaluation.evaluated
    items = tuple(item for item in found if isinstance(item, ItemsEvaluation))
    if items:
        return items_report(evaluation.score, items)
    return videos_report(
        evaluation.score, tuple(item for item in found if isinstance(item, VideoClassificationEvaluation))
    )


TASK = Task(
    "classification",
    "accuracy of items with one class each; mAP and hit@k of untrimmed videos",
    ClassificationConfig,
    evaluate,
    report,
)
