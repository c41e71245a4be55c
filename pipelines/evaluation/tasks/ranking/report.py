"""The reports of ``task: ranking`` and ``task: landmarks``: ranked lists, by query."""

from collections.abc import Callable, Sequence

import numpy as np

from clipmill.pipelines.evaluation.metrics.detection_matching import Floats
from clipmill.pipelines.evaluation.tasks.curves import metric_chart
from clipmill.pipelines.evaluation.tasks.detection.timelines import choose
from clipmill.pipelines.evaluation.tasks.histograms import histograms
from clipmill.pipelines.evaluation.tasks.landmarks.score import LandmarksEvaluation
from clipmill.pipelines.evaluation.tasks.page import Lineage, TaskReport, units_of, value_text
from clipmill.pipelines.evaluation.tasks.published import PublishedScore
from clipmill.pipelines.evaluation.tasks.ranking.score import RankingEvaluation
from clipmill.pipelines.evaluation.tasks.result import RunScore, TaskScore
from clipmill.pipelines.reports.blocks import (
    Bar,
    Bars,
    Block,
    Chart,
    Charts,
    ListItem,
    RankedList,
    RankedLists,
    Section,
    Side,
    numbers,
)

NUM_LISTS = 12
ITEMS_SHOWN = 10
BARS_SHOWN = 40


def ranking_report(
    score: TaskScore,
    evaluations: Sequence[RankingEvaluation],
    published: Sequence[PublishedScore] = (),
    lineage: Lineage = Lineage(),
    num_examples: int = NUM_LISTS,
    seed: int = 0,
) -> TaskReport:
    """Returns the report of ranked documents; its details are about the first evaluation."""
    first = evaluations[0]
    run = first.run
    runs = [item.run for item in evaluations]
    charts: list[Chart] = []
    recalls = _at(run, "iprec_at_recall_")
    if recalls:
        charts.append(metric_chart("Precision against recall", "recall", "interpolated precision", runs, recalls, 0.0))
    cut = {k: name for k, name in _at(run, "P_").items() if k <= 100}
    if len(cut) > 1:
        charts.append(metric_chart("Precision against depth", "documents read", "precision", runs, cut, 0.0))
    sections = []
    if charts:
        sections.append(Section("curves", "Curves", (Charts(tuple(charts)),)))
    main = run.headline if run.units is not None and run.headline in run.units.values else None
    if main is not None and run.units is not None:
        values = run.units.values[main]
        sections.append(Section("spread", "By query", (Side(_spread(run, main, main, values)),)))
        level = int(score.protocol.get("relevance_level", 1))
        descending = score.protocol.get("ties") != "ascending"

        def listed(kind: str, query: str, value: float) -> RankedList:
            return _documents(first, kind, query, f"{main} {value:.3f}", level, descending)

        text = "✓ relevant, ✗ judged not relevant, – not judged. Best and worst go by " + main + "."
        sections.append(Section("queries", "Queries", (_lists(run, values, listed, num_examples, seed),), text))
    return TaskReport(
        title=f"Ranked lists: {', '.join(item.name for item in evaluations)}",
        subtitle=f"trec_eval's measures · {len(first.score.query_ids):,} queries",
        score=score,
        tiles=(run.headline, *(name for name in run.shown if name != run.headline)),
        columns=run.shown,
        names={},
        sections=tuple(sections),
        explained="Measures, names and ties as trec_eval has them (docs/metrics/retrieval.md).",
        published=tuple(published),
        lineage=lineage,
    )


