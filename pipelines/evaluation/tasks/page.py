"""What the reports of all tasks but retrieval have in common: the table of results, intervals, counts and lineage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from clipmill.pipelines.evaluation.bootstrap import Interval
from clipmill.pipelines.evaluation.tasks.published import PUBLISHED_SCORES, PublishedScore
from clipmill.pipelines.evaluation.tasks.result import RunScore, TaskScore, Units
from clipmill.pipelines.reports.blocks import (
    Bars,
    Block,
    Cell,
    Chart,
    Charts,
    Choice,
    Code,
    Facts,
    Matrix,
    Page,
    RankedLists,
    Row,
    Section,
    Side,
    Strips,
    Table,
    Tile,
    Timelines,
    render_blocks,
    scored,
)
from clipmill.pipelines.reports.page import duration_text, score_text, write_page

BASELINES = {
    "chance": "random answers",
    "own_clip_first": "a query’s own clip first, the rest at random",
    "blind": "the same answers for every video, from the annotations alone",
    "span": "the same share of every video",
    "most_frequent": "always the most frequent classes",
    "constant": "all scores equal",
    "shuffled": "the same documents in random order",
    "cosine": "stored vectors as they are, nothing learned",
}
COMPARISON = "comparison"
"""Id of the section that compares with another evaluation."""
MOST_TILES = 3
"""Large numbers of metrics, beside those of the baselines."""


@dataclass(frozen=True, slots=True)
class FileLine:
    """A file the numbers were computed from."""

    role: str
    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """From a number back to what it was made of.

    Attributes:
        files: read by this evaluation.
        facts: (name, value), such as versions, fingerprints, weights.
        seconds: of the evaluation; None: not stated, so that the page depends on its inputs alone.
        config: the resolved config as text.
        next_steps: commands to run next.
    """

    files: tuple[FileLine, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    seconds: float | None = None
    config: str = ""
    next_steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A report before it becomes a page.

    Attributes:
        score: of all runs.
        tiles: metrics of the large numbers; the first is the main one.
        names: metric to what a reader calls it; default: its name.
        columns: metrics of the table of results.
        heads: metric to the head of its column, where a short one leaves room on a phone; the empty name is the corner.
        sections: what the task has to show, between the results and the lineage.
        explained: how the numbers are defined, below the table.
        published: rows to print below ours; without any, all published rows of the task are there to be opened.
        data: what the section of data begins with.
        main: which of the score's runs the details are about.
        is_tile_per_run: the large numbers are the main metric of every run, not several metrics of the main one.
    """

    title: str
    subtitle: str
    score: TaskScore
    tiles: tuple[str, ...]
    columns: tuple[str, ...]
    names: Mapping[str, str]
    sections: tuple[Section, ...]
    explained: str = ""
    notes: tuple[str, ...] = ()
    published: tuple[PublishedScore, ...] = ()
    lineage: Lineage = Lineage()
    data: tuple[Block, ...] = ()
    heads: Mapping[str, str] = field(default_factory=dict)
    main: int = 0
    is_tile_per_run: bool = False


def run_styles(num_runs: int, main: int = 0) -> tuple[int, ...]:
    """Returns the index of colour, dash and marker of each run, wherever it is drawn: the main one has the first."""
    return tuple(0 if n == main else n + (n < main) for n in range(num_runs))


def write_task_report(path: str, report: TaskReport) -> int:
    """Writes the page to `path` and returns its size in bytes.

    Raises:
        UsageError: it would be larger than 20 MB.
        StorageUnavailableError: the file cannot be written.
    """
    return write_page(path, render_task_report(report))


def render_task_report(report: TaskReport) -> str:
    """Returns the page as HTML text; the same report gives the same text."""
    run = report.score.runs[report.main]
    notes = tuple(dict.fromkeys([*report.notes, *(note for each in report.score.runs for note in each.notes)]))
    results: list[Block] = [results_table(report)]
    if len(run.metrics) > len(report.columns) or run.intervals:
        results.append(metrics_table(report))
    results += _published_elsewhere(report)
    own = report.sections
    if len(report.score.runs) > 1:
        own = tuple(_whose(section, [each.name for each in report.score.runs], run.name) for section in own)
    sections = (Section("results", "Results", tuple(results)), *own, _data(report))
    return render_blocks(Page(report.title, report.subtitle, _tiles(report), sections, notes))


def _whose(section: Section, names: Sequence[str], main: str) -> Section:
    """Returns the section with the name of the run that its parts are about, where they are not about all runs."""
    if section.id == COMPARISON:
        return section
    blocks = tuple(_named(block, names, main) for block in section.blocks)
    listing = any(isinstance(block, Timelines | Strips | RankedLists) for block in section.blocks)
    told = f"Of {main}. {section.text}".rstrip() if listing and main not in section.text else section.text
    return replace(section, blocks=blocks, text=told)


