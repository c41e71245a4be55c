"""The report of ``task: detection``: where the mAP comes from and where it is lost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection_errors import (
    CATEGORIES,
    TIMES_GROUND_TRUTHS,
    class_confusion,
    false_positives,
)
from clipmill.pipelines.evaluation.metrics.detection_hits import (
    RECALL_LEVELS,
    Hits,
    average_precision,
    precision_at_recall,
)
from clipmill.pipelines.evaluation.tasks.class_confusion import confusion_blocks
from clipmill.pipelines.evaluation.tasks.curves import metric_chart
from clipmill.pipelines.evaluation.tasks.detection.hits import hits_of
from clipmill.pipelines.evaluation.tasks.detection.lengths import length_table
from clipmill.pipelines.evaluation.tasks.detection.score import DetectionEvaluation, DetectionProtocol
from clipmill.pipelines.evaluation.tasks.detection.timelines import NUM_TIMELINES, detection_timelines, timelines_text
from clipmill.pipelines.evaluation.tasks.histograms import histograms
from clipmill.pipelines.evaluation.tasks.page import Lineage, TaskReport
from clipmill.pipelines.evaluation.tasks.published import PublishedScore
from clipmill.pipelines.evaluation.tasks.result import RunScore, TaskScore, threshold_name
from clipmill.pipelines.reports.blocks import (
    Bar,
    Bars,
    Block,
    Cell,
    Chart,
    Charts,
    Choice,
    Row,
    Section,
    Side,
    Table,
    Timelines,
    legend,
    numbers,
)
from clipmill.pipelines.reports.charts import Axes, Series, line_chart
from clipmill.pipelines.reports.charts_bars import Layer, layer_swatch, stacked_chart
from clipmill.pipelines.reports.page import score_text
from clipmill.schemas.arrays import Floats

SIGNS = ("✓", "D", "W", "L", "C", "B")
BARS_SHOWN = 40
MAIN_TIOU = 0.5
"""ours: what is shown at one threshold is shown at the one nearest to this."""


def detection_report(
    score: TaskScore,
    evaluations: Sequence[DetectionEvaluation],
    published: Sequence[PublishedScore] = (),
    lineage: Lineage = Lineage(),
    num_examples: int = NUM_TIMELINES,
    seed: int = 0,
) -> TaskReport:
    """Returns the report; its details are about the first evaluation.

    Args:
        num_examples: videos shown.
    """
    first = evaluations[0]
    protocol, truth = first.protocol, first.truth
    details = DetectionDetails(
        tuple(hits_of(first, threshold) for threshold in chosen_thresholds(protocol.tiou_thresholds)),
        first.run,
        truth.durations,
        num_examples,
        seed,
    )
    columns = tuple(threshold_name("map", t) for t in protocol.tiou_thresholds)
    main = threshold_name("map", details.main.threshold)
    counts = first.score.counts
    subtitle = (
        f"temporal detection, {protocol.protocol} protocol · {counts.num_videos:,} videos, "
        f"{len(first.score.label_names):,} classes, {counts.num_ground_truths:,} ground truths"
    )
    return TaskReport(
        title=f"Temporal detection: {', '.join(item.name for item in evaluations)}",
        subtitle=subtitle,
        score=score,
        tiles=("average", main),
        columns=(*columns, "average"),
        names={name: name.replace("map@", "mAP@") for name in columns} | {"average": "average mAP"},
        sections=detection_sections(details, protocol.tiou_thresholds, [item.run for item in evaluations]),
        explained=_explained(protocol),
        published=tuple(published),
        lineage=lineage,
    )


def _explained(protocol: DetectionProtocol) -> str:
    precision = "the best precision at that recall or beyond" if protocol.interpolated else "the precision at its rank"
    text = (
        "mAP at a tIoU: per class, all predictions of all videos in one ranking; AP is the mean over ground truths of "
        f"{precision} for found ones, 0 for missed ones; mAP the mean over classes. A hit has tIoU "
        f"{'over' if protocol.overlap == '>' else 'of at least'} the threshold, and one ground truth makes one hit."
    )
    if protocol.nms is not None and protocol.nms.below is not None:
        text += f" NMS follows the threshold, at tIoU - {protocol.nms.below:g}: never compare with a fixed one."
    return text


@dataclass(frozen=True, slots=True)
class DetectionDetails:
    """What the sections about one set of detections are made of.

    Attributes:
        hits: at up to three thresholds, ascending.
        run: its numbers.
        durations: video id to seconds, as far as known.
        num_examples: videos shown.
    """

    hits: tuple[Hits, ...]
    run: RunScore
    durations: Mapping[str, float]
    num_examples: int = NUM_TIMELINES
    seed: int = 0

    @property
    def main(self) -> Hits:
        """The hits at the threshold nearest to 0.5."""
        return min(self.hits, key=lambda hits: (abs(hits.threshold - MAIN_TIOU), hits.threshold))


def chosen_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """Returns the thresholds that curves are drawn at: the first, the last and the one nearest to their middle."""
    ordered = sorted(thresholds)
    # Of two as near the larger: 0.75 of ActivityNet's ten.
    middle = min(ordered, key=lambda t: (round(abs(t - (ordered[0] + ordered[-1]) / 2), 6), -t))
    return tuple(sorted({ordered[0], middle, ordered[-1]}))


def detection_sections(
    details: DetectionDetails, thresholds: Sequence[float], runs: Sequence[RunScore]
) -> tuple[Section, ...]:
    """Returns the sections between the results and the data.

    Args:
        thresholds: of the protocol.
        runs: all sets of predictions, for the curve of mAP; the details are about the first.
    """
    main = details.main
    sections = [
        Section(
            "curves",
            "Curves",
            (
                Side(
                    (
                        _map_chart(runs, thresholds),
                        precision_choice(details.hits, lambda hits: f"tIoU {hits.threshold:g}"),
                    )
                ),
            ),
        ),
        Section("classes", "Classes", (_class_bars(details),)),
        Section("errors", "Errors", (*_errors(main), *_confusion(main))),
        Section("scores", "Scores and lengths", (_histograms(main), length_table(main))),
    ]
    lines, num_videos = detection_timelines(main, details.durations, details.num_examples, details.seed)
    if lines:
        sections.append(
            Section("videos", "Videos", (Timelines(lines, _TIMELINE_NOTE),), timelines_text(main, num_videos))
        )
    return tuple(sections)


def _map_chart(runs: Sequence[RunScore], thresholds: Sequence[float]) -> Charts:
    metrics = {round(t, 6): threshold_name("map", t) for t in thresholds}
    return Charts((metric_chart("mAP against tIoU", "tIoU threshold", "mAP", runs, metrics),))


def precision_choice(every: Sequence[Hits], name_of: Callable[[Hits], str]) -> Choice:
    """Returns precision against recall of all classes together and of each one, to choose from.

    Args:
        every: matched at one or several thresholds: one line each.
        name_of: what to call a line.
    """
    curves = [precision_at_recall(hits) for hits in every]
    values = [average_precision(hits) for hits in every]
    names = every[0].ground_truth.label_names
    counts = every[0].num_ground_truths
    scored = np.flatnonzero(counts).tolist()
    lines = [name_of(hits) for hits in every]
    mean = [np.asarray(curve[scored].mean(axis=0), np.float64) for curve in curves]
    averages = [float(value[scored].mean()) for value in values]
    note = "Precision is the best at that recall or beyond"
    note += "." if every[0].interpolated else "; AP itself is not interpolated under this protocol."
    legends = [f"{line}: mAP {score_text(value)}" for line, value in zip(lines, averages, strict=True)]
    title = "Precision against recall, all classes"
    charts = [
        ("all classes (mean)", _precision_chart(title, lines, legends, mean, f"{counts.sum():,} to find. {note}"))
    ]
    for code in sorted(scored, key=lambda code: names[code]):
        own = [np.asarray(curve[code], np.float64) for curve in curves]
        legends = [f"{line}: AP {score_text(float(value[code]))}" for line, value in zip(lines, values, strict=True)]
        title = f"Precision against recall, {names[code]}"
        charts.append((names[code], _precision_chart(title, lines, legends, own, f"{counts[code]:,} to find. {note}")))
    return Choice("precision", "Precision and recall of", tuple(charts))


def _precision_chart(
    title: str, lines: Sequence[str], legends: Sequence[str], curves: Sequence[Floats], note: str
) -> Chart:
    levels = RECALL_LEVELS.tolist()
    series = [
        Series(line, _corners(levels, curve.tolist()), [], style)
        for style, (line, curve) in enumerate(zip(lines, curves, strict=True))
    ]
    axes = Axes(title, "recall", "precision", [0, 0.2, 0.4, 0.6, 0.8, 1], 0, 1)
    table = numbers(
        ("recall", *lines),
        [(f"{level / 10:.1f}", [float(curve[10 * level]) for curve in curves]) for level in range(11)],
        title,
    )
    return Chart(title, line_chart(series, axes), legend(list(enumerate(legends))), note, table)


def _corners(levels: Sequence[float], curve: Sequence[float]) -> list[tuple[float, float]]:
    """Returns the points where a curve turns: a straight piece needs its two ends alone."""
    points = list(zip(levels, curve, strict=True))
    kept = [
        point
        for n, point in enumerate(points)
        if n in (0, len(points) - 1) or not (curve[n - 1] == curve[n] == curve[n + 1])
    ]
    return kept


def _class_bars(details: DetectionDetails) -> Bars:
    main = details.main
    metric = threshold_name("ap", main.threshold)
    table = details.run.per_class
    ranked = sorted(table, key=lambda name: (-table[name][metric], name))
    half = BARS_SHOWN // 2
    kept = ranked if len(ranked) <= BARS_SHOWN else [*ranked[:half], *ranked[-half:]]
    bars = tuple(
        Bar(
            name,
            table[name][metric],
            f"{table[name]['num_ground_truths']:,.0f} to find",
            ((1, table[name]["average"], f"average over tIoU {score_text(table[name]['average'])}"),),
        )
        for name in kept
    )
    hidden = len(ranked) - len(kept)
    note = f"The best and the worst {half}; {hidden} in between are in the table." if hidden else ""
    columns = [key for key in next(iter(table.values()), {}) if key != "num_ground_truths"]
    rows: list[tuple[str, list[float | str]]] = [
        (name, [*(table[name][c] for c in columns), f"{table[name]['num_ground_truths']:,.0f}"]) for name in ranked
    ]
    table_of_classes = numbers(("class", *columns, "ground truths"), rows, "AP of every class")
    title = f"AP at tIoU {main.threshold:g} by class"
    return Bars(title, bars, ((0, f"tIoU {main.threshold:g}"), (1, "average over tIoU")), note, table_of_classes)


def _errors(hits: Hits) -> tuple[Block, ...]:
    found = false_positives(hits)
    names = [f"{k}G" for k in range(1, TIMES_GROUND_TRUTHS + 1)]
    layers = [
        Layer(category, sign, found.counts[:, code].tolist())
        for code, (category, sign) in enumerate(zip(CATEGORIES, SIGNS, strict=True))
    ]
    drawn = stacked_chart(layers, names, "False positives", "best predictions of each class", "share of predictions")
    table = numbers(
        ("best predictions", *CATEGORIES),
        [(name, [f"{value:,}" for value in found.counts[row].tolist()]) for row, name in enumerate(names)],
        "Predictions by category",
    )
    at = f"tIoU {hits.threshold:g}"
    note = (
        f"G: the ground truths of a class; kG: its k times G best predictions. At {at}: double detection: correct, but "
        "another prediction has that ground truth; wrong label: overlaps enough with another class; localisation and "
        "confusion: overlaps at least 0.1 but not enough, with its own or another class; background: nothing there. "
        "After DETAD (Alwassel et al., ECCV 2018)."
    )
    keys = tuple((layer_swatch(n, sign), name) for n, (name, sign) in enumerate(zip(CATEGORIES, SIGNS, strict=True)))
    chart = Chart(f"What the best predictions are, {at}", drawn, keys, note, table)
    base = found.mean_average_precision
    rows = tuple(
        Row(
            f"without {category}",
            (Cell(f"{found.counts[-1, code]:,}"), Cell(score_text(value)), Cell(f"+{value - base:.3f}")),
        )
        for code, (category, value) in enumerate(zip(CATEGORIES, found.without.tolist(), strict=True))
        if code
    )
    bare = Row(
        f"best {TIMES_GROUND_TRUTHS}G predictions",
        (Cell(f"{found.counts[-1].sum():,}"), Cell(score_text(base)), Cell("")),
    )
    cost = Table(
        f"What each kind of error costs, {at}",
        ("", "predictions", "mAP", "gain"),
        (("", (bare, *rows)),),
        "mAP after taking out all predictions of that kind, everything else kept: what there is to gain by curing it.",
    )
    return (Side((Charts((chart,)), cost)),)


def _confusion(hits: Hits) -> tuple[Block, ...]:
    names = hits.ground_truth.label_names
    if len(names) < 2:
        return ()
    note = (
        f"Ground truths (rows) by the class of the prediction that lies there (columns), tIoU {hits.threshold:g}: the "
        "best G predictions of every class, matched in time alone, best score first. Shade: share of the row."
    )
    return confusion_blocks(class_confusion(hits), names, "Confusion of classes", note, "(nothing)")


def _histograms(hits: Hits) -> Charts:
    counting = ~hits.ignored & (hits.num_ground_truths[hits.predictions.label] > 0)
    correct = hits.is_hit
    score = hits.predictions.score
    groups = {"true positives": score[correct & counting], "false positives": score[~correct & counting]}
    scores = histograms(f"Scores, tIoU {hits.threshold:g}", "score", groups, "share of each kind")
    length = hits.predictions.stop_seconds - hits.predictions.start_seconds
    lengths = {
        "ground truths": hits.ground_truth.stop_seconds - hits.ground_truth.start_seconds,
        "predictions, best G of each class": length[hits.best(1)[0]],
    }
    return Charts((scores, histograms("Lengths", "length in seconds", lengths, "share of each kind")))


_TIMELINE_NOTE = (
    "Best and worst go by the share of correct ones among a video's best G predictions, G being its ground truths; of "
    "equal shares the video with more ground truths comes first."
)
