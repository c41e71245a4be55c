"""The page of a retrieval: scores of every space, curves, labels, confusions, a map, ranked clips and their lineage.

Images come in encoded (decoding lives elsewhere), stills as JPEG and clips as moving thumbnails.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clipmill.pipelines.evaluation.retrieval.evaluate import RECALL_LEVELS, RetrievalResult, SpaceResult
from clipmill.pipelines.evaluation.tasks.page import Lineage, TaskReport, run_styles
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.pipelines.evaluation.tasks.retrieval.confusion import confusion_section
from clipmill.pipelines.evaluation.tasks.retrieval.dataset import Dataset, dataset_blocks, random_weights_notes
from clipmill.pipelines.evaluation.tasks.retrieval.embedding_map import EmbeddingMap, map_section
from clipmill.pipelines.evaluation.tasks.retrieval.examples import ClipImages, Example, examples_section
from clipmill.pipelines.reports.blocks import (
    Bar,
    Bars,
    Block,
    Chart,
    Charts,
    Section,
    Step,
    Steps,
    Table,
    legend,
    numbers,
)
from clipmill.pipelines.reports.blocks_images import ClipList
from clipmill.pipelines.reports.charts import Axes, Series, line_chart
from clipmill.pipelines.reports.lineage import ClipLineage
from clipmill.pipelines.reports.page import score_text

LABELS_SHOWN = 40
MAP_POINTS = (1, 2, 5)
"""K below the cut-offs at which the curve stands in the table of numbers."""
_EXPLAINED = (
    "mAP@K: sum of the precision at each correct result within the first K, divided by the number of correct results "
    "within the first K (the definition of the published evaluators), averaged over queries. A result is correct when "
    "its label is the query's. Equal scores are ordered by clip id. map_min divides by min(K, correct clips in the "
    "gallery). hit@K and median_rank count every equal incorrect score first."
)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page shows beside the scores; what is left at its default is left out.

    Attributes:
        examples: queries that are shown with their ranked lists, in `example_spaces` (default: every space learned).
        embedding: the map of the gallery.
        lineage: of the clips shown, by clip id.
    """

    title: str = "Image-to-video retrieval"
    dataset: Dataset | None = None
    examples: tuple[Example, ...] = ()
    example_spaces: tuple[str, ...] = ()
    images: ClipImages = ClipImages()
    embedding: EmbeddingMap | None = None
    lineage: Mapping[str, ClipLineage] = field(default_factory=dict)


def retrieval_report(
    score: TaskScore,
    result: RetrievalResult,
    shown: Shown = Shown(),
    lineage: Lineage = Lineage(),
    primary: str | None = None,
) -> TaskReport:
    """Returns the report of a retrieval; its details are about the space `primary`, by default the last.

    Raises:
        UsageError: `primary` is no space of the result.
    """
    names = [run.name for run in score.runs]
    main = result.space(primary if primary is not None else names[-1])
    # A model's spaces first, so that adding a baseline changes no colour.
    spaces = sorted(result.spaces, key=lambda space: space.space not in names)
    styles = dict(zip((space.space for space in spaces), run_styles(len(spaces), _place(spaces, main)), strict=True))
    anchors = {clip: f"clip-{number}" for number, clip in enumerate(shown.lineage)}
    drawn = _Drawn(result, main, spaces, styles)
    sections = [_curves(drawn), _labels(drawn), confusion_section(result, main.space)]
    if shown.embedding is not None and shown.embedding.layouts:
        sections.append(map_section(shown.embedding, shown.images.captions, anchors))
    if shown.examples:
        lists = [result.space(name) for name in shown.example_spaces or names]
        sections.append(examples_section(result, shown.examples, lists, main.space, shown.images, anchors))
    if shown.lineage:
        sections.append(_lineage(drawn, shown, anchors, has_model=main.space in names and len(names) < len(spaces)))
    labels = len(set(result.query_labels) | set(result.gallery_labels))
    of = f"{shown.dataset.counts.name} · " if shown.dataset is not None else ""
    explained = f"{_EXPLAINED} {_own_clip(result)}".rstrip()
    if len(result.gallery_ids) < result.cutoffs[-1]:
        explained += f" The gallery has {len(result.gallery_ids):,} clips: cut-offs beyond that repeat the whole list."
    return TaskReport(
        title=shown.title,
        subtitle=f"{of}image-to-video retrieval · {len(result.query_ids):,} queries, "
        f"{len(result.gallery_ids):,} clips in the gallery, {labels:,} labels",
        score=score,
        tiles=(result.headline,),
        columns=tuple(f"map@{k}" for k in result.cutoffs),
        names={f"map@{k}": f"mAP@{k}" for k in result.cutoffs},
        heads={"": "mAP@K"} | {f"map@{k}": f"@{k}" for k in result.cutoffs},
        sections=tuple(sections),
        explained=explained,
        notes=random_weights_notes(shown.dataset) if shown.dataset is not None else (),
        lineage=lineage,
        data=dataset_blocks(shown.dataset) if shown.dataset is not None else (),
        main=names.index(main.space) if main.space in names else 0,
        is_tile_per_run=True,
    )


