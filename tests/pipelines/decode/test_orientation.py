"""Frames stand as a player shows them, wherever the file says how: track headers, Matroska, messages in the stream."""

import struct
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.bitstream import BitStreamFilterContext
from decoded_events import request, run
from encoded_videos import encode_video

from clipmill.pipelines.decode.orientation import IDENTITY, orientation_of
from clipmill.pipelines.decode.probe import probe
from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.decode.session import DecodeSession

ONE = 1 << 16

FILTERS = {
    (1, 0, 0, 1): [],
    (0, 1, -1, 0): [("transpose", "clock")],
    (-1, 0, 0, -1): [("hflip", None), ("vflip", None)],
    (0, -1, 1, 0): [("transpose", "cclock")],
    (-1, 0, 0, 1): [("hflip", None)],
    (1, 0, 0, -1): [("vflip", None)],
    (0, 1, 1, 0): [("transpose", "cclock_flip")],
    (0, -1, -1, 0): [("transpose", "clock_flip")],
}
"""By the signs of a, b, c, d of a matrix: the filters ffmpeg inserts for ``-autorotate`` (fftools/ffmpeg_filter.c)."""

DEGREES = {
    (1, 0, 0, 1): 0,
    (0, 1, -1, 0): 270,
    (-1, 0, 0, -1): 180,
    (0, -1, 1, 0): 90,
    (-1, 0, 0, 1): 180,
    (1, 0, 0, -1): 0,
    (0, 1, 1, 0): 270,
    (0, -1, -1, 0): 90,
}
"""Counter-clockwise, as ``av_display_rotation_get`` has it."""

SIGNS = list(FILTERS)
Frames = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def session() -> Iterator[DecodeSession]:
    with DecodeSession() as opened:
        yield opened


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames with B-frames in three groups of pictures, not square, no two corners alike."""
    return encode_video(tmp_path_factory.mktemp("plain") / "a.mp4", 30, gop=10, options={"sc_threshold": "0"})


def frames_of(session: DecodeSession, path: Path, wanted: list[int] | None = None, decoder: str = "auto") -> Frames:
    (outcome,) = run(session, [request(path, wanted, decoder)])
    assert outcome.error is None
    assert not outcome.summary.substituted
    return np.stack(list(outcome.frames.values()))


def by_libavfilter(path: Path, signs: tuple[int, ...]) -> Frames:
    """Returns all frames, decoded without regard to any matrix, through the filters ffmpeg would insert."""
    pictures = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frame = frame.reformat(format="rgb24")
            graph = av.filter.Graph()
            size = {"width": frame.width, "height": frame.height, "format": frame.format}
            nodes = [graph.add_buffer(template=container.streams.video[0], **size)]
            nodes += [graph.add(name, argument) for name, argument in FILTERS[signs]]
            nodes.append(graph.add("buffersink"))
            for before, after in zip(nodes[:-1], nodes[1:], strict=True):
                before.link_to(after)
            graph.configure()
            graph.push(frame)
            pictures.append(graph.pull().to_ndarray())
    return np.stack(pictures)


def with_matrix(source: Path, target: Path, signs: tuple[int, ...], scale: float = 1.0) -> Path:
    """Writes `source` (MP4) with another matrix in its track header."""
    data = bytearray(source.read_bytes())
    a, b, c, d = (round(sign * ONE * scale) for sign in signs)
    # The matrix of the track header follows 4 + 40 bytes after the type.
    struct.pack_into(">5i", data, data.index(b"tkhd") + 4 + 40, a, b, 0, c, d)
    target.write_bytes(data)
    return target


def remuxed(source: Path, target: Path) -> Path:
    """Writes the packets of `source` into another container, with the matrix of its stream, as ``-c copy`` does."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                written.mux(packet)
    return target


def message(codec: str, signs: tuple[int, ...]) -> bytes:
    """Returns a display orientation SEI unit (H.264 D.1.27, H.265 D.2.17) for a matrix that turns and mirrors so."""
    flip = {(-1, 0, 0, 1): (1, 0, 0), (1, 0, 0, -1): (0, 1, 0), (0, 1, 1, 0): (1, 0, 1), (0, -1, -1, 0): (0, 1, 1)}
    quarters = {(1, 0, 0, 1): 0, (0, -1, 1, 0): 1, (-1, 0, 0, -1): 2, (0, 1, -1, 0): 3}
    horizontal, vertical, turns = flip.get(signs) or (0, 0, quarters[signs])
    bits = f"0{horizontal}{vertical}{turns * 0x4000:016b}"
    # H.264 ends with ue(v) 1 (repeat until the next message) and the extension flag; H.265 with its persistence flag.
    bits += "0100" if codec == "libx264" else "1"
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
    unit = bytes([47, len(payload)]) + payload + b"\x80"
    # Emulation prevention.
    safe = bytearray()
    for byte in unit:
        if len(safe) >= 2 and safe[-2:] == b"\0\0" and byte <= 3:
            safe.append(3)
        safe.append(byte)
    return (b"\x06" if codec == "libx264" else b"\x4e\x01") + bytes(safe)


