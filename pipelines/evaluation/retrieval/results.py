"""A retrieval result as JSON whose bytes depend on the numbers alone: for gates, diffs and comparison between runs."""

import json
import math
from collections.abc import Mapping
from typing import Any

from clipmill.pipelines.evaluation.retrieval.evaluate import RetrievalResult, SpaceResult

DECIMALS = 10
"""Floats are rounded to this many decimals: beyond what any metric means, within what every machine agrees on."""


def results_json(result: RetrievalResult, about: Mapping[str, Any] | None = None) -> bytes:
    """Returns the result as UTF-8 JSON: sorted keys, floats of fixed precision, no times, no paths of its own.

    Args:
        about: what was evaluated (fingerprints of recipes and of the model), stored under ``about`` as given.
    """
    data = {
        "about": dict(about or {}),
        "approximate": result.approximate.as_json() if result.approximate else None,
        "at": list(result.at),
        "chance": dict(result.chance),
        "headline": result.headline,
        "num_gallery": len(result.gallery_ids),
        "num_queries": len(result.query_ids),
        "num_relevant_missing": result.num_relevant_missing,
        "queries": [
            {"id": query, "label": label} for query, label in zip(result.query_ids, result.query_labels, strict=True)
        ],
        "spaces": {space.space: _space(space) for space in result.spaces},
        "version": 1,
    }
    text = json.dumps(_fixed(data), sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)
    return (text + "\n").encode()


def _space(space: SpaceResult) -> dict[str, Any]:
    return {
        "cumulative_k": {f"map@{k}": value for k, value in space.cumulative_k.items()},
        "intervals": {
            name: {"confidence": interval.confidence, "high": interval.high, "low": interval.low}
            for name, interval in space.intervals.items()
        },
        "metrics": dict(space.metrics),
        "per_label": {
            score.label: {"num_queries": score.num_queries, "num_relevant": score.num_relevant, "value": score.value}
            for score in space.per_label
        },
        "per_query": {name: space.per_query[name].tolist() for name in space.intervals},
    }


def _fixed(value: Any) -> Any:
    """Returns `value` with floats rounded; a number that JSON cannot hold (NaN, infinity) becomes null."""
    if isinstance(value, float):
        return round(value, DECIMALS) + 0.0 if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _fixed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fixed(item) for item in value]
    return value
