"""The report of ``task: highlights``: which clips a model finds worth seeing, beside what people said."""

from collections.abc import Mapping, Sequence

import numpy as np

from clipmill.pipelines.evaluation.metrics.moments_highlights import HIGHLIGHT_LEVELS
from clipmill.pipelines.evaluation.tasks.detection.timelines import NUM_TIMELINES, choose
from clipmill.pipelines.evaluation.tasks.highlights.score import HighlightsEvaluation
from clipmill.pipelines.evaluation.tasks.histograms import histograms
from clipmill.pipelines.evaluation.tasks.page import Lineage, TaskReport, units_of
from clipmill.pipelines.evaluation.tasks.published import PublishedScore
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.pipelines.reports.blocks import Charts, Section, Strip, Strips
from clipmill.pipelines.reports.charts_bars import strip_picture
from clipmill.schemas.arrays import Floats

CLIP_SECONDS = 2.0
"""Of QVHighlights."""
MOST_SALIENT = 4.0


def highlights_report(
    score: TaskScore,
    evaluations: Sequence[HighlightsEvaluation],
    published: Sequence[PublishedScore] = (),
    lineage: Lineage = Lineage(),
    num_examples: int = NUM_TIMELINES,
    seed: int = 0,
    sentences: Mapping[str, str] | None = None,
) -> TaskReport:
    """Returns the report; its details are about the first evaluation.

    Args:
        sentences: query id to what was asked.
    """
    first = evaluations[0]
    headline = first.run.headline
    units = units_of(first.run)
    levels = {name: value for name, value in units.values.items() if name.startswith("map@")}
    groups = {_name(name): value for name, value in levels.items()}
    charts = (
        histograms("AP of the queries", "average precision", groups, "share of queries", "", (0, 1)),
        histograms("Predicted scores", "score", _scores(first), "share of each kind"),
    )
    names = tuple(units.ids)
    sizes = np.array([len(first.saliency[name]) for name in names], np.int64)
    chosen = choose(units.values[headline], sizes, names, num_examples, seed)
    strips = tuple(
        _strip(first, kind, names[n], float(units.values[headline][n]), sentences or {}) for kind, n in chosen
    )
    text = (
        "The annotated score of each 2 s clip, mean over people, above the predicted one; the darker, the higher. "
        f"Predicted scores run from a query's lowest to its highest. Best and worst go by {_name(headline)}."
    )
    sections = [Section("curves", "Curves", (Charts(charts),))]
    if strips:
        sections.append(Section("queries", "Queries", (Strips(strips),), text))
    return TaskReport(
        title=f"Highlights: {', '.join(item.name for item in evaluations)}",
        subtitle=f"highlight detection · {first.score.num_queries:,} queries",
        score=score,
        tiles=(headline, *(name for name in first.run.shown if name != headline)),
        columns=first.run.shown,
        names={name: _name(name) for name in first.run.metrics},
        sections=tuple(sections),
        explained=(
            "A clip is positive for a person who gave at least the level (Fair 2, Good 3, VeryGood 4). mAP: mean over "
            "queries and people; Hit@1: share of queries whose best-scored clip is positive for anyone."
        ),
        published=tuple(published),
        lineage=lineage,
    )


def _name(metric: str) -> str:
    return metric.replace("map@", "mAP, ").replace("hit1@", "Hit@1, ")


def _scores(evaluation: HighlightsEvaluation) -> dict[str, Floats]:
    level = max(evaluation.levels)
    name = {value: key for key, value in HIGHLIGHT_LEVELS.items()}.get(level, str(level))
    positives, others = [np.zeros(0)], [np.zeros(0)]
    for query, table in evaluation.saliency.items():
        given = evaluation.predicted.get(query)
        if given is None:
            continue
        num = min(len(given), len(table))
        positive = (table[:num] >= level).any(axis=1)
        positives.append(given[:num][positive])
        others.append(given[:num][~positive])
    return {f"clips someone found {name}": np.concatenate(positives), "other clips": np.concatenate(others)}


def _strip(
    evaluation: HighlightsEvaluation, kind: str, query: str, value: float, sentences: Mapping[str, str]
) -> Strip:
    table = evaluation.saliency[query]
    given = evaluation.predicted.get(query, np.zeros(0))[: len(table)]
    fitted = np.zeros(len(table))
    span = float(np.ptp(given)) if len(given) else 0.0
    if span > 0:
        fitted[: len(given)] = (given - given.min()) / span
    rows = (
        (
            "annotated",
            strip_picture((table.mean(axis=1) / MOST_SALIENT).tolist(), "annotated scores, mean over people"),
        ),
        ("predicted", strip_picture(fitted.tolist(), "predicted scores")),
    )
    best = f"best-scored clip at {CLIP_SECONDS * int(np.argmax(given)):.0f} s" if len(given) else "no predictions"
    title = sentences.get(query, f"query {query}")
    return Strip(kind, title, f"AP {value:.3f}; {best}.", CLIP_SECONDS * len(table), rows)
