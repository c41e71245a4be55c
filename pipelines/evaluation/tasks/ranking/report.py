"""The report of ``task: ranking``: ranked documents, by query."""

from collections.abc import Sequence

from clipmill.pipelines.evaluation.tasks.by_query import ITEMS_SHOWN, NUM_LISTS, example_lists, spread_by_query
from clipmill.pipelines.evaluation.tasks.curves import metric_chart
from clipmill.pipelines.evaluation.tasks.page import Lineage, TaskReport
from clipmill.pipelines.evaluation.tasks.published import PublishedScore
from clipmill.pipelines.evaluation.tasks.ranking.score import RankingEvaluation
from clipmill.pipelines.evaluation.tasks.result import RunScore, TaskScore
from clipmill.pipelines.reports.blocks import Chart, Charts, ListItem, RankedList, Section, Side


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
        sections.append(Section("spread", "By query", (Side(spread_by_query(run, main, values)),)))
        level = int(score.protocol.get("relevance_level", 1))
        descending = score.protocol.get("ties") != "ascending"

        def listed(kind: str, query: str, value: float) -> RankedList:
            return _documents(first, kind, query, f"{main} {value:.3f}", level, descending)

        text = "✓ relevant, ✗ judged not relevant, – not judged. Best and worst go by " + main + "."
        sections.append(Section("queries", "Queries", (example_lists(run, values, listed, num_examples, seed),), text))
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


def _at(run: RunScore, prefix: str) -> dict[float, str]:
    """Returns the metrics called `prefix` and a number, by that number, ascending."""
    found = {}
    for name in run.metrics:
        tail = name.removeprefix(prefix)
        if tail != name and tail.replace(".", "", 1).isdigit():
            found[float(tail)] = name
    return dict(sorted(found.items()))


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
    text = f"{summary}; {num_found} of {num_relevant} relevant documents among the {len(given):,} retrieved."
    return RankedList(kind, f"query {query}", text, tuple(items))
