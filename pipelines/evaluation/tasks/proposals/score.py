"""``task: proposals``: AR@AN and its area, with baselines, intervals and counts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.pipelines.evaluation.metrics.detection import ACTIVITYNET_THRESHOLDS
from clipmill.pipelines.evaluation.metrics.detection_baselines import chance_detections
from clipmill.pipelines.evaluation.metrics.moments_baselines import normalised, span_grid, span_scores
from clipmill.pipelines.evaluation.metrics.proposals import ProposalRecall, ProposalScore, RankedVideos
from clipmill.pipelines.evaluation.tasks.detection.score import plain_counts
from clipmill.pipelines.evaluation.tasks.result import (
    SCORE_RESAMPLES,
    RunScore,
    half_samples,
    resampled_intervals,
    threshold_name,
)
from clipmill.pipelines.evaluation.tasks.segment_truth import SegmentTruth, in_order
from clipmill.schemas.arrays import Floats
from clipmill.schemas.config_detection import ProposalsConfig
from clipmill.schemas.segments import Segments

SPAN_STEPS = 20
"""ours: spans of the blind baseline start and stop at multiples of 1/20 of the video."""


@dataclass(frozen=True, slots=True)
class ProposalsProtocol:
    """Everything that decides a proposal score, resolved.

    Attributes:
        are_asked: the config itself names the thresholds: recall at each is printed.
    """

    tiou_thresholds: tuple[float, ...]
    max_avg_num_proposals: float | None
    cutoffs: tuple[float, ...]
    blocked: frozenset[str]
    are_asked: bool = False

    @staticmethod
    def of(config: ProposalsConfig, blocked: Iterable[str] = ()) -> "ProposalsProtocol":
        """Returns the settings of `config`, with the challenge's for what it leaves out."""
        most = None if config.max_avg_num_proposals == "all" else float(config.max_avg_num_proposals)
        return ProposalsProtocol(
            config.tiou_thresholds or ACTIVITYNET_THRESHOLDS,
            most,
            config.cutoffs,
            frozenset(blocked),
            config.tiou_thresholds is not None,
        )

    def to_plain(self) -> dict[str, Any]:
        """Returns the settings for ``results.json``."""
        return {
            "tiou_thresholds": [round(value, 6) for value in self.tiou_thresholds],
            "max_avg_num_proposals": "all" if self.max_avg_num_proposals is None else self.max_avg_num_proposals,
            "cutoffs": list(self.cutoffs),
            "blocked": sorted(self.blocked),
        }


@dataclass(frozen=True, slots=True)
class ProposalsEvaluation:
    """One set of proposals, scored; all that a report of it needs.

    Attributes:
        truth: as scored: in order, without blocked videos.
        score: recall per threshold and average number.
        baselines: the scores of ``chance`` and ``blind``.
        run: the numbers for tables, ``results.json`` and gates.
    """

    name: str
    protocol: ProposalsProtocol
    truth: SegmentTruth
    predictions: Segments
    score: ProposalScore
    baselines: Mapping[str, ProposalScore]
    run: RunScore


def proposals_truth(truth: SegmentTruth, protocol: ProposalsProtocol) -> SegmentTruth:
    """Returns `truth` without blocked videos and in an order that no file decides."""
    kept = truth.segments.of_videos(set(truth.segments.video_ids) - protocol.blocked)
    met = protocol.blocked.intersection(truth.segments.video_ids)
    return replace(truth, segments=in_order(kept), ambiguous=None, blocked=met)