def with_messages(source: Path, target: Path, codec: str, signs: dict[int, tuple[int, ...]]) -> Path:
    """Writes `source` with a message before the key frames whose numbers `signs` has."""
    number = 0
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        annex_b = read.format.name in ("h264", "hevc", "mpegts")
        for packet in read.demux(video=0):
            if packet.dts is None:
                continue
            if packet.is_keyframe:
                if number in signs:
                    unit = message(codec, signs[number])
                    prefix = b"\0\0\0\1" if annex_b else len(unit).to_bytes(4, "big")
                    changed = av.Packet(prefix + unit + bytes(packet))
                    for name in ("pts", "dts", "duration", "time_base", "is_keyframe"):
                        setattr(changed, name, getattr(packet, name))
                    packet = changed
                number += 1
            packet.stream = stream
            written.mux(packet)
    return target


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_matrix_of_the_stream(session: DecodeSession, plain: Path, tmp_path: Path, suffix: str, signs: tuple) -> None:
    turned = with_matrix(plain, tmp_path / "turned.mp4", signs)
    path = turned if suffix == "mp4" else remuxed(turned, tmp_path / f"turned.{suffix}")
    expected = by_libavfilter(plain, signs)
    np.testing.assert_array_equal(frames_of(session, path), expected)
    np.testing.assert_array_equal(frames_of(session, path, [21, 29], "pyav"), expected[[21, 29]])
    assert probe(str(path)).rotation_degrees == DEGREES[signs]
    assert (scan(str(path)).decord_refusal is None) == (signs == (1, 0, 0, 1))


@pytest.mark.parametrize("signs", [signs for signs in SIGNS if signs != (1, 0, 0, 1)])
@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", "mp4"), ("libx265", "mp4"), ("libx265", "mkv"), ("libx264", "ts")]
)
def test_message_in_the_stream(
    session: DecodeSession, tmp_path: Path, codec: str, suffix: str, signs: tuple[int, ...]
) -> None:
    options = {"sc_threshold": "0", "x265-params": "log-level=0:scenecut=0:keyint=10:min-keyint=10"}
    name = {"libx264": "sc_threshold", "libx265": "x265-params"}[codec]
    first = "ts" if suffix == "ts" else "mp4"
    source = encode_video(tmp_path / f"plain.{first}", 30, codec=codec, gop=10, options={name: options[name]})
    path = with_messages(source, tmp_path / f"turned.{first}", codec, {0: signs})
    if suffix != first:
        path = remuxed(path, tmp_path / f"turned.{suffix}")
    expected = by_libavfilter(source, signs)
    # What the first key frame says holds for the later ones, which say nothing: also where frames are far apart.
    np.testing.assert_array_equal(frames_of(session, path), expected)
    np.testing.assert_array_equal(frames_of(session, path, [28]), expected[[28]])
    assert probe(str(path)).rotation_degrees == DEGREES[signs]


def test_video_that_turns_on_its_way(session: DecodeSession, plain: Path, tmp_path: Path) -> None:
    half, upright = (-1, 0, 0, -1), (1, 0, 0, 1)
    path = with_messages(plain, tmp_path / "turned.mp4", "libx264", {0: half, 1: upright, 2: half})
    expected = by_libavfilter(plain, half)
    expected[10:20] = by_libavfilter(plain, upright)[10:20]
    np.testing.assert_array_equal(frames_of(session, path), expected)
    np.testing.assert_array_equal(frames_of(session, path, [15, 25]), expected[[15, 25]])
    assert "turned" in (scan(str(path)).decord_refusal or "")


def test_message_as_the_filter_of_ffmpeg_writes_it(session: DecodeSession, plain: Path, tmp_path: Path) -> None:
    with av.open(str(plain)) as read, av.open(str(tmp_path / "a.mp4"), "w") as written:
        filtering = BitStreamFilterContext(
            "h264_metadata=display_orientation=insert:rotate=90:flip=horizontal", read.streams.video[0]
        )
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in [*read.demux(video=0), None]:
            for changed in filtering.filter(packet) if packet is None or packet.dts is not None else []:
                changed.stream = stream
                written.mux(changed)
    np.testing.assert_array_equal(frames_of(session, tmp_path / "a.mp4"), by_libavfilter(plain, (0, 1, 1, 0)))


def test_a_matrix_that_only_scales_changes_nothing(session: DecodeSession, plain: Path, tmp_path: Path) -> None:
    path = with_matrix(plain, tmp_path / "a.mp4", (1, 0, 0, 1), scale=2.0)
    np.testing.assert_array_equal(frames_of(session, path), by_libavfilter(plain, (1, 0, 0, 1)))


def test_the_same_phone_video_stands_upright_in_both_containers(session: DecodeSession, shared_data: Path) -> None:
    first, second = (frames_of(session, shared_data / "field" / f"rotated_phone.{suffix}") for suffix in ("mp4", "mkv"))
    assert first.shape[1:3] == (160, 120)
    np.testing.assert_array_equal(first, second)


def test_matrices_that_are_none() -> None:
    assert orientation_of((0,) * 9) == IDENTITY
    assert orientation_of((ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)) == IDENTITY
    assert not orientation_of((ONE, ONE, 0, -ONE, ONE, 0, 0, 0, 1 << 30)).upright
