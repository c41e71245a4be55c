"""What ``clipmill search`` found, as one self-contained page: each query with the clips found and their scores."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from clipmill.pipelines.reports.blocks import Block, Code, Facts, Page, Row, Section, Table, render_blocks
from clipmill.pipelines.reports.blocks_images import ClipList, Hit, HitList, QueryCard, QueryCards
from clipmill.pipelines.reports.lineage import ClipLineage
from clipmill.pipelines.reports.page import clock_text, score_text
from clipmill.pipelines.reports.thumbnails import Thumbnail


@dataclass(frozen=True, slots=True)
class FoundClip:
    """One clip of a list; greater scores are better.

    Attributes:
        video_seconds: length of its video, where the clip is a moment to be marked in it.
    """

    clip_id: str
    video_id: str
    uri: str
    label: str | None
    start_seconds: float
    stop_seconds: float
    score: float
    video_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SearchedQuery:
    """One query and the clips each space found for it, best first.

    Attributes:
        name: as given: a path, or ``<video>@<seconds> s``.
        sha256: of the file's bytes.
        image: JPEG of the query as it was read; empty of a sentence.
        hits: clips by space.
    """

    name: str
    sha256: str
    image: bytes
    hits: Mapping[str, tuple[FoundClip, ...]]


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Everything the page shows.

    Attributes:
        queries: those shown; `num_queries` were searched.
        failed: (query, why it could not be used).
        num_clips: in the gallery.
        primary: the space shown first; the others are folded away.
        thumbnails: moving ones, by clip id.
        provenance: (name, value) pairs.
        searched: what `num_clips` counts.
    """

    title: str
    queries: tuple[SearchedQuery, ...]
    num_queries: int
    failed: tuple[tuple[str, str], ...]
    num_clips: int
    primary: str
    thumbnails: Mapping[str, Thumbnail]
    warnings: tuple[str, ...] = ()
    lineage: Mapping[str, ClipLineage] = field(default_factory=dict)
    provenance: tuple[tuple[str, str], ...] = ()
    config: str = ""
    searched: str = "clips"


def render_search(page: SearchPage) -> str:
    """Returns the page as HTML text; the same page gives the same text."""
    anchors = {clip: f"clip-{number}" for number, clip in enumerate(page.lineage)}
    sections = [_queries(page, anchors)]
    if page.failed:
        rows = tuple(Row(name, (), note=message) for name, message in page.failed)
        sections.append(
            Section("failed", "Not usable", (Table("Queries that could not be used", ("query",), (("", rows),)),))
        )
    if page.lineage:
        clips = tuple((anchors[clip], clip, item) for clip, item in page.lineage.items())
        text = "What the vectors of the clips above were made of."
        sections.append(Section("lineage", "Lineage", (ClipList("", clips),), text))
    run: list[Block] = [Facts("Where the scores come from", page.provenance)]
    if page.config:
        run.append(Code("Resolved config", page.config))
    sections.append(Section("run", "Run", tuple(run)))
    subtitle = f"{_counted(page.num_queries)}, {page.num_clips:,} {page.searched} searched"
    notes = list(page.warnings)
    if page.failed:
        notes.append(f"⚠ {_counted(len(page.failed))} could not be used; the reasons stand below the others.")
    return render_blocks(Page(page.title, subtitle, (), tuple(sections), tuple(notes)))


def _counted(number: int) -> str:
    return f"{number:,} {'query' if number == 1 else 'queries'}"


def _queries(page: SearchPage, anchors: Mapping[str, str]) -> Section:
    if not page.queries:
        return Section("queries", "Queries", (), "No query could be used.")
    text = "Best first. Press an image to enlarge it and to see its path."
    if len(page.queries) < page.num_queries:
        text = f"The first {len(page.queries)} of {page.num_queries:,}; all are in results.json. {text}"
    cards = tuple(
        QueryCard(
            "query",
            query.name,
            Thumbnail(query.image) if query.image else None,
            tuple(_lists(page, query, anchors)),
            is_sentence=not query.image,
        )
        for query in page.queries
    )
    return Section("queries", "Queries", (QueryCards(cards, "large"),), text)


def _lists(page: SearchPage, query: SearchedQuery, anchors: Mapping[str, str]) -> Iterator[HitList]:
    for space in sorted(query.hits, key=lambda space: space != page.primary):
        clips = query.hits[space]
        best = max((clip.score for clip in clips), default=0.0)
        hits = tuple(
            _hit(page, space, rank, clip, best, anchors.get(clip.clip_id, "")) for rank, clip in enumerate(clips, 1)
        )
        yield HitList(space, hits, is_folded=space != page.primary)


def _hit(page: SearchPage, space: str, rank: int, clip: FoundClip, best: float, anchor: str) -> Hit:
    start, stop, length = clock_text(clip.start_seconds), clock_text(clip.stop_seconds), clip.video_seconds
    label, score = f" Label {clip.label}." if clip.label else "", score_text(clip.score)
    whole, span = "", None
    if length is not None and length > 0:
        whole = f" of {clock_text(length)}"
        first, last = (min(max(seconds / length, 0.0), 1.0) for seconds in (clip.start_seconds, clip.stop_seconds))
        span = (first, last)
    return Hit(
        name=clip.video_id,
        lines=(clip.video_id, f"{start}–{stop}{whole}", f"score {score}")
        if whole
        else (clip.video_id, f"{score} · {start}–{stop}"),
        spoken=f"Rank {rank}, score {score}: {clip.video_id}, {start} to {stop}{whole}",
        text=f"Rank {rank} in {space}: {clip.video_id}, {start} to {stop}{whole}.{label} Score {clip.score:.4f}.",
        detail=clip.uri,
        # Of a moment the line that it is marked on stands there: two would not be told apart.
        share=None if span else min(max(clip.score / best, 0.0), 1.0) if best > 0 else 0.0,
        span=span,
        thumbnail=page.thumbnails.get(clip.clip_id),
        anchor=anchor,
    )