def landmarks_report(
    score: TaskScore,
    evaluations: Sequence[LandmarksEvaluation],
    published: Sequence[PublishedScore] = (),
    lineage: Lineage = Lineage(),
    num_examples: int = NUM_LISTS,
    seed: int = 0,
) -> TaskReport:
    """Returns the report of ranked images with junk; its details are about the first evaluation."""
    first = evaluations[0]
    run = first.run
    protocol = run.headline.partition(":")[0]
    names = {name: name.replace(":map", " mAP").replace(":mp@", " mP@") for name in run.metrics}
    sections = []
    if run.units is not None:
        values = run.units.values[run.headline]
        label = names[run.headline]
        spread = list(_spread(run, run.headline, f"AP, {protocol}", values))
        groups = {
            name.removesuffix(":map"): column for name, column in run.units.values.items() if name.endswith(":map")
        }
        chart = histograms("AP of the queries", "average precision", groups, "share of queries", "", (0, 1))
        sections.append(Section("spread", "By query", (Side((Charts((chart,)), *spread[1:])),)))

        def listed(kind: str, query: str, value: float) -> RankedList:
            return _images(first, protocol, kind, query, f"AP {value:.3f}")

        text = f"Protocol {protocol}: ✓ right, ✗ wrong, – junk, left out of the ranking. Best and worst go by {label}."
        sections.append(Section("queries", "Queries", (_lists(run, values, listed, num_examples, seed),), text))
    return TaskReport(
        title=f"Landmarks: {', '.join(item.name for item in evaluations)}",
        subtitle=f"Oxford and Paris with junk · {len(first.truth.query_images):,} queries",
        score=score,
        tiles=(run.headline, *(n for n in run.shown if n.endswith(":map") and n != run.headline)),
        columns=run.shown,
        names=names,
        sections=tuple(sections),
        explained="mAP and mP@k with junk images left out before ranks are counted (docs/metrics/retrieval.md).",
        published=tuple(published),
        lineage=lineage,
    )


def _at(run: RunScore, prefix: str) -> dict[float, str]:
    """Returns the metrics called `prefix` and a number, by that number, ascending."""
    found = {}
    for name in run.metrics:
        tail = name.removeprefix(prefix)
        if tail != name and tail.replace(".", "", 1).isdigit():
            found[float(tail)] = name
    return dict(sorted(found.items()))


def _spread(run: RunScore, metric: str, label: str, values: Floats) -> tuple[Block, ...]:
    units = units_of(run)
    known = [n for n in range(len(values)) if values[n] == values[n]]
    ranked = sorted(known, key=lambda n: (-values[n], units.ids[n]))
    half = BARS_SHOWN // 2
    kept = ranked if len(ranked) <= BARS_SHOWN else [*ranked[:half], *ranked[-half:]]
    hidden = len(ranked) - len(kept)
    note = f"The best and the worst {half}; {hidden} in between are in the table." if hidden else ""
    columns = list(units.values) if len(units.values) <= 8 else [m for m in run.shown if m in units.values]
    rows: list[tuple[str, list[float | str]]] = [
        (units.ids[n], [value_text(column, float(units.values[column][n])) for column in columns]) for n in ranked
    ]
    bars = tuple(Bar(units.ids[n], float(values[n])) for n in kept)
    told = numbers(("query", *columns), rows, "Every query")
    return (
        Charts((histograms(f"{label} of the queries", label, {"queries": values}, "share of queries", "", (0, 1)),)),
        Bars(f"{label} by query", bars, ((0, label),), note, told),
    )


def _lists(
    run: RunScore, values: Floats, listed: Callable[[str, str, float], RankedList], num: int, seed: int
) -> RankedLists:
    units = units_of(run)
    chosen = choose(values, np.zeros(len(values), np.int64), units.ids, num, seed)
    return RankedLists(tuple(listed(kind, units.ids[n], float(values[n])) for kind, n in chosen))


def _documents(
    evaluation: RankingEvaluation, kind: str, query: str, summary: str, level: int, descending: bool
) -> RankedList:
    judged, given = evaluation.qrels[query], evaluation.documents.get(query, {})
    ordered = sorted(given, reverse=descending)
    ordered.sort(key=lambda document: -given[document])
    items = []
    for document in ordered[:ITEMS_SHOWN]:
        value = judged.get(document, -1)
        mark = "correct" if value >= level else "incorrect" if value >= 0 else "ignored"
        items.append(ListItem(document, mark, f"{given[document]:.4g}"))
    num_relevant = sum(value >= level for value in judged.values())
    num_found = sum(judged.get(document, -1) >= level for document in given)
    told = f"{summary}; {num_found} of {num_relevant} relevant documents among the {len(given):,} retrieved."
    return RankedList(kind, f"query {query}", told, tuple(items))


def _images(evaluation: LandmarksEvaluation, protocol: str, kind: str, query: str, summary: str) -> RankedList:
    positives, junk = evaluation.truth.positives[protocol][query], evaluation.truth.junk[protocol][query]
    ranked = evaluation.rankings.get(query, ())
    items = tuple(
        ListItem(name, "correct" if name in positives else "ignored" if name in junk else "incorrect")
        for name in ranked[:ITEMS_SHOWN]
    )
    return RankedList(kind, f"query {query}", f"{summary}; {len(positives)} images to find.", items)
