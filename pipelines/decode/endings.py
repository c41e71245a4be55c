"""Whether a file ends before its media do, by the lengths its own container states; no header's duration is believed.

A recorder that was stopped, and a live stream, leave durations of zero, of the whole programme, or none. What no live
recording does is to end in the middle of something whose length it has stated.

Sources: RIFF/AVI (Microsoft), FLV and F4V specification 10.1 (Adobe), RFC 3533 (Ogg), ASF specification (Microsoft),
ISO/IEC 13818-1 (MPEG-2 systems), SMPTE 377 (MXF); Matroska and MP4 in `ebml` and `boxes`.
"""

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

from clipmill.pipelines.decode import boxes, ebml

MAX_ITEMS = 5_000_000
"""A broken file may claim any number of chunks; more than this are not looked at (ours)."""
TAIL_BYTES = 4 << 20
"""So much of the end is searched for the last packet of a format one cannot step through (ours)."""


def break_off(path: str, format_name: str) -> str | None:
    """Returns, in words, what of the file's media is cut off at its end; None where nothing shows that any is.

    Args:
        format_name: libavformat's name of the container.
    """
    check = _CHECKS.get(format_name)
    if check is None:
        return None
    try:
        with open(path, "rb") as file:
            return check(path, file, os.fstat(file.fileno()).st_size)
    except (OSError, struct.error):
        return None


def later_files(path: str, format_name: str) -> list[int]:
    """Returns where in the file other files begin that were joined to it: readers may stop before them."""
    find = _LATER_FILES.get(format_name)
    try:
        return find(path) if find is not None else []
    except (OSError, struct.error):
        return []


def _bytes_missing(count: int | None, of: str) -> str | None:
    return f"{count} bytes fewer than {of}" if count else None


def _matroska(path: str, file: BinaryIO, length: int) -> str | None:
    return _bytes_missing(ebml.missing_bytes(path), "its clusters are long")


def _mp4(path: str, file: BinaryIO, length: int) -> str | None:
    return _bytes_missing(boxes.missing_fragment_bytes(path), "its fragments are long")


def _avi(path: str, file: BinaryIO, length: int) -> str | None:
    """Steps through RIFF chunks; the list of frames (``movi``) counts, the index behind it does not."""
    position = 0
    for _ in range(MAX_ITEMS):
        file.seek(position)
        riff, size, kind = _riff_head(file)
        if riff != b"RIFF" or kind not in (b"AVI ", b"AVIX"):
            return None
        inner = position + 12
        while inner < min(position + 8 + size, length):
            file.seek(inner)
            chunk, chunk_size, list_kind = _riff_head(file)
            if len(chunk) < 4:
                break
            stop = inner + 8 + chunk_size
            if chunk == b"LIST" and list_kind == b"movi":
                # A recording that was not closed keeps a size of zero, or the largest there is.
                if stop > length and chunk_size < 0xFFFFFF00:
                    return _bytes_missing(stop - length, "its list of frames is long")
                if chunk_size <= 4:
                    return None
            elif chunk == b"LIST" and stop > length and list_kind == b"hdrl":
                return _bytes_missing(stop - length, "its header is long")
            inner = stop + (chunk_size & 1)
        position += 8 + size + (size & 1)
        if position >= length or size <= 4:
            return None
    return None


def _avi_files(path: str) -> list[int]:
    starts: list[int] = []
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        position = 0
        while position < length and len(starts) < MAX_ITEMS:
            file.seek(position)
            riff, size, kind = _riff_head(file)
            if riff != b"RIFF" or size <= 4:
                break
            if kind == b"AVI ":
                starts.append(position)
            position += 8 + size + (size & 1)
    return starts[1:]


def _riff_head(file: BinaryIO) -> tuple[bytes, int, bytes]:
    head = file.read(12).ljust(12, b"\0")
    return head[:4].rstrip(b"\0"), int.from_bytes(head[4:8], "little"), head[8:12]


def _flv(path: str, file: BinaryIO, length: int) -> str | None:
    """Steps through tags, each of which states its size; a header that was completed states the size of the file."""
    stop = _walk_flv(file, length, [])
    if stop > length:
        return _bytes_missing(stop - length, "its last tag is long")
    file.seek(0)
    head = file.read(1 << 16)
    place = head.find(b"\x00\x08filesize\x00")
    # A live stream's is zero.
    stated = struct.unpack_from(">d", head, place + 11)[0] if 0 <= place < len(head) - 19 else 0.0
    return _bytes_missing(int(stated) - length, "its header says") if length < stated < 1 << 50 else None


def _flv_files(path: str) -> list[int]:
    headers: list[int] = []
    with open(path, "rb") as file:
        _walk_flv(file, os.fstat(file.fileno()).st_size, headers)
    return headers[1:]


def _walk_flv(file: BinaryIO, length: int, headers: list[int]) -> int:
    """Returns where the last tag ends, 0 where that is not known; adds to `headers` where files begin."""
    position = 0
    for _ in range(MAX_ITEMS):
        file.seek(position)
        tag = file.read(11)
        if tag[:3] == b"FLV" and len(tag) >= 9:
            headers.append(position)
            position += int.from_bytes(tag[5:9], "big") + 4
            continue
        if position >= length or not headers:
            return min(position, length)
        if tag[0] & 0x1F not in (8, 9, 18):
            return 0
        stop = position + 11 + int.from_bytes(tag[1:4], "big")
        if len(tag) < 11 or stop > length:
            return max(stop, position + 11)
        if stop < length < stop + 4:
            return stop + 4
        position = stop + 4
    return 0


