"""Which labels a space takes for which: the label of the best clip found that is not the query's own."""

from collections import Counter
from dataclasses import dataclass

from clipmill.pipelines.evaluation.retrieval.evaluate import RetrievalResult

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
        num_queries, num_right: all queries that have a clip other than their own, and those whose label was met.
        num_labels_hidden: labels without a row.
    """

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[str, str, int, int], ...]
    num_queries: int
    num_right: int
    num_labels_hidden: int


def confusion(result: RetrievalResult, space: str) -> Confusion:
    """Returns the confusions of `space`. A query's own clip, which is found first so often, is passed over."""
    top = result.space(space).top
    found: Counter[tuple[str, str]] = Counter()
    totals: Counter[str] = Counter()
    for query, (name, label) in enumerate(zip(result.query_ids, result.query_labels, strict=True)):
        item = next((item for item in top[query].tolist() if result.gallery_ids[item] != name), None)
        if item is not None:
            found[label, result.gallery_labels[item]] += 1
            totals[label] += 1
    wrong: Counter[str] = Counter()
    for (label, other), count in found.items():
        if label != other:
            wrong[label] += count
            wrong[other] += count
    every = sorted({*totals, *(other for _, other in found)})
    kept = sorted(sorted(every, key=lambda label: (-wrong[label], label))[:LABELS_SHOWN])
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
        num_right=sum(count for (label, other), count in found.items() if label == other),
        num_labels_hidden=len(hidden),
    )