def _named(block: Block, names: Sequence[str], main: str) -> Block:
    """Returns the block with `main` in its titles, where it neither shows all runs nor says whose it is."""

    def titled(title: str, shown: Sequence[str]) -> str:
        of_all = all(any(name in text for text in shown) for name in names)
        return title if of_all or main in title else f"{title}, {main}"

    def chart_named(chart: Chart) -> Chart:
        return replace(chart, title=titled(chart.title, [text for _, text in chart.legend]))

    if isinstance(block, Side):
        return replace(block, blocks=tuple(_named(part, names, main) for part in block.blocks))
    if isinstance(block, Charts):
        return replace(block, charts=tuple(chart_named(chart) for chart in block.charts))
    if isinstance(block, Choice):
        return replace(block, charts=tuple((name, chart_named(chart)) for name, chart in block.charts))
    if isinstance(block, Bars):
        return replace(block, title=titled(block.title, [text for _, text in block.legend]))
    if isinstance(block, Matrix):
        return replace(block, title=titled(block.title, ()))
    if isinstance(block, Table):
        return replace(block, title=titled(block.title, block.columns))
    return block


def value_text(metric: str, value: float | None) -> str:
    """Returns a metric's value: counts whole, everything else to three decimals."""
    if value is None or value != value:
        return "–"
    return f"{value:,.0f}" if metric.startswith("num_") else score_text(value)


def _exact(metric: str, value: float | None) -> str:
    """Returns a metric's value to four decimals, as many as papers and tools print."""
    known = value is not None and value == value and not metric.startswith("num_")
    return f"{value:.4f}" if known else value_text(metric, value)


def interval_text(interval: Interval | None) -> str:
    """Returns ``95 %: 0.171 to 0.206``, or nothing."""
    if interval is None:
        return ""
    return f"{100 * interval.confidence:g} %: {score_text(interval.low)} to {score_text(interval.high)}"


def _tiles(report: TaskReport) -> tuple[Tile, ...]:
    runs = report.score.runs
    run, main = runs[report.main], report.tiles[0]

    def tile(title: str, of: RunScore, metric: str, prefix: str, is_main: bool) -> Tile:
        text = ", ".join(part for part in (prefix, interval_text(of.intervals.get(metric))) if part)
        return Tile(title, value_text(metric, of.metrics[metric]), text, "main" if is_main else "plain")

    title = report.names.get(main, main)
    if report.is_tile_per_run:
        tiles = [tile(each.name, each, main, title, each is run) for each in runs]
    else:
        names = [(metric, report.names.get(metric, metric)) for metric in report.tiles[:MOST_TILES]]
        whose = run.name if len(runs) > 1 else ""
        tiles = [tile(name, run, metric, whose, metric == main) for metric, name in names]
    for baseline, values in run.baselines.items():
        if main in values:
            text = f"{title} of {BASELINES.get(baseline, 'a baseline')}"
            tiles.append(Tile(f"baseline: {baseline.replace('_', ' ')}", value_text(main, values[main]), text, "floor"))
    return tuple(tiles)


def results_table(report: TaskReport) -> Table:
    """Returns ours, the baselines and the published rows as one table."""
    runs = report.score.runs
    columns = report.columns

    def cells(values: Mapping[str, float]) -> tuple[Cell, ...]:
        return tuple(
            Cell(value_text(metric, values.get(metric)))
            if metric.startswith("num_") or values.get(metric) is None
            else scored(values[metric])
            for metric in columns
        )

    baselines = tuple(
        Row(f"baseline: {name.replace('_', ' ')}", cells(values), -n - 1, note=BASELINES.get(name.split(",")[0], ""))
        for n, (name, values) in enumerate(baseline_rows(runs))
    )
    styles = run_styles(len(runs), report.main)
    own = tuple(Row(run.name, cells(run.metrics), styles[n], is_main=n == report.main) for n, run in enumerate(runs))
    groups: list[tuple[str, tuple[Row, ...]]] = [("This evaluation", (*baselines, *own))]
    groups += _published_groups(report.published, columns)
    note = f"{report.explained} {_OTHERS}" if report.published else report.explained
    return Table("Scores", _heads(report, columns), tuple(groups), note.strip())


def _heads(report: TaskReport, columns: Sequence[str]) -> tuple[str, ...]:
    heads = {**report.names, **report.heads}
    return (heads.get("", ""), *(heads.get(column, column) for column in columns))


_OTHERS = (
    "Published rows are from other features and often another protocol: compare the order and the distance from the "
    "baselines, not the values."
)


