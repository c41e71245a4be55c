"""The page of ``reproduce map-ivr-table``, and its lines of text."""

from collections.abc import Callable, Mapping, Sequence

from clipmill.pipelines.reports.blocks import Block, Cell, Code, Facts, Page, Row, Section, Table, Tile, render_blocks
from clipmill.pipelines.reports.page import score_text
from clipmill.pipelines.reproductions.map_ivr_table.experiment import (
    CAVEAT,
    PROTOCOL,
    SOURCE,
    TableResult,
    TableRow,
    undone,
)
from clipmill.pipelines.sweeps.summary import Spread

NOT_RUN = "–"


def table_lines(result: TableResult) -> list[str]:
    """Returns the table as text: ours with spread, then the published values."""
    columns = result.columns
    first = max(len(row.title) for row in result.rows)
    published = [name for name in next((row.published for row in result.rows if row.published), {})]
    head = "  ".join([f"{'':<{first}}", *(f"{name:>13}" for name in columns)])
    lines = [
        f"{SOURCE}",
        f"  ours: mean ± standard deviation over seeds {', '.join(map(str, result.config.seeds))} "
        f"({', '.join(result.config.seed_keys)}); published: {result.config.published}, other clips and features",
        f"  {head}"
        + (f"  | published {' '.join(name.removeprefix('map') for name in published)}" if published else ""),
    ]
    for row in result.rows:
        cells = "  ".join(f"{_text(row.ours.get(name)):>13}" for name in columns)
        beside = "  | " + " ".join(f"{value:.3f}" for value in row.published.values()) if row.published else ""
        name = f"({row.title})" if not row.system else row.title
        lines.append(f"  {name:<{first}}  {cells}{beside}".rstrip())
    lines += [f"  {name}: cannot be run on these clips: {why}" for name, why in result.cannot_run.items()]
    for name, errors in result.failed.items():
        lines += [f"  {name}, seed {seed}: failed: {error}" for seed, error in errors.items()]
    return [*lines, f"  {PROTOCOL}", f"  {CAVEAT}"]


def _text(spread: Spread | None) -> str:
    return "-" if spread is None else spread.text


def render_table(result: TableResult, config: str) -> str:
    """Returns the page; `config` is the resolved one as text."""
    column = result.columns[0] if result.columns else ""
    trained = [row for row in result.rows if row.system and not row.is_floor and column in row.ours]
    floors = [row for row in result.rows if row.is_floor and column in row.ours]
    tiles = []
    if trained:
        best = max(trained, key=lambda row: row.ours[column].mean)
        tiles.append(Tile(column, best.ours[column].text, f"best: {best.title}", "main"))
    tiles += [Tile(row.title, score_text(row.ours[column].mean), column, "floor") for row in floors[:3]]
    tiles.append(Tile("rows", f"{len(trained)}", f"of systems; {len(result.cannot_run)} cannot be run on these clips"))
    sections = (
        Section("table", "Table", (_ours(result), _published(result)), PROTOCOL),
        Section("released", "The released evaluator", (_cumulative(result),), CAVEAT),
        Section("run", "Run", (_clips(result), *_not_run(result), Code("Resolved config", config))),
    )
    title = "MAP-IVR's table of image-to-video retrieval"
    return render_blocks(Page(title, SOURCE, tuple(tiles), sections))


def _ours(result: TableResult) -> Table:
    return Table(
        "Ours",
        ("method", *result.columns),
        _groups(result.rows, result.columns, lambda row: row.ours),
        "Mean over seeds ± sample standard deviation. Floors: nothing learned, or a linear map.",
    )


def _groups(
    rows: Sequence[TableRow], columns: Sequence[str], take: Callable[[TableRow], Mapping[str, Spread]]
) -> tuple[tuple[str, tuple[Row, ...]], ...]:
    floors = tuple(_line(row, columns, take(row)) for row in rows if row.is_floor)
    systems = tuple(_line(row, columns, take(row)) for row in rows if not row.is_floor)
    return (("floors", floors), ("systems", systems))


def _line(row: TableRow, columns: Sequence[str], values: Mapping[str, Spread]) -> Row:
    cells = tuple(
        Cell(NOT_RUN) if (item := values.get(name)) is None else Cell(item.text, min(max(item.mean, 0.0), 1.0))
        for name in columns
    )
    return Row(row.title, cells, -1 if row.is_floor else None, note=row.note)


def _published(result: TableResult) -> Table:
    rows = [row for row in result.rows if row.published]
    columns = list(rows[0].published) if rows else []
    lines = tuple(
        Row(row.title, tuple(Cell(score_text(row.published[name]), row.published[name]) for name in columns))
        for row in rows
    )
    return Table(f"Published, {result.config.published}", ("method", *columns), (("", lines),), SOURCE)


def _cumulative(result: TableResult) -> Table:
    columns = result.columns
    rows = []
    for row in result.rows:
        if not row.cumulative and not row.published:
            continue
        again = undone(row.published)
        cells = [Cell(_text(row.cumulative.get(name))) for name in columns]
        cells += [Cell(score_text(again.get(name))) for name in again]
        rows.append(Row(row.title, tuple(cells)))
    names = next((list(row.published) for row in result.rows if row.published), [])
    heads = (*(f"ours, {name}" for name in columns), *(f"published, undone {name}" for name in names))
    num = len(heads)
    padded = tuple(Row(row.name, (*row.cells, *(Cell(NOT_RUN) for _ in range(num - len(row.cells))))) for row in rows)
    return Table("As the released evaluator prints them", ("method", *heads), (("", padded),), is_folded=True)


def _clips(result: TableResult) -> Facts:
    facts = [
        ("store", result.config.data.store),
        ("inputs", ", ".join(f"{name}: {source}" for name, source in result.config.data.sources.items())),
        ("seeds", f"{', '.join(map(str, result.config.seeds))} as {', '.join(result.config.seed_keys)}"),
    ]
    counts = {f"{train:,} train, {test:,} test" for train, test in result.num_clips.values()}
    facts.append(("clips, first seed", "; ".join(sorted(counts))))
    return Facts("Data", tuple(facts))


def _not_run(result: TableResult) -> tuple[Block, ...]:
    rows = [Row(name, (Cell("these clips do not serve it"), Cell(why))) for name, why in result.cannot_run.items()]
    for name, errors in result.failed.items():
        rows += [Row(f"{name}, seed {seed}", (Cell("failed"), Cell(error))) for seed, error in errors.items()]
    return (Table("Not run", ("row", "", "why"), (("", tuple(rows)),)),) if rows else ()