def _own_clip(result: RetrievalResult) -> str:
    if result.exclude != "none":
        return f"The {result.exclude.replace('_', ' ')} of a query is not ranked."
    if result.own_clip_first:
        return "A query’s own clip is in the gallery and correct, as published."
    return ""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A result as it is drawn: the main space, all spaces in order, and their styles."""

    result: RetrievalResult
    main: SpaceResult
    spaces: Sequence[SpaceResult]
    styles: Mapping[str, int]

    @property
    def headline(self) -> str:
        return f"mAP@{self.result.cutoffs[0]}"

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        return legend([*((self.styles[space.space], space.space) for space in self.spaces), (-1, "chance")])


def _place(spaces: Sequence[SpaceResult], main: SpaceResult) -> int:
    return next(number for number, space in enumerate(spaces) if space.space == main.space)


def _curves(drawn: _Drawn) -> Section:
    charts = [_map_chart(drawn)]
    if all(space.precision_curve is not None for space in drawn.spaces):
        charts.append(_recall_chart(drawn))
    cumulative = numbers(
        ("K", *(space.space for space in drawn.spaces)),
        [(f"{k}", [space.cumulative_k[k] for space in drawn.spaces]) for k in drawn.result.cutoffs],
        "mAP@K as the released evaluator prints it",
    )
    note = (
        "cumulative_k: the released evaluator never clears its list between the cut-offs, so its value at K is a mean "
        "over all cut-offs up to K. For comparison only."
    )
    folded = Table(cumulative.title, cumulative.columns, cumulative.groups, note, True)
    return Section("curves", "Curves", (Charts(tuple(charts)), folded))


def _map_chart(drawn: _Drawn) -> Chart:
    result = drawn.result
    stop = min(result.cutoffs[-1], len(result.gallery_ids))
    ticks = sorted({k for k in result.cutoffs if k < 0.9 * stop} | {stop})
    lines = [
        Series("chance", [(k, float(result.chance_map_curve[k - 1])) for k in range(1, stop + 1)], ticks, -1),
        *(
            Series(s.space, [(k, float(s.map_curve[k - 1])) for k in range(1, stop + 1)], ticks, drawn.styles[s.space])
            for s in drawn.spaces
        ),
    ]
    title = "mAP@K against K"
    rows = [
        (f"{k}", [*(float(s.map_curve[k - 1]) for s in drawn.spaces), float(result.chance_map_curve[k - 1])])
        for k in dict.fromkeys((*MAP_POINTS, *result.cutoffs))
        if k <= result.cutoffs[-1]
    ]
    table = numbers(("K", *(space.space for space in drawn.spaces), "chance"), rows, title)
    svg = line_chart(lines, Axes(title, "K", "mAP@K", [1, *ticks], 1, stop))
    return Chart(title, svg, drawn.legend, "", table)


def _recall_chart(drawn: _Drawn) -> Chart:
    result = drawn.result
    levels = RECALL_LEVELS.tolist()
    marks = levels[::20]
    floor = result.chance.get(f"p@{min(result.cutoffs)}", 0.0)
    lines = [Series("chance", [(level, floor) for level in levels], marks, -1)]
    curves = [(space, space.precision_curve) for space in drawn.spaces if space.precision_curve is not None]
    for space, curve in curves:
        points = list(zip(levels, curve.tolist(), strict=True))
        lines.append(Series(space.space, points, marks, drawn.styles[space.space]))
    title = "Precision against recall"
    rows = [(f"{level / 100:.1f}", [float(curve[level]) for _, curve in curves]) for level in range(0, 101, 10)]
    table = numbers(("recall", *(space.space for space, _ in curves)), rows, title)
    svg = line_chart(lines, Axes(title, "recall", "precision", [0, 0.2, 0.4, 0.6, 0.8, 1], 0, 1))
    return Chart(title, svg, drawn.legend, "", table)


def _labels(drawn: _Drawn) -> Section:
    """Returns the labels, best first; of many, the first and the last half of `LABELS_SHOWN`."""
    main = drawn.main
    values = {space.space: {score.label: score.value for score in space.per_label} for space in drawn.spaces}
    ranked = sorted(main.per_label, key=lambda score: (-score.value, score.label))
    half = LABELS_SHOWN // 2
    kept = ranked if len(ranked) <= LABELS_SHOWN else [*ranked[:half], *ranked[-half:]]
    others = [space.space for space in drawn.spaces if space.space != main.space]
    bars = tuple(
        Bar(
            score.label,
            score.value,
            f"{_counted(score.num_queries, 'query', 'queries')} · {_counted(score.num_relevant, 'clip', 'clips')}",
            tuple(
                (drawn.styles[name], values[name][score.label], f"{name} {score_text(values[name][score.label])}")
                for name in others
            ),
        )
        for score in kept
    )
    legend_styles = ((drawn.styles[main.space], main.space), *((drawn.styles[name], name) for name in others))
    marks = ", marks for the other spaces" if others else ""
    text = (
        f"{drawn.headline} of the queries of each label: bar and number for {main.space}{marks}; under each name its "
        "queries and the gallery clips that are correct for them."
    )
    if len(kept) < len(ranked):
        text += f" The best and the worst {half}; {len(ranked) - len(kept)} in between are left out."
    return Section("labels", "Labels", (Bars(f"{drawn.headline} by label", bars, legend_styles),), text)


def _counted(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _lineage(drawn: _Drawn, shown: Shown, anchors: Mapping[str, str], has_model: bool) -> Section:
    result, main = drawn.result, drawn.main
    features = shown.dataset.features if shown.dataset is not None else ()
    examples = ("examples", "Examples") if shown.examples else None
    has_imported = any(feature.is_imported for feature in features)
    by_model = ", made of stored rows by the model named under Data" if has_model else ""
    steps = (
        Step(
            f"{drawn.headline} {score_text(main.metrics[result.headline])}",
            f"in {main.space} is the mean of {len(result.query_ids):,} values, one per query: in results.json, "
            f"runs.{main.space}.units.values.{result.headline}.",
        ),
        Step(
            "A query’s value",
            "comes from its ranked list: a result is correct when its label is the query’s.",
            examples,
        ),
        Step("A place in the list", f"comes from the score of a query vector and a clip’s vector{by_model}."),
        Step(
            "A stored row",
            "is a function of the video’s bytes and a recipe"
            + (", or, where it was imported, a row of a file:" if has_imported else ":"),
            None,
            tuple(
                f"{feature.name} ({feature.role}): {feature.extractor} {feature.layer}, weights {feature.source}"
                for feature in features
            ),
        ),
        Step(
            "Its frames",
            "follow from the recipe and the presentation times of the video’s packets; the provenance record says what "
            "decoded them. Both are below for each clip this page shows."
            + (" Of imported rows they are not known." if has_imported else ""),
        ),
    )
    clips = tuple((anchors[name], shown.images.caption(name), item) for name, item in shown.lineage.items())
    blocks: tuple[Block, ...] = (
        Steps("From a number back to what it was made of", steps),
        ClipList(f"{len(clips):,} clips of the lists above", clips),
    )
    return Section("lineage", "Lineage", blocks)
