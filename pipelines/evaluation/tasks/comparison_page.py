"""Two evaluations side by side on a page: a section of an evaluation's page, and a page of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from clipmill.pipelines.evaluation.comparison import Difference, Results
from clipmill.pipelines.evaluation.gates import Judgement, Verdict
from clipmill.pipelines.evaluation.tasks.page import COMPARISON, text
from clipmill.pipelines.reports.blocks import Block, Cell, Facts, Page, Row, Section, Table, Tile, render_blocks
from clipmill.schemas.fingerprint import short

UNITS_SHOWN = 10
"""ours: queries (videos, items) on which one run is ahead most, shown for either."""
_NOTE = (
    "Difference: the first less the second. The interval and p are those of the paired randomisation test over "
    "queries, videos or items, or of the spread on shared random halves of the videos; a dash where neither can be had."
)


def comparison_section(judgement: Judgement, names: tuple[str, str] = ("this evaluation", "the other")) -> Section:
    """Returns the differences and the verdicts of the gates.

    Args:
        names: what the two evaluations are called.
    """
    blocks: list[Block] = []
    if judgement.differences:
        rows = tuple(_row(item) for item in judgement.differences)
        columns = ("metric", *names, "difference", "95 % interval", "p", "over")
        blocks.append(Table("Differences", columns, (("", rows),), _NOTE))
    if judgement.verdicts:
        rows = tuple(_verdict(item) for item in judgement.verdicts)
        note = "A gate fails when its condition is true, or when there is no number to judge."
        blocks.append(Table("Gates", ("gate", "metric", "value judged", "verdict"), (("", rows),), note))
    against = "" if judgement.against is None else f"Compared with {judgement.against}. "
    return Section(COMPARISON, "Comparison", tuple(blocks), against + " ".join(judgement.notes))


def comparison_page(ours: Results, theirs: Results, names: tuple[str, str], judgement: Judgement) -> str:
    """Returns a page about two evaluations as HTML text.

    Args:
        names: what the two are called, such as their folders.
    """
    first = judgement.differences[0] if judgement.differences else None
    tiles = [] if first is None else _tiles(first, names)
    sections = [comparison_section(judgement, ("first", "second"))]
    units = _units_section(ours, theirs, judgement)
    if units is not None:
        sections.append(units)
    sections.append(Section("data", "Data", (_facts("First", names[0], ours), _facts("Second", names[1], theirs))))
    title = f"{ours['task']}: {names[0]} and {names[1]}"
    subtitle = f"{len(judgement.differences)} metrics of two evaluations on the same ground truth"
    if any(note.startswith("note: not the same") for note in judgement.notes):
        subtitle = f"{len(judgement.differences)} metrics of two evaluations that are not of the same data or protocol"
    return render_blocks(Page(title, subtitle, tuple(tiles), tuple(sections), judgement.notes))


def _tiles(item: Difference, names: tuple[str, str]) -> list[Tile]:
    span = "" if item.low is None or item.high is None else f"95 %: {item.low:+.4f} to {item.high:+.4f}"
    p_value = "" if item.p_value is None else f"p = {item.p_value:.4f}"
    about = ", ".join(part for part in (span, p_value) if part)
    return [
        Tile(f"difference of {item.metric}", _signed(item.difference), about, "main"),
        Tile(names[0], _value(item.ours), item.metric),
        Tile(names[1], _value(item.theirs), item.metric),
    ]


def _row(item: Difference) -> Row:
    known = item.low is not None and item.high is not None
    cells = (
        _value(item.ours),
        _value(item.theirs),
        _signed(item.difference),
        f"{item.low:+.4f} – {item.high:+.4f}" if known else "–",
        _value(item.p_value),
        item.how or "–",
    )
    return Row(item.metric, tuple(Cell(cell) for cell in cells))


def _verdict(item: Verdict) -> Row:
    cells = (item.metric, _value(item.value), "✗ failed" if item.failed else "✓ passed")
    return Row(item.gate, tuple(Cell(cell) for cell in cells), is_main=item.failed)


def _units_section(ours: Results, theirs: Results, judgement: Judgement) -> Section | None:
    """Returns the units on which the first run's headline differs most; None where there are no values per unit."""
    for item in judgement.differences:
        name, _, metric = item.metric.partition("/")
        left = ours["runs"][name]
        if metric != left.get("headline"):
            continue
        others = [run for key, run in theirs["runs"].items() if key == name] or list(theirs["runs"].values())[:1]
        gaps = _gaps(left, others[0], metric)
        if gaps:
            kind = left["units"].get("kind", "query")
            ordered = sorted(gaps, key=lambda row: (-row[3], row[0]))
            ahead = [row for row in ordered if row[3] > 0][:UNITS_SHOWN]
            behind = [row for row in reversed(ordered) if row[3] < 0][:UNITS_SHOWN]
            parts = (("First ahead", _unit_rows(ahead)), ("Second ahead", _unit_rows(behind)))
            groups = tuple((title, rows) for title, rows in parts if rows)
            if not groups:
                return None
            table = Table(f"{metric} by {kind}", (kind, "first", "second", "difference"), groups)
            return Section("units", "Where they differ", (table,), f"Of {len(gaps):,} that both have.")
    return None


def _gaps(left: Mapping[str, Any], right: Mapping[str, Any], metric: str) -> list[tuple[str, float, float, float]]:
    sides = []
    for run in (left, right):
        units = run.get("units", {})
        values = units.get("values", {}).get(metric) or []
        sides.append(
            {key: value for key, value in zip(units.get("ids", ()), values, strict=False) if value is not None}
        )
    return [(key, sides[0][key], sides[1][key], sides[0][key] - sides[1][key]) for key in sides[0] if key in sides[1]]


def _unit_rows(rows: Sequence[tuple[str, float, float, float]]) -> tuple[Row, ...]:
    return tuple(
        Row(name, (Cell(f"{first:.4f}"), Cell(f"{second:.4f}"), Cell(f"{gap:+.4f}")))
        for name, first, second, gap in rows
    )


def _facts(title: str, place: str, results: Results) -> Facts:
    data = {**results["data"], "fingerprint": short(results["data"]["fingerprint"])}
    facts = [("results", place), ("runs", ", ".join(results["runs"]))]
    facts += [(key.replace("_", " "), text(value)) for key, value in {**data, **results.get("protocol", {})}.items()]
    return Facts(title, tuple(facts))


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"
