"""The report of ``task: moments``: which answers are correct, how long and where they are, and queries to look at."""

from collections.abc import Sequence

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection_lengths import length_codes, length_edges
from clipmill.pipelines.evaluation.metrics.detection_matching import rank_order, tiou_of_hull
from clipmill.pipelines.evaluation.tasks.curves import metric_chart
from clipmill.pipelines.evaluation.tasks.detection.lengths import bin_name
from clipmill.pipelines.evaluation.tasks.detection.timelines import (
    NUM_TIMELINES,
    choose,
    lanes_of,
    length_of,
    seconds_text,
)
from clipmill.pipelines.evaluation.tasks.histograms import histograms
from clipmill.pipelines.evaluation.tasks.moments.score import MomentsEvaluation
from clipmill.pipelines.evaluation.tasks.page import Lineage, TaskReport, units_of
from clipmill.pipelines.evaluation.tasks.published import PublishedScore
from clipmill.pipelines.evaluation.tasks.result import TaskScore, threshold_name
from clipmill.pipelines.evaluation.tasks.segment_truth import in_order
from clipmill.pipelines.reports.blocks import (
    Block,
    Cell,
    Charts,
    Lane,
    Row,
    Section,
    Segment,
    Table,
    Timeline,
    Timelines,
    scored,
)
from clipmill.schemas.arrays import Floats, Ints
from clipmill.schemas.segments import Segments

ANSWERS_SHOWN = 5
"""ours: answers of a query on its timeline."""
MAIN_IOU = 0.5


def moments_report(
    score: TaskScore,
    evaluations: Sequence[MomentsEvaluation],
    published: Sequence[PublishedScore] = (),
    lineage: Lineage = Lineage(),
    num_examples: int = NUM_TIMELINES,
    seed: int = 0,
) -> TaskReport:
    """Returns the report; its details are about the first evaluation."""
    first = evaluations[0]
    protocol = first.protocol
    runs = [item.run for item in evaluations]
    curves: list[Block] = []
    charts = [
        metric_chart(
            f"R@{n} against IoU",
            "IoU",
            f"R@{n}",
            runs,
            {round(t, 6): threshold_name(f"r{n}", t) for t in protocol.iou_thresholds},
        )
        for n in protocol.cutoffs
    ]
    precision = {round(t, 6): threshold_name("map", t) for t in protocol.map_iou_thresholds}
    charts.append(metric_chart("mAP against IoU", "IoU", "mAP", runs, precision))
    curves.append(Charts(tuple(charts)))
    curves += _length_ranges(first)
    answers = _Answers(first)
    sections = [
        Section("curves", "Curves", tuple(curves)),
        Section("lengths", "Lengths and places", (*_histograms(answers), _by_length(answers))),
    ]
    lines = _timelines(answers, num_examples, seed)
    if lines:
        sections.append(Section("queries", "Queries", (Timelines(lines),), _queries_text(answers)))
    return TaskReport(
        title=f"Moment retrieval: {', '.join(item.name for item in evaluations)}",
        subtitle=(
            f"moment retrieval, {protocol.protocol} protocol · {first.score.num_queries:,} queries, "
            f"{len(first.truth.windows):,} windows, {len(first.predictions):,} answers"
        ),
        score=score,
        tiles=(first.run.headline, *(name for name in first.run.shown if name != first.run.headline)),
        columns=first.run.shown,
        names={name: _name(name) for name in first.run.metrics},
        sections=tuple(sections),
        explained=(
            f"R@n, IoU m: share of queries with an IoU {'over' if protocol.overlap == '>' else 'of at least'} m "
            "between one of the first n answers and a window of the query. mIoU: mean IoU of the first answer. mAP: "
            "mean over queries of the interpolated average precision of their answers. No answer scores 0."
        ),
        published=tuple(published),
        lineage=lineage,
    )


def _name(metric: str) -> str:
    head, _, tail = metric.rpartition(":")
    shown = tail.replace("map", "mAP").replace("miou", "mIoU")
    if tail.startswith("r"):
        number, _, threshold = tail[1:].partition("@")
        shown = f"R@{number}, IoU {threshold}"
    return f"{head}: {shown}" if head else shown


