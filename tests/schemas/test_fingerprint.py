"""Fingerprints: stable over time, blind to options that are off, sensitive to everything else."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.schemas.fingerprint import canonical, fingerprint, short

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_it_is_blake2b_128_of_compact_sorted_ascii_json() -> None:
    text = '{"a":[1,2.5,"\\u00e9"],"b":{"c":true}}'
    expected = hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()
    assert fingerprint({"b": {"c": True}, "a": [1, 2.5, "é"]}) == expected
    assert short(expected) == expected[:8]


@pytest.mark.parametrize("off", [None, False, "", [], (), {}, {"inner": None}, {"inner": {"deeper": False}}])
def test_an_option_that_is_off_changes_nothing(off: Any) -> None:
    assert fingerprint({"layer": "fc6", "new": off}) == fingerprint({"layer": "fc6"})
    assert fingerprint({"options": {"layer": "fc6", "new": off}}) == fingerprint({"options": {"layer": "fc6"}})


@pytest.mark.parametrize("value", [0, 0.0, True, "off", [None], [False], [""], {"inner": 0}])
def test_zero_and_what_lists_hold_are_values(value: Any) -> None:
    assert fingerprint({"seed": value}) != fingerprint({})


def test_one_and_true_and_one_point_zero_differ() -> None:
    assert len({fingerprint({"x": value}) for value in (1, True, 1.0, "1", [1])}) == 5


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_order_of_keys_does_not_matter(data: dict[str, Any]) -> None:
    assert fingerprint(dict(reversed(list(data.items())))) == fingerprint(data)


@given(JSON)
def test_canonical_is_idempotent_and_survives_json(value: Any) -> None:
    once = canonical(value)
    assert canonical(once) == once
    assert fingerprint(json.loads(json.dumps(once))) == fingerprint(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(TypeError, match="expected finite numbers"):
        fingerprint({"scale": value})


@pytest.mark.parametrize("value", [b"bytes", bytearray(b"x"), {1, 2}, object()])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="expected JSON values"):
        fingerprint({"x": value})
