"""Readers of headers and packets that are killed, crash, hang or have too little memory."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import av.error
import pytest
import yaml
from decoded_events import request, run
from encoded_videos import encode_video
from self_killing_children import kill_readers

from clipmill.pipelines.decode import inspection, process
from clipmill.pipelines.decode.child import _is_lack_of_memory
from clipmill.pipelines.decode.inspection import InspectionLimits
from clipmill.pipelines.decode.probe import probe
from clipmill.pipelines.decode.process import ChildProcess
from clipmill.pipelines.decode.rate import raw_decode_rate
from clipmill.pipelines.decode.scan import scan
from clipmill.pipelines.decode.session import DecodeSession
from clipmill.pipelines.decode.thumbnails import thumbnails
from clipmill.schemas.errors import MachineFaultError, VideoError
from clipmill.stores import FeatureStore
from tests.command_line import ROOT, clipmill, invoked_result, result

ONE_TRY = InspectionLimits(max_attempts=1)


@pytest.fixture
def video(tmp_path: Path) -> str:
    return str(encode_video(tmp_path / "a.mp4", 3))


@pytest.fixture
def no_idle_reader() -> Iterator[None]:
    """The next file gets a child that starts now; those of the test go when it ends."""
    inspection._close_idle()
    yield
    inspection._close_idle()


@pytest.fixture
def idle_reader(tmp_path: Path) -> ChildProcess:
    """The child that will get the next file."""
    scan(str(encode_video(tmp_path / "first.mp4", 3)))
    return inspection._idle[-1]


def strike_after_request(child: ChildProcess, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has `child` stopped until it holds a request, and ended by `number` then."""
    send = child.send
    os.kill(child.pid, signal.SIGSTOP)

    def send_and_strike(message: bytes) -> None:
        send(message)
        os.kill(child.pid, number)
        os.kill(child.pid, signal.SIGCONT)

    monkeypatch.setattr(child, "send", send_and_strike)