class _Answers:
    """The answers of every query in the order in which the metric reads them, and their overlap with the windows."""

    def __init__(self, evaluation: MomentsEvaluation) -> None:
        protocol, truth = evaluation.protocol, evaluation.truth
        self.evaluation = evaluation
        self.strict = protocol.overlap == ">"
        self.iou = min(protocol.iou_thresholds, key=lambda t: abs(t - MAIN_IOU))
        self.windows = in_order(truth.windows, rows=False)
        names = self.windows.video_ids
        place = {name: n for n, name in enumerate(truth.windows.video_ids)}
        self.sentences = [truth.sentences[place[name]] for name in names]
        self.videos = [truth.video_ids[place[name]] for name in names]
        self.seconds = np.array([truth.duration_seconds[place[name]] for name in names], np.float64)
        answers = in_order(evaluation.predictions, rows=protocol.order == "score")
        known = {name: n for n, name in enumerate(names)}
        of = np.array([known.get(name, -1) for name in answers.video_ids], np.int64)[answers.video]
        answers, of = answers.take(of >= 0), of[of >= 0]
        order = np.arange(len(answers)) if protocol.order == "file_order" else rank_order(answers.score)
        order = order[np.argsort(of[order], kind="stable")]
        self.answers: Segments = answers.take(order)
        self.query: Ints = of[order]
        self.edges = np.searchsorted(self.query, np.arange(len(names) + 1))
        self.window_edges = np.searchsorted(np.sort(self.windows.video), np.arange(len(names) + 1))
        self.window_order = np.argsort(self.windows.video, kind="stable")

    @property
    def first(self) -> Ints:
        """Positions of the first answers of the queries that have one."""
        return np.asarray(self.edges[:-1][np.diff(self.edges) > 0], np.int64)

    def windows_of(self, query: int) -> Ints:
        """Returns the positions of a query's windows."""
        return self.window_order[self.window_edges[query] : self.window_edges[query + 1]]

    def best_iou(self, answer: int) -> tuple[float, int]:
        """Returns the highest IoU of an answer with a window of its query, and that window."""
        own = self.windows_of(int(self.query[answer]))
        if not len(own):
            return 0.0, -1
        found = tiou_of_hull(
            self.answers.start_seconds[answer],
            self.answers.stop_seconds[answer],
            self.windows.start_seconds[own],
            self.windows.stop_seconds[own],
        )
        best = int(np.argmax(found))
        return float(found[best]), int(own[best])

    def is_correct(self, value: float) -> bool:
        """Returns whether an overlap is enough."""
        return value > self.iou if self.strict else value >= self.iou


def _length_ranges(evaluation: MomentsEvaluation) -> list[Block]:
    if not evaluation.by_length:
        return []
    columns = tuple(name for name in evaluation.run.shown)
    rows = []
    for name, part in evaluation.by_length.items():
        values = [evaluation.run.metrics.get(f"{name}:{column}", float("nan")) for column in columns]
        rows.append(Row(name, tuple(scored(value) for value in values), note=f"{part.num_queries:,} queries"))
    note = "Windows of 0 to 10 s, 10 to 30 s and 30 to 150 s; queries without one are not scored."
    return [Table("By length of window", ("", *(_name(c) for c in columns)), (("", tuple(rows)),), note)]


def _histograms(answers: _Answers) -> tuple[Block, ...]:
    windows, first = answers.windows, answers.answers.take(answers.first)
    lengths = {
        "windows": windows.stop_seconds - windows.start_seconds,
        "first answers": first.stop_seconds - first.start_seconds,
    }
    charts = [
        histograms(
            "IoU of the first answer", "IoU", {"queries": _column(answers, "miou")}, "share of queries", "", (0, 1)
        ),
        histograms("Lengths", "length in seconds", lengths, "share of each kind"),
    ]
    if np.isfinite(answers.seconds).any():
        centres = {
            "windows": _centres(windows, answers.seconds[windows.video]),
            "first answers": _centres(first, answers.seconds[answers.query[answers.first]]),
        }
        note = "A model that only knows where moments usually are shows here: its answers pile up in one place."
        title = "Where in the video: middle of the moment"
        charts.append(histograms(title, "share of the video", centres, "share of each kind", note, (0, 1)))
    return (Charts(tuple(charts)),)


