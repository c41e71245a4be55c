"""The report of ``task: proposals``: recall against how many proposals one reads."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection_hits import Hits, hits_at
from clipmill.pipelines.evaluation.metrics.proposals import ProposalScore
from clipmill.pipelines.evaluation.tasks.curves import metric_chart
from clipmill.pipelines.evaluation.tasks.detection.lengths import length_table
from clipmill.pipelines.evaluation.tasks.detection.report import chosen_thresholds
from clipmill.pipelines.evaluation.tasks.detection.timelines import NUM_TIMELINES, detection_timelines, timelines_text
from clipmill.pipelines.evaluation.tasks.histograms import histograms, nice_step
from clipmill.pipelines.evaluation.tasks.page import Lineage, TaskReport
from clipmill.pipelines.evaluation.tasks.proposals.score import ProposalsEvaluation
from clipmill.pipelines.evaluation.tasks.published import PublishedScore
from clipmill.pipelines.evaluation.tasks.result import TaskScore, threshold_name
from clipmill.pipelines.reports.blocks import Block, Chart, Charts, Section, Timelines, legend, numbers
from clipmill.pipelines.reports.charts import Axes, Series, line_chart
from clipmill.schemas.segments import Segments

MAIN_TIOU = 0.5


def proposals_report(
    score: TaskScore,
    evaluations: Sequence[ProposalsEvaluation],
    published: Sequence[PublishedScore] = (),
    lineage: Lineage = Lineage(),
    num_examples: int = NUM_TIMELINES,
    seed: int = 0,
) -> TaskReport:
    """Returns the report; its details are about the first evaluation."""
    first = evaluations[0]
    truth = first.truth
    tious = first.protocol.tiou_thresholds
    threshold = min(tious, key=lambda t: abs(t - MAIN_TIOU))
    hits = hits_at(_one_class(truth.segments), _one_class(first.predictions), threshold)
    runs = [item.run for item in evaluations]
    largest = first.protocol.max_avg_num_proposals or first.score.average_number[-1]
    most = f"{largest:.4g}" if largest == largest else "no"
    recalls = {round(t, 6): threshold_name("recall", t) for t in tious}
    title = f"Recall against tIoU, {most} proposals per video"
    curves = Charts((_recall_chart(evaluations), metric_chart(title, "tIoU threshold", "recall", runs, recalls)))
    sections = [
        Section("curves", "Curves", (curves,)),
        Section("lengths", "Scores and lengths", _lengths(hits)),
    ]
    lines, num_videos = detection_timelines(hits, truth.durations, num_examples, seed)
    if lines:
        note = "A ground truth is given to one proposal here; AR lets one proposal serve several."
        sections.append(Section("videos", "Videos", (Timelines(lines, note),), timelines_text(hits, num_videos)))
    counts = first.score.counts
    return TaskReport(
        title=f"Temporal proposals: {', '.join(item.name for item in evaluations)}",
        subtitle=(
            f"temporal proposals · {counts.num_videos:,} videos, {counts.num_ground_truths:,} ground truths, "
            f"{counts.num_predictions:,} proposals"
        ),
        score=score,
        tiles=("area", *(name for name in first.run.shown if name.startswith("ar@"))),
        columns=first.run.shown,
        names={name: name.replace("ar@", "AR@") for name in first.run.metrics} | {"area": "area under AR–AN"},
        sections=tuple(sections),
        explained=(
            f"AR@AN: recall at AN proposals per video on average, mean over tIoU {min(tious):g} to {max(tious):g}. "
            f"Area: under AR against AN up to {most}, divided by it."
        ),
        published=tuple(published),
        lineage=lineage,
    )


def _one_class(segments: Segments) -> Segments:
    return replace(segments, label_names=("",), label=np.zeros(len(segments), np.int64))


def _recall_chart(evaluations: Sequence[ProposalsEvaluation]) -> Chart:
    first = evaluations[0]
    lines: list[tuple[int, str, Sequence[float], Sequence[float]]] = []
    for n, item in enumerate(evaluations):
        name = "average over tIoU" if len(evaluations) == 1 else f"{item.name}, average"
        lines.append((n, name, item.score.average_number.tolist(), item.score.average_recall.tolist()))
    if len(evaluations) == 1:
        for n, threshold in enumerate(chosen_thresholds(first.score.thresholds), start=1):
            row = first.score.thresholds.index(threshold)
            values = first.score.recall[row].tolist()
            lines.append((n, f"tIoU {threshold:g}", first.score.average_number.tolist(), values))
    lines += _baseline_lines(first.baselines)
    lines = [line for line in lines if not np.isnan(line[2]).any()]
    stop = max((line[2][-1] for line in lines), default=1.0)
    series = [
        Series(name, list(zip(at, values, strict=True)), [at[n] for n in (9, 49, 99)], style)
        for style, name, at, values in lines
    ]
    step = nice_step(stop, 5)
    ticks = [n * step for n in range(int(stop / step + 1e-9) + 1)]
    title = "Average recall against the average number of proposals"
    axes = Axes(title, "proposals per video, on average (AN)", "recall", ticks, 0.0, stop)
    shares = [n for n in range(9, 100, 10)]
    table = numbers(
        ("share of AN", *(name for _, name, _, _ in lines)),
        [(f"{n + 1} % of {stop:.4g}", [values[n] for _, _, _, values in lines]) for n in shares],
        title,
    )
    return Chart(title, line_chart(series, axes), legend([(style, name) for style, name, _, _ in lines]), "", table)


def _baseline_lines(baselines: Mapping[str, ProposalScore]) -> list[tuple[int, str, Sequence[float], Sequence[float]]]:
    return [
        (
            -n - 1,
            f"baseline: {name}",
            baseline.average_number.tolist(),
            baseline.average_recall.tolist(),
        )
        for n, (name, baseline) in enumerate(baselines.items())
    ]


def _lengths(hits: Hits) -> tuple[Block, ...]:
    is_hit, score = hits.is_hit, hits.predictions.score
    groups = {"found a ground truth": score[is_hit], "found none": score[~is_hit]}
    truth, answers = hits.ground_truth, hits.predictions
    lengths = {
        "ground truths": truth.stop_seconds - truth.start_seconds,
        "proposals": answers.stop_seconds - answers.start_seconds,
    }
    return (
        Charts(
            (
                histograms(f"Scores, tIoU {hits.threshold:g}", "score", groups, "share of each kind"),
                histograms("Lengths", "length in seconds", lengths, "share of each kind"),
            )
        ),
        length_table(hits, with_precision=False),
    )
