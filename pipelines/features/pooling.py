"""Pooling of a clip's rows into one row."""

import numpy as np

from clipmill.schemas.recipe import Pooling
from clipmill.schemas.records import Clip
from clipmill.schemas.rows import Rows


def pool(rows: Rows, pooling: Pooling, clip: Clip) -> Rows:
    """Returns one row for the clip: the mean of its valid rows, for ``mean_l2`` of unit length; ``none`` keeps all.

    The mean is taken in float64 and rounded once, so it does not depend on how rows were batched.
    """
    if pooling == "none" or len(rows) == 0:
        return rows
    valid = rows.values[rows.mask]
    mean = valid.astype(np.float64).mean(axis=0) if len(valid) else np.zeros(rows.values.shape[1])
    if pooling == "mean_l2":
        norm = float(np.linalg.norm(mean))
        mean = mean / norm if norm > 0 else mean
    return Rows(
        values=mean[np.newaxis].astype(rows.values.dtype),
        clip=np.array([clip.index], dtype=np.int32),
        start_seconds=np.array([clip.start_seconds]),
        stop_seconds=np.array([clip.stop_seconds]),
        mask=np.array([len(valid) > 0]),
    )
