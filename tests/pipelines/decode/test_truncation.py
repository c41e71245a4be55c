"""A file that was cut is told, whatever its container; one that is whole is not, whatever its header claims."""

from collections.abc import Callable
from pathlib import Path

import pytest
from altered_files import add_tone, boxes, matroska_duration, overwrite, remux
from encoded_videos import encode_video

from clipmill.pipelines.decode.scan import scan
from clipmill.schemas.errors import VideoError

NUM_FRAMES = 60
FAST_START = {"movflags": "faststart"}
FRAGMENTS = "frag_keyframe+empty_moov+default_base_moof"
QUICK_VPX = {"deadline": "realtime", "cpu-used": "8"}

Make = Callable[[Path], Path]


def _encoded(name: str, codec: str = "libx264", **options: object) -> Make:
    return lambda folder: encode_video(folder / name, NUM_FRAMES, codec=codec, pattern="noise", **options)  # type: ignore[arg-type]


def _remuxed(name: str, live: bool = False, format: str | None = None, **options: str) -> Make:
    return lambda folder: remux(_encoded("source.mp4")(folder), folder / name, format, options, live=live)


def _with_tone(name: str) -> Make:
    return lambda folder: add_tone(_encoded("source.mp4")(folder), folder / name, NUM_FRAMES / 25)


