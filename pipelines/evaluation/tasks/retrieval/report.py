"""A retrieval evaluation as one self-contained ``report.html``: no request, no library, readable on a phone.

Pictures come in encoded (decoding lives elsewhere), stills as JPEG and clips as WebP strips; each is stored once,
however often it is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clipmill.pipelines.evaluation.retrieval.evaluate import RECALL_LEVELS, RetrievalResult, SpaceResult
from clipmill.pipelines.evaluation.tasks.retrieval.confusion import confusion
from clipmill.pipelines.evaluation.tasks.retrieval.embedding_map import EmbeddingMap, label_styles
from clipmill.pipelines.evaluation.tasks.retrieval.examples import SHOWN, Example
from clipmill.pipelines.evaluation.tasks.retrieval.published import AT, IMAGE_TO_VIDEO, PublishedRow
from clipmill.pipelines.reports.charts import NUM_STYLES, Axes, Series, line_chart, swatch
from clipmill.pipelines.reports.lineage import ClipLineage
from clipmill.pipelines.reports.page import Pictures, render, write_page
from clipmill.pipelines.reports.pictures import Strip

LABELS_SHOWN = 40
KINDS = (
    ("best", "Best queries", "The highest map_min"),
    ("worst", "Worst queries", "The lowest map_min"),
    ("random", "Random queries", "Drawn with the seed, for what is usual"),
)
MARKS = ("●", "▲", "■", "◆", "▼", "○")


@dataclass(frozen=True, slots=True)
class FeatureLine:
    """One feature of the dataset and where its numbers come from.

    Attributes:
        role: what it was used for, such as ``query`` or ``gallery``.
        weights: as in the passports: ``random(0)``, or the name of a published file.
        digest: SHA-256 of the weights, as many digits as wanted; empty where there are none.
        decoders: which decoders served its videos, such as ``decord 0.6.0``.
    """

    name: str
    extractor: str
    layer: str
    role: str
    num_rows: int
    dim: int
    weights: str
    digest: str = ""
    decoders: str = ""

    @property
    def is_random(self) -> bool:
        """Whether the weights were drawn, not learned."""
        return self.weights.startswith("random")


@dataclass(frozen=True, slots=True)
class DatasetCounts:
    """What the numbers were computed over; `split` says in words how training and test were separated."""

    name: str
    num_videos: int
    num_clips: int
    num_labels: int
    num_train: int
    num_test: int
    split: str = ""


@dataclass(frozen=True, slots=True)
class StageTime:
    """Wall time of one stage; `detail` says how much work it was."""

    stage: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SpeedOfLight:
    """The build's rate beside what bounds it: `line` as printed, `rates` as (name, value) in `unit`."""

    line: str
    rates: tuple[tuple[str, float], ...] = ()
    unit: str = ""


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """Everything a report shows.

    Attributes:
        baselines: spaces of `result` that are baselines (plain cosine), not the model's.
        primary: the space that the summary and the bars go by; default: the last that is no baseline.
        example_spaces: spaces whose lists are shown for `examples`; default: all that are no baselines, or all.
        query_thumbnails: JPEG bytes by query id; a missing one is shown as its id.
        gallery_thumbnails: animated thumbnails by gallery id.
        spans: start and stop seconds of a clip within its video, by gallery id.
        embedding: the map of the gallery; None: no map.
        lineage: of the clips shown, by clip id.
        captions: what to call an item in the report, by id; default: the id.
        quarantine: number of videos by reason code.
        stages: in order.
        notes: sentences to show on top, such as what a reader must not conclude.
        config: the resolved config as text.
        provenance: (name, value) pairs, such as run, model, versions, fingerprints.
        next_steps: commands to run next.
    """

    title: str
    result: RetrievalResult
    dataset: DatasetCounts
    baselines: tuple[str, ...] = ()
    primary: str | None = None
    features: tuple[FeatureLine, ...] = ()
    examples: tuple[Example, ...] = ()
    example_spaces: tuple[str, ...] = ()
    query_thumbnails: Mapping[str, bytes] = field(default_factory=dict)
    gallery_thumbnails: Mapping[str, Strip] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    spans: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    embedding: EmbeddingMap | None = None
    lineage: Mapping[str, ClipLineage] = field(default_factory=dict)
    quarantine: Mapping[str, int] = field(default_factory=dict)
    stages: tuple[StageTime, ...] = ()
    speed_of_light: SpeedOfLight | None = None
    notes: tuple[str, ...] = ()
    config: str = ""
    provenance: tuple[tuple[str, str], ...] = ()
    next_steps: tuple[str, ...] = ()
    published: tuple[PublishedRow, ...] = IMAGE_TO_VIDEO


