"""Blocks that show images: queries with what was found for each, a map of points, and the lineage of clips.

An image that is shown often is stored once in the page; a missing one is named instead.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from clipmill.pipelines.reports.lineage import ClipLineage
from clipmill.pipelines.reports.thumbnails import Thumbnail

MAP_WIDTH, MAP_HEIGHT = 600, 440
MAP_MARGINS = (24, 20)
"""Units of the map's drawing: its size, and what is kept free at the sides and at top and bottom."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One clip of a ranked list.

    Attributes:
        name: of the clip; stands in the place of a missing image.
        lines: under the image; the rank stands before the first.
        spoken: what a screen reader says of it.
        text: sentences beside the enlarged image, and `detail` below them, such as a path.
        mark: ``correct``, ``incorrect``, or empty where nothing is judged.
        share: of the best score of the list, in [0, 1], as a bar; None: no bar.
        span: where it lies within its video, start and stop in [0, 1], as a mark on a line; None: no line.
        anchor: id of its entry in a `ClipList`, or empty.
        is_own: it is what the query was taken from; marked by a star.
    """

    name: str
    lines: tuple[str, ...]
    spoken: str
    text: str
    detail: str = ""
    mark: Literal["", "correct", "incorrect"] = ""
    share: float | None = None
    span: tuple[float, float] | None = None
    thumbnail: Thumbnail | None = None
    anchor: str = ""
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class HitList:
    """What was found for one query in one way, best first; a folded list opens on demand."""

    title: str
    hits: tuple[Hit, ...]
    detail: str = ""
    is_folded: bool = False


@dataclass(frozen=True, slots=True)
class QueryCard:
    """One query, an image or a sentence, and the lists found for it.

    Attributes:
        kind: why it is shown (``best``), for the filter and as its tag; or ``query``.
        title: what it is called: an id or a path; or the sentence that it is.
        label: its class; empty where it has none.
        anchor: id of its entry in a `ClipList`, or empty.
    """

    kind: str
    title: str
    thumbnail: Thumbnail | None
    lists: tuple[HitList, ...]
    label: str = ""
    anchor: str = ""
    is_sentence: bool = False


@dataclass(frozen=True, slots=True)
class QueryCards:
    """Queries worth looking at; `size` is that of the hits' images."""

    kind: ClassVar[str] = "cards"
    cards: tuple[QueryCard, ...]
    size: Literal["small", "large"] = "small"
    note: str = ""


@dataclass(frozen=True, slots=True)
class ContactSheet:
    """Videos at a glance: an image of each, in the order given."""

    kind: ClassVar[str] = "sheet"
    title: str
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class MapGroup:
    """A label of the map's legend: `colour` 0 to 5 (-1: grey) and `shape` as `embedding_map.SHAPES` names them."""

    label: str
    num_items: int
    colour: int
    shape: str

    @property
    def css(self) -> str:
        """The class that colours it."""
        return f"s{self.colour}" if self.colour >= 0 else "chance"


@dataclass(frozen=True, slots=True)
class MapPoint:
    """One item; `group` is its place in the legend, `places` are (x, y) in [0, 1] per layout, y growing downwards."""

    caption: str
    label: str
    group: int
    places: tuple[tuple[float, float], ...]
    thumbnail: Thumbnail | None = None
    anchor: str = ""

    @property
    def drawn(self) -> tuple[tuple[float, float], ...]:
        """The places in units of the drawing."""
        left, top = MAP_MARGINS
        width, height = MAP_WIDTH - 2 * left, MAP_HEIGHT - 2 * top
        return tuple((round(left + width * x, 1), round(top + height * y, 1)) for x, y in self.places)


@dataclass(frozen=True, slots=True)
class PointMap:
    """Items in the plane, in one of several layouts; the first is shown at once."""

    kind: ClassVar[str] = "map"
    title: str
    layouts: tuple[str, ...]
    groups: tuple[MapGroup, ...]
    points: tuple[MapPoint, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class ClipList:
    """The lineage of clips, each behind its caption: (anchor, caption, lineage)."""

    kind: ClassVar[str] = "clips"
    title: str
    clips: tuple[tuple[str, str, ClipLineage], ...]
