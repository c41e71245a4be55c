"""The few facts of an MP4 or MOV file that PyAV does not show: whether it has its index, and its display matrix.

Source: ISO/IEC 14496-12, boxes ``moov``, ``trak`` and ``tkhd``.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

SIGNATURES = ((b"\x1aE\xdf\xa3", 0, "matroska"), (b"AVI ", 8, "avi"), (b"OggS", 0, "ogg"), (b"FLV", 0, "flv"))
MP4_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot"})
MAX_BOXES = 10_000
"""A broken file may claim any number of boxes; more than this at one level are not looked at (ours)."""

Matrix = tuple[int, int, int, int]


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


def display_matrix(path: str, track: int) -> Matrix | None:
    """Returns the 16.16 numbers a, b, c, d of the track's display matrix, or None where there is none."""
    with open(path, "rb") as file:
        length = file.seek(0, 2)
        for kind, start, stop in _boxes(file, 0, length):
            if kind != b"moov":
                continue
            for inner, inner_start, inner_stop in _boxes(file, start, min(stop, length)):
                if inner == b"trak":
                    found = _track_matrix(file, inner_start, min(inner_stop, length), track)
                    if found is not None:
                        return found
    return None


def _track_matrix(file: BinaryIO, start: int, stop: int, track: int) -> Matrix | None:
    for kind, box_start, box_stop in _boxes(file, start, stop):
        if kind != b"tkhd":
            continue
        file.seek(box_start)
        body = file.read(min(box_stop - box_start, 128))
        wide = bool(body[:1] == b"\x01")
        position = 20 if wide else 12
        matrix = 52 if wide else 40
        if len(body) < matrix + 36 or struct.unpack_from(">I", body, position)[0] != track:
            return None
        a, b, _, c, d = struct.unpack_from(">5i", body, matrix)
        return (a, b, c, d)
    return None


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