def proposal_baseline_scores(
    truth: SegmentTruth, protocol: ProposalsProtocol, per_video: int, seed: int
) -> dict[str, ProposalScore]:
    """Returns what one scores without looking.

    * chance: `per_video` segments whose ends are two uniform numbers.
    * blind: the same `per_video` shares of every video: those that reach the thresholds on most training annotations.

    Args:
        truth: as `proposals_truth` returns it.
        per_video: proposals per video.
    """
    durations, _ = truth.baseline_durations
    training, training_durations = truth.segments, durations
    if truth.training is not None:
        training, training_durations = truth.training, dict(truth.training_durations or {})
    seconds = np.array([training_durations.get(name, np.nan) for name in training.video_ids])
    grid = span_grid(SPAN_STEPS)
    share, mean = span_scores(grid, *normalised(training, seconds), np.array(protocol.tiou_thresholds))
    weight = share.mean(axis=1)
    best = np.lexsort((-mean, -weight))[:per_video]
    known = [name for name in truth.segments.video_ids if name in durations]
    length = np.array([durations[name] for name in known])
    rows = np.repeat(np.arange(len(known)), len(best))
    spans = np.tile(grid[best], (len(known), 1)) * length[rows, None]
    rank = np.tile(np.arange(len(best), 0, -1, dtype=np.float64), len(known))
    blind = Segments(tuple(known), ("",), rows, np.zeros(len(rows), np.int64), spans[:, 0], spans[:, 1], rank)
    answers = {"chance": chance_detections(truth.segments, durations, per_video, seed), "blind": blind}
    state = ProposalRecall(protocol.tiou_thresholds, protocol.max_avg_num_proposals)
    return {name: state.update(truth.segments, answer).result() for name, answer in answers.items()}


def evaluate_proposals(
    name: str,
    truth: SegmentTruth,
    predictions: Segments,
    protocol: ProposalsProtocol,
    baselines: Mapping[str, ProposalScore] | None = None,
    resamples: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> ProposalsEvaluation:
    """Returns the score of one set of proposals.

    Args:
        truth: as `proposals_truth` returns it.
        baselines: of `proposal_baseline_scores`.
        resamples: random halves of the videos behind the intervals.
    """
    num_blocked = len(truth.blocked | protocol.blocked.intersection(predictions.video_ids))
    kept = in_order(predictions.of_videos(set(predictions.video_ids) - protocol.blocked))
    state = ProposalRecall(protocol.tiou_thresholds, protocol.max_avg_num_proposals).update(truth.segments, kept)
    score = state.result()
    score = replace(score, counts=replace(score.counts, num_blocked_videos=num_blocked))
    metrics = proposal_metrics(score, protocol)
    resampled = _resampled(
        state, protocol, half_samples(len(truth.segments.video_ids), resamples or SCORE_RESAMPLES, seed)
    )
    run = RunScore(
        name=name,
        headline="area",
        shown=tuple(key for key in metrics if protocol.are_asked or not key.startswith("recall@")),
        metrics=metrics,
        baselines={key: proposal_metrics(value, protocol) for key, value in (baselines or {}).items()},
        intervals=resampled_intervals(metrics, resampled, confidence),
        counts=plain_counts(score.counts),
        line=score.line,
        resampled=resampled,
    )
    return ProposalsEvaluation(name, protocol, truth, kept, score, baselines or {}, run)


def proposal_metrics(score: ProposalScore, protocol: ProposalsProtocol) -> dict[str, float]:
    """Returns ``ar@<AN>`` at each asked average number, ``recall@<tIoU>`` at the largest one, and ``area``.

    An average number beyond the last point of the curve has the value of that point, as reading off the curve gives.
    """
    at = {f"ar@{number:g}": score.at(number) for number in protocol.cutoffs}
    last = {threshold_name("recall", t): float(v) for t, v in zip(score.thresholds, score.recall[:, -1], strict=True)}
    return {**at, "area": score.area, **last}


def _resampled(state: ProposalRecall, protocol: ProposalsProtocol, chosen: npt.NDArray[np.bool_]) -> dict[str, Floats]:
    block = state.blocks[0]
    num_outside = block.num_all_proposals - int(block.num_proposals.sum())
    rows = []
    for videos in chosen:
        place = np.cumsum(videos) - 1
        truths = videos[block.video]
        num = block.num_proposals[videos]
        names = tuple(np.array(block.video_ids, object)[videos])
        part = RankedVideos(
            names,
            num,
            place[block.video[truths]],
            block.first_rank[:, truths],
            int(num.sum()) + num_outside,
            block.counts,
        )
        rows.append(proposal_metrics(replace(state, blocks=(part,)).result(), protocol))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}