def _ogg(path: str, file: BinaryIO, length: int) -> str | None:
    tail, start = _tail(file, length)
    place = tail.rfind(b"OggS")
    page = tail[place : place + 27 + 255]
    if place < 0:
        return None
    if len(page) < 27 or len(page) < 27 + page[26]:
        return "the head of its last page cut"
    stop = start + place + 27 + page[26] + sum(page[27 : 27 + page[26]])
    return _bytes_missing(max(stop - length, 0), "its last page is long")


def _asf(path: str, file: BinaryIO, length: int) -> str | None:
    """Looks at the size of the data object, unless the header says that it was broadcast."""
    file_properties = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
    data_object = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
    head = file.read(30)
    header_size = int.from_bytes(head[16:24], "little")
    if header_size > length:
        return _bytes_missing(header_size - length, "its header is long")
    header = head + file.read(max(min(header_size, 1 << 20) - 30, 0))
    place = header.find(file_properties)
    if place >= 0 and len(header) >= place + 92 and header[place + 88] & 1:
        return None
    file.seek(header_size)
    head = file.read(24)
    size = int.from_bytes(head[16:24], "little")
    if head[:16] != data_object or size <= 50:
        return None
    return _bytes_missing(max(header_size + size - length, 0), "its data object is long")


def _program_stream(path: str, file: BinaryIO, length: int) -> str | None:
    """Looks at the last packet of an MPEG program stream: each states its length."""
    tail, start = _tail(file, length)
    place = len(tail)
    while (place := tail.rfind(b"\0\0\1", 0, place)) >= 0:
        code = tail[place + 3] if place + 3 < len(tail) else 0
        if 0xBC <= code <= 0xEF and place + 6 <= len(tail):
            stop = start + place + 6 + int.from_bytes(tail[place + 4 : place + 6], "big")
            return _bytes_missing(max(stop - length, 0), "its last packet is long")
        if code in (0xB9, 0xBA):
            # An end code, or the head of a pack: what was before it is whole.
            return None
    return None


def _transport_stream(path: str, file: BinaryIO, length: int) -> str | None:
    """Looks for a cut packet, and for a cut PES packet of those that state their length (audio does, video may not)."""
    file.seek(0)
    head = file.read(204 * 8)
    found = [(size, offset) for size, offset in ((188, 0), (192, 4), (204, 0)) if _is_in_step(head, size, offset)]
    if not found:
        return None
    size, offset = found[0]
    whole = length // size * size
    file.seek(max(whole - TAIL_BYTES // size * size, 0))
    tail = file.read()
    num_packets = len(tail) // size
    if any(tail[number * size + offset] != 0x47 for number in range(max(num_packets - 8, 0), num_packets)):
        # Out of step by its end: damaged, which is for the decoder to say.
        return None
    rest = tail[num_packets * size :]
    if len(rest) > offset and rest[offset] == 0x47:
        return f"the last of its packets cut to {len(rest)} of {size} bytes"
    for pid, (wanted, got) in _last_pes_packets(tail, num_packets, size, offset).items():
        if wanted > got:
            return f"the last PES packet of stream 0x{pid:x} cut to {got} of {wanted} bytes"
    return None


def _is_in_step(head: bytes, size: int, offset: int) -> bool:
    places = range(offset, len(head), size)
    return len(places) > 1 and all(head[place] == 0x47 for place in places)


def _last_pes_packets(tail: bytes, num_packets: int, size: int, offset: int) -> dict[int, tuple[int, int]]:
    """Returns, by stream, the stated length of the last PES packet that states one, and how much of it there is."""
    found: dict[int, tuple[int, int]] = {}
    for number in range(num_packets):
        packet = tail[number * size + offset : number * size + offset + 188]
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if not packet[3] & 0x10:
            continue
        payload = packet[4 + (1 + packet[4] if packet[3] & 0x20 else 0) :]
        if packet[1] & 0x40:
            found.pop(pid, None)
            stated = int.from_bytes(payload[4:6], "big") if payload[:3] == b"\0\0\1" else 0
            if stated:
                found[pid] = (stated + 6, len(payload))
        elif pid in found:
            found[pid] = (found[pid][0], found[pid][1] + len(payload))
    return found


def _mxf(path: str, file: BinaryIO, length: int) -> str | None:
    """Steps through KLV triplets; without the index at the end libavformat does not find the last frames."""
    position = 0
    for _ in range(MAX_ITEMS):
        if position >= length:
            return None
        file.seek(position)
        head = file.read(25)
        if head[:4] != b"\x06\x0e\x2b\x34"[: len(head)]:
            return None
        size, start = head[16] if len(head) > 16 else 0, 17
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(head[17:start], "big")
        if len(head) < start or position + start + size > length:
            return "its last item cut"
        position += start + size
    return None


def _tail(file: BinaryIO, length: int) -> tuple[bytes, int]:
    start = max(length - TAIL_BYTES, 0)
    file.seek(start)
    return file.read(), start


_LATER_FILES: dict[str, Callable[[str], list[int]]] = {
    "mov,mp4,m4a,3gp,3g2,mj2": boxes.later_files,
    "matroska,webm": ebml.later_files,
    "flv": _flv_files,
    "avi": _avi_files,
}

_CHECKS: dict[str, Callable[[str, BinaryIO, int], str | None]] = {
    "mov,mp4,m4a,3gp,3g2,mj2": _mp4,
    "matroska,webm": _matroska,
    "avi": _avi,
    "flv": _flv,
    "live_flv": _flv,
    "ogg": _ogg,
    "asf": _asf,
    "mpeg": _program_stream,
    "mpegts": _transport_stream,
    "mxf": _mxf,
}
