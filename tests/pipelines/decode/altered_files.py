"""Remuxes, cuts, joins and breaks small videos, byte by byte where no muxer would."""

import io
import struct
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


class Pipe(io.RawIOBase):
    """What a live stream is written to: a muxer cannot go back and complete its header."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)


def remux(
    source: Path,
    target: Path,
    format: str | None = None,
    options: Mapping[str, str] | None = None,
    shift_seconds: float = 0.0,
    live: bool = False,
) -> Path:
    """Writes the packets of `source` into another container; returns its path."""
    sink = Pipe()
    place = {"file": sink} if live else {"file": str(target)}
    with (
        av.open(str(source)) as read,
        av.open(**place, mode="w", format=format, options=dict(options or {})) as written,
    ):
        streams = {stream.index: written.add_stream_from_template(stream, opaque=True) for stream in read.streams}
        for packet in read.demux():
            if packet.dts is None:
                continue
            offset = round(Fraction(shift_seconds) / packet.time_base)
            packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
            packet.stream = streams[packet.stream.index]
            written.mux(packet)
    if live:
        target.write_bytes(sink.data)
    return target


def add_tone(source: Path, target: Path, seconds: float) -> Path:
    """Writes `source` with a sound track of its own length."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        video = written.add_stream_from_template(read.streams.video[0], opaque=True)
        audio = written.add_stream("aac", rate=16_000, layout="mono")
        for number in range(int(seconds * 16_000 / 1024)):
            wave = 0.2 * np.sin(np.arange(1024 * number, 1024 * (number + 1)) / 6).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), 1024 * number
            written.mux(audio.encode(frame))
        written.mux(audio.encode(None))
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                written.mux(packet)
    return target


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields type and whole bytes of the top-level boxes of an MP4 file."""
    position = 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        yield data[position + 4 : position + 8], data[position : position + size]
        position += size


def overwrite(path: Path, mark: bytes, offset: int, value: bytes) -> Path:
    """Replaces bytes `offset` behind the first `mark`."""
    data = bytearray(path.read_bytes())
    place = data.index(mark) + offset
    data[place : place + len(value)] = value
    path.write_bytes(data)
    return path


def matroska_duration(path: Path, seconds: float) -> Path:
    """Writes another duration into a Matroska file's header."""
    mark = b"\x44\x89\x88"
    return overwrite(path, mark, len(mark), struct.pack(">d", seconds * 1000))


def _content(data: bytes, size_at: int) -> tuple[int, int]:
    """Returns where an element's content begins, and how long it is."""
    num_bytes = 9 - data[size_at].bit_length()
    value = int.from_bytes(data[size_at : size_at + num_bytes], "big")
    return size_at + num_bytes, value & ((1 << 7 * num_bytes) - 1)


def encrypt_matroska(path: Path, key_id: bytes = b"sixteen byte key") -> Path:
    """Marks the first track as encrypted (RFC 9559, 5.1.4.1.31.8) and scrambles its blocks' frames."""
    data = path.read_bytes()

    def element(name: str, payload: bytes) -> bytes:
        return bytes.fromhex(name) + bytes([0x80 | len(payload)]) + payload

    encryption = element("5035", element("47e1", b"\x05") + (element("47e2", key_id) if key_id else b""))
    encodings = element("6d80", element("6240", element("5033", b"\x01") + encryption))
    segment, tracks = data.index(bytes.fromhex("18538067")), data.rindex(bytes.fromhex("1654ae6b"))
    entry = data.index(b"\xae", _content(data, tracks + 4)[0])
    for size_at in (segment + 4, tracks + 4, entry + 1):
        start, size = _content(data, size_at)
        end = start + size
        grown = (size + len(encodings)) | 1 << 7 * (start - size_at)
        data = data[:size_at] + grown.to_bytes(start - size_at, "big") + data[start:]
    head, rest = data[:end] + encodings, bytearray(data[end:])
    cluster = rest.index(bytes.fromhex("1f43b675"))
    for place in range(cluster + 40, len(rest) - 200):
        rest[place] ^= 0x5A if place % 7 else 0
    path.write_bytes(head + rest)
    return path


def hide_vp9_key_frame(source: Path, target: Path, number: int, superframe: bool) -> Path:
    """Makes key frame `number` of a VP9 file one that is not shown, followed by a packet that shows it.

    As in the specification, 6.2: ``show_frame`` is the eighth bit of a key frame; 0x88 is a frame of one byte that
    shows the frame in slot 0, and a key frame is kept in all slots.
    """
    with av.open(str(source)) as read, av.open(str(target), "w", options={"fflags": "-autobsf"}) as written:
        stream = written.add_stream_from_template(read.streams.video[0], opaque=True)
        for index, packet in enumerate(packet for packet in read.demux(video=0) if packet.size):
            data = bytes(packet)
            pieces = [(data, 0)]
            if index == number:
                assert (packet.is_keyframe, data[0]) == (True, 0x82), "a shown key frame of profile 0"
                hidden = bytes([0x80]) + data[1:]
                pieces = [(hidden, -10), (b"\x88", 0)]
                if superframe:
                    # Annex B: sizes of two bytes each, between two marks.
                    mark = bytes([0xC0 | 1 << 3 | 1])
                    index_bytes = len(hidden).to_bytes(2, "little") + (1).to_bytes(2, "little")
                    pieces = [(hidden + b"\x88" + mark + index_bytes + mark, 0)]
            for piece, shift in pieces:
                made = av.Packet(piece)
                made.pts = made.dts = packet.pts + shift
                made.duration = packet.duration
                made.time_base, made.stream, made.is_keyframe = packet.time_base, stream, packet.is_keyframe
                written.mux(made)
    return target
