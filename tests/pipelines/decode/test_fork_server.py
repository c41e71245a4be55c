"""Where decode children come from: a server forks them, and where none can, they start as any program does."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from encoded_videos import encode_video

from clipmill.pipelines.decode import forked, inspection
from clipmill.pipelines.decode.fork_server import PR_GET_TID_ADDRESS
from clipmill.pipelines.decode.process import ChildDiedError, ChildProcess, start_child
from clipmill.pipelines.decode.scan import scan


def kernel_tells_thread_addresses() -> bool:
    """Whether it was built so (CONFIG_CHECKPOINT_RESTORE): without, children start as any program does."""
    place = ctypes.c_void_p()
    return sys.platform == "linux" and not ctypes.CDLL(None).prctl(PR_GET_TID_ADDRESS, ctypes.byref(place), 0, 0, 0)


pytestmark = pytest.mark.skipif(not kernel_tells_thread_addresses(), reason="no children are forked on this kernel")

SERVER, CHILD = "clipmill.pipelines.decode.fork_server", "clipmill.pipelines.decode.child"


@pytest.fixture
def no_server() -> Iterator[None]:
    """The test has servers and idle readers of its own."""
    forked._drop()
    inspection._close_idle()
    yield
    forked._drop()
    forked._fruitless.clear()
    inspection._close_idle()


def start() -> ChildProcess:
    return start_child(4 << 30, num_threads=1, ring_bytes=4096, decodes=False)


def program(pid: int) -> str:
    """Returns the module that a process was started with."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[3]


def server_pid() -> int:
    assert forked._server is not None
    return forked._server._process.pid


def in_servers(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has servers started from now on run `code` first."""
    folder.mkdir()
    lines = [f"    {line}" for line in code.splitlines()]
    (folder / "sitecustomize.py").write_text("\n".join(["import sys", f"if {SERVER!r} in sys.orig_argv:", *lines, ""]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))


@pytest.mark.usefixtures("no_server")
def test_children_are_forked_and_are_children_of_this_process() -> None:
    first, second = start(), start()
    assert [program(child.pid) for child in (first, second)] == [SERVER, SERVER]
    for child in (first, second):
        parent = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
        assert int(parent) == os.getpid()
        assert os.getsid(child.pid) == child.pid
        child.close()
        assert child._process.returncode == 0


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_parent_learns_how_a_child_ended_without_the_server(number: signal.Signals) -> None:
    child = start()
    os.kill(server_pid(), signal.SIGKILL)
    os.kill(child.pid, number)
    with pytest.raises(ChildDiedError):
        child.receive(60)
    assert child.death() == (number.name, "", number == signal.SIGKILL)
    child.kill()


@pytest.mark.usefixtures("no_server")
def test_child_that_raises_tells_its_last_line_and_exit_code() -> None:
    child = start()
    child.send(b"R" + (8).to_bytes(8, "little") + bytes(8))
    with pytest.raises(ChildDiedError):
        child.receive(60)
    ending, line, starved = child.death()
    assert (ending, starved) == ("exit code 1", False)
    assert "JSONDecodeError" in line
    child.kill()


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("has_forked", [False, True])
def test_server_that_is_killed_is_started_anew(tmp_path: Path, has_forked: bool) -> None:
    path = str(encode_video(tmp_path / "a.mp4", 3))
    forked.warm()
    if has_forked:
        start().close()
    before = server_pid()
    os.kill(before, signal.SIGKILL)
    assert scan(path).num_frames == 3
    assert server_pid() != before
    assert program(inspection._idle[-1].pid) == SERVER


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import os; os._exit(1)", id="does-not-start"),
        pytest.param(
            "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()",
            id="threads",
        ),
    ],
)
def test_where_no_server_forks_children_start_by_themselves(
    tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_servers(tmp_path / "site", code, monkeypatch)
    path = str(encode_video(tmp_path / "a.mp4", 3))
    assert scan(path).num_frames == 3
    assert program(inspection._idle[-1].pid) == CHILD
    assert forked._server is None


@pytest.mark.usefixtures("no_server")
def test_child_has_the_environment_of_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    first = start()
    monkeypatch.setenv("CLIPMILL_TEST", "later")
    second = start()
    marks = [b"CLIPMILL_TEST=later\0" in Path(f"/proc/{child.pid}/environ").read_bytes() for child in (first, second)]
    assert marks == [False, True]
    assert first.is_alive
    first.kill()
    second.kill()


@pytest.mark.usefixtures("no_server")
def test_forked_process_leaves_the_server_to_the_other_one(tmp_path: Path) -> None:
    path = str(encode_video(tmp_path / "a.mp4", 3))
    assert scan(path).num_frames == 3
    before = server_pid()

    def in_fork() -> bool:
        return forked._server is None and scan(path).num_frames == 3 and server_pid() != before

    assert _forked_result(in_fork)
    assert server_pid() == before
    start().kill()
    assert server_pid() == before


def _forked_result(work: Callable[[], bool]) -> bool:
    pid = os.fork()
    if not pid:
        try:
            sound = work()
        finally:
            forked._end()
            inspection._close_idle()
            os._exit(0 if sound else 1)
    return os.waitpid(pid, 0)[1] == 0