def write_report(path: str, report: RetrievalReport) -> int:
    """Writes `report` to `path` and returns its size in bytes.

    Raises:
        UsageError: it would be larger than 20 MB.
        StorageUnavailableError: the file cannot be written.
    """
    return write_page(path, render_report(report))


def render_report(report: RetrievalReport) -> str:
    """Returns the report as HTML text; the same report gives the same text.

    Raises:
        UsageError: it names a space that the result lacks.
    """
    return render("retrieval.html", _context(report))


def _context(report: RetrievalReport) -> dict[str, object]:
    result = report.result
    models = [space for space in result.spaces if space.space not in report.baselines] or list(result.spaces)
    primary = result.space(report.primary) if report.primary else models[-1]
    in_style = sorted(_ordered(report), key=lambda space: space.space != primary.space)
    styles = {space.space: index % NUM_STYLES for index, space in enumerate(in_style)}
    pictures = Pictures()
    anchors = {clip: f"clip-{number}" for number, clip in enumerate(report.lineage)}
    shown = [result.space(name) for name in report.example_spaces] or models
    examples = [_example(report, example, shown, pictures, anchors) for example in report.examples]
    shown_at = min(result.at[-1], len(result.gallery_ids))
    return {
        "report": report,
        "result": result,
        "primary": primary,
        "models": models,
        "ordered": _ordered(report),
        "styles": styles,
        "swatches": {name: swatch(style) for name, style in styles.items()},
        "chance_swatch": swatch(-1),
        "marks": {name: MARKS[style] for name, style in styles.items()},
        "random_features": [feature for feature in report.features if feature.is_random],
        "map_chart": _map_chart(report, styles, shown_at),
        "recall_chart": _recall_chart(report, styles),
        "curve_rows": [k for k in (1, 2, 5, *result.at) if k <= result.at[-1]],
        "labels": _label_rows(report, primary),
        "num_labels_hidden": max(0, len(primary.per_label) - LABELS_SHOWN),
        "published_at": AT,
        "published_groups": _published_groups(report.published),
        "confusion": confusion(result, primary.space),
        "map": _map(report, report.embedding, pictures, anchors) if report.embedding else None,
        "groups": [
            (kind, title, text, mine)
            for kind, title, text in KINDS
            if (mine := [example for example in examples if example["kind"] == kind])
        ],
        "num_shown": SHOWN,
        "anchors": anchors,
        "pictures": pictures,
        "num_quarantined": sum(report.quarantine.values()),
        "total_seconds": sum(stage.seconds for stage in report.stages),
        "longest_seconds": max((stage.seconds for stage in report.stages), default=0.0),
        "fastest": max((rate for _, rate in report.speed_of_light.rates), default=0.0)
        if report.speed_of_light
        else 0.0,
    }


def _ordered(report: RetrievalReport) -> list[SpaceResult]:
    """Returns the spaces, those of the model first, so that adding a baseline moves no colour."""
    return sorted(report.result.spaces, key=lambda space: space.space in report.baselines)


def _example(
    report: RetrievalReport,
    example: Example,
    shown: Sequence[SpaceResult],
    pictures: Pictures,
    anchors: Mapping[str, str],
) -> dict[str, object]:
    result = report.result
    query, label = result.query_ids[example.query], result.query_labels[example.query]
    lists = []
    for space in shown:
        entries = []
        pairs = zip(space.top[example.query, :SHOWN].tolist(), space.top_scores[example.query, :SHOWN], strict=True)
        for rank, (item, score) in enumerate(pairs, start=1):
            name = result.gallery_ids[item]
            strip = report.gallery_thumbnails.get(name)
            entries.append(
                {
                    "rank": rank,
                    "caption": report.captions.get(name, name),
                    "label": result.gallery_labels[item],
                    "right": result.gallery_labels[item] == label,
                    "own": name == query,
                    "score": float(score),
                    "picture": pictures.name(strip.data, strip.num_frames) if strip else "",
                    "span": report.spans.get(name),
                    "anchor": anchors.get(name, ""),
                }
            )
        lists.append(
            {
                "space": space.space,
                "value": float(space.per_query[result.headline][example.query]),
                "num_right": sum(1 for entry in entries if entry["right"]),
                "entries": entries,
            }
        )
    return {
        "kind": example.kind,
        "caption": report.captions.get(query, query),
        "label": label,
        "picture": pictures.name(report.query_thumbnails.get(query)),
        "anchor": anchors.get(query, ""),
        "num_relevant": sum(1 for other in result.gallery_labels if other == label),
        "lists": lists,
    }