def _centres(segments: Segments, seconds: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip((segments.start_seconds + segments.stop_seconds) / 2 / seconds, 0.0, 1.0)


def _column(answers: _Answers, metric: str) -> Floats:
    return units_of(answers.evaluation.run).values[metric]


def _by_length(answers: _Answers) -> Table:
    windows = answers.windows
    edges = length_edges(windows)
    # A query belongs to the bin of its longest window.
    length = np.zeros(len(windows.video_ids))
    np.maximum.at(length, windows.video, windows.stop_seconds - windows.start_seconds)
    codes = np.maximum(np.searchsorted(edges, length, "left") - 1, 0)
    units = units_of(answers.evaluation.run)
    place = {name: n for n, name in enumerate(windows.video_ids)}
    code = codes[[place[name] for name in units.ids]] if units.ids else np.zeros(0, np.int64)
    columns = [name for name in answers.evaluation.run.shown if name in units.values]
    own = length_codes(answers.answers.take(answers.first), edges)
    rows = []
    for n in range(len(edges) - 1):
        inside = code == n
        values = [float(units.values[c][inside].mean()) if inside.any() else float("nan") for c in columns]
        counts = (Cell(f"{int(inside.sum()):,}"), Cell(f"{int((own == n).sum()):,}"))
        rows.append(Row(bin_name(float(edges[n]), float(edges[n + 1])), (*(scored(v) for v in values), *counts)))
    head = ("longest window", *(_name(c) for c in columns), "queries", "first answers so long")
    return Table("By length", head, (("", tuple(rows)),), "Bins hold about as many windows each.")


def _timelines(answers: _Answers, num: int, seed: int) -> tuple[Timeline, ...]:
    names = answers.windows.video_ids
    units = units_of(answers.evaluation.run)
    values = np.full(len(names), np.nan)
    place = {name: n for n, name in enumerate(names)}
    values[[place[name] for name in units.ids]] = units.values["miou"]
    sizes = np.bincount(answers.windows.video, minlength=len(names))
    return tuple(_timeline(answers, kind, query) for kind, query in choose(values, sizes, names, num, seed))


def _timeline(answers: _Answers, kind: str, query: int) -> Timeline:
    windows, given = answers.windows, answers.answers
    own = answers.windows_of(query)
    shown = range(
        int(answers.edges[query]), min(int(answers.edges[query + 1]), int(answers.edges[query]) + ANSWERS_SHOWN)
    )
    bars: list[Segment] = []
    met_by: dict[int, int] = {}
    for rank, row in enumerate(shown, start=1):
        value, window = answers.best_iou(row)
        good = answers.is_correct(value)
        if good:
            met_by.setdefault(window, rank)
        start, stop = float(given.start_seconds[row]), float(given.stop_seconds[row])
        text = (
            f"{'Correct' if good else 'Incorrect'}: answer {rank}, score {float(given.score[row]):.4g}, "
            f"{seconds_text(start, stop)}; IoU {value:.2f}."
        )
        bars.append(Segment(start, stop, "correct" if good else "incorrect", text))
    truth = []
    for row in own.tolist():
        start, stop = float(windows.start_seconds[row]), float(windows.stop_seconds[row])
        mark, text = "missed", f"not met by the first {ANSWERS_SHOWN} answers"
        if row in met_by:
            mark, text = "truth", f"met by answer {met_by[row]}"
        truth.append(Segment(start, stop, mark, f"Window, {seconds_text(start, stop)}; {text}."))
    length = length_of(float(answers.seconds[query]), windows.stop_seconds[own], given.stop_seconds[list(shown)])
    lanes: list[Lane] = [*lanes_of(truth, length, "windows", True)[0]]
    # One line per answer, so that their order can be seen.
    for rank, bar in enumerate(bars, start=1):
        lanes += lanes_of([bar], length, f"answer {rank}", False)[0]
    name = windows.video_ids[query]
    first = f"IoU of the first answer: {answers.best_iou(shown[0])[0]:.2f}." if len(shown) else "No answer."
    sentence = answers.sentences[query] or f"query {name}"
    return Timeline(kind, sentence, first, length, tuple(lanes), f"query {name} of {answers.videos[query]}")


def _queries_text(answers: _Answers) -> str:
    return (
        f"Windows above the first {ANSWERS_SHOWN} answers. Windows: ● met, ○ not met. Answers: ✓ correct (solid), ✗ "
        f"incorrect (hatched), at IoU {answers.iou:g}. Best and worst go by the IoU of the first answer; of equal ones "
        "the query with more windows comes first."
    )
