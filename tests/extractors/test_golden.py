"""Outputs stay what they were: every registered extractor against its golden file."""

import numpy as np
import pytest

from tests.extractors.registered import built_in
from tests.extractors.write_golden import FOLDER, golden, path_of

TOLERANCE = 1e-4
"""Of the largest value. Float32 sums in another order (threads, oneDNN or PyTorch's own kernels) differ by at most 3e-6
of it; a changed pad, channel order, scale or layer by more than 1e-1."""
SECONDS_TOLERANCE = 1e-3


@pytest.mark.parametrize("name", built_in())
def test_outputs_are_the_golden_ones(name: str) -> None:
    path = path_of(name)
    assert path.exists(), f"{name} has no golden file; write it: python -m tests.extractors.write_golden {name}"
    with np.load(path) as file:
        expected = dict(file)
    found = golden(name)
    assert found.keys() == expected.keys()
    for column, values in expected.items():
        assert found[column].shape == values.shape, column
        assert found[column].dtype == values.dtype, column
        if column.endswith("_seconds"):
            np.testing.assert_allclose(found[column], values, rtol=0, atol=SECONDS_TOLERANCE, err_msg=column)
        elif values.dtype.kind == "f":
            atol = TOLERANCE * float(np.abs(values).max())
            np.testing.assert_allclose(found[column], values, rtol=0, atol=atol, err_msg=column)
        else:
            np.testing.assert_array_equal(found[column], values, err_msg=column)
    # A golden file of zeros would hold nothing to account.
    assert float(np.std(expected["values"])) > 1e-3 * float(np.abs(expected["values"]).max()) > 0


def test_no_golden_file_is_left_over() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*")) == built_in()
