"""Which queries a page shows, which thumbnails it therefore needs, and their lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from clipmill.pipelines.evaluation.retrieval.evaluate import RetrievalResult, SpaceResult
from clipmill.pipelines.reports.blocks import Section
from clipmill.pipelines.reports.blocks_images import Hit, HitList, QueryCard, QueryCards
from clipmill.pipelines.reports.page import clock_text, score_text
from clipmill.pipelines.reports.thumbnails import Thumbnail

Kind = Literal["best", "worst", "random"]
SHOWN = 10
"""Results shown of each list."""


@dataclass(frozen=True, slots=True)
class Example:
    """A query to show: its position among the queries, and why it was chosen."""

    query: int
    kind: Kind


def choose_examples(result: RetrievalResult, space: str, num_examples: int, seed: int = 0) -> tuple[Example, ...]:
    """Returns up to `num_examples` queries: a third best and a third worst by `space`, the rest random.

    Best and worst go by ``map_min`` at the first cut-off (the released mAP@K gives a list with one hit at rank 1 the
    best score there is) and are spread over the labels: the best (worst) query of each label before
    the second of any. Equal values go by query id. The same seed gives the same queries.
    """
    values = result.space(space).per_query[f"map_min@{result.cutoffs[0]}"]
    num = min(num_examples, len(values))
    share = num // 3
    order = sorted(range(len(values)), key=lambda i: (-values[i], result.query_ids[i]))
    best = _spread(order, result.query_labels)[:share]
    chosen = set(best)
    remaining = [i for i in sorted(order, key=lambda i: (values[i], result.query_ids[i])) if i not in chosen]
    worst = _spread(remaining, result.query_labels)[:share]
    chosen.update(worst)
    by_id = sorted((i for i in order if i not in chosen), key=lambda i: result.query_ids[i])
    drawn = np.random.default_rng(seed).permutation(len(by_id))[: num - len(chosen)]
    groups: tuple[tuple[Kind, Sequence[int]], ...] = (
        ("best", best),
        ("worst", worst),
        ("random", [by_id[i] for i in drawn]),
    )
    return tuple(Example(query, kind) for kind, queries in groups for query in queries)


def _spread(order: Sequence[int], labels: Sequence[str]) -> list[int]:
    """Returns `order` with the first of each label before the second of any, and so on."""
    seen: dict[str, int] = {}
    rounds = []
    for place, query in enumerate(order):
        turn = seen.get(labels[query], 0)
        seen[labels[query]] = turn + 1
        rounds.append((turn, place, query))
    return [query for _, _, query in sorted(rounds)]


def thumbnails_needed(
    result: RetrievalResult, examples: Sequence[Example], spaces: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the (query ids, gallery ids) whose thumbnails a report of `examples` shows, each once, sorted."""
    queries = sorted({result.query_ids[example.query] for example in examples})
    items = {
        result.gallery_ids[item]
        for space in spaces
        for example in examples
        for item in result.space(space).top[example.query, :SHOWN].tolist()
        if item >= 0  # approximate search may find fewer
    }
    return tuple(queries), tuple(sorted(items))


@dataclass(frozen=True, slots=True)
class ClipImages:
    """What is known of clips beside their ids, by id; whoever has the decoder makes the images.

    Attributes:
        queries: images of queries; a missing one is shown as its id.
        gallery: moving thumbnails.
        captions: what to call an item; default: its id.
        spans: start and stop seconds of a clip within its video.
    """

    queries: Mapping[str, Thumbnail] = field(default_factory=dict)
    gallery: Mapping[str, Thumbnail] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    spans: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def caption(self, name: str) -> str:
        """Returns what to call an item."""
        return self.captions.get(name, name)


def examples_section(
    result: RetrievalResult,
    examples: Sequence[Example],
    spaces: Sequence[SpaceResult],
    chosen_by: str,
    images: ClipImages,
    anchors: Mapping[str, str],
) -> Section:
    """Returns the queries with what each of `spaces` found for them.

    Args:
        chosen_by: the space that best and worst go by.
        anchors: where a clip's lineage stands, by id.
    """
    num_relevant: dict[str, int] = {}
    for label in result.gallery_labels:
        num_relevant[label] = num_relevant.get(label, 0) + 1
    cards = tuple(
        QueryCard(
            kind=example.kind,
            title=images.caption(result.query_ids[example.query]),
            thumbnail=images.queries.get(result.query_ids[example.query]),
            lists=tuple(_hit_list(result, example.query, space, num_relevant, images, anchors) for space in spaces),
            label=result.query_labels[example.query],
            anchor=anchors.get(result.query_ids[example.query], ""),
        )
        for example in examples
    )
    text = (
        f"The first {SHOWN} results of {len(examples)} queries: the best and the worst in {chosen_by} (by "
        f"map_min@{result.cutoffs[0]}, which also counts what was missed), the others drawn with the seed, for what is "
        "usual. ✓ and a solid frame: same label as the query, correct. ✗ and a dashed frame: another label, incorrect. "
        "Press an image to enlarge it."
    )
    note = "* the query’s own clip, which is in the gallery and counts, as in the published protocol."
    return Section("examples", "Examples", (QueryCards(cards, "small", note),), text)


def _hit_list(
    result: RetrievalResult,
    query: int,
    space: SpaceResult,
    num_relevant: Mapping[str, int],
    images: ClipImages,
    anchors: Mapping[str, str],
) -> HitList:
    label = result.query_labels[query]
    columns = (space.top, space.top_scores, space.relevant)
    entries = zip(*(column[query, :SHOWN].tolist() for column in columns), strict=True)
    hits = tuple(
        _hit(result, query, space.space, rank, item, score, is_relevant, images, anchors)
        for rank, (item, score, is_relevant) in enumerate(entries, start=1)
        if item >= 0
    )
    num_correct = sum(hit.mark == "correct" for hit in hits)
    value = score_text(float(space.per_query[result.headline][query]))
    detail = (
        f"{num_correct} of {len(hits)} correct, {num_relevant.get(label, 0):,} in the gallery · "
        f"AP@{result.cutoffs[0]} {value}"
    )
    return HitList(space.space, hits, detail)


def _hit(
    result: RetrievalResult,
    query: int,
    space: str,
    rank: int,
    item: int,
    score: float,
    is_relevant: bool,
    images: ClipImages,
    anchors: Mapping[str, str],
) -> Hit:
    name, label = result.gallery_ids[item], result.gallery_labels[item]
    is_own = name == result.query_ids[query]
    mark: Literal["correct", "incorrect"] = "correct" if is_relevant else "incorrect"
    span = images.spans.get(name)
    seconds = f" Seconds {clock_text(span[0])} to {clock_text(span[1])}." if span else ""
    own = ", the query’s own clip" if is_own else ""
    caption = images.caption(name)
    return Hit(
        name=caption,
        lines=(label,),
        spoken=f"Rank {rank}, {mark}: {label}, {caption}",
        text=f"Rank {rank} in {space}: {caption}. Label {label}, {mark}{own}. Score {score:.4f}.{seconds}",
        mark=mark,
        thumbnail=images.gallery.get(name),
        anchor=anchors.get(name, ""),
        is_own=is_own,
    )
