"""What counts as rounding between two stores' rows, and what does not."""

from dataclasses import replace

import numpy as np
import pytest

from clipmill.schemas.rows import Rows
from clipmill.stores.row_differences import difference_of, tolerance_of

VALUES = np.array([[1.0, -4.0], [0.5, 2.0]], dtype=np.float32)
ROWS = Rows(
    values=VALUES,
    clip=np.zeros(2, dtype=np.int32),
    start_seconds=np.array([0.0, 1.0]),
    stop_seconds=np.array([1.0, 2.0]),
    mask=np.ones(2, dtype=np.bool_),
    extras={"score": np.array([0.5, 0.25], dtype=np.float32), "class_index": np.array([3, 4], dtype=np.int32)},
)


def test_equal_rows_do_not_differ() -> None:
    assert difference_of(ROWS, replace(ROWS, values=VALUES.copy()), 0.0) is None


def test_rounding_is_a_share_of_the_largest_value() -> None:
    moved = VALUES + np.array([[0.0, 0.0], [0.002, 0.0]], dtype=np.float32)
    found = difference_of(ROWS, replace(ROWS, values=moved), 1e-3)
    assert found is not None
    assert (found.is_rounding, found.what) == (True, "values")
    assert found.largest == pytest.approx(0.002, rel=1e-3)
    assert found.relative == pytest.approx(0.0005, rel=1e-3)
    found = difference_of(ROWS, replace(ROWS, values=moved), 4e-4)
    assert found is not None
    assert not found.is_rounding


REAL = {
    "shape (2, 2) -> (1, 2)": ROWS.slice(0, 1),
    "mask of 1 rows": replace(ROWS, mask=np.array([True, False])),
    "clip of 2 rows": replace(ROWS, clip=np.ones(2, dtype=np.int32)),
    "stop_seconds of 1 rows": replace(ROWS, stop_seconds=np.array([1.0, 2.0 + 1e-9])),
    "class_index of 1 rows": replace(ROWS, extras=dict(ROWS.extras) | {"class_index": np.array([3, 5], np.int32)}),
    "columns score": replace(ROWS, extras={"class_index": ROWS.extras["class_index"]}),
    "values of type float32 -> float16": replace(ROWS, values=VALUES.astype(np.float16)),
}


@pytest.mark.parametrize("what", REAL)
def test_what_is_no_rounding_is_named(what: str) -> None:
    found = difference_of(ROWS, REAL[what], 1.0)
    assert found is not None
    assert (found.is_rounding, found.what) == (False, what)


def test_the_worst_column_is_told() -> None:
    extras = dict(ROWS.extras) | {"score": np.array([0.5, 0.3], dtype=np.float32)}
    found = difference_of(ROWS, replace(ROWS, values=VALUES * np.float32(1.0001), extras=extras), 1e-3)
    assert found is not None
    assert (found.is_rounding, found.what) == (False, "score")


def test_whole_numbers_have_no_rounding() -> None:
    assert tolerance_of("float32", "uint8") == 0.0
    assert (tolerance_of("float32", "float32"), tolerance_of("float32", "float16")) == (1e-4, 2**-10)
    counts = replace(ROWS, values=np.array([[3, 7], [0, 255]], dtype=np.uint8))
    found = difference_of(counts, replace(counts, values=np.array([[3, 8], [0, 255]], dtype=np.uint8)), 0.0)
    assert found is not None
    assert (found.is_rounding, found.what) == (False, "values of 1 rows")
