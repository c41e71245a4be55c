"""``task: proposals``: AR@AN of class-agnostic segments."""

from dataclasses import replace
from typing import TYPE_CHECKING

from clipmill.pipelines.evaluation.checks import inverted_notes
from clipmill.pipelines.evaluation.inputs import read_blocked, run_names
from clipmill.pipelines.evaluation.tasks.base import Evaluation, Sources, Task
from clipmill.pipelines.evaluation.tasks.detection.inputs import read_segment_predictions, read_segment_truth
from clipmill.pipelines.evaluation.tasks.proposals.score import (
    ProposalsEvaluation,
    ProposalsProtocol,
    evaluate_proposals,
    proposal_baseline_scores,
    proposals_truth,
)
from clipmill.pipelines.evaluation.tasks.segment_checks import (
    check_not_empty,
    check_training,
    check_videos,
    segments_score,
    truth_notes,
)
from clipmill.schemas.config_detection import ProposalsConfig

if TYPE_CHECKING:
    from clipmill.pipelines.evaluation.tasks.page import TaskReport


def evaluate(config: ProposalsConfig, sources: Sources) -> Evaluation[ProposalsEvaluation]:
    """Returns AR@AN and its area of each set of predictions.

    Raises:
        UsageError: a file is something else, or its ids share nothing with the ground truth's.
    """
    names = run_names(config.predictions)
    protocol = ProposalsProtocol.of(config, read_blocked(config.blocked))
    truth = proposals_truth(read_segment_truth(config.ground_truth, config.training, sources), protocol)
    check_not_empty(truth)
    if config.baselines:
        check_training(truth)
    baselines = (
        proposal_baseline_scores(truth, protocol, config.chance_per_video, config.seed) if config.baselines else {}
    )
    evaluations = []
    for name, item in zip(names, config.predictions, strict=True):
        predictions = read_segment_predictions(item, config.ground_truth, with_classes=False, sources=sources)
        answered = check_videos(config, truth, predictions, protocol.blocked, name)
        notes = (
            *inverted_notes(truth.segments, predictions),
            *truth_notes(truth, config),
        )
        found = evaluate_proposals(
            name, truth, predictions, protocol, baselines, config.resamples, config.confidence, config.seed
        )
        evaluations.append(replace(found, run=answered.told(found.run, notes)))
    score = segments_score(config, protocol.to_plain(), truth, [item.run for item in evaluations])
    return Evaluation(score, tuple(evaluations))


def report(evaluation: Evaluation[ProposalsEvaluation], config: ProposalsConfig, sources: Sources) -> "TaskReport":
    """Returns what the page shows."""
    from clipmill.pipelines.evaluation.tasks.proposals.report import proposals_report

    return proposals_report(evaluation.score, evaluation.evaluated, seed=config.seed)


TASK = Task("proposals", "AR@AN and its area of proposed segments", ProposalsConfig, evaluate, report)