KINDS: dict[str, Make] = {
    "fast start": _remuxed("a.mp4", **FAST_START),
    "fast start, sound": lambda folder: remux(_with_tone("s.mp4")(folder), folder / "a.mp4", None, FAST_START),
    "mov": _remuxed("a.mov", **FAST_START),
    "fragments": _remuxed("a.mp4", movflags=FRAGMENTS),
    "fragments, index of segments": _remuxed("a.mp4", movflags=f"{FRAGMENTS}+global_sidx"),
    "matroska": _encoded("a.mkv"),
    "matroska, sound": _with_tone("a.mkv"),
    "matroska, live": _remuxed("a.mkv", live=True, format="matroska"),
    "webm": _encoded("a.webm", "libvpx", max_b_frames=0, options=QUICK_VPX),
    "avi": _encoded("a.avi", "mpeg4"),
    "flv": _remuxed("a.flv"),
    "flv, live": _remuxed("a.flv", live=True, format="flv"),
    "transport stream": _encoded("a.ts"),
    "transport stream, sound": _with_tone("a.ts"),
    "transport stream, mpeg-2": _encoded("a.ts", "mpeg2video"),
    "blu-ray": _remuxed("a.m2ts"),
    "program stream": _encoded("a.mpg", "mpeg2video"),
    "asf": _encoded("a.wmv", "wmv2", max_b_frames=0),
    "mxf": _encoded("a.mxf", "mpeg2video"),
    "raw": _encoded("a.h264"),
    "ivf": _encoded("a.ivf", "libvpx", max_b_frames=0, options=QUICK_VPX),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_is_told_wherever_it_falls(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path)
    whole = path.read_bytes()
    intact = scan(str(path))
    assert (intact.truncated, intact.num_frames) == (None, NUM_FRAMES)
    cut = path.with_stem("cut")
    told = 0
    for percent in (23.4, 51, 77.7, 90, 95, 99):
        cut.write_bytes(whole[: int(len(whole) * percent / 100)])
        try:
            timeline = scan(str(cut))
        except VideoError as error:
            # Cut within the header, of which there is much in MXF.
            told += error.reason == "truncated"
            continue
        assert timeline.num_frames <= NUM_FRAMES
        if timeline.num_frames < NUM_FRAMES:
            assert timeline.truncated is not None, f"cut to {percent} %, {timeline.num_frames} frames"
            told += 1
    assert told >= 4


@pytest.mark.parametrize("unit", [188, 1])
def test_a_transport_stream_cut_between_its_packets_is_told_by_its_last_frame(unit: int, tmp_path: Path) -> None:
    whole = _encoded("a.ts")(tmp_path).read_bytes()
    # In the middle of the third key frame, which is many packets long.
    middle = len(whole) * 5 // 12
    cut = tmp_path / "cut.ts"
    for place in range(middle, middle + 5 * 188, 188):
        cut.write_bytes(whole[: place // unit * unit])
        timeline = scan(str(cut))
        starts_frame = whole[place // 188 * 188 + 1] & 0x40
        assert timeline.truncated is not None or (unit == 188 and starts_frame)


@pytest.mark.parametrize("name", ["cut_half.mp4", "cut_half.mkv"])
def test_the_cut_field_files(name: str, shared_data: Path) -> None:
    timeline = scan(str(shared_data / "field" / name))
    assert timeline.truncated is not None
    assert 115 <= timeline.num_frames <= 125


def test_a_partly_downloaded_file_of_full_size_is_told(tmp_path: Path) -> None:
    for path in (_encoded("a.mkv")(tmp_path), _remuxed("a.flv")(tmp_path)):
        large = encode_video(
            path.with_name(f"source_{path.suffix[1:]}.mp4"), 250, width=320, height=240, pattern="noise"
        )
        data = remux(large, path).read_bytes()
        path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
        assert scan(str(path)).truncated is not None, path.name


def test_headers_of_live_recordings_are_no_false_alarms(tmp_path: Path) -> None:
    longer = matroska_duration(_encoded("longer.mkv")(tmp_path), 30.0)
    shorter = matroska_duration(_encoded("shorter.mkv")(tmp_path), 0.5)
    flv = overwrite(_remuxed("a.flv")(tmp_path), b"\x00\x08duration\x00", 11, bytes.fromhex("4069000000000000"))
    mp4 = overwrite(_remuxed("a.mp4")(tmp_path), b"mvhd", 4 + 16, (60_000).to_bytes(4, "big"))
    avi = overwrite(_encoded("a.avi", "mpeg4")(tmp_path), b"avih", 4 + 4 + 16, (5_000).to_bytes(4, "little"))
    for path in (longer, shorter, flv, mp4, avi):
        timeline = scan(str(path))
        assert (timeline.truncated, timeline.num_frames) == (None, NUM_FRAMES), path.name


def test_sound_that_is_longer_than_the_pictures_is_no_false_alarm(tmp_path: Path) -> None:
    source = _encoded("source.mp4")(tmp_path)
    for name in ("a.mp4", "a.mkv", "a.ts", "a.flv"):
        timeline = scan(str(add_tone(source, tmp_path / name, 9.0)))
        assert (timeline.truncated, timeline.num_frames) == (None, NUM_FRAMES), name


def test_an_index_that_is_cut_off_behind_the_frames_is_no_loss(tmp_path: Path) -> None:
    whole = _encoded("a.avi", "mpeg4")(tmp_path).read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(whole[: whole.rindex(b"idx1") + 100])
    timeline = scan(str(path))
    assert (timeline.truncated, timeline.num_frames) == (None, NUM_FRAMES)


def test_an_edit_list_that_leaves_out_the_end_is_no_loss(tmp_path: Path) -> None:
    path = _encoded("a.mp4")(tmp_path)
    # The edit's length, in units of the film's time scale of 1000.
    overwrite(path, b"elst", 4 + 8, (1000).to_bytes(4, "big"))
    timeline = scan(str(path))
    assert timeline.truncated is None
    assert 25 <= timeline.num_frames < NUM_FRAMES
    assert timeline.stop_seconds == pytest.approx(1.0, abs=0.13)


def test_fragments_cut_at_their_border_are_told_by_what_the_index_announces(tmp_path: Path) -> None:
    parts = list(boxes(_remuxed("a.mp4", movflags=FRAGMENTS)(tmp_path).read_bytes()))
    (index,) = [data for kind, data in parts if kind == b"moov"]
    announced = struct_mehd(index, round(NUM_FRAMES / 25 * 1000))
    fragments = [data for kind, data in parts if kind in (b"moof", b"mdat")]
    head = next(data for kind, data in parts if kind == b"ftyp")
    path = tmp_path / "b.mp4"
    path.write_bytes(head + announced + b"".join(fragments))
    assert scan(str(path)).truncated is None
    path.write_bytes(head + announced + b"".join(fragments[:4]))
    timeline = scan(str(path))
    assert timeline.num_frames == 24
    assert "2.400 s" in str(timeline.truncated)


def struct_mehd(index: bytes, ticks: int) -> bytes:
    """Returns a ``moov`` box whose ``mvex`` announces how long the fragments are together."""
    box = (16).to_bytes(4, "big") + b"mehd" + bytes(4) + ticks.to_bytes(4, "big")
    place = index.index(b"mvex")
    size = int.from_bytes(index[place - 4 : place], "big") + len(box)
    grown = index[: place - 4] + size.to_bytes(4, "big") + b"mvex" + box + index[place + 4 :]
    return len(grown).to_bytes(4, "big") + grown[4:]


def test_a_file_cut_before_its_index_has_nothing_to_keep(tmp_path: Path) -> None:
    whole = _encoded("a.mp4")(tmp_path).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(VideoError) as caught:
        scan(str(tmp_path / "cut.mp4"))
    assert caught.value.reason == "truncated"
