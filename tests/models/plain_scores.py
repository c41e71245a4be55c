"""Scores of a model's spaces in plain NumPy and double precision: what the pipeline's scorers are compared with."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.schemas.spaces import BestOfSamples, Combined, Cosine, Space


def _unit(rows: Any) -> npt.NDArray[np.float64]:
    values = np.asarray(rows, np.float64)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(values / np.where(norms > 0, norms, 1.0))


def plain_scores(
    spaces: Mapping[str, Space], name: str, queries: Mapping[str, Any], gallery: Mapping[str, Any]
) -> npt.NDArray[np.float64]:
    """Returns ``[Q, G]``, greater is better."""
    space = spaces[name]
    if isinstance(space, Cosine):
        return _unit(queries[space.query]) @ _unit(gallery[space.gallery]).T
    if isinstance(space, BestOfSamples):
        return np.einsum("qhd,gd->qhg", _unit(queries[space.query]), _unit(gallery[space.gallery])).max(axis=1)
    assert isinstance(space, Combined)
    parts = [weight * plain_scores(spaces, part, queries, gallery) for part, weight in space.weights.items()]
    return np.asarray(sum(parts))
