"""What PyAV does not show of an MP4 or MOV file: whether it has its index.

Source: ISO/IEC 14496-12, box ``moov``.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

SIGNATURES = ((b"\x1aE\xdf\xa3", 0, "matroska"), (b"AVI ", 8, "avi"), (b"OggS", 0, "ogg"), (b"FLV", 0, "flv"))
MP4_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot"})
MAX_BOXES = 10_000
"""A broken file may claim any number of boxes; more than this at one level are not looked at (ours)."""


def signature(path: str) -> str | None:
    """Returns the family of container the first bytes belong to, or None."""
    with open(path, "rb") as file:
        start = file.read(16)
    if start[4:8] in MP4_BOXES:
        return "mp4"
    for magic, offset, name in SIGNATURES:
        if start[offset : offset + len(magic)] == magic:
            return name
    return None


def has_index(path: str) -> bool:
    """Returns whether a top-level ``moov`` box lies wholly within the file."""
    with open(path, "rb") as file:
        length = file.seek(0, 2)
        return any(kind == b"moov" and stop <= length for kind, _, stop in _boxes(file, 0, length))


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields type, start of the content and end of each box in a span of the file."""
    for _ in range(MAX_BOXES):
        file.seek(start)
        head = file.read(16)
        if start + 8 > stop or len(head) < 8:
            return
        size, kind = struct.unpack_from(">I4s", head)
        content = start + 8
        if size == 1 and len(head) == 16:
            size = struct.unpack_from(">Q", head, 8)[0]
            content = start + 16
        end = stop if size == 0 else start + size
        if end <= start + 7:
            return
        yield kind, content, end
        start = end
