"""Pooling of a clip's rows, against scikit-learn and torch."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import normalize

from clipmill.pipelines.features.pooling import pool
from clipmill.schemas.records import Clip
from clipmill.schemas.rows import Rows

CLIP = Clip(4, 1.0, 3.0)
VALUES = np.random.default_rng(0).normal(0.3, 1.0, (6, 8)).astype(np.float32)
MASK = np.array([True, True, False, True, True, True])


def rows(values: np.ndarray = VALUES, mask: np.ndarray = MASK) -> Rows:  # type: ignore[type-arg]
    num = len(values)
    times = np.arange(num, dtype=np.float64)
    return Rows(values, np.full(num, 4, dtype=np.int32), times, times + 1, mask)


VALID = VALUES[MASK].astype(np.float64)
# The power mean as torch's own pooling has it, on values that are at least 1e-6.
GEM = (
    torch.nn.functional.avg_pool1d(torch.from_numpy(VALID).clamp(min=1e-6).T[None] ** 3, len(VALID))[0, :, 0] ** (1 / 3)
).numpy()
EXPECTED = {
    "mean": VALID.mean(axis=0),
    "mean_l2": normalize(VALID.mean(axis=0)[None])[0],
    "max": VALID.max(axis=0),
    "max_l2": normalize(VALID.max(axis=0)[None])[0],
    "gem": GEM,
    "gem_l2": normalize(GEM[None])[0],
    "l2_mean": normalize(VALID).mean(axis=0),
}


@pytest.mark.parametrize("pooling", EXPECTED)
def test_one_row_of_the_valid_ones(pooling: str) -> None:
    found = pool(rows(), pooling, CLIP)  # type: ignore[arg-type]
    assert (len(found), found.mask.tolist(), found.clip.tolist()) == (1, [True], [4])
    assert (found.start_seconds.tolist(), found.stop_seconds.tolist()) == ([1.0], [3.0])
    np.testing.assert_allclose(found.values[0], EXPECTED[pooling], rtol=1e-6)


def test_rows_of_unit_length_stay_as_many_and_a_zero_row_stays_zero() -> None:
    values = VALUES.copy()
    values[1] = 0
    given = rows(values)
    found = pool(given, "l2", CLIP)
    np.testing.assert_allclose(found.values, normalize(values), rtol=1e-6)
    assert np.array_equal(found.start_seconds, given.start_seconds)
    assert np.array_equal(found.mask, MASK)
    assert pool(given, "none", CLIP) is given


@pytest.mark.parametrize("pooling", EXPECTED)
def test_a_clip_without_a_valid_row_has_one_masked_row_of_zeros(pooling: str) -> None:
    found = pool(rows(mask=np.zeros(6, dtype=bool)), pooling, CLIP)  # type: ignore[arg-type]
    assert (found.mask.tolist(), bool(np.any(found.values))) == ([False], False)
