"""What happens when a decoder hangs, crashes or starves, and what is left behind afterwards: nothing."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from decoded_events import request, run
from encoded_videos import encode_video, read_frame_number

from clipmill.pipelines.decode import session as session_module
from clipmill.pipelines.decode.session import DecodedFrame, DecodeSession, Event, Failed, Finished, Restarted
from clipmill.schemas.errors import VideoError

NUM_FRAMES = 60
SMALL_RING = 1 << 17
"""Holds seven frames, so that a child is never done before its consumer is."""
AMPLE_SECONDS = 200.0


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_video(tmp_path_factory.mktemp("faults") / "a.mp4", NUM_FRAMES)


def events_with(session: DecodeSession, path: Path, strike: Callable[[int], None], times: int) -> list[Event]:
    """Returns the events of two requests; the child is struck at the first frame of each of the first attempts.

    The deadline is short only for a child that was struck: a sound one has all the time a busy machine may need.
    """
    seen: list[Event] = []
    fresh = True
    for event in session.run([request(path), request(path)]):
        seen.append(event)
        if isinstance(event, DecodedFrame) and fresh and times and session.pids:
            fresh, times = False, times - 1
            strike(session.pids[0])
            session._deadline_seconds = 1
        if isinstance(event, Restarted | Failed):
            fresh, session._deadline_seconds = True, AMPLE_SECONDS
    return seen


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def crash(pid: int) -> None:
    os.kill(pid, signal.SIGSEGV)


def kept_frames(events: list[Event], number: int) -> list[int]:
    """Returns the frame numbers of a request that are left after every restart."""
    frames: list[int] = []
    for event in events:
        if isinstance(event, DecodedFrame) and event.request == number:
            frames.append(read_frame_number(event.pixels))
        elif isinstance(event, Restarted | Failed) and event.request == number:
            frames.clear()
    return frames


@pytest.mark.parametrize(
    ("strike", "reason", "word"), [(stop, "deadline", "within 1 s"), (crash, "decoder_crashed", "SIGSEGV")]
)
def test_first_failure_is_tried_again_with_pyav(
    video: Path, strike: Callable[[int], None], reason: str, word: str
) -> None:
    with DecodeSession(deadline_seconds=AMPLE_SECONDS, deadline_factor=0, ring_bytes=SMALL_RING) as session:
        events = events_with(session, video, strike, times=1)
    (restart,) = [event for event in events if isinstance(event, Restarted)]
    assert restart.request == 0
    assert word in restart.reason
    first, second = [event for event in events if isinstance(event, Finished)]
    assert first.summary.decoder == "pyav"
    assert str(first.summary.fallback_reason).startswith(reason)
    assert second.summary.decoder == "decord"
    assert [kept_frames(events, number) for number in (0, 1)] == [list(range(NUM_FRAMES))] * 2


@pytest.mark.parametrize(("strike", "reason"), [(stop, "deadline"), (crash, "decoder_crashed")])
def test_second_failure_ends_the_video_and_the_next_goes_on(
    video: Path, strike: Callable[[int], None], reason: str
) -> None:
    with DecodeSession(deadline_seconds=AMPLE_SECONDS, deadline_factor=0, ring_bytes=SMALL_RING) as session:
        events = events_with(session, video, strike, times=2)
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.request, failed.attempts) == (0, 2)
    assert isinstance(failed.error, VideoError)
    assert (failed.error.stage, failed.error.reason) == ("decode", reason)
    assert "\n" not in failed.error.message
    assert kept_frames(events, 0) == []
    assert kept_frames(events, 1) == list(range(NUM_FRAMES))


def test_one_attempt_only_where_one_is_allowed(video: Path) -> None:
    with DecodeSession(max_attempts=1, ring_bytes=SMALL_RING) as session:
        events = events_with(session, video, crash, times=1)
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.attempts == 1


def test_deadline_does_not_count_the_time_of_the_consumer(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spent_seconds = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + spent_seconds)
    monkeypatch.setattr(session_module, "time", clock)
    with DecodeSession(deadline_seconds=AMPLE_SECONDS, deadline_factor=0, ring_bytes=SMALL_RING) as session:
        for event in session.run([request(video)]):
            assert not isinstance(event, Restarted | Failed)
            spent_seconds += 2 * AMPLE_SECONDS


def test_out_of_memory(tmp_path: Path) -> None:
    large = encode_video(tmp_path / "large.mp4", 8, width=4096, height=2304, pattern="plain")
    small = encode_video(tmp_path / "small.mp4", 8)
    with DecodeSession(memory_bytes=520 << 20, ring_bytes=1 << 20, num_threads=4) as session:
        too_large, fits = run(session, [request(large), request(small)])
    assert too_large.error is not None
    assert (too_large.error.reason, too_large.attempts) == ("out_of_memory", 2)
    assert "decode.memory_gib" in too_large.error.message
    assert len(fits.frames) == 8


def children() -> set[int]:
    """Returns the process ids of this process's children, zombies included."""
    found = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        found |= set(map(int, (task / "children").read_text().split()))
    return found


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors and children through /proc")
def test_nothing_is_left_behind(video: Path) -> None:
    with DecodeSession() as session:
        run(session, [request(video)])
    gc.collect()
    before = (children(), descriptors())
    for _ in range(2):
        with DecodeSession(videos_per_child=1, ring_bytes=SMALL_RING) as session:
            events_with(session, video, crash, times=2)
            run(session, [request(video, [0])] * 3)
            for event in session.run([request(video)]):
                if isinstance(event, DecodedFrame):
                    break
    gc.collect()
    assert (children(), descriptors()) == before


