"""How far the rows of one video in two stores are apart: not at all, by rounding, or really."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.schemas.rows import Rows

TOLERANCES: Mapping[str, float] = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""ours: by the precision of the forward pass, what rounding may move a value by, as a share of the video's largest
value. Measured: 3e-6 between threads, batch sizes and kernels in float32; 1e-3 and 9e-3 from float32 to the others. A
changed pad, colour order or layer moves values by more than 0.1."""

STORED_ROUNDING: Mapping[str, float] = {"float16": 2**-10}
"""Where rows are stored in fewer digits: one step of the last of them, as a share of the largest value."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one video's rows.

    Attributes:
        is_rounding: times, clips and masks are equal, and no value is farther off than the precision lets it be.
        what: the column that is apart most, or what does not correspond.
        largest: the largest difference of two of its values, in its own units; None where rows do not correspond.
        relative: that difference as a share of the column's largest value.
    """

    is_rounding: bool
    what: str
    largest: float | None = None
    relative: float | None = None


def tolerance_of(precision: str, dtype: str) -> float:
    """Returns what rounding may move a value by, as a share of a video's largest value.

    0 for rows of whole numbers, in which every difference is real.
    """
    if not dtype.startswith("float"):
        return 0.0
    return max(TOLERANCES[precision], STORED_ROUNDING.get(dtype, 0.0))


def difference_of(left: Rows, right: Rows, tolerance: float) -> Difference | None:
    """Returns how two videos' rows differ, as they are stored; None where every value and column is equal.

    Args:
        tolerance: see `tolerance_of`.
    """
    if left.values.shape != right.values.shape:
        return Difference(False, f"shape {left.values.shape} -> {right.values.shape}")
    old, new = _columns(left), _columns(right)
    if old.keys() != new.keys():
        return Difference(False, f"columns {', '.join(sorted(old.keys() ^ new.keys()))}")
    found = [_of_column(name, old[name], new[name], tolerance) for name in old]
    return max(filter(None, found), key=lambda item: (not item.is_rounding, item.relative or 0.0), default=None)


def _columns(rows: Rows) -> dict[str, npt.NDArray[Any]]:
    fixed = {name: getattr(rows, name) for name in ("values", "clip", "start_seconds", "stop_seconds", "mask")}
    return fixed | dict(rows.extras)


def _of_column(name: str, old: npt.NDArray[Any], new: npt.NDArray[Any], tolerance: float) -> Difference | None:
    if old.dtype == new.dtype and np.array_equal(old, new):
        return None
    if old.dtype != new.dtype:
        return Difference(False, f"{name} of type {old.dtype} -> {new.dtype}")
    if old.dtype.kind != "f" or name.endswith("_seconds"):
        rows = int((old != new).reshape(len(old), -1).any(axis=1).sum())
        return Difference(False, f"{name} of {rows} rows")
    before, after = old.astype(np.float64), new.astype(np.float64)
    largest = float(np.abs(before - after).max())
    relative = largest / float(max(np.abs(before).max(), np.abs(after).max()))
    return Difference(relative <= tolerance, name, largest, relative)
