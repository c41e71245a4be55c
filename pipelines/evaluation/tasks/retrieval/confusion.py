"""Which labels a space takes for which: the label of the best clip found that is not the query's own."""

from collections import Counter
from dataclasses import dataclass

from clipmill.pipelines.evaluation.retrieval.evaluate import RetrievalResult
from clipmill.pipelines.reports.blocks import Block, Cell, Matrix, Row, Section, Side, Table

LABELS_SHOWN = 20
PAIRS_SHOWN = 8
OTHERS = "(others)"


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of (label of the query, label of the first clip found).

    Attributes:
        labels: rows of `counts`; of many labels those most often confused, in label order.
        columns: `labels`, and ``(others)`` where labels were left out.
        counts: ``counts[row][column]``, queries.
        pairs: (label of the query, label found, queries, queries of that label), the most frequent confusions.
        num_queries, num_correct: all queries that have a clip other than their own, and those whose label was met.
        num_labels_hidden: labels without a row.
    """

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[str, str, int, int], ...]
    num_queries: int
    num_correct: int
    num_labels_hidden: int


def confusion(result: RetrievalResult, space: str) -> Confusion:
    """Returns the confusions of `space`. A query's own clip, which is found first so often, is passed over."""
    top = result.space(space).top
    found: Counter[tuple[str, str]] = Counter()
    totals: Counter[str] = Counter()
    for query, (name, label) in enumerate(zip(result.query_ids, result.query_labels, strict=True)):
        item = next((item for item in top[query].tolist() if item >= 0 and result.gallery_ids[item] != name), None)
        if item is not None:
            found[label, result.gallery_labels[item]] += 1
            totals[label] += 1
    incorrect: Counter[str] = Counter()
    for (label, other), count in found.items():
        if label != other:
            incorrect[label] += count
            incorrect[other] += count
    every = sorted({*totals, *(other for _, other in found)})
    kept = sorted(sorted(every, key=lambda label: (-incorrect[label], label))[:LABELS_SHOWN])
    hidden = set(every) - set(kept)
    columns = (*kept, OTHERS) if hidden else tuple(kept)
    counts = [[found[label, column] for column in kept] for label in kept]
    if hidden:
        for row, label in zip(counts, kept, strict=True):
            row.append(sum(found[label, column] for column in hidden))
    confused = sorted(
        ((-count, label, other) for (label, other), count in found.items() if label != other), key=lambda item: item
    )
    return Confusion(
        labels=tuple(kept),
        columns=columns,
        counts=tuple(tuple(row) for row in counts),
        pairs=tuple((label, other, -count, totals[label]) for count, label, other in confused[:PAIRS_SHOWN]),
        num_queries=sum(totals.values()),
        num_correct=sum(count for (label, other), count in found.items() if label == other),
        num_labels_hidden=len(hidden),
    )


def confusion_section(result: RetrievalResult, space: str) -> Section:
    """Returns the confusions of `space` as a part of the page."""
    confused = confusion(result, space)
    share = f" ({100 * confused.num_correct / confused.num_queries:.0f} %)" if confused.num_queries else ""
    text = (
        f"The label of the first clip found in {space}, the query’s own clip passed over: correct for "
        f"{confused.num_correct:,} of {confused.num_queries:,} queries{share}. Rows are the queries’ labels, columns "
        "what was found; the diagonal is correct."
    )
    if confused.num_labels_hidden:
        text += (
            f" The {len(confused.labels)} labels most often confused; {confused.num_labels_hidden} more are in the "
            "last column, or have no row."
        )
    blocks: list[Block] = [Matrix("Label found first", confused.labels, confused.columns, confused.counts)]
    if confused.pairs:
        rows = tuple(
            Row(f"{label} → {other}", (Cell(f"{count:,}"), Cell(f"{total:,}")))
            for label, other, count, total in confused.pairs
        )
        blocks.append(Table("Most frequent confusions", ("label → taken for", "times", "of"), (("", rows),)))
    return Section("confusion", "Confusions", (Side(tuple(blocks)),) if len(blocks) > 1 else tuple(blocks), text)