def _published_groups(rows: Sequence[PublishedScore], columns: Sequence[str]) -> list[tuple[str, tuple[Row, ...]]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        cells = tuple(Cell(value_text(column, row.metrics.get(column))) for column in columns)
        note = f"{row.protocol}. Source: {row.source}" if row.protocol else f"Source: {row.source}"
        groups.setdefault(row.dataset, []).append(Row(row.method, cells, note=note))
    return [(f"Published, {dataset}", tuple(lines)) for dataset, lines in groups.items()]


def _published_elsewhere(report: TaskReport) -> list[Block]:
    """Returns what is published for this task where no dataset was named: to be opened, not compared at a glance."""
    rows = [row for row in PUBLISHED_SCORES if row.task == report.score.task]
    rows = [row for row in rows if any(column in row.metrics for column in report.columns)]
    if report.published or not rows:
        return []
    columns = tuple(column for column in report.columns if any(column in row.metrics for row in rows))
    return [
        Table(
            "Published results, on their own data",
            _heads(report, columns),
            tuple(_published_groups(rows, columns)),
            _OTHERS,
            True,
        )
    ]


def metrics_table(report: TaskReport) -> Table:
    """Returns every metric of every run with its interval and the baselines."""
    runs = report.score.runs
    baselines = tuple(runs[0].baselines)
    columns = ["metric"]
    for run in runs:
        columns.append(run.name)
        if run.intervals:
            columns.append(f"{100 * next(iter(run.intervals.values())).confidence:g} % interval")
    rows = []
    for metric in runs[0].metrics:
        cells = []
        for run in runs:
            cells.append(Cell(_exact(metric, run.metrics.get(metric))))
            if run.intervals:
                found = run.intervals.get(metric)
                text = f"{_exact(metric, found.low)} – {_exact(metric, found.high)}" if found else "–"
                cells.append(Cell(text))
        cells += [Cell(_exact(metric, runs[0].baselines[baseline].get(metric))) for baseline in baselines]
        rows.append(Row(metric, tuple(cells)))
    note = "Intervals: percentile bootstrap over queries, items or videos." if runs[0].intervals else ""
    return Table(
        "All metrics",
        (*columns, *(f"baseline: {baseline}" for baseline in baselines)),
        (("", tuple(rows)),),
        note,
        True,
    )


def _data(report: TaskReport) -> Section:
    blocks: list[Block] = list(report.data)
    lineage = report.lineage
    for run in report.score.runs:
        if run.counts:
            counted = [(name.removeprefix("num_").replace("_", " "), f"{n:,}") for name, n in run.counts.items()]
            blocks.append(Facts(f"Scored and left out: {run.name}", tuple(counted)))
    if lineage.files:
        rows = tuple(
            Row(line.path, (Cell(line.role), Cell(f"{line.num_bytes:,}"), Cell(line.sha256[:16])))
            for line in lineage.files
        )
        blocks.append(Table("Files read", ("file", "role", "bytes", "SHA-256, first 16 digits"), (("", rows),)))
    facts = [(name, text(value)) for name, value in report.score.data.items()]
    facts += list(lineage.facts)
    if lineage.seconds is not None:
        facts.append(("time", duration_text(lineage.seconds)))
    if facts:
        blocks.append(Facts("Where the numbers come from", tuple(facts)))
    protocol = tuple((name, text(value)) for name, value in report.score.protocol.items())
    blocks.append(Facts("Protocol: every switch that changes a number", protocol))
    if lineage.config:
        blocks.append(Code("Resolved config", lineage.config))
    if lineage.next_steps:
        blocks.append(Code("Next", "\n".join(lineage.next_steps)))
    return Section("data", "Data", tuple(blocks))


def text(value: object) -> str:
    """Returns a setting as a reader takes it: ``yes``, ``none``, ``0.5, 0.75``."""
    if value is None or value == [] or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        shown = ", ".join(text(item) for item in value[:20])
        return shown if len(value) <= 20 else f"{shown}, … ({len(value):,} in all)"
    return str(value)


def units_of(run: RunScore) -> Units:
    """Returns the values per query or item.

    Raises:
        ValueError: the score is not a mean over units.
    """
    if run.units is None:
        raise ValueError(f"report of {run.name}: expected values per query or item, got a score without")
    return run.units


def baseline_rows(runs: Sequence[RunScore]) -> list[tuple[str, Mapping[str, float]]]:
    """Returns the baselines: those that are alike for all runs once, others with the run's name."""
    rows: list[tuple[str, Mapping[str, float]]] = []
    for run in runs:
        for name, values in run.baselines.items():
            shared = all(other.baselines.get(name) == values for other in runs)
            if not shared or run is runs[0]:
                rows.append((name if shared else f"{name}, {run.name}", values))
    return rows
