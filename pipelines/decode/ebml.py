"""What of a Matroska or WebM file PyAV does not show: how far its elements reach, and whether a track is encrypted.

Source: RFC 8794 (EBML), RFC 9559 (Matroska). Elements are only stepped over; no block is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

HEADER = 0x1A45DFA3
SEGMENT, SEEK_HEAD, CLUSTER, CUES, TRACKS = 0x18538067, 0x114D9B74, 0x1F43B675, 0x1C53BB6B, 0x1654AE6B
SEEK, SEEK_ID, SEEK_POSITION = 0x4DBB, 0x53AB, 0x53AC
TRACK_ENTRY = 0xAE
CONTENT_ENCODINGS, CONTENT_ENCODING, CONTENT_ENCODING_TYPE, CONTENT_ENCRYPTION = 0x6D80, 0x6240, 0x5033, 0x5035
BLOCKS = frozenset({0xA3, 0xA0, 0xAF})
"""SimpleBlock, BlockGroup, EncryptedBlock: they stand at this level where a live recording left its cluster open."""
IN_SEGMENT = frozenset({CLUSTER, CUES, TRACKS, SEEK_HEAD, 0x1549A966, 0x1254C367, 0x1043A770, 0x1941A469, 0xEC, 0xBF})
IN_OPEN_CLUSTER = BLOCKS | {0xE7, 0xA7, 0xAB, 0x5854}
MAX_ELEMENTS = 2_000_000
"""A broken file may claim any number of elements; more than this are not looked at (ours)."""
MIN_ELEMENT_BYTES = 8
MAX_HEADER_BYTES = 1 << 20
"""Track headers larger than this are not looked into (ours)."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a file: its id, where its content begins and where it ends; None: open, to the end."""

    kind: int
    start: int
    stop: int | None


def missing_bytes(path: str) -> int | None:
    """Returns how many bytes of media the file lacks, by its own elements' sizes; None where they say nothing.

    Cues and tags at the end that are cut off are no loss. A live recording's open segment claims nothing, a cut block
    within it does.
    """
    with open(path, "rb") as file:
        length = file.seek(0, 2)
        segments = [item for item in _elements(file, 0, length) if item.kind == SEGMENT]
        if not segments:
            return None
        segment = segments[-1]
        claimed, reached = segment.stop, segment.start
        for item in _elements(file, segment.start, length):
            reached = item.start if item.stop is None else item.stop
            if item.kind == SEEK_HEAD and item.stop is not None and item.stop <= length:
                cues = _cues_position(file, item, segment.start)
                claimed = cues if cues is not None else claimed
            if item.kind not in IN_SEGMENT | IN_OPEN_CLUSTER:
                return None if segment.stop is None or segment.stop <= length else segment.stop - length
            if item.stop is None or item.stop <= length:
                continue
            if item.kind == CLUSTER or item.kind in BLOCKS:
                return max(item.stop, claimed or 0) - length
        if claimed is None:
            # Too few bytes for the head of an element: it goes on.
            return 1 if 0 < length - reached < MIN_ELEMENT_BYTES else 0
        return max(claimed - length, 0)


def later_files(path: str) -> list[int]:
    """Returns where in the file further Matroska files begin that were joined to it."""
    with open(path, "rb") as file:
        return [item.start for item in _elements(file, 0, file.seek(0, 2)) if item.kind == HEADER][1:]


def is_encrypted(path: str, track: int) -> bool:
    """Returns whether the frames of the track at this place (from 0) are encrypted (ContentEncryption)."""
    with open(path, "rb") as file:
        length = file.seek(0, 2)
        segment = next((item for item in _elements(file, 0, length) if item.kind == SEGMENT), None)
        if segment is None:
            return False
        for item in _elements(file, segment.start, length):
            if item.kind == CLUSTER:
                return False
            if item.kind == TRACKS:
                entries = [entry for entry in _children(file, item, length) if entry.kind == TRACK_ENTRY]
                return track < len(entries) and _has_encryption(file, entries[track])
    return False


def _has_encryption(file: BinaryIO, entry: Element) -> bool:
    for encodings in _children(file, entry, entry.stop):
        if encodings.kind != CONTENT_ENCODINGS:
            continue
        for encoding in _children(file, encodings, encodings.stop):
            kinds = {item.kind for item in _children(file, encoding, encoding.stop)}
            if encoding.kind == CONTENT_ENCODING and (
                CONTENT_ENCRYPTION in kinds or _number(file, encoding, CONTENT_ENCODING_TYPE) == 1
            ):
                return True
    return False


def _cues_position(file: BinaryIO, seek_head: Element, segment_start: int) -> int | None:
    """Returns where the cues lie, if they come after the clusters: what is before them is media."""
    positions = {}
    for seek in _children(file, seek_head, seek_head.stop):
        kind, position = _number(file, seek, SEEK_ID), _number(file, seek, SEEK_POSITION)
        if seek.kind == SEEK and kind is not None and position is not None:
            positions[kind] = position
    cues = positions.get(CUES)
    # Cues in front of the clusters are within the first kilobytes, beside the tracks; those at the end follow all else.
    if cues is None or any(cues < position for kind, position in positions.items() if kind in (TRACKS, CLUSTER)):
        return None
    place = segment_start + cues
    file.seek(place)
    return place if place >= file.seek(0, 2) or _follows_clusters(file, place, segment_start) else None


def _follows_clusters(file: BinaryIO, place: int, segment_start: int) -> bool:
    length = file.seek(0, 2)
    for item in _elements(file, segment_start, length):
        if item.kind == CLUSTER:
            return item.start < place
        if item.start > place:
            return False
    return False


def _number(file: BinaryIO, parent: Element, kind: int) -> int | None:
    for item in _children(file, parent, parent.stop):
        if item.kind == kind and item.stop is not None and item.stop - item.start <= 8:
            file.seek(item.start)
            return int.from_bytes(file.read(item.stop - item.start), "big")
    return None


def _children(file: BinaryIO, parent: Element, limit: int | None) -> Iterator[Element]:
    stop = parent.stop if parent.stop is not None else limit
    if stop is not None and stop - parent.start <= MAX_HEADER_BYTES:
        yield from _elements(file, parent.start, stop)


def _elements(file: BinaryIO, start: int, stop: int) -> Iterator[Element]:
    """Yields the elements of a span; of an open one (unknown size) what is inside follows as if it were beside it."""
    for _ in range(MAX_ELEMENTS):
        if start >= stop:
            return
        file.seek(start)
        head = file.read(12)
        id_bytes = _leading_zeros(head[:1]) + 1
        if id_bytes > 4 or len(head) <= id_bytes:
            return
        size_bytes = _leading_zeros(head[id_bytes : id_bytes + 1]) + 1
        if size_bytes > 8 or len(head) < id_bytes + size_bytes:
            return
        kind = int.from_bytes(head[:id_bytes], "big")
        size = int.from_bytes(head[id_bytes : id_bytes + size_bytes], "big") & ((1 << 7 * size_bytes) - 1)
        content = start + id_bytes + size_bytes
        is_open = size == (1 << 7 * size_bytes) - 1
        yield Element(kind, content, None if is_open else content + size)
        start = content if is_open else content + size


def _leading_zeros(byte: bytes) -> int:
    return 8 - byte[0].bit_length() if byte else 8
