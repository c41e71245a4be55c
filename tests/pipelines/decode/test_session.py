"""The frame delivered for an index is the frame that is shown then, whatever decodes it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from decoded_events import Outcome, request, run
from encoded_videos import draw_frame, encode_video, read_frame_number

from clipmill.extractors.preprocess import apply_geometry
from clipmill.pipelines.decode import slots
from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.decode.session import DecodedFrame, DecodeSession, Finished, View
from clipmill.schemas.recipe import Preprocess

ENCODINGS = [
    ("plain.mp4", {"codec": "libx264", "max_b_frames": 0}),
    ("b_frames.mp4", {"codec": "libx264", "max_b_frames": 4, "options": {"x264-params": "b-pyramid=normal"}}),
    ("open_gop.mp4", {"codec": "libx264", "max_b_frames": 3, "options": {"x264-params": "open-gop=1:b-adapt=0"}}),
    ("open_gop.mkv", {"codec": "libx265", "options": {"x265-params": "open-gop=1:log-level=none"}}),
    ("one_gop.mkv", {"codec": "libx264", "gop": 1000}),
    ("intra.mp4", {"codec": "libx264", "gop": 1, "max_b_frames": 0}),
    ("periodic_intra_refresh.mkv", {"codec": "libx264", "options": {"x264-params": "intra-refresh=1"}}),
    ("b_frames.avi", {"codec": "mpeg4"}),
    ("a.ts", {"codec": "libx264"}),
    ("a.mpg", {"codec": "mpeg2video"}),
    ("vp9.webm", {"codec": "libvpx-vp9", "max_b_frames": 0}),
    ("av1.mp4", {"codec": "libsvtav1", "max_b_frames": 0, "options": {"preset": "12", "svtav1-params": "lp=1"}}),
    ("ten_bit.mp4", {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": "log-level=none"}}),
    ("odd.mp4", {"codec": "libx264", "width": 97, "height": 65, "pix_fmt": "yuv444p"}),
]
NUM_FRAMES = 60


@pytest.fixture(scope="module")
def session() -> Iterator[DecodeSession]:
    with DecodeSession(deadline_seconds=200, videos_per_child=1000) as session:
        yield session


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoded")
    encoded = {name: encode_video(folder / name, NUM_FRAMES, **options) for name, options in ENCODINGS}  # type: ignore[arg-type]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    return encoded


def numbers(outcome: Outcome) -> list[int]:
    return [read_frame_number(pixels) for pixels in outcome.frames.values()]


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("name", [name for name, _ in ENCODINGS])
def test_every_frame_is_the_one_of_its_index(
    session: DecodeSession, videos: dict[str, Path], name: str, decoder: str
) -> None:
    (outcome,) = run(session, [request(videos[name], decoder=decoder)])
    assert outcome.error is None
    assert outcome.indices() == list(range(NUM_FRAMES))
    assert numbers(outcome) == list(range(NUM_FRAMES))
    assert outcome.summary is not None
    assert outcome.summary.substituted == ()


@pytest.mark.parametrize("wanted", [[37], [0, 11, 12, 13, 59], [5, 25, 26, 47]])
@pytest.mark.parametrize("name", [name for name, _ in ENCODINGS])
def test_few_frames_are_the_same_as_in_a_whole_pass(
    session: DecodeSession, videos: dict[str, Path], name: str, wanted: list[int]
) -> None:
    whole, few = run(session, [request(videos[name], decoder="pyav"), request(videos[name], wanted)])
    assert few.indices() == wanted
    assert numbers(few) == wanted
    for index in wanted:
        np.testing.assert_array_equal(few.frames[0, index], whole.frames[0, index])


@pytest.mark.parametrize("name", ["plain.mp4", "b_frames.mp4", "open_gop.mp4", "open_gop.mkv", "odd.mp4", "vp9.webm"])
def test_decord_walks_dense_passes_and_gives_the_pixels_pyav_gives(
    session: DecodeSession, videos: dict[str, Path], name: str
) -> None:
    ours, exact = run(session, [request(videos[name]), request(videos[name], decoder="pyav")])
    assert ours.summary is not None
    assert ours.summary.decoder == "decord"
    assert ours.summary.fallback_reason is None
    assert ours.summary.decoder_version
    for key, pixels in exact.frames.items():
        np.testing.assert_array_equal(ours.frames[key], pixels)


@pytest.mark.parametrize("width", [8, 16, 24, 48, 96, 100, 144])
def test_rows_padded_for_the_vectors_of_any_processor_lose_their_padding(
    session: DecodeSession, tmp_path: Path, width: int
) -> None:
    # Padded to 32, 64 or 128 bytes, some of these are whole multiples of their width: decord sees further channels.
    path = encode_video(tmp_path / "a.mp4", 4, width=width, height=48)
    (decord, pyav) = run(session, [request(path), request(path, decoder="pyav")])
    assert decord.summary is not None
    assert decord.summary.decoder == "decord"
    for key, pixels in pyav.frames.items():
        np.testing.assert_array_equal(decord.frames[key], pixels)


def test_decord_with_gaps_longer_than_a_group_of_pictures_does_not_go_astray(
    session: DecodeSession, videos: dict[str, Path]
) -> None:
    wanted = [3, 29, 30, 58]
    (outcome,) = run(session, [request(videos["open_gop.mp4"], wanted, decoder="decord")])
    assert outcome.summary is not None
    assert outcome.summary.decoder == "decord"
    assert numbers(outcome) == wanted


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ten_bit.mp4", "pixel format yuv420p10le"),
        ("a.ts", "container mpegts"),
        ("a.mpg", "container mpeg"),
    ],
)
def test_what_decord_gets_wrong_goes_to_pyav_with_the_reason(
    session: DecodeSession, videos: dict[str, Path], name: str, reason: str
) -> None:
    (outcome,) = run(session, [request(videos[name])])
    assert outcome.summary is not None
    assert outcome.summary.decoder == "pyav"
    assert reason in str(outcome.summary.fallback_reason)
    assert outcome.restarts == []


def test_decord_alone_fails_where_it_would_fall_back(session: DecodeSession, tmp_path: Path) -> None:
    damaged = damage(encode_video(tmp_path / "a.mp4", NUM_FRAMES), [30])
    (outcome,) = run(session, [request(damaged, decoder="decord")])
    assert outcome.error is not None
    assert outcome.error.reason == "decord_failed"


def test_variable_rate_and_late_start(session: DecodeSession, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    times = 2.5 + np.cumsum(generator.choice([0.02, 0.04, 0.2], 50))
    path = encode_video(tmp_path / "a.mp4", 50, pts=list(times))
    timeline = scan(str(path))
    np.testing.assert_allclose(timeline.pts_seconds, times, atol=1e-4)
    for frames in (None, [20, 44]):
        (outcome,) = run(session, [request(path, frames)])
        assert numbers(outcome) == outcome.indices()


def test_views_share_one_pass_and_each_gets_its_own_frames_prepared(
    session: DecodeSession, videos: dict[str, Path]
) -> None:
    small = Preprocess(resize="exact", size=(32, 48))
    cropped = Preprocess(resize="short_side", size=(40,), crop=(24, 24), colour="grey")
    as_is = Preprocess()
    views = (View(small, range(0, 60, 2)), View(cropped, [0, 1, 2, 59]), View(as_is, [2]))
    (outcome,) = run(session, [request(videos["plain.mp4"], views=views)])
    assert outcome.indices(0) == list(range(0, 60, 2))
    assert outcome.indices(1) == [0, 1, 2, 59]
    assert outcome.summary is not None
    assert outcome.summary.num_frames_decoded == NUM_FRAMES
    frame = outcome.frames[2, 2]
    np.testing.assert_array_equal(outcome.frames[0, 2], apply_geometry(frame, small))
    np.testing.assert_array_equal(outcome.frames[1, 2], apply_geometry(frame, cropped))
    assert outcome.frames[1, 2].shape == (24, 24, 1)


def test_pixels_belong_to_the_consumer(videos: dict[str, Path]) -> None:
    with DecodeSession(ring_bytes=1 << 16) as session:
        first = None
        for event in session.run([request(videos["plain.mp4"])]):
            if isinstance(event, DecodedFrame):
                first = event.pixels if first is None else first
                assert event.pixels.flags.writeable
        assert first is not None
        assert read_frame_number(first) == 0


def test_frame_larger_than_the_ring(videos: dict[str, Path]) -> None:
    with DecodeSession(ring_bytes=4096) as session:
        outcomes = run(session, [request(videos["plain.mp4"]), request(videos["b_frames.mp4"], decoder="pyav")])
        assert [numbers(outcome) for outcome in outcomes] == [list(range(NUM_FRAMES))] * 2


def test_requests_come_back_in_order_and_children_are_replaced(videos: dict[str, Path]) -> None:
    with DecodeSession(videos_per_child=2) as session:
        pids = []
        for event in session.run([request(videos["plain.mp4"], [number]) for number in range(5)]):
            if isinstance(event, Finished):
                pids.append(session.pids[0] if session.pids else None)
        assert len({pid for pid in pids if pid}) == 3


def test_a_child_is_replaced_after_so_many_frames_too(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "FRAMES_PER_CHILD", 2 * NUM_FRAMES)
    with DecodeSession() as session:
        pids = []
        for event in session.run([request(videos["plain.mp4"], [number]) for number in range(5)]):
            if isinstance(event, Finished):
                pids.append(session.pids[0] if session.pids else None)
        assert len({pid for pid in pids if pid}) == 3


def test_requests_are_drawn_no_further_than_one_ahead(videos: dict[str, Path]) -> None:
    drawn: list[int] = []
    wanted = request(videos["plain.mp4"])

    def requests() -> Iterator:  # type: ignore[type-arg]
        for number in range(6):
            drawn.append(number)
            yield wanted

    with DecodeSession() as session:
        for event in session.run(requests()):
            assert len(drawn) <= event.request + 2


def test_resized_frames_of_a_rotated_video_stand_upright(session: DecodeSession, shared_data: Path) -> None:
    path = shared_data / "torture" / "decord" / "video_90.mov"
    with av.open(str(path)) as container:
        lying = next(container.decode(container.streams.video[0])).to_ndarray(format="rgb24")
    for decoder in ("auto", "pyav"):
        (outcome,) = run(session, [request(path, decoder=decoder)])
        np.testing.assert_array_equal(outcome.frames[0, 0], np.rot90(lying, -1))


def planes_to_rgb(frame: av.VideoFrame, kr: float, kb: float, full: bool) -> npt.NDArray[np.float64]:
    """Returns RGB by the closed form of ITU-R BT.601 and BT.709, chroma repeated to full size."""
    planes = []
    for plane, half in zip(frame.planes, (False, True, True), strict=True):
        data = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width].astype(float)
        planes.append(data.repeat(2, 0).repeat(2, 1)[: frame.height, : frame.width] if half else data)
    y = planes[0] / 255 if full else (planes[0] - 16) / 219
    u, v = ((plane - 128) / (255 if full else 224) for plane in planes[1:])
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue], axis=-1), 0, 1) * 255


@pytest.mark.parametrize(
    ("name", "kr", "kb", "full"),
    [
        ("bt601_full_range.mp4", 0.299, 0.114, True),
        ("bt601_limited_range.mp4", 0.299, 0.114, False),
        ("bt709_full_range.mp4", 0.2126, 0.0722, True),
        ("nasa_13013.mp4", 0.2126, 0.0722, False),
    ],
)
def test_colour_follows_the_matrix_and_range_of_the_video(
    session: DecodeSession, shared_data: Path, name: str, kr: float, kb: float, full: bool
) -> None:
    path = shared_data / "torture" / "torchcodec" / name
    with av.open(str(path)) as container:
        frame = next(container.decode(container.streams.best("video")))
    expected = planes_to_rgb(frame, kr, kb, full)
    (outcome,) = run(session, [request(path, [0])])
    # swscale works in integers: it may be two off. A wrong matrix or range is off by 5 and more in the mean.
    apart = np.abs(outcome.frames[0, 0] - expected)
    assert apart.mean() < 1.0
    assert np.quantile(apart, 0.999) <= 3


def damage(path: Path, packets: list[int]) -> Path:
    """Overwrites the middle of some packets (in decoding order) with noise; returns the path."""
    with av.open(str(path)) as container:
        spans = [(packet.pos, packet.size) for packet in container.demux(container.streams.video[0]) if packet.size]
    data = bytearray(path.read_bytes())
    generator = np.random.default_rng(0)
    for number in packets:
        position, size = spans[number]
        data[position + 4 : position + size] = generator.bytes(size - 4)
    path.write_bytes(data)
    return path


def test_lost_frames_are_substituted_by_the_nearest_earlier_one_and_counted(
    session: DecodeSession, tmp_path: Path
) -> None:
    path = damage(encode_video(tmp_path / "a.mp4", NUM_FRAMES, gop=10, max_b_frames=0), [25, 40])
    (outcome,) = run(session, [request(path)])
    assert outcome.summary is not None
    assert outcome.summary.decoder == "pyav"
    assert "decord" in str(outcome.summary.fallback_reason)
    assert 25 in outcome.summary.substituted
    assert outcome.indices() == list(range(NUM_FRAMES))
    found = numbers(outcome)
    lost = set(outcome.summary.substituted)
    for index in range(NUM_FRAMES):
        if index in lost:
            np.testing.assert_array_equal(outcome.frames[0, index], outcome.frames[0, index - 1])
        elif index % 10 == 0 or not {25, 40} & set(range(index // 10 * 10, index + 1)):
            assert found[index] == index


def test_damage_gives_the_same_every_time(session: DecodeSession, tmp_path: Path) -> None:
    path = damage(encode_video(tmp_path / "a.mp4", NUM_FRAMES, gop=20, pattern="noise"), [8, 30, 31])
    first, second, third = run(session, [request(path), request(path), request(path, decoder="pyav")])
    assert first.summary is not None
    assert first.summary.substituted
    for other in (second, third):
        assert other.summary is not None
        assert other.summary.substituted == first.summary.substituted
        for key, pixels in first.frames.items():
            np.testing.assert_array_equal(other.frames[key], pixels)


def test_file_that_breaks_off_gives_what_it_has_and_counts_the_rest(session: DecodeSession, tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mkv", NUM_FRAMES, gop=10, max_b_frames=0)
    planned = scan(str(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    num_left = scan(str(path)).num_frames
    assert 30 < num_left < NUM_FRAMES
    (outcome,) = run(session, [request(path, timeline=planned)])
    assert outcome.summary is not None
    assert set(outcome.summary.substituted) >= set(range(num_left, NUM_FRAMES))
    assert len(outcome.frames) == NUM_FRAMES
    assert numbers(outcome)[: num_left - 1] == list(range(num_left - 1))


def test_mostly_undecodable(session: DecodeSession, tmp_path: Path) -> None:
    path = damage(encode_video(tmp_path / "a.mp4", NUM_FRAMES, gop=1, max_b_frames=0), list(range(20, 60)))
    (outcome,) = run(session, [request(path)])
    assert outcome.error is not None
    assert (outcome.error.stage, outcome.error.reason) == ("decode", "mostly_undecodable")


def test_undecodable(session: DecodeSession, tmp_path: Path) -> None:
    path = damage(encode_video(tmp_path / "a.mp4", 10, gop=1, max_b_frames=0), list(range(10)))
    (outcome,) = run(session, [request(path)])
    assert outcome.error is not None
    assert (outcome.error.stage, outcome.error.reason) == ("decode", "undecodable")
    assert "\n" not in outcome.error.message


def test_file_that_vanished_since_planning_fails_alone(session: DecodeSession, tmp_path: Path) -> None:
    gone, good = encode_video(tmp_path / "a.mp4", 5), encode_video(tmp_path / "b.mp4", 5)
    requests = [request(gone), request(good)]
    gone.unlink()
    first, second = run(session, requests)
    assert first.error is not None
    assert first.error.reason == "missing_file"
    assert len(second.frames) == 5


def test_vp8_frame_that_is_never_shown_is_no_frame(session: DecodeSession, tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.webm", 20, codec="libvpx", max_b_frames=0, pattern="plain")
    with av.open(str(path)) as container:
        payload = bytes([packet for packet in container.demux(container.streams.video[0]) if packet.size][7])
    data = bytearray(path.read_bytes())
    place = data.index(payload)
    data[place] &= ~0x10
    path.write_bytes(data)
    (outcome,) = run(session, [request(path)])
    assert outcome.summary is not None
    assert outcome.summary.decoder == "pyav"
    assert outcome.summary.fallback_reason == "1 packets whose frames are not shown"
    assert numbers(outcome) == [*range(7), *range(8, 20)]


def test_size_that_changes_on_the_way_is_refused_unless_resized(session: DecodeSession, tmp_path: Path) -> None:
    small, large = encode_video(tmp_path / "a.h264", 10), encode_video(tmp_path / "b.h264", 10, width=128, height=96)
    path = tmp_path / "both.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    exact = View(Preprocess(resize="exact", size=(48, 64)), range(20))
    as_is, resized = run(session, [request(path), request(path, views=[exact])])
    assert as_is.error is not None
    assert as_is.error.reason == "size_changes"
    assert numbers(resized) == [*range(10), *range(10)]


def test_drawn_frames_can_be_read_back_at_any_size() -> None:
    for number in (0, 1, 255, 256, 65_535):
        pixels = draw_frame(number, 96, 64)
        assert read_frame_number(pixels) == number
        assert read_frame_number(apply_geometry(pixels, Preprocess(resize="exact", size=(40, 50)))) == number


def test_session_needs_no_heavy_library_in_the_parent() -> None:
    heavy = "{'av', 'decord', 'cv2', 'torch'}"
    code = f"import sys, clipmill.pipelines.decode.session; print(sorted({heavy} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert printed.stdout.strip() == "[]"
