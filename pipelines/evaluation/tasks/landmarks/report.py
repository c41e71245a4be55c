"""The report of ``task: landmarks``: ranked images with junk, by query."""

from collections.abc import Sequence

from clipmill.pipelines.evaluation.tasks.by_query import ITEMS_SHOWN, NUM_LISTS, example_lists, spread_by_query
from clipmill.pipelines.evaluation.tasks.histograms import histograms
from clipmill.pipelines.evaluation.tasks.landmarks.score import LandmarksEvaluation
from clipmill.pipelines.evaluation.tasks.page import Lineage, TaskReport
from clipmill.pipelines.evaluation.tasks.published import PublishedScore
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.pipelines.reports.blocks import Charts, ListItem, RankedList, Section, Side


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
        spread = spread_by_query(run, f"AP, {protocol}", values)
        groups = {
            name.removesuffix(":map"): column for name, column in run.units.values.items() if name.endswith(":map")
        }
        chart = histograms("AP of the queries", "average precision", groups, "share of queries", "", (0, 1))
        sections.append(Section("spread", "By query", (Side((Charts((chart,)), spread[1])),)))

        def listed(kind: str, query: str, value: float) -> RankedList:
            return _images(first, protocol, kind, query, f"AP {value:.3f}")

        text = f"Protocol {protocol}: ✓ correct, ✗ incorrect, – junk, ignored. Best and worst go by {label}."
        sections.append(Section("queries", "Queries", (example_lists(run, values, listed, num_examples, seed),), text))
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


def _images(evaluation: LandmarksEvaluation, protocol: str, kind: str, query: str, summary: str) -> RankedList:
    positives, junk = evaluation.truth.positives[protocol][query], evaluation.truth.junk[protocol][query]
    ranked = evaluation.rankings.get(query, ())
    items = tuple(
        ListItem(name, "correct" if name in positives else "ignored" if name in junk else "incorrect")
        for name in ranked[:ITEMS_SHOWN]
    )
    return RankedList(kind, f"query {query}", f"{summary}; {len(positives)} images to find.", items)
