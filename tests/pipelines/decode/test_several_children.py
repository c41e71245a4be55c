"""Several children give what one gives, frame by frame: on different videos, and on stretches of one."""

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from decoded_events import Outcome, request, run
from encoded_videos import encode_video, read_frame_number

from clipmill.pipelines.decode import slots
from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.decode.session import DecodedFrame, DecodeRequest, DecodeSession, Finished, Restarted, View
from clipmill.schemas.errors import VideoError
from clipmill.schemas.recipe import Preprocess

NUM_FRAMES = 160
GOP = 20
MEDIA = {".mp4", ".mov", ".mkv", ".avi", ".webm", ".3gp", ".ts"}
CLOSED: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "b_frames.mkv": {"max_b_frames": 3},
    "uneven.mp4": {"pts": [number / 25 + (number % 3) / 200 for number in range(NUM_FRAMES)]},
    "hevc_10_bit.mp4": {
        "codec": "libx265",
        "pix_fmt": "yuv420p10le",
        "options": {"x265-params": f"open-gop=0:keyint={GOP}:log-level=none"},
    },
}
UNCERTAIN: dict[str, dict[str, Any]] = {
    # Key frames that pictures shown before them follow.
    "open_gop.mp4": {"codec": "libx265", "options": {"x265-params": f"open-gop=1:keyint={GOP}:log-level=none"}},
    "open_gop_h264.mp4": {"options": {"x264-params": f"open-gop=1:keyint={GOP}:bframes=3"}},
    # No key frames but the first.
    "intra_refresh.mp4": {"options": {"x264-params": f"intra-refresh=1:keyint={GOP}"}, "max_b_frames": 0},
    "vp9.webm": {"codec": "libvpx-vp9", "max_b_frames": 0},
    "counted.avi": {"codec": "mpeg4", "max_b_frames": 0},
    "broadcast.ts": {},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stretches")
    return {
        name: encode_video(folder / name, NUM_FRAMES, gop=GOP, **options)
        for name, options in (CLOSED | UNCERTAIN).items()
    }


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts at every place there is, and starts all children at once."""
    monkeypatch.setattr(slots, "MIN_STRETCH_FRAMES", 1)
    monkeypatch.setattr(slots, "MAX_STRETCH_FRAMES", 1)
    monkeypatch.setattr(slots, "FURTHER_SECONDS", 0.0)


def digest(pixels: npt.NDArray[np.uint8]) -> tuple[tuple[int, ...], str]:
    return pixels.shape, hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()


def end_of(outcome: Outcome) -> Any:
    """Returns all that a passport or a quarantine has of it."""
    if outcome.error is not None:
        return outcome.error.reason, outcome.error.message, outcome.attempts
    found = outcome.summary
    assert found is not None
    return found.decoder, found.decoder_version, found.fallback_reason, found.substituted, found.scaler_flags


def assert_same(requests: list[DecodeRequest], num_children: int, videos_per_child: int = 200) -> list[Outcome]:
    """Decodes in one child and in several; returns what the latter gave."""
    with DecodeSession(videos_per_child=videos_per_child) as session:
        expected = run(session, requests, digest)
    with DecodeSession(videos_per_child=videos_per_child, num_children=num_children) as session:
        found = run(session, requests, digest)
    for number, (one, several) in enumerate(zip(expected, found, strict=True)):
        # In order too, within each view.
        assert list(several.frames) == list(one.frames), requests[number].path
        assert several.frames == one.frames, requests[number].path
        assert end_of(several) == end_of(one), requests[number].path
    return found


def num_stretches(wanted: DecodeRequest) -> int:
    return len(slots.pending_of(0, wanted, 4 << 30, 64 << 20, is_alone=False))


@pytest.mark.parametrize("num_children", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_different_videos(videos: dict[str, Path], num_children: int) -> None:
    assert_same([request(path) for path in videos.values()] * 2, num_children)


def test_stretches_of_one_video(videos: dict[str, Path]) -> None:
    requests = [request(videos[name], decoder="pyav") for name in CLOSED]
    assert all(num_stretches(wanted) == NUM_FRAMES // GOP for wanted in requests)
    for outcome in assert_same(requests, 3):
        assert outcome.restarts == []


def test_stretches_for_several_views_and_few_frames(videos: dict[str, Path]) -> None:
    every_third = View(Preprocess(resize="exact", size=(24, 32)), np.arange(0, NUM_FRAMES, 3))
    few = View(Preprocess(colour="grey"), np.array([0, 1, 77, 78, 159]))
    for views in ([every_third, few], [few]):
        wanted = request(videos["b_frames.mkv"], decoder="pyav", views=views)
        assert num_stretches(wanted) > 2
        assert_same([wanted], 3)


@pytest.mark.parametrize("name", UNCERTAIN)
def test_no_stretches_where_they_are_not_certain_to_be_exact(videos: dict[str, Path], name: str) -> None:
    wanted = request(videos[name], decoder="pyav")
    assert num_stretches(wanted) == 1
    assert_same([wanted, wanted], 2)


def test_a_damaged_video_is_decoded_as_a_whole(videos: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(videos["plain.mp4"].read_bytes())
    start = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    for place in range(start, start + 400, 7):
        data[place] ^= 0x55
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    wanted = request(damaged, decoder="pyav")
    assert num_stretches(wanted) > 2
    (outcome,) = assert_same([wanted], 3)
    assert outcome.restarts


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_child_that_dies_or_hangs_in_a_stretch(videos: dict[str, Path], number: signal.Signals) -> None:
    wanted = [request(videos["plain.mp4"], decoder="pyav"), request(videos["b_frames.mkv"], decoder="pyav")]
    frames: dict[int, list[int]] = {0: [], 1: []}
    summaries = {}
    # Rings of a few frames, so that no child is done before it is struck.
    with DecodeSession(num_children=2, ring_bytes=1 << 17, deadline_seconds=200, deadline_factor=0) as session:
        is_struck = False
        for event in session.run(iter(wanted)):
            if isinstance(event, DecodedFrame):
                frames[event.request].append(read_frame_number(event.pixels))
                if not is_struck:
                    is_struck = True
                    os.kill(session.pids[0], number)
                    session._deadline_seconds = 2
            elif isinstance(event, Restarted):
                frames[event.request].clear()
                session._deadline_seconds = 200
            elif isinstance(event, Finished):
                summaries[event.request] = event.summary
    assert frames == {0: list(range(NUM_FRAMES)), 1: list(range(NUM_FRAMES))}
    reasons = [str(summary.fallback_reason) for summary in summaries.values()]
    assert any("SIGKILL" in reason if number == signal.SIGKILL else "deadline" in reason for reason in reasons)


def test_what_is_decoded_ahead_stays_within_the_memory_of_one_child(videos: dict[str, Path]) -> None:
    timeline = scan(str(videos["plain.mp4"]))
    wanted = request(videos["plain.mp4"], timeline=timeline)
    (pending,) = slots.pending_of(0, wanted, 4 << 30, 64 << 20, is_alone=False)
    assert pending.bytes_ahead == NUM_FRAMES * 96 * 64 * 3
    most = 0
    # Room for two of the videos at a time, of the four that four children could take.
    with DecodeSession(num_children=4) as session:
        session._memory_bytes = 2 * pending.bytes_ahead
        for _ in session.run([wanted] * 8):
            most = max(most, sum(part.bytes_ahead for slot in session._slots for part in slot.queue))
    assert most <= 2 * pending.bytes_ahead


@pytest.mark.slow
def test_real_files(shared_data: Path) -> None:
    """What can be cut of the torture and field sets, cut wherever it can be."""
    folders = [shared_data / "torture", shared_data / "field", shared_data / "clips" / "single"]
    requests = []
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in MEDIA):
        try:
            wanted = request(path, decoder="pyav")
        except VideoError:
            continue
        if num_stretches(wanted) > 1:
            requests.append(wanted)
    assert len(requests) >= 5
    # What a broken file leaves behind in a child is not what is compared here.
    assert_same(requests, 3, videos_per_child=1)
