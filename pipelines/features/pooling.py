"""Pooling of a clip's rows into one row, and rows of unit length."""

import numpy as np

from clipmill.schemas.arrays import Floats
from clipmill.schemas.recipe import Pooling
from clipmill.schemas.records import Clip
from clipmill.schemas.rows import Rows

GEM_POWER, GEM_LEAST = 3.0, 1e-6
"""Of the generalised mean (Radenovic et al., TPAMI 2019): what cnnimageretrieval pools maps with before it is trained;
here it pools a clip's rows. Values below the least are raised to it."""
KEEPS_ROWS = ("none", "l2")


def pool(rows: Rows, pooling: Pooling, clip: Clip) -> Rows:
    """Returns one row for the clip, of its valid rows: their mean, maximum or generalised mean; ``l2`` keeps all.

    With ``_l2`` it is of unit length then; under ``l2`` and ``l2_mean`` each row is before. A zero row stays zero. The
    arithmetic is in float64 and rounded once, so it does not depend on how rows were batched.
    """
    if pooling == "none" or len(rows) == 0:
        return rows
    if pooling == "l2":
        values = _unit(rows.values.astype(np.float64)).astype(rows.values.dtype)
        return Rows(values, rows.clip, rows.start_seconds, rows.stop_seconds, rows.mask, rows.extras)
    valid = rows.values[rows.mask].astype(np.float64)
    pooled = _pooled(valid, pooling) if len(valid) else np.zeros(rows.values.shape[1])
    if pooling.endswith("_l2"):
        pooled = _unit(pooled)
    return Rows(
        values=pooled[np.newaxis].astype(rows.values.dtype),
        clip=np.array([clip.index], dtype=np.int32),
        start_seconds=np.array([clip.start_seconds]),
        stop_seconds=np.array([clip.stop_seconds]),
        mask=np.array([len(valid) > 0]),
    )


def _pooled(values: Floats, pooling: Pooling) -> Floats:
    kind = pooling.removesuffix("_l2")
    if kind == "max":
        return np.asarray(values.max(axis=0))
    if kind == "gem":
        return np.asarray((values.clip(min=GEM_LEAST) ** GEM_POWER).mean(axis=0) ** (1 / GEM_POWER))
    return np.asarray((_unit(values) if kind == "l2_mean" else values).mean(axis=0))


def _unit(values: Floats) -> Floats:
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(np.divide(values, norms, out=np.zeros_like(values), where=norms > 0))