def test_consumer_that_stops_half_way_can_use_the_session_again(video: Path) -> None:
    with DecodeSession(ring_bytes=SMALL_RING) as session:
        events = session.run([request(video), request(video)])
        assert isinstance(next(events), DecodedFrame)
        events.close()  # type: ignore[attr-defined]
        (outcome,) = run(session, [request(video)])
        assert [read_frame_number(pixels) for pixels in outcome.frames.values()] == list(range(NUM_FRAMES))


def test_error_in_the_source_of_requests_reaches_the_consumer(video: Path) -> None:
    def requests() -> Iterator:  # type: ignore[type-arg]
        yield request(video)
        raise KeyError("storage")

    with DecodeSession() as session, pytest.raises(KeyError):
        list(session.run(requests()))


PARENT = """
import signal, sys
from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.decode.session import DecodedFrame, DecodeRequest, DecodeSession, View
from clipmill.schemas.recipe import Preprocess

path = sys.argv[1]
timeline = scan(path)
wanted = DecodeRequest(path, timeline, (View(Preprocess(), range(timeline.num_frames)),), "auto", 1.0)
with DecodeSession(ring_bytes=1 << 17) as session:
    for event in session.run([wanted]):
        if isinstance(event, DecodedFrame):
            from clipmill.pipelines.decode.inspection import _idle
            print(session.pids[0], _idle[0].pid, flush=True)
            signal.pause()
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def parent_with_children(video: Path) -> tuple[subprocess.Popen[str], list[int]]:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(video)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(is_running, pids))
    return parent, pids


def assert_all_end(pids: list[int]) -> None:
    until = time.monotonic() + AMPLE_SECONDS
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(is_running, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_children_die_with_a_parent_that_is_killed(video: Path) -> None:
    parent, pids = parent_with_children(video)
    parent.kill()
    parent.wait()
    assert_all_end(pids)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_interrupt_reaches_only_the_parent_which_takes_its_children_along(video: Path) -> None:
    parent, pids = parent_with_children(video)
    assert all(os.getpgid(pid) != os.getpgid(parent.pid) for pid in pids)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.wait(timeout=AMPLE_SECONDS) != 0
    assert_all_end(pids)