def hang(child: ChildProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops `child`, and has its deadline, and no other child's, pass at once."""
    receive = child.receive
    os.kill(child.pid, signal.SIGSTOP)
    monkeypatch.setattr(child, "receive", lambda limit: receive(0.05))


@pytest.mark.usefixtures("no_idle_reader")
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_reader_killed_when_it_has_begun_a_file_is_replaced(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(encode_video(tmp_path / f"a.{suffix}", 5))
    killed = kill_readers(tmp_path, monkeypatch, times=1)
    assert probe(path).codec == "h264"
    assert scan(path).num_frames == 5
    assert sorted(os.listdir(killed)) == [f"a.{suffix}.header.0", f"a.{suffix}.timeline.0"]


@pytest.mark.usefixtures("no_idle_reader")
def test_thumbnails_and_rates_have_a_second_try(video: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = kill_readers(tmp_path, monkeypatch, times=1)
    (picture,) = thumbnails(video, [0.0])
    assert picture.startswith(b"\xff\xd8")
    assert os.listdir(killed) == ["a.mp4.timeline.0"]
    monkeypatch.undo()
    strike_after_request(inspection._idle[-1], signal.SIGKILL, monkeypatch)
    assert raw_decode_rate(video, 0.01) > 0


@pytest.mark.usefixtures("no_idle_reader")
def test_as_many_tries_as_are_asked_for(video: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = kill_readers(tmp_path, monkeypatch, times=3)
    with pytest.raises(VideoError, match="SIGKILL in the reader; see that the machine has memory") as caught:
        scan(video, limits=InspectionLimits(max_attempts=2))
    assert (caught.value.stage, caught.value.reason) == ("scan", "out_of_memory")
    assert len(os.listdir(killed)) == 2
    assert scan(video, limits=InspectionLimits(max_attempts=2)).num_frames == 3
    assert len(os.listdir(killed)) == 3


def test_build_whose_readers_are_killed_once_for_each_file_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(3):
        encode_video(tmp_path / "videos" / f"{number}.mp4", 6 + number, fps=5)
    features = {"rows": {"extractor": "squeezenet", "sampling": {"fps": 1}, "weights": {"random": 0}}}
    data = {
        "store": {"url": str(tmp_path / "store")},
        "videos": {"folder": str(tmp_path / "videos")},
        "features": features,
        "engine": {"device": "cpu", "threads": 1},
    }
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(data))
    killed = kill_readers(tmp_path, monkeypatch, times=1)
    found = result("build", "--config", str(tmp_path / "build.yaml"), site=tmp_path / "site")
    assert len(os.listdir(killed)) == 6
    assert found["num_complete"] == 3
    assert sorted(FeatureStore(str(tmp_path / "store")).videos()) == ["0.mp4", "1.mp4", "2.mp4"]


def test_reader_that_hangs_ends_with_the_deadline(video: str, idle_reader: ChildProcess) -> None:
    os.kill(idle_reader.pid, signal.SIGSTOP)
    with pytest.raises(VideoError, match="within 0 s.*raise decode.deadline_seconds") as caught:
        scan(video, limits=InspectionLimits(deadline_seconds=0.2, max_attempts=1))
    assert (caught.value.stage, caught.value.reason) == ("scan", "deadline")
    assert not idle_reader.is_alive


def test_file_whose_reader_hung_is_read_by_another(
    video: str, idle_reader: ChildProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang(idle_reader, monkeypatch)
    assert scan(video).num_frames == 3
    assert not idle_reader.is_alive


def test_reader_that_crashes_is_told_by_its_signal(
    video: str, idle_reader: ChildProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    strike_after_request(idle_reader, signal.SIGSEGV, monkeypatch)
    with pytest.raises(VideoError, match="SIGSEGV") as caught:
        probe(video, limits=ONE_TRY)
    assert (caught.value.stage, caught.value.reason) == ("probe", "decoder_crashed")
    assert probe(video).num_frames == 3


def test_child_that_is_killed_while_it_starts_is_started_again(video: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class KilledAtFirst(ChildProcess):
        def __init__(self, *arguments: int) -> None:
            super().__init__(*arguments)
            started.append(self.pid)
            if len(started) == 1:
                os.kill(self.pid, signal.SIGKILL)

    monkeypatch.setattr(process, "ChildProcess", KilledAtFirst)
    with DecodeSession() as session:
        (outcome,) = run(session, [request(video)])
    assert (len(outcome.frames), outcome.attempts, outcome.restarts) == (3, 1, [])
    assert len(started) >= 2


def in_limited_process(code: str, *arguments: str) -> str:
    """Returns what `code` prints in a fresh process; it may lower its own limits."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LIMITED = """
    import resource, sys
    from pathlib import Path
    from clipmill.pipelines.decode.scan import scan
    from clipmill.pipelines.decode.session import DecodedFrame, DecodeRequest, DecodeSession, View
    from clipmill.schemas.errors import ClipmillError
    from clipmill.schemas.recipe import Preprocess

    path, mebibytes, kind = sys.argv[1:]
    limit = int(mebibytes) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY if kind == "soft" else limit))
    try:
        timeline = scan(path)
        with DecodeSession(memory_bytes=4 << 30) as session:
            events = session.run([DecodeRequest(path, timeline, (View(Preprocess(), range(3)),), "auto", 1.0)])
            for event in events:
                if isinstance(event, DecodedFrame):
                    limits = Path(f"/proc/{session.pids[0]}/limits").read_text()
                    (line,) = [line for line in limits.splitlines() if line.startswith("Max address space")]
                    print(event.frame, *line.split()[3:5])
                else:
                    print(type(event).__name__)
    except ClipmillError as error:
        print(type(error).__name__, error.exit_code, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc")
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_child_takes_the_lesser_of_the_memory_asked_for_and_allowed(video: str, kind: str) -> None:
    limit = 2048 << 20
    lines = in_limited_process(LIMITED, video, "2048", kind).splitlines()
    assert lines == [*(f"{frame} {limit} {limit}" for frame in range(3)), "Finished"]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_too_little_memory_to_start_a_child_is_one_line_that_blames_no_video(video: str, kind: str) -> None:
    (line,) = in_limited_process(LIMITED, video, "220", kind).splitlines()
    assert line.startswith("MachineFaultError 4 decoder process: expected one that starts within 0.21 GiB")
    assert "ulimit -v" in line
    assert video not in line


def test_build_with_too_little_memory_for_any_child_ends_with_one_line_and_books_nothing(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    encode_video(tmp_path / "videos" / "0.mp4", 6, fps=5)
    features = {"rows": {"extractor": "squeezenet", "sampling": {"fps": 1}, "weights": {"random": 0}}}
    data = {
        "store": {"url": str(tmp_path / "store")},
        "videos": {"folder": str(tmp_path / "videos")},
        "features": features,
        "engine": {"device": "cpu", "threads": 1},
        # Enough to read packets in, too little to decode in.
        "decode": {"memory_gib": 0.3},
    }
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(data))
    done = clipmill("build", "--config", str(tmp_path / "build.yaml"))
    assert done.returncode == 4, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "decoder process" in line]
    assert "raise decode.memory_gib" in line
    assert not list((tmp_path / "store").glob("quarantine/**/*.parquet"))
    data["decode"] = {"memory_gib": 1}
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(data))
    assert invoked_result("build", "--config", str(tmp_path / "build.yaml"))["num_complete"] == 1


def test_fork_that_is_refused_is_a_fault_of_the_machine(video: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: int) -> ChildProcess:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    inspection._close_idle()
    monkeypatch.setattr(process, "ChildProcess", refused)
    with pytest.raises(MachineFaultError, match="Resource temporarily unavailable at each of 3 tries"):
        probe(video)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        # What FFmpeg says where it cannot start its threads.
        (av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (ImportError("libavcodec.so: failed to map segment from shared object"), True),
        (RuntimeError("can't start new thread"), True),
        (ImportError("No module named 'decord'"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (RuntimeError("a decoder's own"), False),
    ],
)
def test_what_counts_as_lack_of_memory(error: Exception, expected: bool) -> None:
    assert _is_lack_of_memory(error) == expected


def test_as_many_children_are_kept_as_threads_ask_and_the_surplus_ends() -> None:
    inspection._close_idle()
    with inspection.idle_children(3):
        children = [inspection._start(4 << 30) for _ in range(4)]
        for child in children:
            inspection._give_back(child)
        assert inspection._idle == children[:3]
        assert not children[3].is_alive
    assert inspection._idle == children[: inspection.MAX_IDLE]
    assert [child.is_alive for child in children] == [True, True, False, False]
    inspection._close_idle()
