"""What a report's page is made of: tables, charts, bars, timelines and so on; `page.html` draws them.

A page holds finished text and SVG; every number was computed and formatted before. Texts are plain: what comes from the
data never becomes markup.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from clipmill.pipelines.reports.blocks_images import ClipList, ContactSheet, PointMap, QueryCards
from clipmill.pipelines.reports.charts import look_of, swatch
from clipmill.pipelines.reports.page import ImageSheets, render, score_text
from clipmill.pipelines.reports.thumbnails import Thumbnail


@dataclass(frozen=True, slots=True)
class Cell:
    """A number in a table; `share` in [0, 1] draws a bar under it."""

    text: str
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table.

    Attributes:
        style: index of colour, as of the chart's line; -1, -2, ...: baselines; None: plain.
        note: small, under the name.
        thumbnail: beside the name.
    """

    name: str
    cells: tuple[Cell, ...]
    style: int | None = None
    is_main: bool = False
    note: str = ""
    thumbnail: Thumbnail | None = None

    @property
    def css(self) -> str:
        """The row's classes."""
        tint = "" if self.style is None else look_of(self.style)[0]
        return " ".join(part for part in (tint, "main" if self.is_main else "") if part)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in groups; a group with an empty title has no heading. A folded one opens on demand."""

    kind: ClassVar[str] = "table"
    title: str
    columns: tuple[str, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    note: str = ""
    is_folded: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, its legend (sample SVG, text), and the same as numbers.

    Attributes:
        svg: markup; only made by `charts` and `charts_bars`.
    """

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""
    numbers: Table | None = None


@dataclass(frozen=True, slots=True)
class Charts:
    """Charts side by side where there is room."""

    kind: ClassVar[str] = "charts"
    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Charts of which one is shown: (name in the list, chart). Without scripts all are."""

    kind: ClassVar[str] = "choice"
    id: str
    label: str
    charts: tuple[tuple[str, Chart], ...]


@dataclass(frozen=True, slots=True)
class Side:
    """Blocks side by side where there is room."""

    kind: ClassVar[str] = "side"
    blocks: "tuple[Block, ...]"


@dataclass(frozen=True, slots=True)
class Bar:
    """A value in [0, 1] with its name; `dots` are (style, value, text) on the same scale."""

    name: str
    value: float
    detail: str = ""
    dots: tuple[tuple[int, float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Bars:
    """Horizontal bars with numbers; `legend` names the styles, the first being the bar."""

    kind: ClassVar[str] = "bars"
    title: str
    bars: tuple[Bar, ...]
    legend: tuple[tuple[int, str], ...] = ()
    note: str = ""
    numbers: Table | None = None


@dataclass(frozen=True, slots=True)
class Matrix:
    """Counts of (row, column) with the share of the row as shade; the first ``len(rows)`` columns are the rows' own."""

    kind: ClassVar[str] = "matrix"
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """A bar of a timeline.

    Attributes:
        mark: ``truth``, ``missed``, ``correct``, ``incorrect`` or ``ignored``.
        text: what it is, in words: shown on hover and focus, and read aloud.
    """

    start_seconds: float
    stop_seconds: float
    mark: str
    text: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One line of a timeline; `name` is empty where it goes on with the line above."""

    name: str
    is_truth: bool
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """One video (or query): ground truth above predictions, over its length in seconds."""

    kind: str
    title: str
    summary: str
    length_seconds: float
    lanes: tuple[Lane, ...]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Timelines:
    """Videos worth looking at."""

    kind: ClassVar[str] = "timelines"
    timelines: tuple[Timeline, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Strip:
    """One query as rows of cells over time: (name, SVG of `charts_bars.strip_picture`)."""

    kind: str
    title: str
    summary: str
    length_seconds: float
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Strips:
    """Queries worth looking at."""

    kind: ClassVar[str] = "strips"
    strips: tuple[Strip, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class ListItem:
    """An entry of a ranked list; `mark` is ``correct``, ``incorrect`` or ``ignored``."""

    text: str
    mark: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RankedList:
    """One query and what was found for it, best first."""

    kind: str
    title: str
    summary: str
    items: tuple[ListItem, ...]


@dataclass(frozen=True, slots=True)
class RankedLists:
    """Queries worth looking at."""

    kind: ClassVar[str] = "lists"
    lists: tuple[RankedList, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    title: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Text as it is, behind a summary."""

    kind: ClassVar[str] = "code"
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a chain: what it is about, what is said of it, where more of it stands (anchor, text), and a list."""

    title: str
    text: str
    link: tuple[str, str] | None = None
    items: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Steps:
    """A numbered chain, such as from a number back to what it was made of."""

    kind: ClassVar[str] = "steps"
    title: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Tile:
    """A large number; `kind` is ``main``, ``plain`` or ``floor``."""

    name: str
    value: str
    text: str = ""
    kind: str = "plain"


@dataclass(frozen=True, slots=True)
class Counts:
    """Small tiles in a row."""

    kind: ClassVar[str] = "counts"
    tiles: tuple[Tile, ...]


Block = (
    Table
    | Side
    | Charts
    | Choice
    | Bars
    | Matrix
    | Timelines
    | Strips
    | RankedLists
    | Facts
    | Code
    | Steps
    | Counts
    | QueryCards
    | ContactSheet
    | PointMap
    | ClipList
)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page that the navigation leads to."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report; the tiles stand in its first section."""

    title: str
    subtitle: str
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = field(default=())


def render_blocks(page: Page) -> str:
    """Returns the page as HTML text; the same page gives the same text."""
    images = ImageSheets()
    context = {
        "page": page,
        "images": images,
        "signs": MARKS,
        "dots": DOTS,
        "ticks": time_ticks,
        "time_text": time_text,
    }
    return render("page.html", context)


MARKS = {"truth": "●", "missed": "○", "correct": "✓", "incorrect": "✗", "ignored": "–"}
DOTS = ("●", "▲", "■", "◆", "▼", "○")


def numbers(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float | str]]], title: str) -> Table:
    """Returns a plain table: values to three decimals, texts as they are."""
    lines = tuple(
        Row(name, tuple(Cell(value if isinstance(value, str) else score_text(value)) for value in values))
        for name, values in rows
    )
    return Table(title, tuple(columns), (("", lines),))


def legend(names: Sequence[tuple[int, str]]) -> tuple[tuple[str, str], ...]:
    """Returns the legend of a line chart from (style, name)."""
    return tuple((swatch(style), name) for style, name in names)


def scored(value: float) -> Cell:
    """Returns a value in [0, 1] with its bar."""
    known = value == value
    return Cell(score_text(value), min(max(value, 0.0), 1.0) if known else None)


_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
MOST_TICKS = 5


def time_ticks(length_seconds: float) -> tuple[float, ...]:
    """Returns at most six round times from 0 on, in seconds."""
    step = next((float(step) for step in _STEPS if length_seconds / step <= MOST_TICKS), length_seconds / MOST_TICKS)
    return tuple(step * n for n in range(int(length_seconds / step + 1e-9) + 1)) if step > 0 else (0.0,)


def time_text(seconds: float) -> str:
    """Returns ``40 s`` below two minutes, ``2:30`` from there on."""
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
