"""What ``clipmill search`` found, as one self-contained page: each query with the clips found and their scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from clipmill.pipelines.reports.lineage import ClipLineage
from clipmill.pipelines.reports.page import Pictures, render
from clipmill.pipelines.reports.pictures import Strip


@dataclass(frozen=True, slots=True)
class FoundClip:
    """One clip of a list; greater scores are better."""

    clip_id: str
    video_id: str
    uri: str
    label: str | None
    start_seconds: float
    stop_seconds: float
    score: float


@dataclass(frozen=True, slots=True)
class SearchedQuery:
    """One query and what each space found for it, best first.

    Attributes:
        name: as given: a path, or ``<video>@<seconds> s``.
        sha256: of the file's bytes.
        picture: JPEG of the query as it was read.
    """

    name: str
    sha256: str
    picture: bytes
    found: Mapping[str, tuple[FoundClip, ...]]


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Everything the page shows.

    Attributes:
        queries: those shown; `num_queries` were searched.
        failed: (query, why it could not be used).
        num_clips: in the gallery.
        primary: the space shown first; the others are folded away.
        strips: animated thumbnails by clip id.
        provenance: (name, value) pairs.
    """

    title: str
    queries: tuple[SearchedQuery, ...]
    num_queries: int
    failed: tuple[tuple[str, str], ...]
    num_clips: int
    primary: str
    strips: Mapping[str, Strip]
    warnings: tuple[str, ...] = ()
    lineage: Mapping[str, ClipLineage] = field(default_factory=dict)
    provenance: tuple[tuple[str, str], ...] = ()
    config: str = ""


def render_search(page: SearchPage) -> str:
    """Returns the page as HTML text; the same page gives the same text."""
    pictures = Pictures()
    anchors = {clip: f"clip-{number}" for number, clip in enumerate(page.lineage)}
    queries = [
        {
            "name": query.name,
            "picture": pictures.name(query.picture),
            "lists": [_list(page, space, query.found[space], pictures, anchors) for space in _ordered(page, query)],
        }
        for query in page.queries
    ]
    context = {"page": page, "queries": queries, "pictures": pictures, "anchors": anchors}
    return render("search.html", context)


def _ordered(page: SearchPage, query: SearchedQuery) -> list[str]:
    return sorted(query.found, key=lambda space: space != page.primary)


def _list(
    page: SearchPage, space: str, found: tuple[FoundClip, ...], pictures: Pictures, anchors: Mapping[str, str]
) -> dict[str, object]:
    best = max((clip.score for clip in found), default=0.0)
    entries = []
    for rank, clip in enumerate(found, start=1):
        strip = page.strips.get(clip.clip_id)
        entries.append(
            {
                "rank": rank,
                "clip": clip,
                "share": min(max(clip.score / best, 0.0), 1.0) if best > 0 else 0.0,
                "picture": pictures.name(strip.data, strip.num_frames) if strip else "",
                "anchor": anchors.get(clip.clip_id, ""),
            }
        )
    return {"space": space, "entries": entries}
