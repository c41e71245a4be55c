"""The report of ``task: scene_retrieval``: how queries spread, and ranked clips of some."""

from collections.abc import Sequence

from clipmill.pipelines.evaluation.tasks.by_query import ITEMS_SHOWN, NUM_LISTS, example_lists, spread_by_query
from clipmill.pipelines.evaluation.tasks.page import TaskReport, units_of
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.pipelines.evaluation.tasks.scene_retrieval.score import SceneEvaluation
from clipmill.pipelines.reports.blocks import ListItem, RankedList, Section, Side
from clipmill.stores.formats.records import ShownScenes

_EXPLAINED = {
    "scenes": (
        "AP: sum of the precision at each clip that shows the query, over all such clips, found or not; distinct clips "
        "within the cut-off count. A judged query without a list scores 0."
    ),
    "frames": (
        "What was found first: in the query's video, a shot that holds its frame, a frame that begins within so many "
        "seconds of its own. Queries without an answer are misses."
    ),
    "seconds": (
        "Jaccard index of the seconds reported and those annotated, per clip that shows the query, averaged over those "
        "clips and then over the queries. Clips and queries without a report score 0."
    ),
}


def scenes_report(
    score: TaskScore, evaluations: Sequence[SceneEvaluation], num_examples: int = NUM_LISTS, seed: int = 0
) -> TaskReport:
    """Returns the report; its details are about the first evaluation."""
    first = evaluations[0]
    run = first.run
    names = {name: name.replace("map@", "mAP@").replace("p@1", "mP@1") for name in run.metrics if "@" in name}
    names["jaccard"] = "mean Jaccard index"
    names = {name: text for name, text in names.items() if name in run.metrics}
    values = units_of(run).values[run.headline]
    label = "AP" if first.ranked else {"jaccard": "Jaccard index"}.get(run.headline, run.headline)
    sections = [Section("spread", "By query", (Side(spread_by_query(run, label, values)),))]
    if first.ranked and isinstance(first.truth, ShownScenes):
        truth = first.truth

        def listed(kind: str, query: str, value: float) -> RankedList:
            shown = set(truth.clips(query))
            items = tuple(
                ListItem(name, "correct" if name in shown else "incorrect")
                for name in first.ranked.get(query, ())[:ITEMS_SHOWN]
            )
            return RankedList(kind, f"query {query}", f"AP {value:.3f}; {len(shown)} clips to find.", items)

        text = f"✓ a clip that shows the query, ✗ one that does not. Best and worst go by AP@{run.headline[4:]}."
        sections.append(Section("queries", "Queries", (example_lists(run, values, listed, num_examples, seed),), text))
    return TaskReport(
        title=f"Scene retrieval: {', '.join(item.name for item in evaluations)}",
        subtitle=f"Clips that show a query image · {len(first.truth.shown):,} queries",
        score=score,
        tiles=run.shown,
        columns=run.shown,
        names=names,
        sections=tuple(sections),
        explained=_EXPLAINED[str(score.protocol["protocol"])],
    )
