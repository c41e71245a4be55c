"""Scaling of a model's input vectors: fitted once on the training rows, applied to every row alike."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from clipmill.schemas.arrays import Array, Singles
from clipmill.schemas.errors import WeightsError, describe

Kind = Literal["min_max", "l2", "none"]


@dataclass(frozen=True, slots=True)
class Scaling:
    """One modality's scaling.

    Attributes:
        kind: ``min_max`` subtracts `offset` and divides by `span`, both one number for all elements (APIVR's release,
            which by mistake left its test features undivided; here both sides are treated alike); ``l2`` divides each
            row by its norm (ours); ``none``.
        offset: mean of all elements of the training rows.
        span: their greatest minus their smallest.
    """

    kind: Kind
    offset: float = 0.0
    span: float = 1.0

    def apply(self, values: Array) -> Singles:
        """Returns ``float32[n, D]``; a row of norm 0 stays 0 under ``l2``."""
        rows = np.asarray(values, np.float32)
        if self.kind == "min_max":
            return (rows - np.float32(self.offset)) / np.float32(self.span)
        if self.kind == "l2":
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            return np.asarray(rows / np.where(norms > 0, norms, np.float32(1)), np.float32)
        return rows

    def to_plain(self) -> dict[str, Any]:
        """Returns the scaling as plain types, for a checkpoint."""
        return asdict(self)


def fit(kind: Kind, values: Array) -> Scaling:
    """Returns the scaling of `kind` fitted on the training rows ``[n, D]``; constant rows are not divided."""
    if kind != "min_max":
        return Scaling(kind)
    span = float(np.max(values)) - float(np.min(values))
    mean = float(np.asarray(values, np.float64).mean())
    return Scaling(kind, mean, span if span > 0 else 1.0)


def from_plain(data: Mapping[str, Any], source: str) -> Scaling:
    """Returns what `Scaling.to_plain` wrote.

    Raises:
        WeightsError: `data` is something else.
    """
    try:
        return Scaling(data["kind"], float(data["offset"]), float(data["span"]))
    except (KeyError, TypeError, ValueError):
        raise WeightsError(
            describe(source, "scaling", "kind, offset and span", repr(data), "train the model again")
        ) from None
