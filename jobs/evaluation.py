"""``clipmill evaluate``: which task a config asks for, what scores it, and the gates that follow."""

import sys
from collections.abc import Sequence

from clipmill.jobs.configs import read_text_of
from clipmill.jobs.evaluation_output import finish
from clipmill.jobs.gates import judge, read_gates
from clipmill.jobs.output import Outcome
from clipmill.jobs.task_reports import report_of
from clipmill.pipelines.evaluation.tasks.published import published_scores
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.schemas.config import EvaluateConfig, dump_config
from clipmill.schemas.config_evaluate import (
    ClassificationConfig,
    DetectionConfig,
    HighlightsConfig,
    LandmarksConfig,
    MomentsConfig,
    ProposalsConfig,
    RankingConfig,
    TaskConfig,
    parse_evaluate_config,
)


def run_evaluation(
    path: str,
    overrides: Sequence[str],
    against: str | None = None,
    fail_if: Sequence[str] = (),
    other_data: bool = False,
) -> Outcome:
    """Evaluates as the config at `path` says; writes ``results.json`` (and ``report.html``) into its `out`.

    Args:
        against: another evaluation to compare with.
        fail_if: gates, see `clipmill.jobs.gates`; the exit code is 5 if one fails.
        other_data: compare although ground truth or protocol differ.

    Raises:
        UsageError: the config, a file it names, or a gate cannot be used.
    """
    # Read first: this evaluation may write into the folder it is held against.
    gates = read_gates(against, fail_if, other_data)
    config = parse_evaluate_config(read_text_of(path), overrides, path)
    if isinstance(config, EvaluateConfig):
        from clipmill.jobs.evaluate import run_evaluate

        outcome = run_evaluate(path, overrides)
    else:
        print(dump_config(config).rstrip(), file=sys.stderr)
        published_scores(config.task, config.published)  # An unknown dataset is refused before any work.
        outcome = run_task(config)
    return outcome if gates is None else judge(outcome, gates)


def run_task(config: TaskConfig) -> Outcome:
    """Scores the predictions of `config` and writes what was found."""
    score: TaskScore
    evaluations: Sequence[object]
    if isinstance(config, DetectionConfig):
        from clipmill.jobs.evaluate_segments import score_detection

        score, evaluations = score_detection(config)
    elif isinstance(config, ProposalsConfig):
        from clipmill.jobs.evaluate_segments import score_proposals

        score, evaluations = score_proposals(config)
    elif isinstance(config, MomentsConfig):
        from clipmill.jobs.evaluate_moments import score_moments

        score, evaluations = score_moments(config)
    elif isinstance(config, HighlightsConfig):
        from clipmill.jobs.evaluate_moments import score_highlights

        score, evaluations = score_highlights(config)
    elif isinstance(config, ClassificationConfig):
        from clipmill.jobs.evaluate_classes import score_classification

        score, evaluations = score_classification(config)
    elif isinstance(config, RankingConfig):
        from clipmill.jobs.evaluate_ranking import score_ranking

        score, evaluations = score_ranking(config)
    elif isinstance(config, LandmarksConfig):
        from clipmill.jobs.evaluate_ranking import score_landmarks

        score, evaluations = score_landmarks(config)
    else:
        raise TypeError(f"no scorer for {type(config).__name__}")
    return finish(score, config, report_of(score, evaluations, config) if config.report else None)