def _map(
    report: RetrievalReport, shown: EmbeddingMap, pictures: Pictures, anchors: Mapping[str, str]
) -> dict[str, object] | None:
    """Returns what the map's template draws: points in units of its picture, and the legend."""
    if not shown.layouts:
        return None
    styles = label_styles(shown.labels)
    place = {style.label: number for number, style in enumerate(styles)}
    layouts = {
        name: [(round(24 + 552 * x, 1), round(20 + 400 * y, 1)) for x, y in points.tolist()]
        for name, points in reversed(list(shown.layouts.items()))
    }
    first = next(iter(layouts))
    points = [
        {
            "caption": report.captions.get(name, name),
            "label": label,
            "group": place.get(label, len(styles) - 1),
            "style": styles[place.get(label, len(styles) - 1)],
            "at": layouts[first][index],
            "all": {layout: places[index] for layout, places in layouts.items()},
            "picture": pictures.name(shown.thumbnails.get(name)),
            "anchor": anchors.get(name, ""),
        }
        for index, (name, label) in enumerate(zip(shown.ids, shown.labels, strict=True))
    ]
    return {"shown": shown, "styles": styles, "points": points, "layouts": list(layouts)}


def _map_chart(report: RetrievalReport, styles: Mapping[str, int], stop: int) -> str:
    result = report.result
    ticks = sorted({k for k in result.at if k < 0.9 * stop} | {stop})
    lines = [
        Series("chance", [(k, float(result.chance_map_curve[k - 1])) for k in range(1, stop + 1)], ticks, -1),
        *(
            Series(s.space, [(k, float(s.map_curve[k - 1])) for k in range(1, stop + 1)], ticks, styles[s.space])
            for s in _ordered(report)
        ),
    ]
    return line_chart(lines, Axes("mAP@K against K", "K", "mAP@K", [1, *ticks], 1, stop))


def _recall_chart(report: RetrievalReport, styles: Mapping[str, int]) -> str | None:
    result = report.result
    if any(space.precision_curve is None for space in result.spaces):
        return None
    levels = RECALL_LEVELS.tolist()
    marks = levels[::20]
    floor = result.chance.get(f"p@{min(result.at)}", 0.0)
    lines = [Series("chance", [(level, floor) for level in levels], marks, -1)]
    for space in _ordered(report):
        if space.precision_curve is not None:
            points = list(zip(levels, space.precision_curve.tolist(), strict=True))
            lines.append(Series(space.space, points, marks, styles[space.space]))
    return line_chart(lines, Axes("Precision against recall", "recall", "precision", [0, 0.2, 0.4, 0.6, 0.8, 1], 0, 1))


def _label_rows(report: RetrievalReport, primary: SpaceResult) -> list[dict[str, object]]:
    """Returns the labels, best first; of many, the first and the last half of `LABELS_SHOWN`."""
    values = {space.space: {score.label: score.value for score in space.per_label} for space in report.result.spaces}
    ranked = sorted(primary.per_label, key=lambda score: (-score.value, score.label))
    half = LABELS_SHOWN // 2
    kept = ranked if len(ranked) <= LABELS_SHOWN else [*ranked[:half], *ranked[-half:]]
    return [
        {
            "label": score.label,
            "num_queries": score.num_queries,
            "num_relevant": score.num_relevant,
            "value": score.value,
            "others": [
                (space.space, values[space.space][score.label])
                for space in _ordered(report)
                if space.space != primary.space
            ],
        }
        for score in kept
    ]


def _published_groups(rows: Sequence[PublishedRow]) -> list[tuple[str, str, list[PublishedRow]]]:
    """Returns (dataset, source, rows) in the order the rows come in."""
    groups: dict[tuple[str, str], list[PublishedRow]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.source), []).append(row)
    return [(dataset, source, mine) for (dataset, source), mine in groups.items()]
