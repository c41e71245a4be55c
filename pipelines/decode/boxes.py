"""The few facts of an MP4 or MOV file that PyAV does not show: what it lacks, when display ends.

Source: ISO/IEC 14496-12: ``moov``, ``trak``, ``tkhd``, ``mdhd``, ``elst``, ``mehd``, ``sidx``, ``meta``.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

SIGNATURES = (
    (b"\x1aE\xdf\xa3", 0, "matroska"),
    (b"AVI ", 8, "avi"),
    (b"OggS", 0, "ogg"),
    (b"FLV", 0, "flv"),
    (b"\x30\x26\xb2\x75", 0, "asf"),
    (b"\x06\x0e\x2b\x34", 0, "mxf"),
)
FRAGMENT_BOXES = frozenset({b"styp", b"sidx", b"moof", b"emsg", b"prft"})
MP4_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}) | FRAGMENT_BOXES
MAX_BOXES = 10_000
"""A broken file may claim any number of boxes; more than this at one level are not looked at (ours)."""

SEARCH_BYTES = 1 << 20


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


def later_files(path: str) -> list[int]:
    """Returns where in the file further indexes lie: those of files that were joined to it."""
    with open(path, "rb") as file:
        return [start for kind, start, _ in _boxes(file, 0, file.seek(0, 2)) if kind == b"moov"][1:]


def is_segment(path: str) -> bool:
    """Returns whether the file is a media segment of a stream: fragments, and no index that says what is in them."""
    with open(path, "rb") as file:
        kinds = {kind for kind, _, _ in _boxes(file, 0, file.seek(0, 2))}
    return b"moof" in kinds and b"moov" not in kinds


def is_still(path: str) -> bool:
    """Returns whether the file is a picture (HEIF, AVIF): a ``meta`` box with a primary item, and no track."""
    with open(path, "rb") as file:
        kinds = {kind for kind, _, _ in _boxes(file, 0, file.seek(0, 2))}
    return b"meta" in kinds and not kinds & {b"moov", b"moof"}


def hidden_index(path: str) -> str | None:
    """Returns the box that keeps readers from an index behind it, in words; None where no index is behind any.

    A box with an impossible size hides all that follows. A file that was cut has nothing behind its last box.
    """
    with open(path, "rb") as file:
        length = file.seek(0, 2)
        last, position = "the first box", 0
        for kind, start, stop in _boxes(file, 0, length):
            # One that reaches the end of the file, or beyond it, has swallowed what is behind it.
            reaches = stop >= length
            last = f"box {_name(kind)} of {stop - start} bytes" if reaches else f"what follows box {_name(kind)}"
            position = start if reaches else stop
        carried = b""
        file.seek(position)
        while chunk := file.read(SEARCH_BYTES):
            data = carried + chunk
            place = data.find(b"moov")
            # The first box within an index is its own header.
            while place >= 0:
                if data[place + 8 : place + 12] == b"mvhd":
                    return last
                place = data.find(b"moov", place + 1)
            carried = data[-16:]
    return None


def missing_fragment_bytes(path: str) -> int:
    """Returns how many bytes of fragments a fragmented file lacks, by its own boxes.

    Of a file without fragments nothing is said: its index lists every sample.
    """
    claimed, reached, has_fragments = 0, 0, False
    with open(path, "rb") as file:
        length = file.seek(0, 2)
        for kind, start, stop in _boxes(file, 0, length):
            has_fragments, reached = has_fragments or kind == b"moof", stop
            if has_fragments and kind in (b"moof", b"mdat"):
                claimed = max(claimed, stop)
            elif kind == b"sidx" and stop <= length:
                claimed = max(claimed, _segment_index_stop(file, start, stop))
    if has_fragments and 0 < length - reached < 8:
        # Not even the head of the next box.
        claimed = max(claimed, reached + 8)
    return max(claimed - length, 0)


def fragments_seconds(path: str) -> float | None:
    """Returns how long the fragments are together, as the index claims it (``mehd``); None where it does not."""
    with open(path, "rb") as file:
        length = file.seek(0, 2)
        found = _descend(file, 0, length, (b"moov", b"mvex", b"mehd"))
        duration, scale = _wide_number(file, found, 4, 4), _movie_scale(file, length)
    return duration / scale if duration and scale else None


def display_stops_seconds(path: str, track: int, start_seconds: float) -> list[float]:
    """Returns when the display of a track ends: by its edit list, or, without one, by its headers, likeliest first.

    Counted as libavformat counts presentation times: from the start of the first edit.

    Args:
        start_seconds: when its first frame is shown.
    """
    with open(path, "rb") as file:
        length = file.seek(0, 2)
        scale = _movie_scale(file, length)
        for start, stop in _tracks(file, length):
            if _track_number(file, start, stop) != track:
                continue
            edits = _descend(file, start, stop, (b"edts", b"elst"))
            if edits is not None:
                durations = _edit_durations(file, *edits)
                # An edit of length zero goes on to the end of the media.
                return [sum(durations) / scale] if scale and durations and all(durations) else []
            media = _descend(file, start, stop, (b"mdia", b"mdhd"))
            media_scale, media_ticks = _scale(file, media), _wide_number(file, media, 16, 24)
            track_ticks = _wide_number(file, _descend(file, start, stop, (b"tkhd",)), 20, 28)
            stops = [media_ticks / media_scale] if media_ticks and media_scale else []
            return stops + ([start_seconds + track_ticks / scale] if track_ticks and scale else [])
    return []


def _movie_scale(file: BinaryIO, length: int) -> int | None:
    return _scale(file, _descend(file, 0, length, (b"moov", b"mvhd")))


def _scale(file: BinaryIO, header: tuple[int, int] | None) -> int | None:
    """Returns the ticks per second of an ``mvhd`` or ``mdhd`` box."""
    if header is None:
        return None
    file.seek(header[0])
    body = file.read(24)
    place = 20 if body[:1] == b"\x01" else 12
    return int.from_bytes(body[place : place + 4], "big") or None


def _wide_number(file: BinaryIO, span: tuple[int, int] | None, narrow: int, wide: int) -> int | None:
    """Returns a number of 32 bits at `narrow`, or of 64 bits at `wide` in version 1; None where it is all ones."""
    if span is None:
        return None
    file.seek(span[0])
    body = file.read(min(span[1] - span[0], 64))
    place, size = (wide, 8) if body[:1] == b"\x01" else (narrow, 4)
    field = body[place : place + size]
    return None if len(field) < size or field == b"\xff" * size else int.from_bytes(field, "big")


def _edit_durations(file: BinaryIO, start: int, stop: int) -> list[int]:
    file.seek(start)
    body = file.read(min(stop - start, 8 + 20 * MAX_BOXES))
    entry, size = (20, 8) if body[:1] == b"\x01" else (12, 4)
    count = min(int.from_bytes(body[4:8], "big"), (len(body) - 8) // entry)
    return [int.from_bytes(body[8 + entry * i : 8 + entry * i + size], "big") for i in range(count)]


def _segment_index_stop(file: BinaryIO, start: int, stop: int) -> int:
    """Returns where the last of the parts ends that a ``sidx`` box lists."""
    file.seek(start)
    body = file.read(stop - start)
    place = 28 if body[:1] == b"\x01" else 20
    size = 8 if body[:1] == b"\x01" else 4
    first_offset = int.from_bytes(body[place - size : place], "big")
    count = int.from_bytes(body[place + 2 : place + 4], "big")
    sizes = [int.from_bytes(body[place + 4 + 12 * i : place + 8 + 12 * i], "big") & 0x7FFFFFFF for i in range(count)]
    return stop + first_offset + sum(sizes)


def _tracks(file: BinaryIO, length: int) -> Iterator[tuple[int, int]]:
    for kind, start, stop in _boxes(file, 0, length):
        if kind == b"moov":
            for inner, inner_start, inner_stop in _boxes(file, start, min(stop, length)):
                if inner == b"trak":
                    yield inner_start, min(inner_stop, length)


def _track_number(file: BinaryIO, start: int, stop: int) -> int | None:
    header = _descend(file, start, stop, (b"tkhd",))
    if header is None:
        return None
    file.seek(header[0])
    body = file.read(24)
    place = 20 if body[:1] == b"\x01" else 12
    return int.from_bytes(body[place : place + 4], "big")


def _descend(file: BinaryIO, start: int, stop: int, path: Sequence[bytes]) -> tuple[int, int] | None:
    """Returns the span of the first box at the end of `path`."""
    for wanted in path:
        for kind, inner_start, inner_stop in _boxes(file, start, stop):
            if kind == wanted:
                start, stop = inner_start, min(inner_stop, stop)
                break
        else:
            return None
    return start, stop


def _name(kind: bytes) -> str:
    return repr(kind.decode("latin-1"))


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields type, start of the content and end of each box in a span of the file."""
    for _ in range(MAX_BOXES):
        if start + 8 > stop:
            return
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
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
