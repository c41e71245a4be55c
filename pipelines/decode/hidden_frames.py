"""Packets that decode to no picture that is shown: what an encoder keeps only for other frames to refer to, and what a
recording that was begun in mid-stream has of pictures that refer to what came before it.

Sources: VP8: RFC 6386, 9.1 (``show_frame``). VP9: the bitstream specification, 6.2 (``uncompressed_header``) and annex
B (superframes). AV1: the bitstream specification, 5.3.2 (OBU header), 5.5.1 (sequence header) and 5.9.2 (frame header).
Theora: the specification, 6 (headers, which stand in mid-stream where another stream was joined). MPEG-1 and MPEG-2:
ISO/IEC 13818-2, 6.2.2.6 (``closed_gop``).
"""

from collections.abc import Callable, Iterator

import numpy as np

from clipmill.schemas.arrays import Bools, Ints

_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME, _REDUNDANT_FRAME_HEADER = 1, 3, 6, 7


def lead_in(pts: Ints, key: Bools, codec: str, first_key: bytes) -> Bools:
    """Returns ``bool[N]``: packets at the start of a stream that was cut out of a broadcast, which no decoder shows.

    Those before the first key frame, and in MPEG-1 and MPEG-2 those that follow it and precede it on display, unless
    its group of pictures says that it is closed. In a stream without a key frame every packet may show something.

    Args:
        pts, key: of the packets, in the order of the file.
        first_key: the bytes of the first key frame's packet.
    """
    hidden = np.zeros(len(pts), dtype=bool)
    if not key.any():
        return hidden
    first = int(np.argmax(key))
    hidden[:first] = True
    if codec in ("mpeg1video", "mpeg2video"):
        group = first_key.find(b"\0\0\1\xb8")
        is_closed = 0 <= group < len(first_key) - 7 and bool(first_key[group + 7] & 0x40)
        if not is_closed:
            later = np.flatnonzero(pts[first + 1 :] > pts[first])
            until = first + 1 + int(later[0]) if len(later) else len(pts)
            hidden[first + 1 : until] = True
    return hidden


def shown_test(codec: str, extradata: bytes | None) -> Callable[[bytes], bool] | None:
    """Returns a test that tells of a packet's bytes whether it shows a picture; None where every packet does.

    Args:
        codec: canonical name, such as ``vp9``.
        extradata: of the stream: AV1 may keep its sequence header there.
    """
    if codec == "theora":
        return _theora_shows
    if codec == "vp8":
        return _vp8_shows
    if codec == "vp9":
        return _vp9_shows
    if codec == "av1":
        return _Av1(extradata or b"").shows
    return None


def _theora_shows(data: bytes) -> bool:
    return not data[0] & 0x80


def _vp8_shows(data: bytes) -> bool:
    return bool(data[0] & 0x10)


def _vp9_shows(data: bytes) -> bool:
    return any(_vp9_frame_shows(frame) for frame in _superframe(data))


def _superframe(data: bytes) -> Iterator[bytes]:
    """Yields the frames of a superframe, or the one frame that `data` is."""
    marker = data[-1]
    if marker & 0xE0 == 0xC0:
        num_frames, num_size_bytes = (marker & 7) + 1, (marker >> 3 & 3) + 1
        index_bytes = 2 + num_frames * num_size_bytes
        if len(data) > index_bytes and data[-index_bytes] == marker:
            position = 0
            for number in range(num_frames):
                start = len(data) - index_bytes + 1 + number * num_size_bytes
                size = int.from_bytes(data[start : start + num_size_bytes], "little")
                if size:
                    yield data[position : position + size]
                position += size
            return
    yield data


def _vp9_frame_shows(frame: bytes) -> bool:
    bits = _bits(frame)
    if len(frame) < 2 or bits(0, 2) != 2:
        # No VP9 frame: what becomes of it is for the decoder to say.
        return True
    # profile_low_bit, profile_high_bit; profile 3 has one reserved bit more.
    place = 5 if bits(2, 2) == 3 else 4
    show_existing_frame = bits(place, 1)
    show_frame = bits(place + 2, 1)
    return bool(show_existing_frame or show_frame)


class _Av1:
    """Reads frame headers, for which the sequence header must be known."""

    def __init__(self, extradata: bytes) -> None:
        self._reduced = False
        # An av1C record: four bytes, then OBUs (AV1 in ISOBMFF, 2.3).
        for kind, payload in _obus(extradata[4:] if extradata[:1] == b"\x81" else extradata):
            self._learn(kind, payload)

    def _learn(self, kind: int, payload: bytes) -> None:
        if kind == _SEQUENCE_HEADER and payload:
            # seq_profile (3 bits), still_picture, reduced_still_picture_header.
            self._reduced = bool(_bits(payload)(4, 1))

    def shows(self, data: bytes) -> bool:
        headers = 0
        for kind, payload in _obus(data):
            self._learn(kind, payload)
            if kind in (_FRAME_HEADER, _FRAME, _REDUNDANT_FRAME_HEADER) and payload:
                headers += 1
                # show_existing_frame, frame_type (2 bits), show_frame.
                if self._reduced or payload[0] & 0x80 or payload[0] & 0x10:
                    return True
        return not headers and not _is_only_headers(data)


def _is_only_headers(data: bytes) -> bool:
    """Returns whether a packet holds delimiters, sequence headers, metadata and padding only."""
    kinds = [kind for kind, _ in _obus(data)]
    return bool(kinds) and not set(kinds) & {4, 8}


def _obus(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields type and payload of each OBU; stops where the bytes do not parse."""
    position = 0
    while position < len(data):
        header = data[position]
        position += 2 if header & 4 else 1
        size = len(data) - position
        if header & 2:
            size, position = _leb128(data, position)
        if header & 0x80 or size < 0 or position + size > len(data):
            return
        yield header >> 3 & 15, data[position : position + size]
        position += size


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for number in range(8):
        if position >= len(data):
            return -1, position
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << (7 * number)
        if not byte & 0x80:
            return value, position
    return -1, position


def _bits(data: bytes) -> Callable[[int, int], int]:
    """Returns a reader of `count` bits from bit `start` on, the most significant first."""
    head = int.from_bytes(data[:8].ljust(8, b"\0"), "big")
    return lambda start, count: head >> (64 - start - count) & ((1 << count) - 1)
