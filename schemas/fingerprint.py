"""Fingerprints: one mechanism for resume, caching, incremental rebuild and comparison."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

FINGERPRINT_BYTES = 16


def canonical(value: Any) -> Any:
    """Returns `value` as plain JSON types with every option that is off removed.

    An option is off when it is ``None``, ``False``, or an empty string, list or mapping. So adding a new option whose
    default is off leaves every existing fingerprint unchanged. Zero is a value, not off: ``seed: 0`` counts.

    Raises:
        TypeError: for anything that is not a JSON value (a float NaN included), because it would not be stable.
    """
    if isinstance(value, Mapping):
        items = {str(key): canonical(item) for key, item in value.items()}
        return {key: item for key, item in sorted(items.items()) if not _is_off(item)}
    if isinstance(value, str) or value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise TypeError(f"fingerprint: expected finite numbers, got {value}")
        return value
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [canonical(item) for item in value]
    raise TypeError(f"fingerprint: expected JSON values, got {type(value).__name__}")


def _is_off(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def fingerprint(value: Any) -> str:
    """Returns 32 hex digits (BLAKE2b-128) of the canonical JSON form of `value`."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode("ascii"), digest_size=FINGERPRINT_BYTES).hexdigest()


def short(fingerprint_hex: str) -> str:
    """Returns the first eight digits: what file names and tables show."""
    return fingerprint_hex[:8]
