"""The units that packets of H.264 and HEVC consist of."""

from collections.abc import Iterator
from typing import Any

IDR_UNITS = {"h264": frozenset({5}), "hevc": frozenset({19, 20})}
"""Kinds of coded slices of an instantaneous decoder refresh (ITU-T H.264 table 7-1, H.265 table 7-1)."""


def unit_kind(codec: str, unit: bytes) -> int:
    """Returns ``nal_unit_type``."""
    return unit[0] & 0x1F if codec == "h264" else (unit[0] >> 1) & 0x3F


def is_refresh(packet: Any, context: Any) -> bool:
    """Returns whether nothing that follows the packet, in the order of decoding, refers to what is before it."""
    codec = context.codec.canonical_name
    if codec not in IDR_UNITS:
        return False
    found = units(bytes(packet), length_bytes(codec, context.extradata))
    return any(unit_kind(codec, unit) in IDR_UNITS[codec] for unit in found if unit)


def length_bytes(codec: str, extradata: bytes | None) -> int:
    """Returns how long the length before each unit is; 0 where units stand behind start codes (Annex B)."""
    at = 4 if codec == "h264" else 21
    if not extradata or len(extradata) <= at or extradata[0] != 1:
        return 0
    return (extradata[at] & 3) + 1


def units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """Yields the units of a packet, each with its header."""
    if length_bytes:
        position = 0
        while position + length_bytes <= len(data):
            stop = position + length_bytes + int.from_bytes(data[position : position + length_bytes], "big")
            yield data[position + length_bytes : stop]
            position = stop
        return
    start = data.find(b"\0\0\1")
    while start >= 0:
        following = data.find(b"\0\0\1", start + 3)
        yield data[start + 3 : following if following >= 0 else len(data)]
        start = following
