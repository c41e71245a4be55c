"""Rows found by their keys: against a dict of the same rows, and where hashes are the same."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.stores import key_rows
from clipmill.stores.key_rows import KeyRows, KeySet

KEYS = st.lists(st.tuples(st.text("ab", max_size=2), st.integers(0, 3)), max_size=30)


def _table(keys: Sequence[tuple[str, int]]) -> pa.Table:
    columns = {
        "name": pa.array([name for name, _ in keys], pa.string()),
        "other": pa.array(range(len(keys)), pa.int64()),
        "size": pa.array([size for _, size in keys], pa.int64()),
    }
    return pa.table(columns)


@pytest.mark.parametrize("num_hashes", [None, 3, 1], ids=["hashes apart", "three hashes", "one hash"])
@given(keys=KEYS, asked=KEYS)
def test_the_last_row_of_a_key_is_found_whatever_the_hashes(
    num_hashes: int | None, keys: list[tuple[str, int]], asked: list[tuple[str, int]]
) -> None:
    expected = {key: row for row, key in enumerate(keys)}
    original = key_rows._hashes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_rows, "_CHUNK_ROWS", 4)
        if num_hashes is not None:
            patch.setattr(key_rows, "_hashes", lambda found: np.asarray(original(found) % num_hashes))
        rows = KeyRows(_table(keys), ("name", "size"))
        known = KeySet(_table(keys), ("name", "size"))
        assert rows.rows(asked).tolist() == [expected.get(key, -1) for key in asked]
        assert known.holds(asked).tolist() == [key in expected for key in asked]
        assert all((key in known) == (key in expected) for key in asked)
        assert list(known.keys()) == keys


def test_a_table_of_several_chunks_is_one() -> None:
    table = pa.concat_tables([_table([("a", 1)]), _table([("b", 2), ("a", 1)])])
    assert KeyRows(table, ("name", "size")).rows([("a", 1), ("b", 2), ("b", 1)]).tolist() == [2, 1, -1]
