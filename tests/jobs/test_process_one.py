"""A build as process 1, as in a container: it ends on SIGTERM, with its exit code, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipmill.schemas.errors import EXIT_RETRYABLE
from tests.encoded_videos import encode_video

ROOT = Path(__file__).resolve().parents[2]
UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")


def has_namespaces() -> bool:
    """Returns whether a process namespace can be made here."""
    return shutil.which("unshare") is not None and not subprocess.run([*UNSHARE, "true"], check=False).returncode


def children_of(pid: int) -> list[int]:
    """Returns the processes whose parent is `pid`."""
    return [int(name) for name in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not has_namespaces(), reason="no process namespace can be made here")
def test_a_build_as_process_one_ends_on_sigterm_and_goes_on_later(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    first = encode_video(tmp_path / "videos" / "0.mp4", num_frames=400)
    for number in range(1, 12):
        shutil.copy(first, tmp_path / "videos" / f"{number}.mp4")
    (tmp_path / "build.yaml").write_text(
        f"store: {{url: {tmp_path / 'store'}}}\nvideos: {{folder: {tmp_path / 'videos'}}}\n"
        "features: {one: {extractor: vgg16, layer: fc7, sampling: {fps: 5}, weights: {random: 0}}}\n"
    )
    command = [sys.executable, "-m", "clipmill", "build", str(tmp_path / "build.yaml"), "--heartbeat", "0"]
    with (tmp_path / "err").open("w") as err:
        running = subprocess.Popen([*UNSHARE, *command], cwd=ROOT, stderr=err, stdout=err)
        try:
            # Its first task is under way.
            deadline = time.monotonic() + 120
            while not list(tmp_path.glob("store/runs/*/manifest.parquet")):
                assert running.poll() is None, (tmp_path / "err").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            (one,) = children_of(running.pid)
            os.kill(one, signal.SIGTERM)
            assert running.wait(60) == EXIT_RETRYABLE, (tmp_path / "err").read_text()
        finally:
            running.kill()
    assert "run the same command again to go on" in (tmp_path / "err").read_text()
    assert not list(tmp_path.glob("store/**/.*.tmp"))


@pytest.mark.skipif(not has_namespaces(), reason="no process namespace can be made here")
def test_a_sigterm_while_process_one_still_imports_its_libraries_ends_it(tmp_path: Path) -> None:
    # A library that takes long to import, as from a slow disk.
    (tmp_path / "typer.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'reached')!r}).touch()\ntime.sleep(120)\n"
    )
    command = [*UNSHARE, sys.executable, "-m", "clipmill", "build", "build.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    running = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "reached").exists():
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (one,) = children_of(running.pid)
        os.kill(one, signal.SIGTERM)
        _, err = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == EXIT_RETRYABLE, err
    assert err == "clipmill: interrupted; run the same command again\n"
