"""Which queries a report shows, and which thumbnails it therefore needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from clipmill.pipelines.evaluation.retrieval.evaluate import RetrievalResult

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
    values = result.space(space).per_query[f"map_min@{result.at[0]}"]
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
    }
    return tuple(queries), tuple(sorted(items))
