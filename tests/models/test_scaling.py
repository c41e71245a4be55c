"""Scaling of input vectors: fitted on training rows, applied to all alike."""

import numpy as np
import pytest

from clipmill.models.scaling import Scaling, fit, from_plain
from clipmill.schemas.errors import WeightsError

TRAIN = np.array([[0.0, 2.0], [4.0, 10.0]], np.float32)


def test_min_max_uses_one_offset_and_one_span_of_the_training_rows() -> None:
    scaling = fit("min_max", TRAIN)
    assert scaling == Scaling("min_max", offset=4.0, span=10.0)
    np.testing.assert_allclose(scaling.apply(TRAIN), [[-0.4, -0.2], [0.0, 0.6]], rtol=1e-6)


def test_min_max_treats_test_rows_like_training_rows() -> None:
    # The released APIVR code centres its test rows but does not divide them.
    np.testing.assert_allclose(fit("min_max", TRAIN).apply(np.array([[14.0, -6.0]])), [[1.0, -1.0]], rtol=1e-6)


def test_l2_gives_rows_of_norm_one_and_keeps_zero_rows() -> None:
    np.testing.assert_allclose(fit("l2", TRAIN).apply(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])


def test_none_changes_nothing() -> None:
    np.testing.assert_array_equal(fit("none", TRAIN).apply(TRAIN), TRAIN)


def test_constant_rows_are_not_divided_by_zero() -> None:
    np.testing.assert_array_equal(fit("min_max", np.full((3, 2), 7.0)).apply(np.full((1, 2), 8.0)), [[1.0, 1.0]])


def test_a_scaling_survives_plain_types() -> None:
    scaling = fit("min_max", TRAIN)
    assert from_plain(scaling.to_plain(), "here") == scaling


def test_broken_plain_scaling_is_refused() -> None:
    with pytest.raises(WeightsError, match="here scaling: expected kind, offset and span"):
        from_plain({"kind": "min_max"}, "here")
