"""Queries and galleries that a caller from Python holds in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries
from clipmill.pipelines.evaluation.retrieval.scorers import Cosine
from clipmill.pipelines.evaluation.tasks.retrieval.spaces import COSINE, Spaces
from clipmill.schemas.errors import UsageError, describe

_KEYS = ("vectors", "labels", "ids", "videos")


def queries_of(data: Any) -> Queries:
    """Returns the queries that `data` stands for.

    Args:
        data: a `Queries`, or a mapping of ``vectors`` (``[Q, D]``, or several such arrays by space), ``labels``
            (``[Q]``), ``ids`` (``[Q]``; default: the positions) and ``videos`` (``[Q]``, the video of each).

    Raises:
        UsageError: it is neither.
    """
    return data if isinstance(data, Queries) else Queries(*_side("queries", data))


def gallery_of(data: Any) -> Gallery:
    """Returns the gallery that `data` stands for, as `queries_of` does."""
    return data if isinstance(data, Gallery) else Gallery(*_side("gallery", data))


def shared_spaces(queries: Queries, gallery: Gallery) -> Spaces:
    """Returns cosine in each space that both sides have vectors of, in the queries' order.

    Raises:
        UsageError: there is none.
    """
    shared = [name for name in queries.vectors if name in gallery.vectors]
    if not shared:
        got = f"{', '.join(queries.vectors)} and {', '.join(gallery.vectors)}"
        remedy = "give both sides vectors of the same name"
        raise UsageError(describe("evaluation", "vectors", "a space that queries and gallery share", got, remedy))
    return {name: Cosine(name, name) for name in shared}


def has_ids(data: Any) -> bool:
    """Returns whether `data` says which items they are: positions of two sides stand for different things."""
    return isinstance(data, Queries | Gallery) or data.get("ids") is not None


def _side(thing: str, data: Any) -> tuple[Sequence[str], Sequence[str | None], Mapping[str, Any], Sequence[str]]:
    if not isinstance(data, Mapping) or "vectors" not in data or not set(data) <= set(_KEYS):
        got = f"the keys {', '.join(map(str, data))}" if isinstance(data, Mapping) else type(data).__name__
        remedy = "pass {'vectors': ..., 'labels': ...}"
        raise UsageError(describe(thing, "given", f"a mapping of {', '.join(_KEYS)}", got, remedy))
    vectors = data["vectors"] if isinstance(data["vectors"], Mapping) else {COSINE: data["vectors"]}
    arrays = {str(name): values if hasattr(values, "shape") else np.asarray(values) for name, values in vectors.items()}
    for name, values in arrays.items():
        if len(values.shape) != 2:
            raise UsageError(describe(thing, name, "vectors [n, D]", str(list(values.shape)), "pass one row per item"))
    num = next(iter(arrays.values())).shape[0] if arrays else 0
    width = len(str(max(num - 1, 0)))
    ids = [str(name) for name in data["ids"]] if data.get("ids") is not None else [f"{n:0{width}d}" for n in range(num)]
    labels: list[str | None] = (
        [None if label is None else str(label) for label in data["labels"]]
        if data.get("labels") is not None
        else [None] * num
    )
    videos = [str(name) for name in data["videos"]] if data.get("videos") is not None else []
    return ids, labels, arrays, videos
