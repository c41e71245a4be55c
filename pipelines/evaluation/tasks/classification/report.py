"""The report of ``task: classification``: accuracy by class, what is taken for what, the most confident mistakes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clipmill.pipelines.evaluation.metrics.classification import Classification
from clipmill.pipelines.evaluation.metrics.detection_hits import hits_at
from clipmill.pipelines.evaluation.metrics.detection_matching import rank_order
from clipmill.pipelines.evaluation.tasks.class_confusion import confusion_blocks
from clipmill.pipelines.evaluation.tasks.classification.score import ItemsEvaluation, VideoClassificationEvaluation
from clipmill.pipelines.evaluation.tasks.detection.report import precision_choice
from clipmill.pipelines.evaluation.tasks.histograms import histograms
from clipmill.pipelines.evaluation.tasks.page import Lineage, TaskReport
from clipmill.pipelines.evaluation.tasks.published import PublishedScore
from clipmill.pipelines.evaluation.tasks.result import RunScore, TaskScore
from clipmill.pipelines.reports.blocks import (
    Bar,
    Bars,
    Block,
    Cell,
    Chart,
    Charts,
    Row,
    Section,
    Side,
    Table,
    legend,
    numbers,
)
from clipmill.pipelines.reports.charts import Axes, Series, line_chart
from clipmill.schemas.arrays import Floats
from clipmill.schemas.segments import Segments

BARS_SHOWN = 40
MISTAKES_SHOWN = 20
MOST_K = 10
"""ours: k up to which accuracy is drawn."""


def items_report(
    score: TaskScore,
    evaluations: Sequence[ItemsEvaluation],
    published: Sequence[PublishedScore] = (),
    lineage: Lineage = Lineage(),
) -> TaskReport:
    """Returns the report of items with one class each; its details are about the first evaluation."""
    first = evaluations[0]
    confident = first.values.max(axis=1) if len(first.item_ids) else np.zeros(0)
    correct = first.label == first.predicted
    groups = {"correct": confident[correct], "incorrect": confident[~correct]}
    score_chart = histograms("Score of the best class", "score", groups, "share of each kind")
    sections = (
        Section("curves", "Curves", (Charts((_top_k(evaluations), score_chart)),)),
        Section("classes", "Classes", (class_bars(first.run, "accuracy", "Accuracy by class", "num_items", "items"),)),
        Section(
            "confusion",
            "Confusion",
            confusion_blocks(
                first.score.confusion,
                first.class_names,
                "Confusion of classes",
                "Items by true class (rows) and best-scored class (columns). Shade: share of the row.",
            ),
        ),
        Section("mistakes", "Mistakes", (_mistakes(first, confident),)),
    )
    names = {name: name.replace("top", "top-").replace("_", " ") for name in first.run.metrics}
    return TaskReport(
        title=f"Classification: {', '.join(item.name for item in evaluations)}",
        subtitle=f"items of one class · {first.run.counts['num_items']:,} items, {len(first.class_names):,} classes",
        score=score,
        tiles=(first.run.headline, *(name for name in first.run.shown if name != first.run.headline)),
        columns=first.run.shown,
        names=names,
        sections=sections,
        explained=(
            "top-k: share of items whose class is among the k best scored; mean class accuracy: mean over classes of "
            "their top-1 accuracy. Equal scores go by class name; items without predictions are incorrect."
        ),
        published=tuple(published),
        lineage=lineage,
    )


def _top_k(evaluations: Sequence[ItemsEvaluation]) -> Chart:
    first = evaluations[0]
    most = min(MOST_K, len(first.class_names))
    ks = list(range(1, most + 1))
    lines: list[tuple[int, str, list[float]]] = []
    for n, item in enumerate(evaluations):
        # Over all items, those without predictions too, as the metrics have it.
        share = len(item.item_ids) / max(item.run.counts["num_items"], 1)
        top = Classification(len(item.class_names), tuple(ks)).update(item.values, item.label).result().top
        lines.append((n, item.name, [share * (top[k] if top[k] == top[k] else 0.0) for k in ks]))
    baselines = Classification(len(first.class_names), tuple(ks)).update(first.values, first.label).result()
    lines.append((-1, "baseline: chance", [baselines.chance[k] for k in ks]))
    series = [Series(name, list(zip(ks, values, strict=True)), ks, style) for style, name, values in lines]
    title = "Top-k accuracy against k"
    drawn = line_chart(series, Axes(title, "k", "accuracy", ks, 1, most))
    table = numbers(
        ("k", *(name for _, name, _ in lines)),
        [(str(k), [values[n] for _, _, values in lines]) for n, k in enumerate(ks)],
        title,
    )
    return Chart(title, drawn, legend([(style, name) for style, name, _ in lines]), "", table)


def class_bars(run: RunScore, metric: str, title: str, count: str = "", noun: str = "") -> Bars:
    """Returns a bar per class, best first; of many the best and the worst."""
    table = run.per_class
    ranked = sorted(table, key=lambda name: (-table[name][metric], name))
    half = BARS_SHOWN // 2
    kept = ranked if len(ranked) <= BARS_SHOWN else [*ranked[:half], *ranked[-half:]]
    bars = tuple(Bar(name, table[name][metric], _counted(table[name][count], noun) if count else "") for name in kept)
    hidden = len(ranked) - len(kept)
    note = f"The best and the worst {half}; {hidden} in between are in the table." if hidden else ""
    columns = [key for key in next(iter(table.values()), {}) if key != count]
    rows: list[tuple[str, list[float | str]]] = [
        (name, [*(table[name][c] for c in columns), *([f"{table[name][count]:,.0f}"] if count else [])])
        for name in ranked
    ]
    head = ("class", *columns, *([noun] if count else []))
    return Bars(title, bars, ((0, metric),), note, numbers(head, rows, title))


def _counted(count: float, noun: str) -> str:
    return f"{count:,.0f} {noun.removesuffix('s') if count == 1 else noun}"


def _mistakes(evaluation: ItemsEvaluation, confident: Floats) -> Block:
    mistakes = np.flatnonzero(evaluation.label != evaluation.predicted)
    order = mistakes[rank_order(confident[mistakes])][:MISTAKES_SHOWN]
    names, values = evaluation.class_names, evaluation.values
    rows = tuple(
        Row(
            evaluation.item_ids[n],
            (
                Cell(names[evaluation.label[n]]),
                Cell(names[evaluation.predicted[n]]),
                Cell(f"{confident[n]:.4g}"),
                Cell(f"{values[n, evaluation.label[n]]:.4g}"),
                Cell(f"{int((values[n] > values[n, evaluation.label[n]]).sum()) + 1}"),
            ),
        )
        for n in order.tolist()
    )
    head = ("item", "true class", "taken for", "its score", "score of the true class", "rank of the true class")
    note = f"The {len(rows)} of {len(mistakes):,} incorrect items with the highest best score."
    return Table("Most confident mistakes", head, (("", rows),), note)


def videos_report(
    score: TaskScore,
    evaluations: Sequence[VideoClassificationEvaluation],
    published: Sequence[PublishedScore] = (),
    lineage: Lineage = Lineage(),
) -> TaskReport:
    """Returns the report of untrimmed videos with several classes; its details are about the first evaluation."""
    first = evaluations[0]
    whole = [
        replace(side, start_seconds=np.zeros(len(side)), stop_seconds=np.ones(len(side)))
        for side in (first.ground_truth, first.predictions)
    ]
    # Classes of a video are its one-second ground truths, as the metric has it.
    hits = hits_at(whole[0], whole[1], 0.5, drop_duplicates=True)
    known = hits.num_ground_truths[hits.predictions.label] > 0
    groups = {"correct": hits.predictions.score[hits.is_hit], "incorrect": hits.predictions.score[~hits.is_hit & known]}
    curves = Side(
        (
            precision_choice((hits,), lambda one: "classes of videos"),
            Charts((histograms("Scores", "score", groups, "share of each kind"),)),
        )
    )
    counts = first.score.counts
    return TaskReport(
        title=f"Classification of videos: {', '.join(item.name for item in evaluations)}",
        subtitle=f"untrimmed videos · {counts.num_videos:,} videos, {len(first.score.label_names):,} classes",
        score=score,
        tiles=(first.run.headline, *(name for name in first.run.shown if name != first.run.headline)),
        columns=first.run.shown,
        names={name: name.replace("map", "mAP").replace("_", " ") for name in first.run.metrics},
        sections=(
            Section("curves", "Curves", (curves,)),
            Section("classes", "Classes", (class_bars(first.run, "ap", "AP by class"),)),
            Section("confusion", "Confusion", _video_confusion(first.ground_truth, first.predictions)),
        ),
        explained=(
            "mAP: mean over classes of the interpolated average precision of all videos ranked by their score for it; "
            "hit@k: share of videos with a true class among their k best; average hit@k: share of their classes there."
        ),
        published=tuple(published),
        lineage=lineage,
    )


def _video_confusion(ground_truth: Segments, predictions: Segments) -> tuple[Block, ...]:
    names = tuple(sorted({*ground_truth.label_names, *predictions.label_names}))
    code = {name: n for n, name in enumerate(names)}
    label = {
        name: np.array([code[c] for c in side.label_names], np.int64)[side.label]
        for name, side in (("t", ground_truth), ("p", predictions))
    }
    video_of = {name: n for n, name in enumerate(ground_truth.video_ids)}
    video = np.array([video_of.get(name, -1) for name in predictions.video_ids], np.int64)[predictions.video]
    best = np.full(len(video_of), len(names), np.int64)
    order = rank_order(predictions.score, label["p"])[::-1]
    order = order[video[order] >= 0]
    best[video[order]] = label["p"][order]  # Of repeated videos the last assignment stands: the best.
    pairs = np.unique(np.stack([ground_truth.video, label["t"]], axis=1), axis=0)
    alone = np.bincount(pairs[:, 0], minlength=len(video_of)) == 1
    pairs = pairs[alone[pairs[:, 0]]]
    counts = np.bincount(pairs[:, 1] * (len(names) + 1) + best[pairs[:, 0]], minlength=len(names) * (len(names) + 1))
    return confusion_blocks(
        counts.reshape(len(names), len(names) + 1),
        names,
        "Confusion of classes",
        f"{len(pairs):,} videos of one class, by that class (rows) and their best-scored class (columns).",
        "(no prediction)",
    )
